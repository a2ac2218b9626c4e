"""Parts of a module whose sizes depend on the data, built before callbacks copy the module."""

from typing import Protocol, runtime_checkable

from lightning import Callback, LightningModule, Trainer


@runtime_checkable
class PreparesFit(Protocol):
    """A module with parts that are built from the training data."""

    def prepare_fit(self) -> None:
        """Connect the module with the data of a fit, build the parts, and check them."""


class EarlyParts(Callback):
    """Call ``prepare_fit`` of the module at the start of a fit, as the first callback.

    Lightning sets callbacks up before the module, and some of them copy it there
    (:class:`~lightning.pytorch.callbacks.EMAWeightAveraging`); parts that the module's own ``setup`` built would be
    missing in the copy.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare a fit of a module that has such parts: the trainer may fit another one later."""
        if stage == "fit" and isinstance(pl_module, PreparesFit):
            pl_module.prepare_fit()

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
