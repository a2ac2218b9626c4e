import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningModule
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from sklearn.metrics import classification_report
from torch import nn

from lightning_fusion import ExpertModule, FoEFuserModule, OutputsDataModule
from lightning_fusion.callbacks import EvaluationReport
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.text.synthetic import SyntheticTextDataModule
from lightning_fusion.encoders import SmallConvNet, TextTransformer
from lightning_fusion.errors import InputError
from lightning_fusion.trackers.csv_files import CSVTracker


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def images(count: int = 60) -> TensorDataModule:
    """Noise, which no network tells apart."""
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split in ("train", "val", "test"):
        splits[split] = (torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 3)
    return TensorDataModule(splits, tiny.CLASSES, batch_size=16)


@pytest.mark.slow
def test_a_test_writes_a_table_by_class_and_pictures_of_the_most_confident_errors(tmp_path):
    report = EvaluationReport(str(tmp_path / "report"), num_errors=5)
    module, data = ExpertModule(partial(SmallConvNet, width=4), classes=tiny.CLASSES), images()
    tiny.trainer(callbacks=[report]).test(module, datamodule=data, verbose=False)
    names = {"confusion.png", "reliability.png", "errors.png", "classes.csv", "errors.csv"}
    assert {path.name for path in (tmp_path / "report").iterdir()} == {f"test_{name}" for name in names}

    part = data.rows("test")
    probabilities = module.eval()(part.inputs).softmax(1).detach()
    confidence, predicted = probabilities.max(1)
    expected = classification_report(
        part.targets, predicted, target_names=tiny.CLASSES, output_dict=True, zero_division=np.nan
    )
    for row in rows(tmp_path / "report/test_classes.csv"):
        wanted = expected[row["class"]]
        found = {name: float(row[name] or "nan") for name in ("precision", "recall", "f1", "support")}
        names = {"f1": "f1-score"}
        assert found == pytest.approx({name: wanted[names.get(name, name)] for name in found}, nan_ok=True)

    wrong = (predicted != part.targets).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)[:5]]
    table = rows(tmp_path / "report/test_errors.csv")
    assert [int(row["index"]) for row in table] == part.index[worst].tolist()
    assert [row["true class"] for row in table] == [tiny.CLASSES[number] for number in part.targets[worst]]
    own = probabilities[worst, part.targets[worst]]
    assert [float(row["probability of the true class"]) for row in table] == pytest.approx(own.tolist(), abs=1e-6)
    assert Image.open(tmp_path / "report/test_errors.png").size[0] > 400


@pytest.mark.slow
def test_a_fit_draws_where_a_logger_shows_figures_and_writes_no_files(tmp_path, monkeypatch):
    drawn: list[tuple[str, int | None]] = []
    monkeypatch.setattr(CSVTracker, "log_figure", lambda self, name, figure, step=None: drawn.append((name, step)))
    for shows, expected in ((False, []), (True, ["val_confusion", "val_reliability"])):
        monkeypatch.setattr(CSVTracker, "shows_figures", shows)
        trainer = tiny.trainer(2, callbacks=[EvaluationReport(str(tmp_path / "r"))], logger=CSVLogger(tmp_path / "l"))
        trainer.fit(ExpertModule(tiny.Net, classes=tiny.CLASSES), datamodule=tiny.data())
        assert drawn == [(name, 12) for name in expected], "the last validation, at the last step"
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_errors_of_texts_have_file_line_and_text(tmp_path):
    data = SyntheticTextDataModule(batch_size=64)
    network = partial(TextTransformer, vocab_size=data.vocab_size, width=8, layers=1, heads=1)
    module = ExpertModule(network, classes=data.classes)
    tiny.trainer(callbacks=[EvaluationReport(str(tmp_path), num_errors=3)]).test(module, datamodule=data, verbose=False)
    for row in rows(tmp_path / "test_errors.csv"):
        index = torch.tensor([int(row["index"])])
        assert {"file": [row["file"]], "line": [int(row["line"])]} == data.origins(index).columns()
        tokens = data.rows("test").inputs[index]["input_ids"][0]
        assert row["text"] == data.decode(tokens) != ""
    assert not (tmp_path / "test_errors.png").exists()


class FirstExpert(nn.Module):
    """A fuser that reads the first expert only."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, num_outputs)

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return self.linear(outputs[:, :2])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["label", "expert"])
def test_weights_of_experts_sum_to_one_and_those_that_are_not_read_have_none(target, tmp_path):
    outputs = tiny.outputs()
    network = FirstExpert if target == "label" else tiny.LinearFuser
    module = FoEFuserModule(**outputs.fuser_arguments(), network=network, target=target)
    data = OutputsDataModule(outputs, batch_size=4)
    trainer = tiny.trainer(callbacks=[EvaluationReport(str(tmp_path))])
    trainer.validate(module, datamodule=data, verbose=False)
    assert (tmp_path / "val_weights.png").is_file()
    batch = next(iter(data.val_dataloader()))
    weights = module.expert_weights(batch)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    if target == "label":
        torch.testing.assert_close(weights, torch.tensor([[1.0, 0.0]] * 4), atol=1e-6, rtol=0)
    else:
        chosen = module.network(batch.outputs).argmax(1)
        assert weights.argmax(1).tolist() == chosen.tolist() and set(weights.flatten().tolist()) <= {0.0, 1.0}


class Silent(LightningModule):
    classes = tiny.CLASSES

    def test_step(self, batch, batch_idx):
        pass


def test_a_module_whose_steps_return_nothing_is_reported_once(tmp_path):
    with pytest.warns(UserWarning, match="the steps of Silent return no dict with index, target and prob") as caught:
        tiny.trainer(callbacks=[EvaluationReport(str(tmp_path / "r"))]).test(Silent(), tiny.data(), verbose=False)
    assert len([each for each in caught if "EvaluationReport" in str(each.message)]) == 1
    assert not (tmp_path / "r").exists()
    with pytest.raises(InputError, match="num_errors is -1"):
        EvaluationReport(num_errors=-1)


def test_samples_that_processes_repeat_count_once(tmp_path):
    report, trainer = EvaluationReport(str(tmp_path)), tiny.trainer()
    for index in ([0, 1], [1, 2]):
        probabilities = torch.eye(3)[torch.tensor(index)]
        report._keep(
            Silent(), {"index": torch.tensor(index), "target": torch.tensor([2, 2]), "probabilities": probabilities}
        )
    found, _ = report._gathered(trainer)
    assert found.sample.tolist() == [0, 1, 2] and found.predicted.tolist() == [0, 1, 2]
