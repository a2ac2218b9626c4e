import csv

import pytest
import torch
from helpers import tiny
from lightning import LightningModule
from torch.utils.data import DataLoader

from lightning_fusion import ExpertModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.batch import Batch
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
