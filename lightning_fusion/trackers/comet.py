"""Comet."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from lightning_fusion.trackers.base import Cell, Stage, Tracker, as_key, folder_in, stage_name


class CometTracker(Tracker):
    """An experiment of Comet; the stages of a run of a recipe have its name and their kind as tags.

    ``online: false`` writes archives to the recipe's folder for logs. (CometLogger of lightning 2.6 disables the
    experiment instead.)
    """

    shows_figures = True
    names_one_run = ("experiment_key",)

    @classmethod
    def arguments(cls, kind: type[Logger], given: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
        """Return the arguments of the logger of a stage."""
        found = {key: value for key, value in given.items() if value is not None}
        if found.get("online") is False:
            os.environ["COMET_START_ONLINE"] = str(int(found.pop("online")))
        return found | {
            "name": stage_name(found.get("name"), None, stage),
            "tags": [*found.get("tags", ()), stage.run, stage.kind, *stage.tags],
            "offline_directory": folder_in(stage.folder, found.get("offline_directory")),
        }

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Record a table as a CSV file."""
        self.logger.experiment.log_table(f"{as_key(name)}.csv", [list(row) for row in rows], headers=list(columns))

    def log_figure(self, name: str, figure: Figure, step: int | None = None) -> None:
        """Record an image."""
        self.logger.experiment.log_figure(name, figure, step=step)

    def log_file(self, name: str, path: Path, kind: str) -> None:
        """Record assets of the experiment in the folder of their kind; Comet has no artifacts without its server."""
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in files:
            inner = each.relative_to(path.parent).as_posix()
            self.logger.experiment.log_asset(str(each), file_name=f"{kind}/{inner}")

    def close(self, failed: bool = False) -> None:
        """End the experiment."""
        super().close(failed)
        self.logger.experiment.end()
