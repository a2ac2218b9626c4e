"""Samplers whose order depends on (seed, epoch), and loaders of slices."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_fusion.errors import InputError


class SliceSampler(DistributedSampler, SequentialSampler):
    """Yields one index tensor per batch, so that a batch is a slice and not a loop over rows.

    The order is a function of (seed, epoch) alone: a run that is resumed between epochs continues it; in the middle
    of one Lightning begins that epoch's batches again, and warns. Process r of W takes every W-th row of each global
    batch of W * batch_size rows, so that W processes see the same global batches as one. Where the rows do not divide
    by W the first ones are repeated, as torch's own sampler does, and metrics count them again; predictions and
    stores do not. In a new order of one process no last batch has one row, which batch norm cannot train on: the
    batch before gives it one (our choice). Being a ``DistributedSampler``, and a ``SequentialSampler`` for
    ``overfit_batches``, Lightning leaves it in place.

    Args:
        num_rows: Length of the data set.
        batch_size: Rows per batch and process.
        shuffle: Draw a new order every epoch.
        seed: Of the order.

    Example:
        >>> [batch.tolist() for batch in SliceSampler(5, batch_size=2, shuffle=False)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(self, num_rows: int, batch_size: int, shuffle: bool, seed: int = 0) -> None:
        group = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.num_replicas = torch.distributed.get_world_size() if group else 1
        self.rank = torch.distributed.get_rank() if group else 0
        self.num_rows, self.batch_size, self.shuffle, self.seed, self.epoch = num_rows, batch_size, shuffle, seed, 0

    def __iter__(self) -> Iterator[Any]:  # tensors: rows of a batch, not a row
        if self.shuffle:
            order = self._shuffled(torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))
        else:
            order = torch.arange(self.num_rows)
        if (missing := -self.num_rows % self.num_replicas) and self.num_rows:
            order = order.repeat(1 + missing // self.num_rows + 1)[: self.num_rows + missing]
        if not self.num_rows:
            return iter(())
        parts = list(order[self.rank :: self.num_replicas].split(self.batch_size))
        if self.shuffle and self.num_replicas == 1 < len(parts) and len(parts[-1]) == 1 and self.batch_size > 2:
            parts[-2:] = [parts[-2][:-1], torch.cat([parts[-2][-1:], parts[-1]])]
        return iter(parts)

    def _shuffled(self, generator: torch.Generator) -> Tensor:
        """(N,) the order of an epoch."""
        return torch.randperm(self.num_rows, generator=generator)

    def __len__(self) -> int:
        return math.ceil(math.ceil(self.num_rows / self.num_replicas) / self.batch_size)


def slice_loader(
    dataset: Dataset,
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    num_workers: int = 0,
    kind: Callable[..., SliceSampler] = SliceSampler,
) -> DataLoader:
    """A loader whose batches are slices of ``dataset``, which must take what a sampler of this ``kind`` yields."""
    sampler = kind(len(dataset), batch_size, shuffle, seed)  # type: ignore[arg-type]
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )


def _draws_order(trainer: Trainer | None) -> bool:
    """Whether training rows come in another order each epoch: not where some batches are to be overfitted."""
    return trainer is None or trainer.overfit_batches == 0  # type: ignore[attr-defined]


def _as_it_is(batch: Any) -> Any:
    return batch


class SlicedDataModule(LightningDataModule):
    """Three splits whose batches are slices: a subclass sets the attributes and implements :meth:`rows`."""

    batch_size: int
    num_workers: int = 0
    seed: int

    def rows(self, split: str) -> Any:
        """The data set of one split, ``train``, ``val`` or ``test``; takes index tensors."""
        raise NotImplementedError(f"{type(self).__name__} must implement rows(split)")

    def _loader(self, split: str, kind: Callable[..., SliceSampler] = SliceSampler) -> DataLoader:
        shuffle = split == "train" and _draws_order(self.trainer)
        return slice_loader(self.rows(split), self.batch_size, shuffle, self.seed, self.num_workers, kind)

    def train_dataloader(self) -> DataLoader:
        """Batches of the training split in an order that depends on (seed, epoch)."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Batches of the test split, in order."""
        return self._loader("test")


