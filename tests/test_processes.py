"""Two processes do what one does."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny, training_script, warm
from helpers.processes import together
from helpers.training_script import HAT

from lightning_fusion import ExpertModule, ExpertOutputs, ExpertPool, collect

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """What one process left, and what two gloo processes left."""
    one, two = (tmp_path_factory.mktemp("processes") / name for name in ("one", "two"))
    training_script.work(one, 1)
    together(two.parent, training_script.work, two, 2)
    return one, two


@pytest.mark.timeout(300)
@pytest.mark.parametrize("split", training_script.ROWS)
def test_a_store_is_the_same_store(folders, split):
    one, two = (ExpertOutputs.open(folder / "store") for folder in folders)
    assert (one.experts, one.fingerprints, one.classes, one.domains) == (
        two.experts,
        two.fingerprints,
        two.classes,
        two.domains,
    )
    arrays = dict(one[split].arrays())
    assert len(arrays) == 7
    for name, values in two[split].arrays():
        assert values.dtype == arrays[name].dtype
        assert np.array_equal(values, arrays[name]), name


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["module", "label", "expert", "complementary", "joint", "text"])
def test_training_on_the_same_global_batches_gives_the_same_weights(folders, name):
    one, two = (torch.load(folder / f"{name}.pt", weights_only=True) for folder in folders)
    assert one["steps"] == two["steps"] == (63 if name == "text" else 12)  # 168 texts, of similar length in a batch
    assert two["figures"] == pytest.approx(one["figures"], abs=1e-5) and one["figures"]
    assert list(one["weights"]) == list(two["weights"])
    for key, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][key], value, atol=1e-5, rtol=0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", HAT)
def test_hats_players_and_dictionary_are_those_of_one_process(folders, name):
    one, two = (torch.load(folder / f"hat_{name}.pt", weights_only=True) for folder in folders)
    assert one["steps"] == two["steps"] == (12 if name in ("two_step", "fitted") else 24)  # of one or two optimizers
    assert two["figures"] == pytest.approx(one["figures"], abs=1e-5)
    assert ("val_teacher_accuracy" in one["figures"]) == (name != "fitted")
    assert list(one["weights"]) == list(two["weights"])
    assert one["weights"]["teacher.knowledge.filled"].all() and float(one["weights"]["teacher.knowledge.best"]) > 0.1
    for key, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][key], value, atol=1e-5, rtol=0)


@pytest.mark.timeout(300)
def test_the_mean_of_representations_is_that_of_all_processes(folders):
    """Not only alike: each of 3 x 32 rows counts once, and the start-up check leaves no trace."""
    inputs, target, _ = tiny.tensors(rows={"train": 32, "val": 8, "test": 8})["train"]
    classes = torch.nn.functional.one_hot(target, 3).double()
    expected = ExpertPool(tiny.experts(features="body"), tiny.CLASSES).representations(inputs)
    for folder in folders:
        weights = torch.load(folder / "complementary.pt", weights_only=True)["weights"]
        for name, v in expected.items():
            part = f"adversary.dissimilarities.{name}"
            assert weights[f"{part}.count"].flatten().tolist() == (3 * classes.sum(0)).tolist()
            torch.testing.assert_close(weights[f"{part}.total"], 3 * classes.T @ v.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.timeout(300)
def test_predictions_are_written_once_with_every_row(folders):
    tables = []
    for folder in folders:
        with open(folder / "predictions.csv", newline="") as file:
            tables.append(list(csv.reader(file)))
    one, two = tables
    assert [row[0] for row in one] == [row[0] for row in two] == ["index", *(str(row) for row in range(7))]
    assert one[0] == two[0]
    assert [row[3] for row in one] == [row[3] for row in two] and one[0][3] == "expert"
    values = [np.array([[float(value) for value in row[4:]] for row in table[1:]]) for table in tables]
    np.testing.assert_allclose(*values, atol=1e-4)


@pytest.mark.timeout(300)
def test_trials_are_scored_over_the_samples_of_all_processes(folders):
    """The second process sees only speakers that nobody knows, and one sample twice."""
    one, two = (json.loads((folder / "verification.json").read_text()) for folder in folders)
    names = {f"{split}_{name}" for split in ("val", "test") for name in ("eer", "min_dcf", "loss", "accuracy")}
    for kind in ("whole", "limited"):
        assert set(one[kind]) == set(two[kind]) == {name for name in names if kind == "whole" or name[:3] == "val"}
        rates = [name for name in one[kind] if name.endswith(("eer", "min_dcf"))]
        assert {name: two[kind][name] for name in rates} == pytest.approx({name: one[kind][name] for name in rates})
        assert 0 < one[kind]["val_eer"] < 1
    assert one["whole"]["val_eer"] != one["limited"]["val_eer"]  # 8 of the 9 samples


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["odd", "even"])
def test_a_policy_is_fitted_on_the_rows_of_all_processes(folders, name):
    one, two = (json.loads((folder / name / "found.json").read_text()) for folder in folders)
    more = name == "even"
    assert one["facts"] == two["facts"]
    assert one["facts"]["rows"] == training_script.FRUGAL_ROWS["train"] + more  # repeated rows count once
    assert two["digests"] == 2 * one["digests"]  # each process has the policy
    assert one["steps"] == two["steps"] == 12
    assert set(one["figures"]) == set(two["figures"]) and {"val_cost", "test_accuracy"} <= set(one["figures"])
    if more:  # a sampler repeats no row
        assert two["figures"] == pytest.approx(one["figures"], abs=1e-6)
    tables = []
    for folder in folders:
        with open(folder / name / "predictions.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert tables[0] == tables[1]
    assert [row["index"] for row in tables[0]] == [
        str(row) for row in range(training_script.FRUGAL_ROWS["test"] + more)
    ]
    assert len({row["queried"] for row in tables[0]}) > 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("strategy", "processes"), [("ddp_spawn", 1), ("ddp_fork", 2)])
def test_processes_of_the_trainer_do_what_one_does(tmp_path, monkeypatch, strategy, processes):
    """Data and modules reach a spawned process pickled; weights and stores come back from all kinds."""
    monkeypatch.setattr("multiprocessing.spawn._python_exe", os.fsencode(warm.python()))
    found = []
    for several in ({}, {"devices": processes, "strategy": strategy}):
        torch.manual_seed(0)
        module = ExpertModule(tiny.Net, classes=tiny.CLASSES)
        before = {key: value.clone() for key, value in module.state_dict().items()}
        data = tiny.data(rows={"train": 32, "val": 8, "test": 8}, batch_size=8 // several.get("devices", 1))
        tiny.trainer(3, **several).fit(module, datamodule=data)
        assert not any(torch.equal(value, before[key]) for key, value in module.state_dict().items())
        folder = tmp_path / several.get("strategy", "one")
        found.append((module.state_dict(), collect(tiny.pool(), tiny.data(), folder, trainer=tiny.trainer(**several))))
    (one, stored), (two, again) = found
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=0)
    for split in tiny.ROWS:
        np.testing.assert_allclose(again.concatenated(split), stored.concatenated(split), atol=1e-6)
        assert np.array_equal(again[split].index, stored[split].index)
