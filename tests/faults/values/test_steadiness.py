"""Networks and data sets whose values change from one reading to the next, and experts that know nothing."""

import warnings

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, collect, diagnose
from lightning_fusion.experts.probing import unsteady

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


class Network(nn.Module):
    def __init__(self, way="plain"):
        super().__init__()
        self.way, self.calls = way, 0
        self.norm, self.head = nn.BatchNorm1d(6, track_running_stats=way != "batch norm"), nn.Linear(6, 2)

    def forward(self, x):
        self.calls += 1
        x = nn.functional.dropout(x) if self.way == "dropout" else x
        return 9 * self.head(self.norm(x) - (x.mean(0) if self.way == "mean" else 0))


def said(network, data=None):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        collect(
            ExpertPool({"mine": Expert(network, classes=["a", "b"])}),
            {"test": (X, Y)} if data is None else data,
            splits=["test"],
            trainer=tiny.trainer(),
        )
    found = [str(each.message) for each in caught]
    return [each for each in found if "the outputs" in each]


@pytest.mark.parametrize(
    ("way", "match"),
    [
        ("dropout", "the outputs of expert mine are random: they change by up to 0."),
        ("batch norm", "the outputs of expert mine depend on the other samples of a batch: they change by up to 0."),
        ("mean", "the outputs of expert mine depend on the other samples of a batch: they change by up to 0."),
    ],
)
def test_networks_are_named_once(way, match):
    (found,) = said(Network(way))
    assert found.startswith(match)


def test_others_are_silent():
    assert not said(Network())


def test_random_numbers_are_kept():
    expert, state = Expert(Network("dropout"), classes=["a", "b"]), torch.get_rng_state()
    assert unsteady("mine", expert, X) and torch.equal(torch.get_rng_state(), state)


def test_networks_without_weights_are_not_run_again():
    network = Network()
    network.norm = network.head = nn.Identity()
    assert not said(network.requires_grad_(False), {"test": (X[:, :2], Y)}) and network.calls == 1


class Read(Dataset):
    def __init__(self, noise):
        self.noise = noise

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return X[row] + self.noise * torch.randn(6), int(Y[row])


class Data(LightningDataModule):
    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def test_dataloader(self):
        return DataLoader(Read(self.noise), 20)  # by position


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_data_set_with_random_inputs_is_named(noise):
    found = said(Network(), Data(noise))
    assert len(found) == bool(noise) and "".join(found).startswith(
        "the data set of the test split gives another" * len(found)
    )


class TestDiagnosis:
    def outputs(self, **answers) -> ExpertOutputs:
        """Outputs of 300 samples of three classes."""
        names = {name: ["a", "b", "c"] for name in answers}
        target = np.arange(300) // 2 % 3
        return ExpertOutputs.from_arrays({"train": {"probabilities": answers, "target": target}}, names)

    def test_experts_at_chance_are_named(self):
        good = np.eye(3)[np.arange(300) // 2 % 3] * 0.7 + 0.1
        found = diagnose(
            self.outputs(good=good, shifted=np.roll(good, 2, 0), constant=np.tile([0.5, 0.3, 0.2], (300, 1)))
        )
        (chance,) = [finding for finding in found.findings if finding.startswith("CHANCE")]
        assert "constant 33.3% against 33.3%. Check the order" in chance and "good" not in chance

    def test_ties_are_counted(self):
        good = np.eye(3)[np.arange(300) // 2 % 3] * 0.7 + 0.1
        tied = good.copy()
        tied[:20] = [0.4, 0.4, 0.2]
        found = diagnose(self.outputs(good=good, tied=tied))
        assert [expert.ties for expert in found.experts] == [0, 20]
        assert any("of which the first counts, among 300 samples: tied 20." in finding for finding in found.findings)
