"""Sources and members whose classes have another order give the same training; nearly equal classes are reported."""

from functools import partial

import pytest
import torch
from helpers import tiny
from torch import nn

from lightning_fusion import ACoRLModule, Expert, ExpertRegistry, HaTJointModule, select_sources
from lightning_fusion.data.names import canonical_label
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.hat.arguments import PAPER

CLASSES = ["cat", "dog", "owl"]


class Net(nn.Module):
    def __init__(self, num_classes, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        self.head = nn.Linear(5, num_classes)

    def forward(self, x):
        return self.head(self.body(x))


def expert(classes, seed=1):
    """An expert that gives each of CLASSES the same probability, whatever its place in ``classes``."""
    network = Net(3, seed)
    order = [CLASSES.index(canonical_label(name).lower()) for name in classes]
    network.head.weight.data, network.head.bias.data = network.head.weight[order], network.head.bias[order]
    return Expert(network, classes=classes, features="body")


def data(classes=CLASSES, shift=0.0):
    generator, splits = torch.Generator().manual_seed(0), {}
    for split, rows in (("train", 48), ("val", 24)):
        target = torch.randint(3, (rows,), generator=generator)
        x = torch.randn(rows, 4, generator=generator) + target[:, None] + shift
        splits[split] = x, [CLASSES[number] for number in target]
    return TensorDataModule(splits, classes, batch_size=16)


def trained(make, orders, task=CLASSES):
    experts = {f"e{number}": expert(order, number) for number, order in enumerate(orders)}
    model, trainer = make(partial(Net, seed=9), experts, features="body", classes=task), tiny.trainer(1)
    trainer.fit(model, data(task))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make", [HaTJointModule, partial(HaTJointModule, **(PAPER | {"heads": "frozen"})), ACoRLModule]
)
def test_the_order_of_an_experts_classes_changes_nothing(make):
    one = trained(make, [CLASSES, CLASSES])
    assert trained(make, [["owl", "cat", "dog"], ["dog ", "c\u200bat", "owl"]]) == pytest.approx(one, rel=1e-4)


def test_nearly_equal_classes_of_a_source():
    message = r"^the class 'Cat' of source a is nearly equal to 'cat' of the target and counts as another: rename one$"
    with pytest.warns(UserWarning, match=message):
        HaTJointModule(Net, {"a": expert(["Cat", "dog", "owl"])}, features="body", classes=CLASSES)
    with pytest.raises(InputError, match=r"expert a has Cat, which the task's classes .*; did you mean cat"):
        ACoRLModule(Net, {"a": expert(["Cat", "dog", "owl"])}, features="body", classes=CLASSES)


def test_nearly_equal_classes_in_a_registry(tmp_path):
    registry, fits = ExpertRegistry(str(tmp_path)), {"statistics": lambda data: data.rows("train").inputs.mean(0)}
    published = {"a": ["Cat", "dog", "owl"], "b": ["dog", "owl", "cat"]}
    with pytest.warns(UserWarning, match=r"the class 'Cat' of a is nearly equal to 'cat' of the data"):
        for name, classes in published.items():
            registry.publish(expert(classes), data(), name, fits["statistics"], network=Net)
    with pytest.warns(UserWarning, match=r"the class 'Cat' of source a is nearly equal to 'cat' of the target"):
        found = select_sources(registry, data(), num_sources=2, **fits)
    assert {row.name: row.coverage for row in found.table} == {"a": 2 / 3, "b": 1.0}
