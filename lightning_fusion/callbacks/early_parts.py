"""Parts of a module whose sizes depend on the data, built before callbacks copy the module."""

import warnings
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn


@runtime_checkable
class PreparesFit(Protocol):
    """A module with parts that are built from the training data."""

    def prepare_fit(self) -> None:
        """Connect the module with the data of a fit, build the parts, and check them."""


@runtime_checkable
class BeginsFit(Protocol):
    """A module that sets values at the start of a run, and not of a resumed one."""

    def begin_fit(self) -> None:
        """Set the values; a checkpoint to resume from has been loaded."""


class EarlyParts(Callback):
    """Call ``prepare_fit`` and ``begin_fit`` of the module at the start of a fit, as the first callback.

    Lightning sets callbacks up before the module, and some of them copy it there
    (:class:`~lightning.pytorch.callbacks.EMAWeightAveraging`); parts that the module's own ``setup`` built would be
    missing in the copy.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare a fit of a module that has such parts: the trainer may fit another one later.

        Lightning sorts callbacks that tune a learning rate or batch size, which train the module when the fit starts,
        to the front; this one precedes them from here on.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        callbacks.insert(0, callbacks.pop(callbacks.index(self)))
        if stage == "fit" and isinstance(pl_module, PreparesFit):
            pl_module.prepare_fit()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the fit before other callbacks, such as a learning-rate finder, train the module."""
        if isinstance(pl_module, BeginsFit):
            pl_module.begin_fit()

    @classmethod
    def install(cls, module: LightningModule) -> None:
        """Put the callback in front of the other callbacks of the module's trainer, once.

        Args:
            module: Module in ``configure_callbacks``.
        """
        if not cls.installed(module):
            module.trainer.callbacks.insert(0, cls())  # type: ignore[attr-defined]  # set by a connector

    @classmethod
    def installed(cls, module: LightningModule) -> bool:
        """Return whether the module's trainer has the callback.

        Args:
            module: Module in a run.
        """
        callbacks: list[Callback] = module.trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
        return any(isinstance(callback, cls) for callback in callbacks)

    @staticmethod
    def renew_copies(module: LightningModule) -> None:
        """Let callbacks that average weights copy the module again, after it got further parts or other weights.

        Args:
            module: Module in a fit.
        """
        for callback in module.trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
            if isinstance(callback, WeightAveraging):
                callback.setup(module.trainer, module, "fit")


def expect_eval_mode(module: nn.Module, frozen: Iterable[nn.Module | None]) -> None:
    """Ignore Lightning's warning of modules in eval mode, if they are all frozen ones, which stay in it by design.

    Args:
        module: Module at the start of a fit.
        frozen: Its parts that stay in eval mode.
    """
    resting = {part for part in module.modules() if not part.training}
    if resting and resting <= {part for whole in frozen if whole is not None for part in whole.modules()}:
        message = rf"Found {len(resting)} module\(s\) in eval mode at the start of training"
        warnings.filterwarnings("ignore", message=message)
