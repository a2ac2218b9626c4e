"""Reproducible random numbers for resumed runs."""

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Seed Python, NumPy and torch at the start of every training epoch from (seed, epoch, process).

    A resumed run draws the same random numbers as an uninterrupted one, without stored random states. Each process has
    its own numbers. Where ``seed`` is None it is drawn once from torch's generator, which ``seed_everything`` controls,
    and stored in the checkpoint.

    Args:
        seed: Seed of all epochs. ``None`` (default) draws one at the start of training.

    Example:
        >>> EpochSeed(seed=3).state_dict()
        {'seed': 3}
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw a seed where none was given, and broadcast it from rank zero."""
        if self.seed is None:
            drawn = int(torch.randint(2**31, (1,)).item())
            self.seed = int(trainer.strategy.broadcast(drawn))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed this process for this epoch."""
        state = np.random.SeedSequence([self.seed or 0, trainer.current_epoch, trainer.global_rank])
        value = int(state.generate_state(1)[0])
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002  (the global state is what user code draws from)
        torch.manual_seed(value)
        # Lightning makes the first iterator of a resumed run before it sets the epoch of the sampler, and before the
        # lines above, and keeps it (https://github.com/Lightning-AI/pytorch-lightning/issues/21938): make it anew,
        # as an uninterrupted run does at this point.
        loop = trainer.fit_loop
        if trainer.current_epoch > 0 and (loop.is_resuming or loop.epoch_loop.restarting):
            iter(loop._data_fetcher)  # type: ignore[arg-type]  # set before this hook is called

    def state_dict(self) -> dict[str, Any]:
        """Return the seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed of the interrupted run."""
        self.seed = state_dict["seed"]
