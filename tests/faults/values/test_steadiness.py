"""Networks and data sets whose values change from one reading to the next, and experts that know nothing."""

import copy
import warnings

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, collect, diagnose
from lightning_fusion.experts.outputs.loaders import fingerprints_of

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


class Network(nn.Module):
    def __init__(self, way="plain"):
        super().__init__()
        self.way, self.calls = way, 0
        self.norm, self.head = nn.BatchNorm1d(6, track_running_stats=way != "batch norm"), nn.Linear(6, 2)

    def forward(self, x):
        self.calls += 1
        x = nn.functional.dropout(x) if self.way == "dropout" else x
        return 9 * self.head(self.norm(x))


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
        ("dropout", "the outputs of the expert of a, b are random: its network draws random numbers in eval mode"),
        ("batch norm", "the outputs of the expert of a, b depend on the other samples of a batch: .* (norm)"),
    ],
)
def test_networks_are_named_once(way, match):
    network = Network(way)
    (found,) = said(network)
    assert found.startswith(match.partition(" .* ")[0]) and network.calls == 1
    expert = Expert(Network(way), classes=["a", "b"])
    with pytest.warns(UserWarning, match="are random|depend on the other"):
        expert(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expert(X)


def test_others_are_silent():
    assert not said(Network()) and not said(nn.Sequential(nn.Dropout(), nn.InstanceNorm1d(6), nn.Linear(6, 2)))


def test_a_network_that_is_put_into_training_mode_keeps_its_outputs():
    expert = Expert(Network(), classes=["a", "b"])
    outputs, mean = expert(X), expert.network.norm.running_mean.clone()
    expert.network.train()
    assert torch.equal(expert(X), outputs) and torch.equal(expert.network.norm.running_mean, mean)


def test_one_expert_under_two_names_is_named():
    network = Network()
    pool = {name: Expert(copy.deepcopy(network), classes=["a", "b"]) for name in ("a", "b")}
    with pytest.warns(UserWarning, match="experts: a and b have the same weights and classes"):
        collect(ExpertPool(pool), {"test": (X, Y)}, trainer=tiny.trainer())


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


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, Y.tolist(), strict=True)


class Loaders(LightningDataModule):
    def __init__(self, **sets):
        super().__init__()
        self.splits = list(sets)
        for name, loader in sets.items():
            setattr(self, f"{name}_dataloader", lambda loader=loader: loader)


def copies(data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fingerprints_of(data, data.splits)
    return [str(each.message) for each in caught if "have the content of another one" in str(each.message)]


class TestCopiesInLoaders:
    @pytest.mark.slow  # starts processes
    def test_workers_that_all_read_a_whole_stream(self):
        (found,) = copies(Loaders(test=DataLoader(Stream(), 8, num_workers=2)))
        assert "80 of 80 samples" in found and "each worker of an IterableDataset reads all samples" in found

    def test_of_two_splits_and_labels(self):
        one, two = TensorDataset(X[:30], Y[:30]), TensorDataset(X[20:], 1 - Y[20:])
        (found,) = copies(Loaders(train=DataLoader(one, 8), test=DataLoader(two, 8)))
        assert found.startswith("20 of 50 samples have the content of another one: 20 with contradictory labels")
        assert "20 across splits (train and test share 10)" in found

    def test_of_none(self):
        assert not copies(Loaders(test=DataLoader(Stream(), 8)))


class TestCopiesInArrays:
    @pytest.mark.parametrize(("rows", "count"), [(slice(0, 40), 40), (slice(20, 60), 20), (slice(40, 80), 0)])
    def test_across_splits(self, rows, count):
        answers = np.random.default_rng(0).dirichlet([1, 1, 1], size=80)
        splits = {"train": np.arange(40), "test": np.arange(80)[rows]}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ExpertOutputs.from_arrays(
                {split: {"probabilities": {"a": answers[own]}, "target": own % 3} for split, own in splits.items()},
                {"a": ["a", "b", "c"]},
            )
        found = [str(each.message) for each in caught]
        assert len(found) == bool(count) and all(
            each.startswith(f"splits: {count} of 40 samples of test") for each in found
        )

    def test_votes_prove_nothing(self):
        votes = np.eye(3)[np.arange(60) % 3]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            splits = {
                split: {"probabilities": {"a": votes}, "target": np.arange(60) % 3} for split in ("train", "test")
            }
            ExpertOutputs.from_arrays(splits, {"a": ["a", "b", "c"]})


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
