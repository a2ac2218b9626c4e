"""Stages of a run, and what a logger of Lightning records of them beside scalars."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure

Cell = str | float | int | bool | None
"""Value in a table; ``None`` is an empty cell."""
REPORT = "report"
"""Name of the stage that has the results of a recipe."""


@dataclass(frozen=True)
class Stage:
    """A stage of a run of a recipe, which is a run of its own in a tracker.

    Attributes:
        name: Name with slashes, such as ``seed_0/experts/domain_1``.
        run: Name of the run, common to all its stages.
        recipe: Name of the recipe.
        folder: Folder of the run for logs.

    Example:
        >>> stage = Stage("seed_0/experts/domain_1", "digits-1a2b", "foe", Path("runs/digits/logs"))
        >>> stage.kind, stage.tags
        ('experts', ['foe', 'seed_0'])
    """

    name: str
    run: str
    recipe: str
    folder: Path

    @property
    def kind(self) -> str:
        """Kind of the stage: the first part of its name, or the second behind a seed."""
        first, _, rest = self.name.partition("/")
        return rest.partition("/")[0] or first

    @property
    def tags(self) -> list[str]:
        """The recipe, and the seed if the stage has one."""
        first, _, rest = self.name.partition("/")
        return [self.recipe, *([first] if rest else [])]


class Tracker:
    """What a logger records beside scalars: tables, figures and files; this class records none of them.

    There is a subclass for each kind of logger. What a kind cannot record is left out.

    Args:
        logger: The logger.
    """

    shows_figures: ClassVar[bool] = False
    names_one_run: ClassVar[tuple[str, ...]] = ("id", "run_id")
    """Arguments of the logger that name one run, which all stages would share."""

    def __init__(self, logger: Logger) -> None:
        self.logger: Any = logger

    @classmethod
    def arguments(cls, kind: type[Logger], given: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
        """Return the arguments of the logger of a stage: its name is that of the stage, its folder that of the run.

        Args:
            kind: Class of the logger.
            given: Arguments in the configuration.
            stage: The stage.
        """
        takes, found = inspect.signature(kind).parameters, dict(given)
        for key in {"name", "run_name"} & set(takes):
            found[key] = stage_name(given.get(key), takes[key].default, stage)
        if "save_dir" in takes:
            found["save_dir"] = folder_in(stage.folder, given.get("save_dir"))
        return found

    def open(self, stage: Stage) -> None:
        """Begin the run of a stage; by default, the logger does with the first value.

        Args:
            stage: The stage.
        """

    def log_hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Record settings by name, nested or flat."""
        self.logger.log_hyperparams(dict(values))

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Record a table.

        Args:
            name: Name of the table.
            columns: Names of its columns.
            rows: Cells of each row.
        """

    def log_figure(self, name: str, figure: Figure, step: int | None = None) -> None:
        """Record a figure as an image.

        Args:
            name: Name of the figure.
            figure: The figure.
            step: Step of the training; ``None`` (default) if it belongs to none.
        """

    def log_file(self, name: str, path: Path, kind: str) -> None:
        """Record a file or a folder as an artifact.

        Args:
            name: Name of the artifact.
            path: The file or folder.
            kind: Kind of the artifact, such as ``checkpoint``.
        """

    def close(self, failed: bool = False) -> None:
        """End the run.

        Args:
            failed: Whether the stage has failed.
        """
        self.logger.finalize("failed" if failed else "success")


def in_first_process() -> bool:
    """Return whether this is the process that logs."""
    return getattr(rank_zero_only, "rank", 0) == 0


def stage_name(own: Any, default: Any, stage: Stage) -> str:
    """Return the name of a stage's run: that of the stage, behind a name of the user.

    Args:
        own: Name in the configuration.
        default: Default of the logger, which is no name of the user.
        stage: The stage.
    """
    return stage.name if own in (None, default) else f"{own}/{stage.name}"


def folder_in(folder: Path, given: Any) -> str:
    """Return the folder of a logger, which is created: a relative one is in ``folder``."""
    place = folder / (given or ".")
    place.mkdir(parents=True, exist_ok=True)
    return str(place)


def as_key(name: str) -> str:
    """Return a name of letters, digits, dots, hyphens and underscores.

    Example:
        >>> as_key("seed_0/experts/org model")
        'seed_0-experts-org_model'
    """
    return re.sub(r"[^\w.-]", "_", name.replace("/", "-"), flags=re.ASCII)


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without the unset ones, at every depth.

    Example:
        >>> without_none({"lr": 0.1, "network": {"width": 8, "norm": None}, "loss": None})
        {'lr': 0.1, 'network': {'width': 8}}
    """
    return {
        key: without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
