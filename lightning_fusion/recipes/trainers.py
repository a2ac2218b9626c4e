"""The ``trainer:`` block of a recipe: one Trainer for each stage, all made from the same keys."""

import copy
import inspect
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import (
    Checkpoint,
    DeviceStatsMonitor,
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    RichProgressBar,
)
from torch.utils.data import DataLoader, TensorDataset

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import installed, missing_package, tracker_error
from lightning_fusion.hyperparameters import is_plain
from lightning_fusion.recipes.tracking import StageLog, Tracking

DEFAULTS: dict[str, Any] = {"devices": 1, "logger": False, "enable_model_summary": False}
"""Defaults of the block that differ from those of the Trainer."""

OWNED = {
    "max_epochs": "every stage has its own number of epochs among the arguments of the recipe",
    "default_root_dir": "it is the folder of the run: give output",
    "enable_checkpointing": "a recipe keeps the last weights of every stage; for more, add a ModelCheckpoint",
    "fast_dev_run": "a recipe needs whole stages: give few epochs and one seed for a trial",
    "barebones": "a recipe reads the metrics of every stage",
    "limit_test_batches": "the results are those of all test samples",
    "limit_predict_batches": "the experts predict all samples",
}
"""Keys that the stages of a recipe set, or that would falsify its results, and what to do instead."""

_PRECISIONS = ("32-true", "32", 32, "16-mixed", "bf16-mixed")
_WITHOUT_EFFECT = {  # on the results, up to the rounding of another device
    *("accelerator", "strategy", "logger", "profiler", "log_every_n_steps", "detect_anomaly", "enable_autolog_hparams"),
    *("enable_progress_bar", "enable_model_summary", "plugins", "benchmark", "deterministic", "inference_mode"),
    *("devices", "num_nodes", "model_registry"),
}
_WATCHERS = (ProgressBar, Checkpoint, ModelSummary, LearningRateMonitor, DeviceStatsMonitor)  # change no weight
_OF_TRAINER = {name: each.default for name, each in inspect.signature(Trainer).parameters.items()}


class Trainers:
    """Build the Trainer of every stage from one block of Trainer arguments.

    Callbacks, loggers, strategies and plugins have the state of one fit, so each stage gets new ones: entries of the
    form ``{"class_path": ..., "init_args": {...}}``, as on the command line, are instantiated for each stage, and
    objects are copied. Loggers must have this form; the logger of a stage is named after it.

    Args:
        block: Arguments of :class:`~lightning.Trainer`, those of :data:`OWNED` excepted; :data:`DEFAULTS` apply to
            missing ones.
        folder: Folder of the run; relative folders of loggers are in its ``logs``.
        recipe: Name of the recipe, for loggers.

    Raises:
        InputError: If the block has an unknown key, or one that a stage sets.
    """

    def __init__(self, block: Mapping[str, Any] | None, folder: str | Path, recipe: str = "") -> None:
        if not isinstance(block, Mapping | None):
            raise InputError(f"trainer: found {block!r}; expected arguments of lightning.Trainer by name")
        block = dict(block or {})
        if unknown := sorted(set(block) - set(_OF_TRAINER)):
            raise InputError(f"trainer: found {shorten(unknown)}; expected arguments of lightning.Trainer")
        for key, reason in OWNED.items():
            if block.pop(key, None) not in (None, _OF_TRAINER[key]):
                raise InputError(f"trainer.{key}: {reason}")
        self.block, self.folder = DEFAULTS | block, Path(folder)
        if (precision := self.block.get("precision")) not in (None, *_PRECISIONS):
            raise InputError(f"trainer.precision: found {precision}; expected 32-true, 16-mixed or bf16-mixed")
        for key in ("limit_train_batches", "max_steps"):
            if self.block.get(key) == 0:
                raise InputError(f"trainer.{key}: found 0, with which no stage trains anything; give a positive number")
        for key in ("callbacks", "logger"):
            value = self.block.get(key)
            self.block[key] = value if value is None or isinstance(value, bool | list | tuple) else [value]
        if self.block["logger"] is True:  # as in the Trainer
            self.block["logger"] = [{"class_path": f"lightning.pytorch.loggers.{_default_logger()}"}]
        loggers = self.block["logger"] or []
        resolve, build = partial(_resolve, where="trainer.logger"), partial(_build, where="trainer.logger")
        self.tracking = Tracking(loggers, self.folder / "logs", recipe, resolve, build)
        for callback in _build(self.block["callbacks"] or [], "trainer.callbacks"):
            if not isinstance(callback, Callback):
                raise InputError(
                    f"trainer.callbacks: found {callback!r}; expected class_path and init_args of a Lightning callback"
                )

    def record(self) -> dict[str, Any]:
        """Return the keys that affect the results, as plain data."""
        changed: dict[str, Any] = {
            key: value
            for key, value in self.block.items()
            if key not in _WITHOUT_EFFECT and value != _OF_TRAINER[key] and _is_given(key, value)
        }
        if changed.get("precision") in _PRECISIONS[:3]:
            del changed["precision"]
        watching = [
            each
            for each in changed.pop("callbacks", [])
            if not isinstance(_build(each, "trainer.callbacks"), _WATCHERS)
        ]
        if watching:
            changed["callbacks"] = watching
        if self.processes > 1:
            changed["processes"] = self.processes
        return {key: _describe(value) for key, value in changed.items()}

    @property
    def processes(self) -> int:
        """Return the number of processes of a stage."""
        if not hasattr(self, "_processes"):
            self._processes = self.trainer("none", logged=False).world_size
        return self._processes

    def trainer(
        self,
        stage: str,
        epochs: int = 1,
        callbacks: Sequence[Callback] = (),
        *,
        validates: bool = True,
        logged: bool = True,
        bar: bool = True,
    ) -> Trainer:
        """Return the Trainer of a stage.

        Args:
            stage: Name of the stage, with slashes: that of its loggers and of its folder below ``logs``.
            epochs: Passes over the data.
            callbacks: Callbacks of the stage, before those of the block.
            validates: Whether the stage requires validation; otherwise it validates only if the block limits the
                validation batches, or if one of its callbacks monitors a metric of the validation split.
            logged: Whether the stage uses the loggers of the block.
            bar: Whether the stage has a progress bar by default; ``enable_progress_bar`` of the block overrides it.
        """
        block: dict[str, Any] = {
            key: _build(value, f"trainer.{key}")
            for key, value in self.block.items()
            if key != "logger" and _is_given(key, value)
        }
        callbacks = [*callbacks, *block.pop("callbacks", [])]
        bars = [each for each in callbacks if isinstance(each, ProgressBar)]
        if block.setdefault("enable_progress_bar", bar or bool(bars)) and not bars:
            callbacks.insert(0, RichProgressBar(leave=False))
        if not validates and not _watched(callbacks):
            block = {"limit_val_batches": 0, "num_sanity_val_steps": 0} | block
        loggers = self.tracking.open(stage, logged)
        if loggers:
            callbacks.append(StageLog(stage, self.tracking.recipe, block.get("log_every_n_steps") is None))
            if not any(isinstance(each, LearningRateMonitor) for each in callbacks):
                callbacks.append(LearningRateMonitor())
        try:
            made = Trainer(
                max_epochs=epochs,
                callbacks=callbacks,
                logger=loggers or False,
                default_root_dir=str(self.folder / "logs" / stage if logged else self.folder),
                enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
                **block,
            )
        except (MisconfigurationException, TypeError, ValueError) as error:
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error
        check_processes(made)
        self.tracking.trainer = made
        return made

    def watched(self) -> list[str]:
        """Return the metrics of the validation split that callbacks of the block monitor."""
        return _watched(_build(self.block["callbacks"] or [], "trainer.callbacks"))

    def meet(self) -> None:
        """Start the other processes, if any, and wait for all of them."""
        if self.processes > 1:
            trainer = self.trainer("none", logged=False, bar=False)
            trainer.validate(_Nothing(), DataLoader(TensorDataset(torch.zeros(1))), verbose=False)


