"""Samplers with an order that depends on (seed, epoch), and loaders of slices."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_fusion.checkpoints import CheckedReload
from lightning_fusion.errors import InputError


class SliceSampler(DistributedSampler[Any], SequentialSampler):
    """Sampler that yields one index tensor per batch, so that a batch is one slice.

    The order is a function of (seed, epoch) alone: a run that is resumed between epochs continues it; in the middle
    of an epoch Lightning restarts that epoch's batches, and warns. Process r of W takes every W-th sample of each
    global batch of W * batch_size samples, so that W processes see the same global batches as one. Where W does not
    divide the number of samples the first ones are repeated, as in torch's own sampler, and metrics count them again;
    predictions and stores do not. With ``shuffle`` and one process the last batch never has a single sample, on which
    batch norm cannot train: it takes one from the batch before (our choice). Lightning leaves the sampler in place,
    because it is a ``DistributedSampler``, and a ``SequentialSampler`` for ``overfit_batches``.

    Args:
        num_rows: Length of the data set.
        batch_size: Samples per batch and process.
        shuffle: Draw a new order every epoch.
        seed: Seed of the order.

    Example:
        >>> [batch.tolist() for batch in SliceSampler(5, batch_size=2, shuffle=False)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(self, num_rows: int, batch_size: int, shuffle: bool, seed: int = 0) -> None:
        group = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.num_replicas = torch.distributed.get_world_size() if group else 1
        self.rank = torch.distributed.get_rank() if group else 0
        self.num_rows, self.batch_size, self.shuffle, self.seed, self.epoch = num_rows, batch_size, shuffle, seed, 0

    def __iter__(self) -> Iterator[Any]:  # index tensors of batches
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
        """Return the (N,) order of an epoch."""
        return torch.randperm(self.num_rows, generator=generator)

    def __len__(self) -> int:
        return math.ceil(math.ceil(self.num_rows / self.num_replicas) / self.batch_size)


def slice_loader(
    dataset: Dataset[Any],
    batch_size: int,
    shuffle: bool,
    seed: int = 0,
    num_workers: int = 0,
    kind: Callable[..., SliceSampler] = SliceSampler,
) -> DataLoader[Any]:
    """Return a loader of slices of ``dataset``, which must accept the items that a sampler of this ``kind`` yields."""
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
    """Whether training samples are shuffled: not if the Trainer overfits some batches."""
    return trainer is None or trainer.overfit_batches == 0  # type: ignore[attr-defined]  # set by a connector


def _as_it_is(batch: Any) -> Any:
    return batch


class SlicedDataModule(CheckedReload, LightningDataModule):
    """Data module with slices as batches; a subclass sets the attributes and implements :meth:`rows`."""

    batch_size: int
    num_workers: int = 0
    seed: int

    def rows(self, split: str) -> Any:
        """Return the data set of one split (``train``, ``val`` or ``test``), which takes index tensors."""
        raise NotImplementedError(f"{type(self).__name__} must implement rows(split)")

    def _loader(self, split: str, kind: Callable[..., SliceSampler] = SliceSampler) -> DataLoader[Any]:
        shuffle = split == "train" and _draws_order(self.trainer)
        return slice_loader(self.rows(split), self.batch_size, shuffle, self.seed, self.num_workers, kind)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return batches of the training split in an order that depends on (seed, epoch)."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Return batches of the validation split, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return batches of the test split, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return batches of the test split, in order."""
        return self._loader("test")


class LabeledSampler(SliceSampler):
    """Sampler of batches with a minimum number of labeled samples each, for data with few labels.

    An epoch contains every unlabeled sample once, and each labeled sample equally often: as often as it takes to put
    ``min_labeled`` of them (all, if there are fewer) into every batch of every process. No batch contains a sample
    twice. All processes have the same number of batches. Without ``shuffle`` it is a plain :class:`SliceSampler`.

    Args:
        num_rows: Length of the data set.
        batch_size: Maximum number of samples per batch and process.
        shuffle: Draw a new order every epoch.
        seed: Seed of the order, together with the epoch.
        labeled: (num_rows,) bool, which samples are labeled.
        min_labeled: Minimum number of labeled samples per batch.

    Raises:
        InputError: If no sample is labeled, or a batch has no room for unlabeled samples.

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
            raise InputError("the training split has no labeled sample; raise labeled_fraction or labeled_per_class")
        if len(self.unlabeled) and self.min_labeled >= batch_size:
            raise InputError(
                f"batch_size is {batch_size}, of which min_labeled = {self.min_labeled} samples are labeled: no "
                "unlabeled sample fits in; raise batch_size, or lower min_labeled"
            )

    @property
    def _plan(self) -> tuple[int, int]:
        """Number of batches, and of labeled samples in each."""
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
        """Draw the labeled samples of each batch of each process: concatenated permutations, cut into batches."""
        drawn, left = [], self.labeled[:0]
        for _ in range(batches):
            if len(left) < count:
                fresh = self.labeled[torch.randperm(len(self.labeled), generator=generator)]
                known = torch.isin(fresh, left)  # these come last: no sample twice in one batch
                left = torch.cat([left, fresh[~known], fresh[known]])
            drawn.append(left[:count])
            left = left[count:]
        return drawn

    def __len__(self) -> int:
        return self._plan[0] if self.shuffle else super().__len__()


_POOL_BATCHES = 50


class LengthSampler(SliceSampler):
    """:class:`SliceSampler` that draws batches of texts of similar length.

    Samples are shuffled, sorted by length within pools of 50 global batches and cut into global batches, which are
    shuffled; a remainder that fills no batch is drawn at random and comes last. The order is a function of (seed,
    epoch).

    Args:
        num_rows: Length of the data set.
        batch_size: Samples per batch and process.
        shuffle: Draw a new order every epoch; else samples come in order.
        seed: Seed of the order.
        lengths: (N,) number of tokens of each sample.

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
