"""Samples as map-style data sets that take index tensors: of a split, with some labels, or new ones."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset

from lightning_fusion.data.batch import Batch
from lightning_fusion.data.targets import UNLABELED, single_class_message
from lightning_fusion.errors import InputError

_READ_ROWS = 4096


class Origins(NamedTuple):
    """Where samples come from: the file of each, and the place in it.

    Attributes:
        files: Names of F files or tables.
        file: (N,) int64, index of the file of each sample.
        position: (N,) int64 number of the line or row, from 1, or (N,) float64 start in seconds; ``None`` for whole
            files.
        unit: Name of the column of positions: ``line``, ``row`` or ``start_s``; empty for whole files.

    Example:
        >>> Origins(["a.csv", "b.csv"], np.array([1, 0]), np.array([7, 2]), "line").columns()
        {'file': ['b.csv', 'a.csv'], 'line': [7, 2]}
    """

    files: list[str]
    file: np.ndarray
    position: np.ndarray | None = None
    unit: str = ""

    def columns(self) -> dict[str, list[Any]]:
        """Return the cells of a table by column."""
        found: dict[str, list[Any]] = {"file": [self.files[number] for number in self.file.tolist()]}
        if self.position is not None:
            found[self.unit] = ["" if value != value else round(value, 3) for value in self.position.tolist()]
        return found


class Rows(Protocol):
    """Inputs that are indexed by a tensor of positions: a tensor in memory, or files that are decoded on access."""

    def __getitem__(self, rows: Tensor) -> Any: ...


class RowDataset(Dataset[Batch]):
    """Map-style data set over a subset of samples; an index *tensor* fetches a whole batch in one step.

    Args:
        inputs: Inputs of all samples, a list or indexed by a tensor; shared between splits, never copied.
        targets: (N,) int64 targets of all samples.
        domains: (N, D) bool domain memberships of all samples.
        rows: (n,) int64 positions of the samples of this split.
        index: (N,) int64 stable sample indices; the position itself by default.
    """

    def __init__(
        self, inputs: Rows | list[Any], targets: Tensor, domains: Tensor, rows: Tensor, index: Tensor | None = None
    ) -> None:
        self.inputs, self.targets, self.domains, self.rows, self.index = inputs, targets, domains, rows, index

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Any) -> Batch:
        rows = self.rows[item]
        index = rows if self.index is None else self.index[rows]
        if isinstance(self.inputs, list):
            numbers: Any = rows.tolist()
            inputs = self.inputs[numbers] if rows.ndim == 0 else [self.inputs[row] for row in numbers]
        else:
            inputs = self.inputs[rows]
        return Batch(inputs, self.targets[rows], self.domains[rows], index)


def warn_single_class(dataset: RowDataset, classes: Sequence[str], split: str) -> None:
    """Warn if all labeled samples of a split are of one class.

    Args:
        dataset: Samples of the split.
        classes: Names of the classes.
        split: Name of the split.
    """
    message = single_class_message(dataset.targets[dataset.rows].numpy(), classes, f"the {split} split")
    if message is not None:
        rank_zero_warn(message)


class NewRows(RowDataset):
    """New samples for ``predict``: no labels (targets of -100), no domains (N, 0), the positions 0 to N - 1 as indices.

    Every file (or row of a table) has a position, also one that cannot be read: it is in no batch, and
    :class:`~lightning_fusion.callbacks.PredictionWriter` writes it without a prediction, with the note that says why.

    Args:
        inputs: Inputs by position, as of :class:`RowDataset`; those of unreadable positions are not accessed.
        origins: File of each of the N positions, by its path relative to the folder, with line or start; a start of NaN
            where a recording has no window.
        notes: N notes, empty for nothing. ``None`` (default) means no note on any sample.
        readable: (N,) bool, which positions can be read. ``None`` (default) means all.

    Example:
        >>> origins = Origins(["a.png", "b/a.png"], np.arange(2))
        >>> new = NewRows(torch.rand(2, 3), origins, readable=np.array([True, False]))
        >>> new[torch.arange(1)].target.tolist(), new.unread.tolist(), new.origins(new.unread).columns()
        ([-100], [1], {'file': ['b/a.png']})
    """

    def __init__(
        self,
        inputs: Rows | list[Any],
        origins: Origins,
        notes: Sequence[str] | None = None,
        readable: np.ndarray | None = None,
    ) -> None:
        count = len(origins.file)
        known = torch.ones(count, dtype=torch.bool) if readable is None else torch.from_numpy(readable)
        target, domain = torch.full((count,), UNLABELED), torch.zeros(count, 0, dtype=torch.bool)
        super().__init__(inputs, target, domain, known.nonzero().flatten())
        self.unread = (~known).nonzero().flatten()
        self._origins, self._notes = origins, notes

    @property
    def names(self) -> list[str]:
        """File of each of the N positions."""
        return [self._origins.files[number] for number in self._origins.file.tolist()]

    def origins(self, index: Tensor) -> Origins:
        """Return the origins of (B,) positions."""
        rows, own = index.numpy(), self._origins
        return own._replace(file=own.file[rows], position=None if own.position is None else own.position[rows])

    def notes(self, index: Tensor) -> list[str]:
        """Return the notes on (B,) positions."""
        return [""] * len(index) if self._notes is None else [self._notes[row] for row in index.tolist()]


class TargetRows(Dataset[Batch]):
    """Subset of a data set in which only some samples keep their label; the others have the target -100.

    Args:
        dataset: Data set that takes index tensors.
        rows: (n,) int64 positions in ``dataset``.
        labeled: (n,) bool, which samples keep their label. ``None`` means all.
    """

    def __init__(self, dataset: Any, rows: Tensor, labeled: Tensor | None = None) -> None:
        self.dataset, self.rows = dataset, rows
        self.labeled = torch.ones(len(rows), dtype=torch.bool) if labeled is None else labeled

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Any) -> Batch:
        batch = self.dataset[self.rows[item]]
        result: Batch = batch._replace(target=batch.target.where(self.labeled[item], UNLABELED))
        return result


def located_rows(dataset: Any) -> tuple[RowDataset, Tensor]:
    """Return the data set with the inputs of a split, and the (n,) positions of the split's samples in them.

    Raises:
        InputError: If the split is no :class:`RowDataset`, or a subset of one.
    """
    if isinstance(dataset, TargetRows):
        inside, rows = located_rows(dataset.dataset)
        return inside, rows[dataset.rows]
    if not isinstance(dataset, RowDataset):
        raise InputError(
            f"data: found a {type(dataset).__name__}; expected a RowDataset, whose samples can be identified"
        )
    return dataset, dataset.rows


def sample_metadata(dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return targets (N,), domains (N, D) and indices (N,) of a data set, without reading its inputs if possible.

    Args:
        dataset: Data set that takes index tensors.

    Example:
        >>> rows = RowDataset(torch.zeros(3, 2), torch.arange(3), torch.ones(3, 1).bool(), torch.tensor([0, 2]))
        >>> target, domain, index = sample_metadata(TargetRows(rows, torch.arange(2), torch.tensor([True, False])))
        >>> target.tolist(), index.tolist()
        ([0, -100], [0, 2])
    """
    if isinstance(dataset, TargetRows):
        target, domain, index = (part[dataset.rows] for part in sample_metadata(dataset.dataset))
        return target.where(dataset.labeled, UNLABELED), domain, index
    if isinstance(dataset, RowDataset):
        rows = dataset.rows
        index = rows if dataset.index is None else dataset.index[rows]
        return dataset.targets[rows], dataset.domains[rows], index
    parts = [dataset[part] for part in torch.arange(len(dataset)).split(_READ_ROWS)]
    target, domain, index = (torch.cat([part[place] for part in parts]) for place in (1, 2, 3))
    return target, domain, index