def check_processes(trainer: Trainer) -> None:
    """Check that the processes of a Trainer can start, since a run waits for all of them.

    Args:
        trainer: Trainer.

    Raises:
        InputError: If there are more processes than cores of the CPU, or nodes without an address.
    """
    cores = max(2, os.cpu_count() or 1)
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores:
        raise InputError(
            f"trainer.devices: found {trainer.num_devices} processes on {cores} cores; give at most {cores}"
        )
    place = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(place, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"trainer.num_nodes: found {trainer.num_nodes} without a cluster; set MASTER_ADDR, MASTER_PORT and "
            "NODE_RANK in the environment of each node, or start the command by torchrun"
        )


class _Nothing(LightningModule):
    """Callback without validation."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing."""


def _watched(callbacks: Sequence[Any]) -> list[str]:
    found = (str(getattr(each, "monitor", "")) for each in callbacks)
    return [name for name in found if name.startswith("val_")]


def _is_class(value: Any) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def _is_given(key: str, value: Any) -> bool:
    """Return whether a key is set: null means the default for most keys, but counting steps for one."""
    return value is not None or key == "check_val_every_n_epoch"


def _resolve(path: Any, where: str) -> Any:
    """Import the class of a path."""
    try:
        return resolve_name(path)
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        raise InputError(f"{where}: found no class {path} ({error}); give its import path") from error


def _build(value: Any, where: str) -> Any:
    """Return a value of the block for one stage: classes are instantiated, objects are copied."""
    if _is_class(value):
        given = (value.get("init_args") or {}) | (value.get("dict_kwargs") or {})
        arguments = {key: _build(item, where) for key, item in given.items()}
        kind = _resolve(value["class_path"], where)
        try:
            return kind(**arguments)
        except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
            if missing := missing_package(error):
                raise InputError(f"{where}: {missing}") from error
            if found := tracker_error(error):
                raise found from error
            raise InputError(f"{where}: {value['class_path']} takes no {arguments} ({error})") from error
    if isinstance(value, Mapping):
        return {key: _build(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_build(item, where) for item in value]
    return copy.deepcopy(value)


def _describe(value: Any) -> Any:
    """Return a value of the block as plain data."""
    if isinstance(value, Mapping):
        return {str(key): _describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    if is_plain(value):
        return value
    if not hasattr(value, "__dict__"):
        return str(value)
    arguments = {key: item for key, item in vars(value).items() if is_plain(item)}
    return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": arguments}


def _default_logger() -> str:
    """Return the class that the Trainer takes for ``logger: true``."""
    return "TensorBoardLogger" if installed("tensorboard") or installed("tensorboardX") else "CSVLogger"
