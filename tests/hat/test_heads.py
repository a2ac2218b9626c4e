import copy

import pytest
import torch
from helpers import tiny
from torch import nn
from torch.nn import functional as F

from lightning_fusion import Expert
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.hat.heads import copy_heads, head_name, head_names


class Net(nn.Module):
    """A head behind a dropout, and a functional ReLU on the way."""

    def __init__(self, relu: bool = False, named: bool = False) -> None:
        super().__init__()
        self.body, self.square = nn.Linear(4, 5), nn.Linear(5, 5)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))
        self.relu, self.named = relu, named

    def forward(self, input):
        z = self.square(self.body(input))
        logits = self.classifier(F.relu(z) if self.relu else z)
        return type("Output", (), {"logits": logits})() if self.named else logits


def expert(network, features, **arguments) -> Expert:
    return Expert(network, classes=tiny.CLASSES, features=features, **arguments)


INPUT = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("network", "features", "name"),
    [
        (tiny.Net(3, norm=True, dropout=0.5), "body", "head"),
        (Net(), "square", "classifier"),  # the outermost of two that are alike in eval mode
        (Net(named=True), "square", "classifier"),
        (Net(), "classifier.0", "classifier.1"),
    ],
)
def test_it_turns_the_representation_into_the_outputs(network, features, name):
    made = expert(network, features)
    assert head_name(made, INPUT) == name
    before = copy.deepcopy(made.state_dict())
    (head,) = copy_heads({"a": made}, head_names({"a": made}, INPUT)).values()
    own = made.network.get_submodule(name)
    assert all(weight.requires_grad for weight in head.parameters())
    assert not {id(weight) for weight in head.parameters()} & {id(weight) for weight in own.parameters()}
    torch.testing.assert_close(head(made.forward_with_representations(INPUT)[1]).softmax(1), made(INPUT))
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_maps_are_averaged_before_the_head():
    """The layer may give maps, where the network averages them as the expert does."""
    network = SmallConvNet(3, width=2)
    for features in ("body", "pool"):
        assert head_name(expert(network, features), torch.rand(4, 3, 8, 8)) == "head"


def test_the_experts_own_preparation_comes_first():
    made = expert(tiny.Net(3), "body", preprocess=nn.Tanh())
    assert head_name(made, INPUT) == "head"


def test_copies_answer_as_their_experts(tmp_path):
    """In the order of the classes, in logarithms of probabilities, and in float32, whatever the network's own are."""

    class Sure(tiny.Net):
        def __init__(self, num_classes):
            super().__init__(num_classes)
            self.head = nn.Sequential(self.head, nn.Softmax(1))

    torch.save({"state_dict": Sure(3).state_dict(), "expert": {"classes": tiny.CLASSES}}, tmp_path / "s.ckpt")
    made = Expert(Sure, str(tmp_path / "s.ckpt"), ["owl", "cat", "dog"], output="probabilities", features="body")
    half = expert(tiny.Net(3).half(), "body")
    for own, atol in ((made, 1e-6), (half, 1e-2)):
        (head,) = copy_heads({"a": own}, head_names({"a": own}, INPUT)).values()
        found = head(own.forward_with_representations(INPUT)[1])
        torch.testing.assert_close(found.softmax(1), own(INPUT), rtol=0, atol=atol)


def test_compiled_networks_have_heads():
    network = tiny.Net(3)
    network.compile(backend="eager")
    assert head_name(expert(network, "body"), INPUT) == "head"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (expert(Net(relu=True), "square"), r"'square', 5 features\) to its outputs; layers after it: classifier"),
        (expert(tiny.Net(3), "head"), "layers after it: none. Name the layer right before the head"),
        (expert(Net(), "body"), "heads: frozen"),
        (
            Expert(tiny.Net(3), classes=tiny.CLASSES),
            "features: the expert has none; set the name of the layer before its head",
        ),
    ],
)
def test_networks_without_a_head_are_rejected(made, message):
    with pytest.raises(InputError, match=message):
        head_name(made, INPUT)
    with pytest.raises(InputError, match="expert a: "):
        head_names({"a": made}, INPUT)
