"""Several loaders for validation, test and prediction: each has its own figures and its own rows."""

import csv
from typing import Any

import pytest
import torch
from helpers import modules, tiny
from torch.utils.data import DataLoader, TensorDataset

from lightning_fusion import ExpertModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.batch import as_batch
from lightning_fusion.errors import InputError

slow = pytest.mark.slow
SHIFTED = tiny.tensors(seed=5)


def doubled(data: Any, *splits: str) -> Any:
    """The data module with two loaders for some splits, of which the second has the training samples in order."""
    for split in splits:
        first = getattr(data, f"{split}_dataloader")
        other = data._loader("train" if split == "predict" else "test")
        setattr(data, f"{split}_dataloader", lambda first=first, other=other: [first(), other])
    return data


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ExpertModule",
        "FoEFuserModule",
        *(pytest.param(name, marks=slow) for name in ("FrugalFoEModule", "ACoRLModule", "HaTJointModule")),
    ],
)
def test_each_loader_has_its_own_figures(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    trainer = tiny.trainer(num_sanity_val_steps=1)
    trainer.fit(module, datamodule=doubled(data, "val"))
    (alone,) = trainer.test(module, datamodule=data, verbose=False)
    for _ in range(2):
        found = trainer.validate(module, datamodule=data, verbose=False)
        assert found[0].keys() & {"val_accuracy"} and found[1].keys() & {"val_accuracy/dataloader_idx_1"}
        both = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for key, value in alone.items():
            assert both[f"{key.replace('test', 'val')}/dataloader_idx_1"] == pytest.approx(value), key
    (first,) = tiny.trainer().validate(module, datamodule=modules.made(name, tmp_path)[1], verbose=False)
    assert all(both[key] == pytest.approx(value) for key, value in first.items())


@slow
@pytest.mark.parametrize("name", ["GenerativeExpertModule", "GenerativeFoE"])
def test_generative_modules_take_two_loaders(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    trainer = tiny.trainer()
    trainer.fit(module, datamodule=doubled(data, "val"))
    assert "val_loss/dataloader_idx_1" in trainer.callback_metrics
    assert trainer.predict(module, datamodule=data)


@slow
@pytest.mark.parametrize("name", ["VerificationModule", "ACoRLVerificationModule"])
def test_trials_are_of_one_loader(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    with pytest.raises(InputError, match="val_dataloader: found several loaders; expected one, since trials are pairs"):
        tiny.trainer(limit_train_batches=1).fit(module, datamodule=doubled(data, "val"))


def test_the_table_of_predictions_has_the_rows_of_every_loader(tmp_path):
    module = ExpertModule(tiny.Net, tiny.CLASSES)
    inputs = [torch.randn(5, 4), torch.randn(3, 4)]
    loaders = [DataLoader(TensorDataset(part), batch_size=2) for part in inputs]
    for given in (loaders, dict(zip("ab", loaders, strict=True))):
        path = tmp_path / "predictions.csv"
        tiny.trainer(callbacks=[PredictionWriter(str(path))]).predict(module, given)
        rows = list(csv.DictReader(path.open()))
        assert [(row["loader"], row["index"]) for row in rows] == [
            (str(loader), str(row)) for loader, part in enumerate(inputs) for row in range(len(part))
        ]
        expected = module(torch.cat(inputs)).softmax(1)[:, 0].tolist()
        assert [float(row["cat"]) for row in rows] == pytest.approx(expected, abs=1e-6)


def test_two_loaders_at_once_in_training_raise():
    data = tiny.data()
    first = data.train_dataloader
    data.train_dataloader = lambda: [first(), first()]
    message = r"the train loader yields 2 batches at once.*ConcatDataset"
    with pytest.raises(InputError, match=message):
        tiny.trainer().fit(ExpertModule(tiny.Net, tiny.CLASSES), datamodule=data)
    pairs = DataLoader(TensorDataset(torch.zeros(4, 4), torch.tensor([0, 1, 2, 0])), batch_size=2)
    with pytest.raises(InputError, match=message):
        tiny.trainer().fit(ExpertModule(tiny.Net, tiny.CLASSES), [pairs, pairs])


@pytest.mark.parametrize(
    "more",
    [
        (torch.zeros(3), ["a.png", "b.png", "c.png"]),
        (torch.zeros(3, 2), torch.arange(3)),
        (torch.zeros(3, dtype=torch.bool), torch.arange(3)),
        (torch.zeros(3, 2, dtype=torch.bool), torch.zeros(3)),
    ],
)
def test_four_fields_that_are_none_of_a_batch_raise(more):
    pair = (torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(InputError, match="the train loader yields a tuple of 4; expected"):
        as_batch((*pair, *more), "the train loader")
    domain, index = torch.zeros(3, 2, dtype=torch.bool), torch.arange(3)
    assert as_batch((*pair, domain, index), "the train loader").domain is domain
