import numpy as np
import pytest
import torch

from lightning_fusion.data.sensor.shortcuts import OffsetTableDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.errors import InputError


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("offsets") / "table.csv"
    values = np.random.default_rng(0).normal(size=(600, 2))
    lines = [f"{one:.6f},{other:.6f},{'abc'[row % 3]}" for row, (one, other) in enumerate(values)]
    path.write_text("\n".join(["mean,peak,label", *lines]))
    return str(path)


def read(data):
    rows = torch.arange(len(data.rows("train")))
    batch = data.rows("train")[rows]
    return batch.input.numpy(), batch.target.numpy(), batch.index.numpy()


def test_the_offset_goes_with_the_class_as_often_as_wanted(table):
    plain, _, index = read(FeatureTableDataModule(table))
    values, target, same = read(OffsetTableDataModule(table, offset_channels=["peak"], agreement=0.9, offset=2.0))
    assert (index == same).all() and (values[:, 0] == plain[:, 0]).all()  # the same rows in the same splits
    step = (values - plain)[:, 1] / 2.0
    unit = np.abs(step[step > 1e-6]).min()  # the deviation of the feature
    cues = np.round(step / unit).astype(int)
    assert unit == pytest.approx(1.0, abs=0.1) and set(cues) == {0, 1, 2}
    assert (cues == target).mean() == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"offset_channels": ["top"]}, "offset_channels: .* has no feature top; it has mean, peak"),
        ({"offset_channels": []}, "offset_channels is empty"),
        ({"offset_channels": ["peak"], "agreement": 2}, "agreement is 2; expected 0 to 1"),
    ],
)
def test_wrong_arguments_are_rejected(given, message, table):
    with pytest.raises(InputError, match=message):
        OffsetTableDataModule(table, **given).setup("fit")
