"""Weights & Biases."""

import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from lightning_fusion.trackers.base import REPORT, Cell, Stage, Tracker, as_key

_OF_AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
"""Variables by which the agent of a sweep makes any run of a process the run of its trial."""


class WandbTracker(Tracker):
    """A run of Weights & Biases; the stages of a run of a recipe are a group, their kind is the job type.

    A run that the caller has started stays open, and contains all stages. In a process of a sweep's agent, the run of
    the trial is that of the results; the stages are runs of their own beside it.
    """

    shows_figures = True
    names_one_run = ("id", "version", "experiment")

    def __init__(self, logger: Logger) -> None:
        super().__init__(logger)
        self._outer = getattr(sys.modules.get("wandb"), "run", None)

    @classmethod
    def arguments(cls, kind: type[Logger], given: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
        """Return the arguments of the logger of a stage; group, job type and tags of the user are kept."""
        found = {name: value for name, value in super().arguments(kind, given, stage).items() if value is not None}
        project = os.environ.get("WANDB_PROJECT", "lightning_fusion")
        defaults = {"project": project, "group": stage.run, "job_type": stage.kind, "settings": {"quiet": True}}
        return {**defaults, **found, "tags": [*found.get("tags", ()), *stage.tags]}

    def open(self, stage: Stage) -> None:
        """Begin the run of a stage; under a sweep's agent, only that of the results is the run of the trial."""
        if "WANDB_SWEEP_ID" not in os.environ or self._outer is not None:
            return
        import wandb

        hidden = {} if stage.name == REPORT else {key: os.environ.pop(key) for key in _OF_AGENT if key in os.environ}
        try:
            wandb.teardown()  # it has read the variables
            self.logger.experiment  # noqa: B018  # starts the run
        finally:
            os.environ.update(hidden)

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Record a ``wandb.Table``."""
        self.logger.log_table(name, list(columns), [list(row) for row in rows])

    def log_figure(self, name: str, figure: Figure, step: int | None = None) -> None:
        """Record a ``wandb.Image``."""
        from PIL import Image

        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        self.logger.log_image(name, [Image.open(drawn)], step)

    def log_file(self, name: str, path: Path, kind: str) -> None:
        """Record a ``wandb.Artifact``, named after the group of the run."""
        import wandb

        run = self.logger.experiment
        artifact = wandb.Artifact(as_key(f"{run.group or run.id}-{name}"), type=kind)
        artifact.add_dir(str(path)) if path.is_dir() else artifact.add_file(str(path))
        run.log_artifact(artifact)

    def close(self, failed: bool = False) -> None:
        """End the run, which the next logger would continue."""
        super().close(failed)
        wandb: Any = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None and wandb.run is not self._outer:
            wandb.finish(int(failed))
