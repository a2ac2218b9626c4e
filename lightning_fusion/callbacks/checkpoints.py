"""Checkpoints that are written whole, and the callbacks of this library's modules."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_fusion.callbacks.reproducible import EpochSeed
from lightning_fusion.files import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints of a local folder: a draft beside the file replaces it in one step.

    Lightning's own draft lies in the temporary folder; where that is another file system it is copied over the file,
    which a full disk or a kill leaves cut.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Content.
            path: Local path; an address of another file system is left to Lightning.
            storage_options: Not supported, as in Lightning.

        Raises:
            InputError: If the disk is full; an earlier file is unchanged.
            TypeError: If ``storage_options`` is given.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(path)) as draft:
            torch.save(checkpoint, draft)


class AtomicCheckpoints(Callback):
    """Let a trainer write its checkpoints with :class:`AtomicCheckpointIO`; a plugin of the user stays."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's default."""
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def default_callbacks(module: LightningModule) -> list[Callback]:
    """Return the callbacks of this library's modules that the module's trainer lacks: one of the user stays.

    Args:
        module: Module in ``configure_callbacks``.
    """
    trainer: Any = module._trainer
    given = trainer.callbacks if trainer else []
    return [kind() for kind in (EpochSeed, AtomicCheckpoints) if not any(isinstance(each, kind) for each in given)]
