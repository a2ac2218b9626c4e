"""Targets of loaders that are no numbers of the model's classes: one line with the value, the loader, the classes."""

from typing import Any

import pytest
import torch
from helpers import tiny
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_fusion import (
    ACoRLModule,
    ExpertModule,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    HaTJointModule,
    collect,
)
from lightning_fusion.data.batch import Batch, as_batch
from lightning_fusion.errors import InputError
from lightning_fusion.verification.module import VerificationModule

slow = pytest.mark.slow
SAYS = r"the {} loader yields the target\(s\) {}; expected 0 to 2, numbers of 3 classes"


class Pairs(Dataset):
    """Pairs (input, target) of which one target is replaced."""

    def __init__(self, wrong: int | None) -> None:
        self.target = [0, 1, 2] * 4
        if wrong is not None:
            self.target[4] = wrong

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, row: int) -> Any:
        return torch.full((4,), float(row)), self.target[row]


def loader(wrong: int | None = None) -> DataLoader:
    return DataLoader(Pairs(wrong), batch_size=6)


def with_experts(kind: Any, **arguments: Any) -> Any:
    return kind(experts=tiny.pool(features="body"), **arguments)


def made(name: str) -> Any:
    network = {"network": tiny.Net, "classes": tiny.CLASSES}
    if name == "ExpertModule":
        return ExpertModule(**network)
    if name == "FoEFuserModule":
        return with_experts(FoEFuserModule)
    if name == "FrugalFoEModule":
        return with_experts(FrugalFoEModule, policy=FrugalFoE(fuser_neighbors=3))
    if name == "VerificationModule":
        return VerificationModule(**network, features="body", loss=nn.CrossEntropyLoss())
    return with_experts(
        {"ACoRLModule": ACoRLModule, "HaTJointModule": HaTJointModule}[name], features="body", **network
    )


NAMES = ["ExpertModule", "FoEFuserModule", "FrugalFoEModule", "ACoRLModule", "HaTJointModule", "VerificationModule"]


@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("name", NAMES)
def test_they_are_named_in_training(name, wrong):
    with pytest.raises(InputError, match=SAYS.format("train", wrong)):
        tiny.trainer().fit(made(name), loader(wrong))


@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=slow) for name in NAMES[1:])])
def test_they_are_named_in_evaluation(name):
    module, trainer = made(name), tiny.trainer()
    with pytest.raises(InputError, match=SAYS.format("val", 7)):
        trainer.fit(module, loader(), loader(7))
    if name != "VerificationModule":  # which measures speakers of other data sets
        with pytest.raises(InputError, match=SAYS.format("test", -100) + "; -100 marks samples without a label"):
            trainer.test(module, loader(-100))
    assert trainer.predict(module, loader(7))  # without targets


def test_they_are_named_by_collect():
    class Data(tiny.TensorDataModule):
        def train_dataloader(self) -> Any:
            return loader(3)

    with pytest.raises(InputError, match=SAYS.format("train", 3)):
        collect(tiny.pool(), Data(tiny.tensors(), tiny.CLASSES, tiny.DOMAINS), trainer=tiny.trainer())


def test_some_samples_without_a_label_train_an_expert_and_none_with_one_raise():
    tiny.trainer().fit(made("ExpertModule"), loader(-100))
    batch = Batch(torch.zeros(2, 4), torch.full((2,), -100), torch.zeros(2, 0), torch.arange(2))
    with pytest.raises(InputError, match=SAYS.format("train", -100)):
        as_batch(batch, "the train loader", num_classes=3, unlabeled=True)
