"""Predictions as a CSV table."""

import csv
import itertools
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_fusion.errors import InputError
from lightning_fusion.files import atomic_write


class PredictionWriter(Callback):
    """Write the predictions of ``predict`` as CSV: index, origin, prediction, confidence, and one column per class.

    The origin is the file of each sample, with the line or the start in seconds (``origins`` of the data module).

    The module's ``predict_step`` must return a dict with ``index`` (B,) and ``probabilities`` (B, C), and have
    ``classes``. Further entries become columns before those of the classes: numbers (B,) unchanged, experts by their
    names (``expert`` (B,), or ``queried`` (B, K) bool joined by ``+``). Where the data module has a note on any sample
    (a silent recording, a constant channel), the last column is ``note``. Where there are several loaders, the first
    column is the number of the ``loader``. Each process stores its rows in memory; rank
    zero writes all rows, ordered by index.

    Args:
        path: Path of the CSV file, which is written atomically.

    Raises:
        InputError: If the module's predictions have another form.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._parts: list[tuple[int, dict[str, torch.Tensor]]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the rows of an earlier run."""
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
        """Store the rows of one batch."""
        if not isinstance(outputs, dict) or not {"index", "probabilities"} <= set(outputs):
            raise InputError(
                f"PredictionWriter: {type(pl_module).__name__}.predict_step must return a dict with index and "
                "probabilities"
            )
        self._parts.append((dataloader_idx, {name: values.cpu() for name, values in outputs.items()}))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all rows and write them."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector of the Trainer
            rank_zero_info(f"fast_dev_run: {self.path} is not written")
            return
        parts = self._parts
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
        if not trainer.is_global_zero:
            return
        classes = list(pl_module.classes)  # type: ignore[arg-type]  # every module of this library has them
        experts = list(getattr(pl_module, "expert_classes", ()))
        rows: dict[tuple[int, int], list[Any]] = {}
        more: list[str] = []
        for loader, part in parts:
            more = [name for name in part if name not in ("index", "probabilities")]
            probabilities = part["probabilities"].float()
            columns = [_column(name, part[name], experts) for name in more]
            for place, index in enumerate(part["index"].tolist()):
                best = int(probabilities[place].argmax())
                values = [f"{value:.6f}" for value in probabilities[place].tolist()]
                rows[loader, index] = [classes[best], values[best], *(column[place] for column in columns), *values]
        count = sum(len(part["index"]) for _, part in parts)
        if count > len(rows) and trainer.world_size == 1:  # several processes repeat samples to be of one length
            rank_zero_warn(
                f"{count - len(rows)} of {count} predictions have the index of another one, and {self.path} contains "
                "the last one of each index; give each sample of the predict loader an index of its own"
            )
        data: Any = getattr(trainer, "datamodule", None)
        order = sorted(rows)
        several = any(loader for loader, _ in order)
        index = torch.tensor([own for _, own in order])
        notes = data.notes(index) if hasattr(data, "notes") else []
        origins = data.origins(index) if hasattr(data, "origins") else None
        places = {} if origins is None else origins.columns()
        if any(notes):
            for key, note in zip(order, notes, strict=True):
                rows[key].append(note)
        target = Path(self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as draft, open(draft, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            names = [*(["loader"] if several else []), "index", *places, "prediction", "confidence"]
            table.writerow([*names, *more, *classes, *(["note"] if any(notes) else [])])
            for key, *cells in zip(order, *places.values(), strict=True):
                table.writerow([*(key if several else key[1:]), *cells, *rows[key]])
        rank_zero_info(f"wrote {len(rows)} predictions to {target}")


def _column(name: str, values: torch.Tensor, experts: list[str]) -> list[Any]:
    """Return the cells of one further entry of the predictions."""
    if name == "queried":
        return ["+".join(itertools.compress(experts, row)) for row in values.tolist()]
    if name == "expert":
        return [experts[number] for number in values.tolist()]
    if values.is_floating_point():
        return [f"{value:.6g}" for value in values.tolist()]
    return [int(value) for value in values.tolist()]
