"""The tracker of each kind of logger."""

from collections.abc import Iterable

from lightning.pytorch.loggers import (
    CometLogger,
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from lightning_fusion.trackers.base import Tracker, in_first_process
from lightning_fusion.trackers.comet import CometTracker
from lightning_fusion.trackers.csv_files import CSVTracker
from lightning_fusion.trackers.mlflow import MLFlowTracker
from lightning_fusion.trackers.tensorboard import TensorBoardTracker
from lightning_fusion.trackers.wandb import WandbTracker

TRACKERS: dict[type[Logger], type[Tracker]] = {
    CometLogger: CometTracker,
    CSVLogger: CSVTracker,
    MLFlowLogger: MLFlowTracker,
    TensorBoardLogger: TensorBoardTracker,
    WandbLogger: WandbTracker,
}
"""Trackers by class of Lightning's logger; a subclass of a logger has the tracker of its parent."""


def tracker_class(kind: type[Logger]) -> type[Tracker]:
    """Return the tracker of a class of loggers: for unknown ones, that of scalars alone.

    Args:
        kind: Class of the logger.

    Example:
        >>> tracker_class(CSVLogger).__name__, tracker_class(Logger).__name__
        ('CSVTracker', 'Tracker')
    """
    return next((TRACKERS[each] for each in kind.__mro__ if each in TRACKERS), Tracker)


def trackers_of(loggers: Iterable[Logger]) -> list[Tracker]:
    """Return the trackers of loggers, such as ``trainer.loggers``, in the first process; none in others."""
    return [tracker_class(type(logger))(logger) for logger in loggers] if in_first_process() else []
