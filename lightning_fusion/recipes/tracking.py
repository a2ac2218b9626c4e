"""Loggers of the stages of a run: each stage is a run of its own in every tracker, logged once."""

import inspect
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.files import write_text
from lightning_fusion.trackers.base import Stage, Tracker, without_none
from lightning_fusion.trackers.kinds import tracker_class, trackers_of

_RECORD = "stages.json"


class Tracking:
    """Build the loggers of every stage, and remember which stages are logged, so that a resumed run logs none twice.

    Args:
        described: Loggers by ``class_path`` and ``init_args``.
        folder: Folder of the run for logs.
        recipe: Name of the recipe.
        resolve: Function that imports the class of a path.
        build: Function that instantiates a described class.

    Raises:
        InputError: If a logger is an object, or names one run for all stages.
    """

    def __init__(
        self,
        described: Sequence[Any],
        folder: Path,
        recipe: str,
        resolve: Callable[[str], type[Logger]],
        build: Callable[[Mapping[str, Any]], Logger],
    ) -> None:
        self.described, self.folder, self.recipe = described, folder, recipe
        self._resolve, self._build = resolve, build
        self.trainer: Trainer | None = None
        """Trainer of the open stage; a stage without one is recorded at once."""
        self._open: dict[str, Tracker] = {}
        self._key = ""
        self._times: dict[str, int] = {}
        self._known: dict[str, Any] | None = None
        for each in described:
            self._check(each)

    def _check(self, described: Any) -> None:
        if not isinstance(described, Mapping) or "class_path" not in described:
            raise InputError(
                f"trainer.logger: found a {type(described).__name__} object, which one fit alone can have; give its "
                "class_path and init_args, from which the logger of each stage is built"
            )
        kind = self._resolve(described["class_path"])
        if not (inspect.isclass(kind) and issubclass(kind, Logger)):
            raise InputError(f"trainer.logger: {described['class_path']} is no logger; name a subclass of Logger")
        for name in tracker_class(kind).names_one_run:
            if _arguments(described).get(name) is not None:
                raise InputError(
                    f"trainer.logger.{name}: names one run, but every stage is a separate run; leave it out"
                )

    @property
    def record(self) -> dict[str, Any]:
        """Name of the run, and the stages that each logger has logged."""
        if self._known is None:
            new = {"run": f"{self.folder.parent.resolve().name}-{secrets.token_hex(4)}", "logged": {}}
            try:
                found = json.loads((self.folder / _RECORD).read_text(encoding="utf-8"))
                self._known = {"run": str(found["run"]), "logged": {k: list(v) for k, v in found["logged"].items()}}
            except FileNotFoundError:
                self._known = new
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                rank_zero_warn(f"{self.folder / _RECORD} is damaged: all stages are logged again, as {new['run']}")
                self._known = new
        return self._known

    def open(self, stage: str, logged: bool = True, key: str | None = None) -> list[Logger]:
        """Return the loggers of a stage, after those of the stage before are closed; none if it is logged already.

        Args:
            stage: Name of the stage. A further Trainer of the same name is a stage of its own.
            logged: Whether the stage has loggers at all.
            key: Name under which the stage is remembered; ``None`` means ``stage``.
        """
        self.close()
        if not logged:
            return []
        self._times[stage] = self._times.get(stage, 0) + 1
        if (number := self._times[stage]) > 1:
            stage = f"{stage}_{number}"
        self._key = key or stage
        loggers = []
        for described in self.described:
            path = described["class_path"]
            if self._key in self.record["logged"].get(path, ()):
                continue
            kind, place = self._resolve(path), Stage(stage, self.record["run"], self.recipe, self.folder)
            given = tracker_class(kind).arguments(kind, _arguments(described), place)
            logger = self._build({"class_path": path, "init_args": given})
            loggers.append(logger)
            for tracker in trackers_of([logger]):
                tracker.open(place)
                self._open[path] = tracker
        return loggers

    def __enter__(self) -> "Tracking":
        """Begin a run."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """End the run of the open stage, which has failed if there is an exception."""
        self.close(failed=kind is not None)

    def close(self, failed: bool = False) -> None:
        """End the runs of the open stage; it is remembered if it is finished."""
        finished = not failed and (self.trainer is None or self.trainer.state.finished)
        for path, tracker in self._open.items():
            tracker.close(failed)
            if finished:
                self.record["logged"].setdefault(path, []).append(self._key)
        if self._open and finished and first_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / _RECORD, json.dumps(self.record, indent=1))
        self._open, self.trainer = {}, None

    @contextmanager
    def recording(self, stage: str, key: str | None = None) -> Iterator[list[Tracker]]:
        """Context of a stage without a Trainer, with its trackers: none in other processes, or if it is logged.

        Args:
            stage: Name of the stage.
            key: Name under which the stage is remembered; ``None`` means ``stage``.
        """
        yield trackers_of(self.open(stage, first_process(), key))
        self.close()


class StageLog(Callback):
    """Record the settings of a stage, once and without unset ones, and log every epoch of a short one.

    Args:
        stage: Name of the stage.
        recipe: Name of the recipe.
        shortens: Whether ``log_every_n_steps`` is at most the number of steps of an epoch.
    """

    def __init__(self, stage: str, recipe: str, shortens: bool) -> None:
        self.stage, self.recipe, self.shortens = stage, recipe, shortens
        self._silenced: list[Any] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Record the settings in place of Lightning, which mixes those of module and data."""
        if stage != "fit":
            return
        parts = {"model": pl_module, "data": getattr(trainer, "datamodule", None)}
        settings: dict[str, Any] = {"recipe": self.recipe, "stage": self.stage}
        for name, part in parts.items():
            if part is None:
                continue
            if part._log_hyperparams:
                self._silenced.append(part)
                part._log_hyperparams = False
            own = {key: value for key, value in dict(part.hparams).items() if not key.startswith("_")}
            settings[name] = {"class": type(part).__name__, **without_none(own)}
        for tracker in trackers_of(trainer.loggers):
            tracker.log_hyperparameters(settings)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lower the number of steps between two values."""
        if self.shortens:
            steps = int(min(trainer.num_training_batches, trainer.log_every_n_steps))  # type: ignore[attr-defined]
            trainer.log_every_n_steps = max(1, steps)  # type: ignore[attr-defined]  # set by a connector

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let Lightning record the settings of module and data in later fits."""
        for part in self._silenced:
            part._log_hyperparams = True
        self._silenced = []


def _arguments(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a described class, those beyond its signature too."""
    return dict(described.get("init_args") or {}) | dict(described.get("dict_kwargs") or {})
