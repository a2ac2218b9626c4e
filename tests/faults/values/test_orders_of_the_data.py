"""Classes of a data set in another order than those of the pool."""

import warnings

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, collect, diagnose

SORTED = ["Red", "blue", "green"]  # as ImageFolder sorts
POOL = ["blue", "green", "Red"]


class Folder(TensorDataset):
    """A data set with classes, as ImageFolder has."""

    classes = SORTED


class Own(LightningDataModule):
    """A data module of a user, without classes."""

    def __init__(self, subset: bool) -> None:
        super().__init__()
        dataset = Folder(torch.zeros(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
        self.dataset = Subset(dataset, range(6)) if subset else dataset

    def test_dataloader(self):
        return DataLoader(self.dataset, batch_size=3)


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("classes", [SORTED, POOL])
def test_collect_compares_those_of_the_data_set(subset, classes):
    pool = ExpertPool({"a": Expert(nn.Linear(4, 3), classes=POOL)}, classes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        collect(pool, Own(subset), splits=["test"], trainer=tiny.trainer())
    said = [str(each.message) for each in caught if str(each.message).startswith("classes:")]
    message = (
        "classes: the data set of the test split has Red, blue, green, the experts' pool blue, green, Red: targets "
        "count classes in this order; set classes of the ExpertPool to those of the data set"
    )
    assert said == [message] * (classes == POOL)


def outputs(names):
    """Outputs of experts that are correct by the classes SORTED, in a store with the classes POOL."""
    target = np.arange(90) % 3
    probabilities = {
        name: np.eye(len(classes))[[classes.index(SORTED[number]) for number in target]]
        for name, classes in names.items()
    }
    return ExpertOutputs.from_arrays({"train": {"probabilities": probabilities, "target": target}}, names, POOL)


def test_diagnose_names_the_order_of_the_task():
    found = diagnose(outputs({"a": POOL, "b": ["Red", "green", "blue"]})).findings
    assert [line for line in found if line.startswith("CLASS ORDER")] == [
        "CLASS ORDER: one order of the task's classes explains the errors of all experts: the targets count Red, blue, "
        "green, in this order: set classes of the ExpertPool to it, and collect again."
    ]


def test_diagnose_names_a_single_expert():
    found = diagnose(outputs({"a": POOL})).findings
    assert [line.split(" (")[0] for line in found if line.startswith("CLASS ORDER")] == ["CLASS ORDER: a"]
