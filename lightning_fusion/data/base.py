"""Batches, splits and the order of rows: what every data module of the house shares."""

import copy
import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.hyperparameters import is_plain

SPLITS = ("train", "val", "test")


class Batch(NamedTuple):
    """One batch of labelled samples.

    Attributes:
        input: (B, ...) tensor, or a dict of such tensors.
        target: (B,) int64, the position of the label in the data module's ``classes``.
        domain: (B, D) bool, which of the data module's ``domains`` each sample belongs to; domains may overlap.
        index: (B,) int64, a number of the sample that stays the same over epochs, splits and processes.
    """

    input: Any
    target: Tensor
    domain: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


def as_batch(batch: Any, source: str) -> Batch:
    """Check that a loader of ``source`` yields :class:`Batch`, or a tuple with the same four fields in that order.

    Raises:
        InputError: If it yields something else.
    """
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, (tuple, list)) and len(batch) == len(Batch._fields):
        return Batch(*batch)
    found = f"a tuple of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise InputError(
        f"{source} yields {found}; expected lightning_fusion.Batch(input, target, domain, index), where index "
        "identifies a sample over epochs"
    )


class Rows(Protocol):
    """Inputs that give many rows at once: a tensor in memory, or files that are decoded when asked for."""

    def __getitem__(self, rows: Tensor) -> Any: ...


class RowDataset(Dataset[Batch]):
    """Some rows of a table of samples; an index *tensor* fetches a whole batch in one step.

    Args:
        inputs: Gives the inputs of an index tensor; shared between splits, never copied.
        targets: (N,) int64 targets of all rows.
        domains: (N, D) bool memberships of all rows.
        rows: (n,) int64, the rows of this split.
        index: (N,) int64 stable sample numbers; the row number itself by default.
    """

    def __init__(
        self, inputs: Rows, targets: Tensor, domains: Tensor, rows: Tensor, index: Tensor | None = None
    ) -> None:
        self.inputs, self.targets, self.domains, self.rows, self.index = inputs, targets, domains, rows, index

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Any) -> Batch:
        rows = self.rows[item]
        index = rows if self.index is None else self.index[rows]
        return Batch(self.inputs[rows], self.targets[rows], self.domains[rows], index)


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


def draws_order(trainer: Trainer | None) -> bool:
    """Whether training rows come in another order each epoch: not where some batches are to be overfitted."""
    return trainer is None or trainer.overfit_batches == 0  # type: ignore[attr-defined]


def _as_it_is(batch: Any) -> Any:
    return batch


