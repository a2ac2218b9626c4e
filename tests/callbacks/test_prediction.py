import csv

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningModule
from torch.utils.data import DataLoader

from lightning_fusion import ExpertModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.batch import Batch
from lightning_fusion.data.rows import NewRows, Origins
from lightning_fusion.errors import InputError


def predict(path, module=None, data=None):
    module = module or ExpertModule(tiny.Net, classes=tiny.CLASSES)
    tiny.trainer(callbacks=[PredictionWriter(str(path))]).predict(module, datamodule=data or tiny.data())
    return module


def test_the_table_has_every_row_in_order(tmp_path):
    path = tmp_path / "new" / "predictions.csv"
    module, data = predict(path), tiny.data()
    rows = data.rows("test")
    with open(path, newline="") as file:
        header, *table = csv.reader(file)
    assert header == ["index", "prediction", "confidence", *tiny.CLASSES]
    assert [int(row[0]) for row in table] == rows.index.tolist()
    expected = module.eval()(rows.inputs).softmax(1)
    torch.testing.assert_close(
        torch.tensor([[float(v) for v in row[3:]] for row in table]), expected, atol=1e-6, rtol=0
    )
    for row, values in zip(table, expected, strict=True):
        assert row[1] == tiny.CLASSES[values.argmax()]
        assert float(row[2]) == pytest.approx(values.max().item(), abs=1e-6)
    assert [file.name for file in path.parent.iterdir()] == ["predictions.csv"]


def test_a_second_run_replaces_the_first(tmp_path):
    path = tmp_path / "predictions.csv"
    predict(path, data=tiny.data())
    first = path.read_text()
    predict(path, data=tiny.data(1, rows={"train": 1, "val": 1, "test": 3}))
    assert path.read_text() != first
    assert len(path.read_text().splitlines()) == 4


def test_a_module_of_another_form_is_named(tmp_path):
    class Mine(LightningModule):
        def predict_step(self, batch, batch_idx):
            return batch.input

    with pytest.raises(InputError, match=r"Mine.predict_step must return a dict with index and probabilities"):
        predict(tmp_path / "p.csv", Mine())
    assert not (tmp_path / "p.csv").exists()


def test_samples_that_share_an_index_are_said(tmp_path):
    samples = [Batch(torch.randn(4), torch.tensor(0), torch.zeros(0, dtype=torch.bool), row // 2) for row in range(6)]
    module = ExpertModule(tiny.Net, classes=tiny.CLASSES)
    writer = PredictionWriter(str(tmp_path / "p.csv"))
    with pytest.warns(UserWarning, match=r"3 of 6 predictions have the index of another one, and .*p.csv contains the"):
        tiny.trainer(callbacks=[writer]).predict(module, DataLoader(samples, batch_size=4))


class Recordings(FusionDataModule):
    """Three windows of one recording, one of another, and a recording that is too short for one."""

    batch_size, seed, predict_root = 3, 0, "."

    def new_rows(self, root):
        starts = np.array([0, 0.5, 1, 0, np.nan])
        origins = Origins(["b.csv", "a.csv", "c.csv"], np.array([0, 0, 0, 1, 2]), starts, "start_s")
        notes = ["", "constant", "", "", "shorter than a window"]
        return NewRows(torch.randn(4, 4), origins, notes, np.arange(5) < 4)


def test_windows_have_rows_and_recordings_their_mean(tmp_path):
    path = tmp_path / "p.csv"
    predict(path, data=Recordings())
    rows = list(csv.DictReader(path.open(newline="")))
    assert [(row["file"], row["start_s"], row["note"]) for row in rows[1:]] == [
        ("b.csv", "0.5", "constant"),
        ("b.csv", "1.0", ""),
        ("a.csv", "0.0", ""),
        ("c.csv", "", "shorter than a window"),
    ]
    files = list(csv.DictReader((tmp_path / "p_files.csv").open(newline="")))
    assert [(row["file"], row["windows"]) for row in files] == [("b.csv", "3"), ("a.csv", "1"), ("c.csv", "0")]
    mean = [sum(float(row[name]) for row in rows[:3]) / 3 for name in tiny.CLASSES]
    assert [float(files[0][name]) for name in tiny.CLASSES] == pytest.approx(mean, abs=1e-6)
    assert files[0]["prediction"] == tiny.CLASSES[mean.index(max(mean))]
    assert float(files[0]["confidence"]) == pytest.approx(max(mean), abs=1e-6)
    assert files[2]["prediction"] == "" and files[2]["note"] == "shorter than a window"
