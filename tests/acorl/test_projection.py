import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_fusion.acorl.dissimilarity import MeanSquaredError, StandardizedResidualMSE
from lightning_fusion.acorl.projection import Adversary, ProjectionMLP
from lightning_fusion.errors import InputError

TARGET = torch.zeros(6, dtype=torch.long)


def made(**arguments) -> Adversary:
    torch.manual_seed(0)
    return Adversary(4, {"a": 3, "b": 5}, 2, **arguments)


def seen() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"a": torch.randn(6, 3, generator=generator), "b": torch.randn(6, 5, generator=generator)}


@pytest.mark.parametrize(
    ("depth", "hidden", "shapes"),
    [(1, None, [(3, 4)]), (2, None, [(4, 4), (3, 4)]), (3, 7, [(7, 4), (7, 7), (3, 7)])],
)
def test_the_layers_of_a_projection(depth, hidden, shapes):
    layers = ProjectionMLP(4, 3, depth, hidden).layers
    assert [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)] == shapes
    assert isinstance(layers[-1], nn.Linear)


@pytest.mark.parametrize("strength", [0.0, 0.7, -1.0])
def test_only_the_network_sees_the_reversal(strength):
    """d_k descends L_a at full speed for any strength; z gets -strength times the plain gradient."""
    z, adversary = torch.randn(6, 4, requires_grad=True), made(dissimilarity=MeanSquaredError, layer_norm=False)
    torch.stack(list(adversary(z, seen(), TARGET, strength).values())).mean().backward()
    plain_z, plain = z.detach().clone().requires_grad_(), made(dissimilarity=MeanSquaredError, layer_norm=False)
    losses = [plain.dissimilarities[name](plain.projections[name](plain_z), v, TARGET) for name, v in seen().items()]
    (sum(losses) / 2).backward()
    torch.testing.assert_close(z.grad, -strength * plain_z.grad)
    for ours, theirs in zip(adversary.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
        assert theirs.grad.any() or theirs.ndim == 1


def test_parts_are_the_users():
    adversary = made(projection=lambda a, b: nn.Linear(a, b, bias=False), dissimilarity=MeanSquaredError)
    assert isinstance(adversary.projections["a"], nn.Linear)
    assert all(isinstance(part, MeanSquaredError) for part in adversary.dissimilarities.values())
    assert all(isinstance(part, StandardizedResidualMSE) for part in made().dissimilarities.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.zeros(5, 3)}, r"the representation of a has shape \(5, 3\); expected \(6, 3\)"),
        ({"b": torch.zeros(6, 4)}, r"the representation of b has shape \(6, 4\); expected \(6, 5\)"),
        ({"b": torch.zeros(6, 5, 2)}, r"the representation of b has shape \(6, 5, 2\)"),
    ],
)
def test_other_representations_are_rejected(change, message):
    with pytest.raises(InputError, match=message):
        made()(torch.zeros(6, 4), seen() | change, TARGET, 1.0)


def test_a_projection_to_another_size_is_rejected():
    with pytest.raises(InputError, match=r"projection: found an output of shape \(6, 6\); expected \(6, 3\)"):
        made(projection=lambda a, b: nn.Identity())(torch.zeros(6, 4), seen(), TARGET, 1.0)


def test_a_projection_without_layers_is_rejected():
    with pytest.raises(InputError, match="depth is 0"):
        ProjectionMLP(2, 3, depth=0)


def test_a_conditional_projection_gets_normalized_z_and_the_class():
    z, target = torch.randn(6, 4), torch.tensor([0, 1, 1, 0, -100, 1])
    seen_inputs = []

    class Spy(nn.Linear):
        def forward(self, input):
            seen_inputs.append(input)
            return super().forward(input)

    made(projection=Spy)(7 * z + 3, seen(), target, 1.0)
    classes = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0], [0, 0], [0, 1]])
    for found in seen_inputs:
        torch.testing.assert_close(found[:, :4], F.layer_norm(z, (4,)), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found[:, 4:], classes.float())
