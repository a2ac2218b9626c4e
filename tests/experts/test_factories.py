"""Factories of networks of other libraries receive the number of classes, and never as a name of published weights."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.command_line import refused, write_yaml
from torch import nn
from torchvision.models import mobilenet_v3_small

from lightning_fusion import Expert, ExpertModule, ExpertRegistry
from lightning_fusion.cli.main import main
from lightning_fusion.errors import InputError
from lightning_fusion.experts.factories import network_for


class Late(nn.Linear):
    """Takes the number of classes as its second argument."""

    def __init__(self, width: int = 4, num_classes: int = 1000) -> None:
        super().__init__(width, num_classes)


def timm_like(pretrained: bool = False, **kwargs: int) -> nn.Module:
    assert pretrained is False
    return tiny.Net(kwargs["num_classes"])


def weights_alone(weights: str | None = None) -> nn.Module:
    raise AssertionError(weights)


@pytest.mark.parametrize(
    "factory", [tiny.Net, Late, partial(Late, 4), partial(Late, width=4), timm_like, lambda n: nn.Linear(4, n)]
)
def test_the_number_of_classes_is_given(factory):
    assert network_for(factory, 3)(torch.zeros(2, 4)).shape == (2, 3)


def test_experts_and_modules_of_torchvision():
    network = partial(mobilenet_v3_small, width_mult=0.1)
    module = ExpertModule(network, classes=tiny.CLASSES, features="avgpool")
    assert module.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_weights_alone_are_named():
    with pytest.raises(InputError, match="the first argument of weights_alone is weights, and none is num_classes"):
        network_for(weights_alone, 3)


NET = """
from torch import nn
from torchvision.models import mobilenet_v3_small

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.model = mobilenet_v3_small(num_classes=num_classes)

    def forward(self, input):
        return self.model(input)
"""


@pytest.mark.slow
def test_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("net_of_torchvision.py").write_text(NET)
    torch.save(network_for(mobilenet_v3_small, 4).state_dict(), "m.pth")
    data = {"class_path": "lightning_fusion.data.image.synthetic.SyntheticImageDataModule"}
    arguments = {"network": "torchvision.models.mobilenet_v3_small", "features": "avgpool"}
    model = {"class_path": "lightning_fusion.ExpertModule", "init_args": arguments}
    trainer = {"fast_dev_run": True, "accelerator": "cpu", "logger": False}
    write_yaml(Path("e.yaml"), {"model": model, "data": data, "trainer": trainer})
    main(["fit", "-c", "e.yaml"])
    expert = Expert(mobilenet_v3_small, "m.pth", classes=["a", "b", "c", "d"])
    assert expert(torch.zeros(1, 3, 32, 32)).shape == (1, 4)

    publish = ["publish", "-c", "e.yaml", "--checkpoint=m.pth", "--registry=reg"]
    publish += ["--classes=[class_0, class_1, class_2, class_3]"]
    function = ["--network=torchvision.models.mobilenet_v3_small", "--features=avgpool"]
    assert "put it into a class of your module whose first argument is num_classes" in refused(publish + function)
    main(
        [*publish, "--network=net_of_torchvision.Net", "--features=model.avgpool"]
    )  # weights as torchvision names them
    found = ExpertRegistry("reg").load("m")
    assert torch.equal(found(torch.ones(1, 3, 32, 32)), expert(torch.ones(1, 3, 32, 32)))
