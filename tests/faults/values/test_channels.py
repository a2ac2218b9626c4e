"""Channels of sensors that were off, and recordings that are too short: named, not used without a word."""

import csv
import warnings

import numpy as np
import pytest
from helpers import tiny
from torch import nn

from lightning_fusion import ExpertModule, SensorDataModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.sensor.table import FeatureTableDataModule


def recordings(root, still=(), count=60, short=()):
    """Ten takes of two people, both activities in each; the channel y of some does not change."""
    for number in range(20):
        name = f"{'ab'[number % 2]}_{number // 2}"
        rows = 5 if name in short else count
        y = [1.3] * rows if name in still else [str(row % 3) for row in range(rows)]
        lines = [f"{row % 7 + number / 100},{y[row]},{'sit' if row < rows // 2 else 'walk'}" for row in range(rows)]
        (root / f"{name}.csv").write_text("\n".join(["x,y,label", *lines]))
    return root


def module(root, **arguments):
    defaults = {"pattern": "{person}_{take}.csv", "channels": ["x", "y"], "sample_rate_hz": 10, "window_s": 1.0}
    return SensorDataModule(str(root), **(defaults | arguments))


def said(data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup()
        data.preprocessing  # noqa: B018  # measures the normalization
    return [str(one.message) for one in caught]


@pytest.mark.parametrize(("mark", "is_named"), [("-9999", True), ("65535", True), ("2", False), ("0", False)])
def test_a_value_far_from_all_others_is_named(tmp_path, mark, is_named):
    """A mark of missing values; a sensor that saturates has values near its greatest one."""
    for path in recordings(tmp_path).glob("*.csv"):
        lines = path.read_text().splitlines()
        lines[5::9] = [",".join([line.split(",")[0], mark, line.split(",")[2]]) for line in lines[5::9]]
        path.write_text("\n".join(lines))
    found = [message for message in said(module(tmp_path)) if "far from all others" in message]
    assert len(found) == is_named
    assert not found or f"y {mark} (140 of 1200). Does it mark missing values?" in found[0]


def test_a_class_without_test_windows_is_named(tmp_path):
    path = recordings(tmp_path) / "a_0.csv"
    path.write_text(path.read_text().replace("sit", "rare"))
    assert any("classes have no samples among the test windows: 'rare'" in each for each in said(module(tmp_path)))


ONE = (
    "1 of 20 recordings have a constant channel: a_3.csv (y); was the sensor off? Remove them, or leave the channel "
    "out of channels"
)


@pytest.mark.parametrize("changes", [{}, {"recorded_rate_hz": 13.0}, {"recorded_rate_hz": 30.0}, {"piece_s": 1.0}])
def test_a_constant_channel_is_named(tmp_path, changes):
    """As recorded, interpolated, averaged, and cut into pieces."""
    data = module(recordings(tmp_path, still=["a_3"]), **changes)
    assert said(data) == [ONE]
    assert said(data.variant(batch_size=4)) == []


def test_it_is_named_from_a_cache_as_well(tmp_path):
    root = recordings(tmp_path, still=["a_3"])
    for _ in range(2):
        assert said(module(root, cache=str(tmp_path / "cache"))) == [ONE]


def test_all_that_changes_is_silent(tmp_path):
    assert said(module(recordings(tmp_path))) == []


def test_a_channel_that_is_constant_everywhere_is_not_scaled(tmp_path):
    every = [f"{person}_{take}" for person in "ab" for take in range(10)]
    found = said(module(recordings(tmp_path, still=every)))
    assert found[1] == "1 of 2 channels are constant in the training samples and are not scaled: y; leave them out"


def test_a_constant_feature_of_a_table_is_named(tmp_path):
    lines = [f"{row},1.5,{'ab'[row % 2]}" for row in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["mean,dead,label", *lines]))
    assert said(FeatureTableDataModule(str(tmp_path / "table.csv"))) == [
        "1 of 2 channels are constant in the training samples and are not scaled: dead; leave them out"
    ]


def test_recordings_shorter_than_a_window_are_named(tmp_path):
    assert said(module(recordings(tmp_path, short=["b_7"]))) == [
        "1 of 20 recordings are shorter than a window (10 samples) and are left out: b_7.csv; lower window_s to "
        "use them"
    ]


def test_predictions_note_a_constant_channel(tmp_path):
    off = [f"a_{take}" for take in range(10)]
    data = module(recordings(tmp_path, still=off))

    class Network(nn.Sequential):
        def __init__(self, classes):
            super().__init__(nn.Flatten(), nn.Linear(20, classes))

    path = tmp_path / "predictions.csv"
    with pytest.warns(UserWarning, match="10 of 20 recordings have a constant channel"):
        tiny.trainer(callbacks=[PredictionWriter(str(path))]).predict(
            ExpertModule(Network, classes=data.classes), datamodule=data
        )
    with open(path, newline="") as file:
        notes = [row["note"] for row in csv.DictReader(file)]
    names = np.array(data._source.names)[data._cut.recording[data.rows("test").rows.numpy()]]
    still = np.isin(names, [f"{name}.csv" for name in off])
    assert still.any() and not still.all()
    assert notes == ["constant y" if one else "" for one in still]
