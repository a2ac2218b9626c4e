"""One domain of any data module as a target: a few rows keep their label, all others are there without one."""

import inspect
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_fusion.data.base import (
    Batch,
    FusionDataModule,
    RowDataset,
    SliceSampler,
    digest,
    draws_order,
    slice_loader,
)
from lightning_fusion.data.view import DataView
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.hyperparameters import keep_plain

UNLABELLED = -100
"""``Batch.target`` of a sample whose label is not known; what torch's losses leave out."""
_READ_ROWS = 4096


class TargetRows(Dataset[Batch]):
    """Some rows of a data set, of which only some show their label.

    Args:
        dataset: Gives the batch of an index tensor.
        rows: (n,) int64 positions in ``dataset``.
        labelled: (n,) bool; all where None.
    """

    def __init__(self, dataset: Any, rows: Tensor, labelled: Tensor | None = None) -> None:
        self.dataset, self.rows = dataset, rows
        self.labelled = torch.ones(len(rows), dtype=torch.bool) if labelled is None else labelled

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Any) -> Batch:
        batch = self.dataset[self.rows[item]]
        return batch._replace(target=batch.target.where(self.labelled[item], UNLABELLED))


def row_facts(dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Targets (N,), domains (N, D) and index numbers (N,) of a data set, without its inputs where that is possible.

    Args:
        dataset: Takes index tensors.

    Example:
        >>> rows = RowDataset(torch.zeros(3, 2), torch.arange(3), torch.ones(3, 1).bool(), torch.tensor([0, 2]))
        >>> target, domain, index = row_facts(TargetRows(rows, torch.arange(2), torch.tensor([True, False])))
        >>> target.tolist(), index.tolist()
        ([0, -100], [0, 2])
    """
    if isinstance(dataset, TargetRows):
        target, domain, index = (part[dataset.rows] for part in row_facts(dataset.dataset))
        return target.where(dataset.labelled, UNLABELLED), domain, index
    if isinstance(dataset, RowDataset):
        rows = dataset.rows
        index = rows if dataset.index is None else dataset.index[rows]
        return dataset.targets[rows], dataset.domains[rows], index
    parts = [dataset[part] for part in torch.arange(len(dataset)).split(_READ_ROWS)]
    target, domain, index = (torch.cat([part[place] for part in parts]) for place in (1, 2, 3))
    return target, domain, index


class LabelledSampler(SliceSampler):
    """Batches that each hold some labelled rows, whatever small share of the rows they are.

    An epoch shows every unlabelled row once, and each labelled row equally often: as often as it takes to put
    ``min_labelled`` of them (all, where there are fewer) into every batch of every process. No row stands twice in a
    batch. All processes have the same number of batches. Without ``shuffle`` it is a plain :class:`SliceSampler`.

    Args:
        num_rows: Length of the data set.
        batch_size: Largest number of rows per batch and process.
        shuffle: Draw a new order every epoch.
        seed: Of the order, with the epoch.
        labelled: (num_rows,) bool.
        min_labelled: Labelled rows of each batch, at least.

    Raises:
        InputError: If no row is labelled, or a batch has no room for unlabelled rows.

    Example:
        >>> labelled = torch.arange(9) < 2
        >>> for batch in LabelledSampler(9, 4, shuffle=True, labelled=labelled, min_labelled=1):
        ...     print(len(batch), int(labelled[batch].sum()))
        4 1
        3 1
        3 1
    """

    def __init__(
        self, num_rows: int, batch_size: int, shuffle: bool, seed: int = 0, *, labelled: Tensor, min_labelled: int = 8
    ) -> None:
        super().__init__(num_rows, batch_size, shuffle, seed)
        self.labelled, self.unlabelled = labelled.nonzero().flatten(), (~labelled).nonzero().flatten()
        self.min_labelled = min(min_labelled, len(self.labelled))
        if not len(self.labelled):
            raise InputError("the training split has no labelled row; raise labelled_share or labelled_per_class")
        if len(self.unlabelled) and self.min_labelled >= batch_size:
            raise InputError(
                f"batch_size is {batch_size}, of which min_labelled = {self.min_labelled} rows are labelled: no "
                "unlabelled row fits in; raise batch_size, or lower min_labelled"
            )

    @property
    def _plan(self) -> tuple[int, int]:
        """Number of batches, and labelled rows in each."""
        batches = math.ceil(self.num_rows / (self.num_replicas * self.batch_size))
        while True:
            labelled = max(self.min_labelled, math.ceil(len(self.labelled) / (batches * self.num_replicas)))
            unlabelled = math.ceil(math.ceil(len(self.unlabelled) / batches) / self.num_replicas)
            if labelled + unlabelled <= self.batch_size:
                return batches, labelled
            batches += 1

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]  # index tensors, as its parent yields
        if not self.shuffle:
            yield from super().__iter__()
            return
        batches, count = self._plan
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        others = self.unlabelled[torch.randperm(len(self.unlabelled), generator=generator)].tensor_split(batches)
        drawn = self._draw(batches * self.num_replicas, count, generator)
        for number, part in enumerate(others):
            yield torch.cat([drawn[number * self.num_replicas + self.rank], part[self.rank :: self.num_replicas]])

    def _draw(self, batches: int, count: int, generator: torch.Generator) -> list[Tensor]:
        """Labelled rows of each batch of each process: permutations one after the other, cut into batches."""
        drawn, left = [], self.labelled[:0]
        for _ in range(batches):
            if len(left) < count:
                fresh = self.labelled[torch.randperm(len(self.labelled), generator=generator)]
                known = torch.isin(fresh, left)  # these come last: no row twice in one batch
                left = torch.cat([left, fresh[~known], fresh[known]])
            drawn.append(left[:count])
            left = left[count:]
        return drawn

    def __len__(self) -> int:
        return self._plan[0] if self.shuffle else super().__len__()


class TargetDataModule(DataView):
    """One domain of a data module as the target of a transfer: few labels, many rows without one.

    The training split holds all training rows of the domain. A stratified draw of them keeps its label; all others
    have the target -100. Every training batch holds some labelled rows, see :class:`LabelledSampler`. Validation and
    test rows are those of the domain, with their labels. Everything else (classes, preprocessing, augmentation, the
    stable sample numbers) is the wrapped module's.

    Args:
        data: Any data module of the house.
        domain: Name of one of its ``domains``.
        labelled_share: Share of each class's training rows that keep their label.
        labelled_per_class: This many rows of each class instead; all where a class has fewer.
        min_per_class: With ``labelled_share``: at least this many of each class, 1 for data with rare classes.
        min_labelled: Labelled rows of every training batch, at least (all where there are fewer).
        unlabelled: Keep the rows without label in the training split; without them it is what a local model has.
        seed: Of the draw of labels and of the order.

    Raises:
        InputError: If there is no such domain, it has one class only, or a class is left without a labelled row.

    Example:
        >>> from lightning_fusion import ImageDataModule
        >>> data = TargetDataModule(ImageDataModule(source="synthetic", batch_size=32), "style_2", labelled_share=0.2)
        >>> batch = next(iter(data.train_dataloader()))
        >>> len(data.labelled()), len(batch.target), int((batch.target >= 0).sum())
        (8, 22, 8)
    """

    domain: str
    labelled_share: float
    labelled_per_class: int | None
    min_per_class: int
    min_labelled: int
    unlabelled: bool

    def __init__(
        self,
        data: FusionDataModule,
        domain: str,
        labelled_share: float = 0.1,
        labelled_per_class: int | None = None,
        min_per_class: int = 0,
        min_labelled: int = 8,
        unlabelled: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        data = None  # type: ignore[assignment]  # no plain data; what the command line parsed is recorded all the same
        self.save_hyperparameters(logger=False)
        keep_plain(self)
        self._held: Tensor | None = None
        self._configure(**arguments)

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        self._views: dict[str, TargetRows] = {}
        if not 0 < self.labelled_share <= 1:
            raise InputError(f"labelled_share is {self.labelled_share}; expected a share above 0, up to 1")
        for name, least in (("labelled_per_class", 1), ("min_per_class", 0), ("min_labelled", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; expected at least {least}")

    # ------------------------------------------------------------------ facts

    @property
    def own_domains(self) -> list[str]:
        """The one domain whose rows these are."""
        return [self.domain]

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the domain's rows, as the wrapped module computes them from its ``domain`` argument."""
        takes = "domain" in inspect.signature(type(self.data)).parameters
        data: Any = self.data.variant(domain=self.domain) if takes else self.data
        return data.statistics(split)

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the content of one split, and of which rows show their label."""
        rows = self.rows(split)
        return digest(self.data.fingerprint("train" if self._held is not None else split), rows.rows, rows.labelled)

    # ------------------------------------------------------------------- rows

    def rows(self, split: str) -> TargetRows:
        """The data set of one split; training rows without a label have the target -100."""
        if split not in self._views:
            self._views[split] = self._view(split)
        return self._views[split]

    def labelled(self) -> TargetRows:
        """The labelled training rows alone."""
        rows = self.rows("train")
        return TargetRows(rows.dataset, rows.rows[rows.labelled])

    def folds(self, count: int = 3) -> list["TargetDataModule"]:
        """Stratified folds of the labelled rows: each is tested on its part of them, and trained on the rest.

        In each of the data modules that are returned, the part is no training row at all, and is the validation and
        the test split.

        Args:
            count: Number of folds.

        Raises:
            InputError: If there are fewer labelled rows than folds.

        Example:
            >>> from lightning_fusion import ImageDataModule
            >>> data = TargetDataModule(ImageDataModule(source="synthetic"), "style_2", labelled_share=0.2)
            >>> [(len(fold.labelled()), len(fold.rows("test"))) for fold in data.folds(2)]
            [(4, 4), (4, 4)]
        """
        known = self.labelled()
        if not 2 <= count <= len(known):
            raise InputError(f"folds: {count} of {len(known)} labelled rows; expected 2 or more, and a row for each")
        part = stratified_folds(row_facts(known)[0].numpy(), count, self.seed)
        copies = []
        for number in range(count):
            other = self.variant()
            other._held = known.rows[torch.from_numpy(part == number)]
            copies.append(other)
        return copies

    def _view(self, split: str) -> TargetRows:
        if self._held is not None and split != "train":
            return TargetRows(self.data.rows("train"), self._held)
        dataset: Any = self.data.rows(split)
        if self.domain not in self.domains:
            raise InputError(f"domain is {self.domain!r}; the data have {shorten(self.domains, 20)}")
        target, domain, _ = row_facts(dataset)
        rows = domain[:, self.domains.index(self.domain)].nonzero().flatten()
        if not len(rows):
            raise InputError(f"the {split} split of domain {self.domain} has no sample; choose another domain or split")
        if split != "train":
            return TargetRows(dataset, rows)
        labelled = self._draw(target[rows])
        if self._held is not None:
            kept = ~torch.isin(rows, self._held)
            rows, labelled = rows[kept], labelled[kept]
        return TargetRows(dataset, rows, labelled) if self.unlabelled else TargetRows(dataset, rows[labelled])

    def _draw(self, target: Tensor) -> Tensor:
        """(n,) bool: which training rows keep their label; with a larger share those of a smaller one and more."""
        present = target[target >= 0].unique().tolist()
        if len(present) < 2:
            found = f"one class only ({self.classes[present[0]]})" if present else "no labelled sample"
            raise InputError(f"the training rows of domain {self.domain} have {found}; a target needs two classes")
        labelled = torch.zeros(len(target), dtype=torch.bool)
        without = []
        for number in present:
            own = (target == number).nonzero().flatten()
            count = max(self.min_per_class, round(self.labelled_share * len(own)))
            if self.labelled_per_class is not None:
                count = self.labelled_per_class
            order = np.random.default_rng([self.seed, number]).permutation(len(own))
            labelled[own[torch.from_numpy(order[:count])]] = True
            without += [] if count else [f"{self.classes[number]} ({len(own)} samples)"]
        if without:
            raise InputError(
                f"labelled_share of {self.labelled_share} leaves no labelled sample of {shorten(without)} in domain "
                f"{self.domain}; raise it, or set min_per_class: 1 or labelled_per_class"
            )
        return labelled

    # ------------------------------------------------------------- Lightning

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped module up, draw the labels, and see that batches can be made of them."""
        super().setup(stage)
        self.train_dataloader()

    def train_dataloader(self) -> DataLoader:
        """Batches of the training split in an order that depends on (seed, epoch), each with labelled rows."""
        rows = self.rows("train")
        kind: Any = SliceSampler
        if self.unlabelled:
            kind = partial(LabelledSampler, labelled=rows.labelled, min_labelled=self.min_labelled)
        return slice_loader(rows, self.batch_size, draws_order(self.trainer), self.seed, self.num_workers, kind)


def stratified_folds(strata: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(N,) fold of each row: every stratum is dealt out in turn, so that folds differ by one row at most.

    Args:
        strata: (N,) labels.
        count: Number of folds.
        seed: Of the order within strata.

    Example:
        >>> folds = stratified_folds(np.array([0, 0, 0, 0, 1, 1]), 2, seed=0)
        >>> np.bincount(folds).tolist(), np.bincount(folds[:4]).tolist()
        ([3, 3], [2, 2])
    """
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(np.flatnonzero(strata == one)) for one in np.unique(strata)])
    folds = np.empty(len(strata), np.int64)
    folds[order] = np.arange(len(strata)) % count
    return folds
