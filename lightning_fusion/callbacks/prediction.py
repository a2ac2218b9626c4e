"""Predictions as CSV tables."""

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_fusion.data.rows import NewRows, Origins
from lightning_fusion.errors import InputError
from lightning_fusion.files import atomic_write

FILES_SUFFIX = "_files"
"""End of the name of the table with one row for each file, before ``.csv``."""

TRIALS_SUFFIX = "_trials"
"""End of the name of the table with one row for each verification trial."""


class PredictionWriter(Callback):
    """Write the predictions of ``predict`` as CSV: index, origin, prediction, confidence, and one column per class.

    The origin is the file of each sample, with the line or the start in seconds (``origins`` of the data module).

    The module's ``predict_step`` must return a dict with ``index`` (B,) and ``probabilities`` (B, C), and have
    ``classes``. Further entries become columns before those of the classes: numbers (B,) unchanged, experts by their
    names (``expert`` (B,), or ``queried`` (B, K) bool joined by ``+``). Where the data module has a note on any sample
    (a silent recording, a constant channel), the last column is ``note``. New samples (``predict_root``) that cannot be
    read have a row without a prediction, with the reason as note. Where there are several loaders, the first column is
    the number of the ``loader``. Each process stores its rows in memory; rank zero writes all rows, ordered by index.

    Where the data module gives trials of new recordings (``predict_trials`` of
    :class:`~lightning_fusion.SpeakerDataModule`), ``<name>_trials.csv`` has the score of each; a trial of an unreadable
    recording has none.

    Where samples are parts of series, which have a start in seconds, a second table ``<name>_files.csv`` has one row
    for each file: the number of its windows, and the mean of their probabilities with its largest class (our choice).

    Args:
        path: Path of the CSV file, which is written atomically.

    Raises:
        InputError: If the module's predictions have another form.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._parts: list[tuple[int, dict[str, Tensor]]] = []

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
        loader, found = _in_order(parts, len(classes))
        count = sum(len(part["index"]) for _, part in parts)
        if count > len(loader) and trainer.world_size == 1:  # several processes repeat samples to be of one length
            rank_zero_warn(
                f"{count - len(loader)} of {count} predictions have the index of another one, and {self.path} contains "
                "the last one of each index; give each sample of the predict loader an index of its own"
            )
        index, probabilities = found.pop("index"), found.pop("probabilities").double().numpy()
        experts = list(getattr(pl_module, "expert_classes", ()))
        more = [
            (name, _column(name, values, experts))
            for name, values in found.items()
            if values.ndim == 1 or values.dtype is torch.bool
        ]
        data: Any = getattr(trainer, "datamodule", None)
        new: NewRows | None = getattr(data, "new_samples", None)
        source: Any = data if new is None else new
        if new is not None:  # what cannot be read comes after the predictions
            index, loader = torch.cat([index, new.unread]), torch.cat([loader, torch.zeros_like(new.unread)])
        notes = source.notes(index) if hasattr(source, "notes") else []
        origins: Origins | None = source.origins(index) if hasattr(source, "origins") else None
        columns: Columns = [("loader", loader.tolist())] if loader.any() else []
        columns += [("index", index.tolist()), *({} if origins is None else origins.columns()).items()]
        columns += _answers(probabilities, classes, more, len(index))
        _write(Path(self.path), [*columns, *_note(notes)], np.lexsort((index, loader)).tolist())
        rank_zero_info(f"wrote {len(probabilities)} predictions to {self.path}")
        if origins is not None and origins.unit == "start_s":
            path = Path(self.path).with_name(f"{Path(self.path).stem}{FILES_SUFFIX}.csv")
            columns = _by_file(loader.numpy(), origins, probabilities, classes, notes)
            count = len(columns[0][1])
            _write(path, columns, range(count))
            rank_zero_info(f"wrote one prediction for each of {count} files to {path}")
        if (scores := getattr(pl_module, "trial_scores", None)) is not None:
            path = Path(self.path).with_name(f"{Path(self.path).stem}{TRIALS_SUFFIX}.csv")
            _write_trials(path, data.new_trials.names, scores)


Columns = list[tuple[str, list[Any]]]
"""Names and cells of the columns of a table, whose names may repeat: a class may be called note."""


def _in_order(parts: Sequence[tuple[int, dict[str, Tensor]]], num_classes: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Concatenate the predictions of all batches, ordered by loader and index; of equal ones the last is kept."""
    if not parts:
        none = torch.zeros(0, dtype=torch.int64)
        return none, {"index": none, "probabilities": torch.zeros(0, num_classes)}
    loader = torch.cat([torch.full((len(part["index"]),), number) for number, part in parts])
    found = {name: torch.cat([part[name] for _, part in parts]) for name in parts[0][1]}
    order = np.lexsort((np.arange(len(loader)), found["index"], loader))
    keys = np.stack([loader.numpy(), found["index"].numpy()])[:, order]
    last = np.append((keys[:, 1:] != keys[:, :-1]).any(0), True)
    rows = torch.from_numpy(order[last])
    return loader[rows], {name: values[rows] for name, values in found.items()}