class LabeledSampler(SliceSampler):
    """Batches that each hold some labeled rows, however small a fraction of the rows they are.

    An epoch shows every unlabeled row once, and each labeled row equally often: as often as it takes to put
    ``min_labeled`` of them (all, where there are fewer) into every batch of every process. No row stands twice in a
    batch. All processes have the same number of batches. Without ``shuffle`` it is a plain :class:`SliceSampler`.

    Args:
        num_rows: Length of the data set.
        batch_size: Largest number of rows per batch and process.
        shuffle: Draw a new order every epoch.
        seed: Of the order, with the epoch.
        labeled: (num_rows,) bool.
        min_labeled: Labeled rows of each batch, at least.

    Raises:
        InputError: If no row is labeled, or a batch has no room for unlabeled rows.

    Example:
        >>> labeled = torch.arange(9) < 2
        >>> for batch in LabeledSampler(9, 4, shuffle=True, labeled=labeled, min_labeled=1):
        ...     print(len(batch), int(labeled[batch].sum()))
        4 1
        3 1
        3 1
    """

    def __init__(
        self, num_rows: int, batch_size: int, shuffle: bool, seed: int = 0, *, labeled: Tensor, min_labeled: int = 8
    ) -> None:
        super().__init__(num_rows, batch_size, shuffle, seed)
        self.labeled, self.unlabeled = labeled.nonzero().flatten(), (~labeled).nonzero().flatten()
        self.min_labeled = min(min_labeled, len(self.labeled))
        if not len(self.labeled):
            raise InputError("the training split has no labeled row; raise labeled_fraction or labeled_per_class")
        if len(self.unlabeled) and self.min_labeled >= batch_size:
            raise InputError(
                f"batch_size is {batch_size}, of which min_labeled = {self.min_labeled} rows are labeled: no "
                "unlabeled row fits in; raise batch_size, or lower min_labeled"
            )

    @property
    def _plan(self) -> tuple[int, int]:
        """Number of batches, and labeled rows in each."""
        batches = math.ceil(self.num_rows / (self.num_replicas * self.batch_size))
        while True:
            labeled = max(self.min_labeled, math.ceil(len(self.labeled) / (batches * self.num_replicas)))
            unlabeled = math.ceil(math.ceil(len(self.unlabeled) / batches) / self.num_replicas)
            if labeled + unlabeled <= self.batch_size:
                return batches, labeled
            batches += 1

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]  # index tensors, as its parent yields
        if not self.shuffle:
            yield from super().__iter__()
            return
        batches, count = self._plan
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        others = self.unlabeled[torch.randperm(len(self.unlabeled), generator=generator)].tensor_split(batches)
        drawn = self._draw(batches * self.num_replicas, count, generator)
        for number, part in enumerate(others):
            yield torch.cat([drawn[number * self.num_replicas + self.rank], part[self.rank :: self.num_replicas]])

    def _draw(self, batches: int, count: int, generator: torch.Generator) -> list[Tensor]:
        """Labeled rows of each batch of each process: permutations one after the other, cut into batches."""
        drawn, left = [], self.labeled[:0]
        for _ in range(batches):
            if len(left) < count:
                fresh = self.labeled[torch.randperm(len(self.labeled), generator=generator)]
                known = torch.isin(fresh, left)  # these come last: no row twice in one batch
                left = torch.cat([left, fresh[~known], fresh[known]])
            drawn.append(left[:count])
            left = left[count:]
        return drawn

    def __len__(self) -> int:
        return self._plan[0] if self.shuffle else super().__len__()


_POOL_BATCHES = 50


class LengthSampler(SliceSampler):
    """A :class:`SliceSampler` that draws batches of texts of similar length.

    Rows are shuffled, sorted by length inside of pools of 50 global batches, cut into global batches, and these are
    shuffled; a remainder that fills none is drawn at random and comes last. All of it is a function of (seed, epoch).

    Args:
        num_rows: Length of the data set.
        batch_size: Rows per batch and process.
        shuffle: Draw a new order every epoch; else rows come in order.
        seed: Of the order.
        lengths: (N,) tokens of each row.

    Example:
        >>> sampler = LengthSampler(6, 2, shuffle=True, lengths=torch.tensor([9, 1, 5, 9, 1, 5]))
        >>> sorted(sorted(batch.tolist()) for batch in sampler)
        [[0, 3], [1, 4], [2, 5]]
    """

    def __init__(self, num_rows: int, batch_size: int, shuffle: bool, seed: int = 0, *, lengths: Tensor) -> None:
        super().__init__(num_rows, batch_size, shuffle, seed)
        self.lengths = lengths

    def _shuffled(self, generator: torch.Generator) -> Tensor:
        order = super()._shuffled(generator)
        size = self.batch_size * self.num_replicas
        count = len(order) // size
        full, rest = order[: count * size], order[count * size :]
        pool = torch.arange(len(full)) // (_POOL_BATCHES * size)
        key = pool * (int(self.lengths.max()) + 1) + self.lengths[full] if len(full) else pool
        batches = full[key.argsort(stable=True)].view(count, size)
        return torch.cat([batches[torch.randperm(count, generator=generator)].flatten(), rest])