def stratified_split(strata: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions 0..N-1 into (kept, held out), each stratum by the same share.

    A stratum of n rows gives round(share * n) of them, at least one where n >= 2 and share > 0, and never all.

    Args:
        strata: (N,) labels.
        share: Held-out share, in [0, 1).
        seed: Of the draw.

    Example:
        >>> kept, held = stratified_split(np.array([0, 0, 0, 0, 1, 1]), share=0.25, seed=0)
        >>> len(kept), len(held)
        (4, 2)
    """
    generator = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for stratum in np.unique(strata):
        rows = generator.permutation(np.flatnonzero(strata == stratum))
        count = min(max(round(share * len(rows)), int(share > 0)), len(rows) - 1)
        held.append(rows[:count])
    held_out = np.sort(np.concatenate(held)) if held else np.empty(0, np.int64)
    return np.setdiff1d(np.arange(len(strata)), held_out), held_out


def stratified_sessions(
    counts: np.ndarray, scope: np.ndarray, val_share: float, test_share: float, seed: int
) -> np.ndarray:
    """Draw whole sessions for validation and testing, inside of each scope.

    Where every session of a scope has one class, they are drawn class by class (:func:`stratified_split`). Elsewhere
    64 draws of the wanted number of sessions are made, and the one is taken whose splits have the classes' shares most
    nearly (the sum of squared deviations), first of all those that leave no class without training samples. A scope of
    one session trains; one of two has no validation session. Sessions without a sample train. (Our choices.)

    Args:
        counts: (U, C) samples of each session and class.
        scope: (U,) what the shares hold in: a domain, or a group.
        val_share: Of the sessions.
        test_share: Of the sessions.
        seed: Of the draws.

    Returns:
        (U,) the split of each session: 0 train, 1 val, 2 test.

    Example:
        >>> stratified_sessions(np.ones((10, 3)), np.zeros(10), 0.1, 0.2, seed=0).tolist().count(2)
        2
    """
    split = np.zeros(len(counts), np.int64)
    for place, number in enumerate(np.unique(scope)):
        units = np.flatnonzero((scope == number) & (counts.sum(1) > 0))
        if ((counts[units] > 0).sum(1) == 1).all():
            label = counts[units].argmax(1)
            rest, test = stratified_split(label, test_share, seed * 1009 + 1)
            _, val = stratified_split(label[rest], val_share / (1 - test_share), seed * 1009 + 2)
            split[units[test]], split[units[rest[val]]] = 2, 1
            continue
        tests = min(max(round(test_share * len(units)), int(test_share > 0)), len(units) - 1)
        vals = min(max(round(val_share * len(units)), int(val_share > 0)), len(units) - tests - 1)
        generator = np.random.default_rng([seed, place])
        share = counts[units] / np.maximum(counts[units].sum(0), 1)
        best, chosen = math.inf, np.arange(len(units))
        for _ in range(64):
            order = generator.permutation(len(units))
            parts = np.split(order, [tests, tests + vals])
            sums = [share[part].sum(0) for part in parts]
            off = sum(((s - len(part) / len(units)) ** 2).sum() for s, part in zip(sums, parts, strict=True))
            off += 1e6 * ((sums[2] == 0) & (share.sum(0) > 0)).sum()
            if off < best:
                best, chosen = off, order
        split[units[chosen[:tests]]], split[units[chosen[tests : tests + vals]]] = 2, 1
    return split


def draw_class_subsets(
    num_classes: int, num_domains: int, classes_per_domain: int, groups: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Draw overlapping class subsets that together cover every class.

    With ``groups`` each domain first gets one class of every group, then the rest from all remaining classes: the
    CIFAR-100 protocol of FoE (Wang et al., ICLR 2024), where the groups are the 20 super-classes. Draws that leave a
    class without a domain are repeated (our choice).

    Args:
        num_classes: C.
        num_domains: D.
        classes_per_domain: Classes of each domain.
        groups: (C,) group number of each class.
        seed: Of the draw.

    Returns:
        (C, D) bool, which class belongs to which domain.

    Raises:
        InputError: If the subsets cannot cover the classes.

    Example:
        >>> draw_class_subsets(10, num_domains=5, classes_per_domain=4, seed=0).sum(0).tolist()
        [4, 4, 4, 4, 4]
    """
    num_groups = 0 if groups is None else len(np.unique(groups))
    if not num_groups <= classes_per_domain <= num_classes or num_domains * classes_per_domain < num_classes:
        raise InputError(
            f"{num_domains} domains of {classes_per_domain} classes cannot cover {num_classes} classes"
            + (f" with one of each of the {num_groups} super-classes" if num_groups else "")
            + "; change num_domains or classes_per_domain"
        )
    generator = np.random.default_rng(seed)
    for _ in range(10_000):
        member = np.zeros((num_classes, num_domains), bool)
        for domain in range(num_domains):
            if groups is not None:
                for group in np.unique(groups):
                    member[generator.choice(np.flatnonzero(groups == group)), domain] = True
            others = np.flatnonzero(~member[:, domain])
            member[generator.choice(others, classes_per_domain - num_groups, replace=False), domain] = True
        if member.any(1).all():
            return member
    raise InputError(
        f"no draw of {num_domains} domains x {classes_per_domain} classes covered all {num_classes} classes; "
        "raise num_domains or classes_per_domain"
    )


def digest(*parts: Any) -> str:
    """A short BLAKE2 fingerprint of texts, arrays and tensors, in their order.

    Example:
        >>> digest("a", np.arange(3)) == digest("a", np.arange(3)), len(digest("a"))
        (True, 32)
    """
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous()
            state.update(f"{part.dtype}{tuple(part.shape)}".encode())
            state.update(part.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, np.ndarray):
            state.update(f"{part.dtype}{part.shape}".encode())
            state.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            state.update(str(part).encode())
        state.update(b"\0")
    return state.hexdigest()


class FusionDataModule(LightningDataModule):
    """What all data modules of the house share: three splits, slices as batches, and facts for the models.

    A subclass sets ``batch_size``, ``seed`` and ``num_workers`` and implements :meth:`rows`, :attr:`classes` and
    :attr:`domains`.
    """

    batch_size: int
    seed: int
    num_workers: int = 0

    @property
    def classes(self) -> list[str]:
        """Names of the classes that targets count."""
        raise NotImplementedError(f"{type(self).__name__} must implement the property classes")

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``."""
        raise NotImplementedError(f"{type(self).__name__} must implement the property domains")

    def rows(self, split: str) -> Dataset:
        """The data set of one split; takes index tensors."""
        raise NotImplementedError(f"{type(self).__name__} must implement rows(split)")

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the content of one split, before augmentation."""
        raise NotImplementedError(f"{type(self).__name__} must implement fingerprint(split)")

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the samples of one split, as recorded: (S,) float32."""
        raise NotImplementedError(f"{type(self).__name__} has no statistics; implement statistics(split), or give some")

    def variant(self, **changes: Any) -> Self:
        """A copy with other constructor arguments that shares what is already in memory.

        Args:
            **changes: Constructor arguments and their new values.

        Raises:
            TypeError: If the data module has no such argument.
        """
        unknown = set(changes) - set(inspect.signature(type(self).__init__).parameters)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {shorten(sorted(unknown))}")
        other = copy.copy(self)
        other.trainer = None
        other._hparams = copy.copy(self.hparams)
        other._hparams.update({name: value for name, value in changes.items() if is_plain(value)})
        other._configure(**changes)
        return other

    def _configure(self, **arguments: Any) -> None:
        """Set constructor arguments as attributes; a subclass checks them and drops what it derived from them."""
        for name, value in arguments.items():
            setattr(self, name, value)

    def _check_choices(self, choices: Mapping[str, Sequence[str]]) -> None:
        """Refuse an argument that is none of the words it may be."""
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected {shorten(known)}")

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader:
        return slice_loader(self.rows(split), self.batch_size, shuffle, self.seed, self.num_workers)

    def train_dataloader(self) -> DataLoader:
        """Batches of the training split in an order that depends on (seed, epoch)."""
        return self._loader("train", shuffle=draws_order(self.trainer))

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Batches of the test split, in order."""
        return self._loader("test")


class TensorDataModule(FusionDataModule):
    """Tensors in memory as a data module.

    Args:
        tensors: For each split (inputs (N, ...), targets (N,)) or (inputs, targets, domains (N, D) bool).
        classes: Names of the classes that targets count.
        domains: Names of the D domains.
        batch_size: Samples per batch and process.
        seed: Of the order.

    Raises:
        InputError: If a split's tensors differ in length.

    Example:
        >>> data = TensorDataModule({"train": (torch.rand(5, 3), torch.zeros(5, dtype=torch.long))}, classes=["cat"])
        >>> len(next(iter(data.train_dataloader())).target)
        5
    """

    def __init__(
        self,
        tensors: Mapping[str, Sequence[Tensor]],
        classes: Sequence[str],
        domains: Sequence[str] = (),
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._configure(batch_size=batch_size, seed=seed)
        self._classes, self._domains = list(classes), list(domains)
        self._rows = {}
        offset = 0
        for split, parts in tensors.items():
            if len(parts) not in (2, 3) or len({len(part) for part in parts}) != 1:
                found = ", ".join(str(len(part)) for part in parts)
                raise InputError(f"split {split}: expected (inputs, targets[, domains]) of one length; found {found}")
            count = len(parts[1])
            domain = parts[2] if len(parts) == 3 else torch.zeros(count, len(self._domains), dtype=torch.bool)
            index = torch.arange(offset, offset + count)
            self._rows[split] = RowDataset(parts[0], parts[1], domain, torch.arange(count), index)
            offset += count

    @property
    def classes(self) -> list[str]:
        """Names of the classes that targets count."""
        return self._classes

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``."""
        return self._domains

    def rows(self, split: str) -> RowDataset:
        """The data set of one split."""
        if split not in self._rows:
            raise InputError(f"there is no split {split!r}; the tensors have {shorten(self._rows)}")
        return self._rows[split]

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the tensors of one split."""
        dataset = self.rows(split)
        return digest(dataset.inputs, dataset.targets, dataset.domains)
