"""Training of the fuser on stored embeddings, for one seed of both recipes."""

import time
from typing import Any

import numpy as np
import torch
from lightning import seed_everything

from lightning_fusion.generation.embeddings import EmbeddingsDataModule
from lightning_fusion.generation.fuser import GenerativeFoE
from lightning_fusion.recipes.seed_run import SeedRun, save_weights


def train_chooser(one: SeedRun, name: str, data: EmbeddingsDataModule, epochs: int, **arguments: Any) -> np.ndarray:
    """Train GenerativeFoE, save it, and return its selected experts.

    Args:
        one: Run of the seed.
        name: Name of the checkpoint in ``fusers``.
        data: The embeddings.
        epochs: Number of epochs.
        **arguments: Arguments of :class:`~lightning_fusion.GenerativeFoE`.

    Returns:
        (N,) numbers of the selected experts of the test samples.
    """
    start = time.perf_counter()
    seed_everything(one.seed, verbose=False)
    module = GenerativeFoE(expert_names=data.expert_names, representation_dims=data.representation_dims, **arguments)
    trainer = one.trainer(f"fusers/{name}", epochs)
    trainer.fit(module, datamodule=data)
    save_weights(trainer, one.folder / "fusers" / f"{name}.ckpt")
    one.report.took("training fusers", start)
    module.eval()
    with torch.no_grad():
        return module.choose(torch.from_numpy(np.concatenate(data.arrays("test"), 1))).numpy()
