from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import tiny
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from lightning_fusion import ExpertModule
from lightning_fusion.errors import InputError
from lightning_fusion.recipes.trainers import OWNED, Trainers

STOPPING = {
    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
    "init_args": {"monitor": "val_loss", "patience": 1},
}
LOGGER = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "tables"}}
CPU = {"accelerator": "cpu"}


def kinds(trainer, kind) -> list:
    return [each for each in trainer.callbacks if isinstance(each, kind)]


@pytest.mark.parametrize("key", OWNED)
def test_what_a_stage_sets_is_rejected_with_the_reason(key, tmp_path):
    with pytest.raises(InputError, match=rf"^trainer\.{key}: "):
        Trainers({key: 3}, tmp_path)


def test_unset_keys_of_a_saved_configuration_are_no_keys(tmp_path):
    assert Trainers(dict.fromkeys(OWNED) | {"fast_dev_run": False}, tmp_path).record() == {}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"epochs": 3}, r"trainer: found epochs; expected arguments of lightning\.Trainer"),
        ({"precision": "bf16-true"}, r"trainer\.precision: found bf16-true; expected 32-true, 16-mixed or bf16-mixed"),
        ([1], r"trainer: found \[1\]; expected arguments of lightning.Trainer by name"),
        (
            {"logger": {"class_path": "no.Logger"}},
            r"trainer\.logger: found no class no\.Logger \(No module named 'no'\)",
        ),
        ({"callbacks": [{"class_path": "lightning.pytorch.callbacks.No"}]}, r"trainer\.callbacks: found no class"),
        ({"callbacks": [STOPPING | {"init_args": {"wait": 3}}]}, r"trainer\.callbacks: .*EarlyStopping takes no"),
        ({"callbacks": ["EarlyStopping"]}, r"trainer\.callbacks: found 'EarlyStopping'; expected class_path"),
        ({"logger": [CSVLogger("logs")]}, r"trainer\.logger: found a CSVLogger object, which one fit alone can have"),
        (
            {"logger": {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"version": "a"}}},
            r"trainer\.logger\.version: names one run",
        ),
    ],
)
def test_a_block_that_does_not_fit_is_rejected(block, message, tmp_path):
    with pytest.raises(InputError, match=message):
        Trainers(block, tmp_path)


@pytest.mark.parametrize("block", [{"accelerator": "abacus"}, {"devices": 0}, {"gradient_clip_val": "x"}])
def test_what_lightning_refuses_is_an_error_of_the_block(block, tmp_path):
    with pytest.raises(InputError, match=r"^trainer: "):
        Trainers(CPU | block, tmp_path).trainer("a")


def test_validation_by_steps_is_no_key_that_is_left_out(tmp_path):
    block = {"check_val_every_n_epoch": None, "val_check_interval": 7}
    trainers = Trainers(CPU | block, tmp_path)
    assert trainers.trainer("a").check_val_every_n_epoch is None
    assert trainers.record() == block


def test_every_stage_has_callbacks_of_its_own(tmp_path):
    own = EarlyStopping("val_accuracy", patience=7)
    trainers = Trainers(CPU | {"callbacks": [STOPPING, own]}, tmp_path)
    first, second = (kinds(trainers.trainer(stage), EarlyStopping) for stage in ("a", "b"))
    assert [each.patience for each in first] == [each.patience for each in second] == [1, 7]
    assert len({id(each) for each in (*first, *second, own)}) == 5


def test_a_stage_adds_to_the_block(tmp_path):
    trainer = Trainers(CPU | {"gradient_clip_val": 0.5}, tmp_path).trainer("a", 3, [ModelCheckpoint()], bar=False)
    assert (trainer.max_epochs, trainer.gradient_clip_val, trainer.loggers) == (3, 0.5, [])
    assert kinds(trainer, ModelCheckpoint) and not kinds(trainer, RichProgressBar)


@pytest.mark.parametrize(
    ("block", "bar", "expected"),
    [
        ({}, True, RichProgressBar),
        ({}, False, None),
        ({"enable_progress_bar": False}, True, None),
        ({"enable_progress_bar": True}, False, RichProgressBar),
        ({"callbacks": TQDMProgressBar()}, False, TQDMProgressBar),
    ],
)
def test_short_stages_have_a_bar_where_it_is_asked_for(block, bar, expected, tmp_path):
    found = Trainers(CPU | block, tmp_path).trainer("a", bar=bar).progress_bar_callback
    assert type(found) is (expected or type(None))


@pytest.mark.parametrize(
    ("block", "batches"), [({}, 0), ({"callbacks": [STOPPING]}, 1.0), ({"limit_val_batches": 2}, 2)]
)
def test_a_stage_without_validation_has_one_where_the_block_needs_it(block, batches, tmp_path):
    assert Trainers(CPU | block, tmp_path).trainer("a", validates=False).limit_val_batches == batches


@pytest.mark.slow
def test_every_stage_logs_into_a_folder_of_its_own(tmp_path):
    trainers = Trainers(CPU | {"logger": LOGGER}, tmp_path)
    for stage in ("seed_0/one", "seed_0/two"):
        torch.manual_seed(0)
        module = ExpertModule(tiny.Net, classes=tiny.CLASSES)
        trainers.trainer(stage, 2, bar=False).fit(module, datamodule=tiny.data())
        assert (tmp_path / "logs" / "tables" / stage / "version_0" / "metrics.csv").is_file()
    assert trainers.trainer("seed_0/three", logged=False).loggers == []


def test_the_logger_of_lightning_lies_below_the_run(tmp_path):
    trainer = Trainers(CPU | {"logger": True}, tmp_path).trainer("seed_0/one")
    assert tmp_path / "logs" / "seed_0" / "one" in Path(trainer.log_dir).parents


def test_what_changes_no_result_is_not_recorded(tmp_path):
    block = {"logger": LOGGER, "profiler": "simple", "precision": "32-true", "callbacks": [TQDMProgressBar()]}
    record = partial(Trainers, folder=tmp_path)
    assert record(CPU | block).record() == {}
    assert record(CPU | {"callbacks": STOPPING, "precision": "bf16-mixed"}).record() == {
        "precision": "bf16-mixed",
        "callbacks": [STOPPING],
    }
    (kept,) = record(CPU | {"callbacks": EarlyStopping("val_loss")}).record()["callbacks"]
    assert kept["init_args"]["monitor"] == "val_loss"
    assert record(CPU | {"devices": 2}).record() == {"processes": 2}