def _answers(probabilities: np.ndarray, classes: Sequence[str], more: Columns, count: int) -> Columns:
    """Return the columns of predictions, with blank cells in the rows after the last one of (n, C) probabilities.

    Args:
        probabilities: (n, C) probabilities.
        classes: Names of the C classes.
        more: Further columns of n cells.
        count: Number of rows.
    """
    cells = [[f"{value:.6f}" for value in row] for row in probabilities.tolist()]
    best = probabilities.argmax(1).tolist()
    columns: Columns = [
        ("prediction", [classes[number] for number in best]),
        ("confidence", [row[number] for row, number in zip(cells, best, strict=True)]),
        *more,
        *((name, [row[number] for row in cells]) for number, name in enumerate(classes)),
    ]
    return [(name, [*values, *[""] * (count - len(values))]) for name, values in columns]


def _by_file(
    loader: np.ndarray, origins: Origins, probabilities: np.ndarray, classes: Sequence[str], notes: Sequence[str]
) -> Columns:
    """Return the columns of the table with one row for each file, in order of appearance.

    Args:
        loader: (N,) number of the loader of each sample.
        origins: Origins of the samples.
        probabilities: (n, C) probabilities of the first n samples; the others cannot be read.
        classes: Names of the C classes.
        notes: N notes; empty if there are none.
    """
    names, of_sample = np.unique(np.array(origins.files, object)[origins.file], return_inverse=True)
    keys, first, group = np.unique(loader * len(names) + of_sample, return_index=True, return_inverse=True)
    count, read = len(keys), group[: len(probabilities)]
    windows, total = np.bincount(read, minlength=count), np.zeros((count, len(classes)))
    np.add.at(total, read, probabilities)
    rows = np.lexsort((first, windows == 0))  # files without a window have no prediction
    read_rows = rows[windows[rows] > 0]
    columns: Columns = [("loader", loader[first[rows]].tolist())] if loader.any() else []
    columns += [("file", names[of_sample[first[rows]]].tolist()), ("windows", windows[rows].tolist())]
    columns += _answers(total[read_rows] / windows[read_rows, None], classes, [], count)
    of_file: list[set[str]] = [set() for _ in range(count)]
    for number, note in zip(group.tolist(), notes or [""] * len(group), strict=True):
        of_file[number].add(note)
    return [*columns, *_note(["" if len(of_file[row]) > 1 else next(iter(of_file[row])) for row in rows.tolist()])]


def _write_trials(path: Path, names: Sequence[tuple[str, str]], scores: Mapping[str, Tensor]) -> None:
    """Write the table of trials."""
    columns: Columns = [("enrol", [pair[0] for pair in names]), ("test", [pair[1] for pair in names])]
    for name, values in scores.items():
        columns.append((name, ["" if value != value else f"{value:.6f}" for value in values.tolist()]))
    _write(path, columns, range(len(names)))
    rank_zero_info(f"wrote the scores of {len(names)} trials to {path}")


def _note(notes: Sequence[str]) -> Columns:
    """Return the column of the notes, if there is one on any sample."""
    return [("note", list(notes))] if any(notes) else []


def _write(path: Path, columns: Columns, rows: Iterable[int]) -> None:
    """Write some rows of a table, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft, open(draft, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([name for name, _ in columns])
        table.writerows([cells[row] for _, cells in columns] for row in rows)


def _column(name: str, values: Tensor, experts: list[str]) -> list[Any]:
    """Return the cells of one further entry of the predictions."""
    if name == "queried":
        return ["+".join(itertools.compress(experts, row)) for row in values.tolist()]
    if name == "expert":
        return [experts[number] for number in values.tolist()]
    if values.is_floating_point():
        return [f"{value:.6g}" for value in values.tolist()]
    return [int(value) for value in values.tolist()]
