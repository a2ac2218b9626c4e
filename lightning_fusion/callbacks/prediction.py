"""Predictions as a table that other programs read."""

import csv
import os
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_fusion.errors import InputError


class PredictionWriter(Callback):
    """Write the predictions of ``predict`` as CSV: index, prediction, confidence, one column per class.

    The module's ``predict_step`` must return a dict with ``index`` (B,) and ``probabilities`` (B, C), and have
    ``classes``. Each process keeps its own rows in memory; the first one writes all of them, ordered by index.

    Args:
        path: The CSV file; written whole or not at all.

    Raises:
        InputError: If the module's predictions have another form.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._parts: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the rows of an earlier run."""
        self._parts.clear()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the rows of one batch."""
        if not isinstance(outputs, dict) or not {"index", "probabilities"} <= set(outputs):
            raise InputError(
                f"PredictionWriter: {type(pl_module).__name__}.predict_step must return a dict with index and "
                "probabilities"
            )
        self._parts.append((outputs["index"].cpu(), outputs["probabilities"].float().cpu()))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all rows and write them."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_info(f"fast_dev_run: {self.path} is left as it is")
            return
        parts = self._parts
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
        if not trainer.is_global_zero:
            return
        rows = {int(i): values for index, block in parts for i, values in zip(index, block, strict=True)}
        classes = list(pl_module.classes)  # type: ignore[arg-type]
        target = Path(self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{target.name}.{os.getpid()}")
        with open(draft, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["index", "prediction", "confidence", *classes])
            for index in sorted(rows):
                best = int(rows[index].argmax())
                values = [f"{value:.6f}" for value in rows[index].tolist()]
                table.writerow([index, classes[best], values[best], *values])
        os.replace(draft, target)
        rank_zero_info(f"wrote {len(rows)} predictions to {target}")
