"""Batches, of the library's loaders and of those of other projects."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_fusion.data.targets import UNLABELED, as_targets
from lightning_fusion.errors import InputError, shorten


class Batch(NamedTuple):
    """One batch of labeled samples.

    Attributes:
        input: (B, ...) tensor, a dict of such tensors, or a list of B samples of any kind that the experts accept.
        target: (B,) int64, index of the label in the data module's ``classes``.
        domain: (B, D) bool, membership of each sample in the data module's ``domains``; domains may overlap.
        index: (B,) int64, sample index, constant over epochs, splits and processes.
    """

    input: Any
    target: Tensor
    domain: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which is not needed here


class NamedSamples(dict[str, Any]):
    """Input of a batch under ``samples``, with file and position of each sample under ``names``.

    Experts that answer by the name of a sample read the latter, all others the former.
    """


class UnnumberedBatch(Batch):
    """A batch of a loader of ``(input, target)``: ``index`` is -1, and ``domain`` (B, 0)."""


def as_batch(
    batch: Any, source: str, labeled: bool = True, num_classes: int | None = None, unlabeled: bool = False
) -> Batch:
    """Convert a batch of ``source`` to :class:`Batch`.

    A tuple of the same four fields in that order is accepted, and ``(input, target)`` as other projects yield it,
    which becomes an :class:`UnnumberedBatch` (:func:`~lightning_fusion.data.indexed.numbered` adds the index).

    Args:
        batch: Batch of a loader.
        source: Name of the loader, for messages.
        labeled: Whether targets are needed; without, ``(input,)`` and inputs alone are accepted, and the target is
            :data:`~lightning_fusion.data.targets.UNLABELED`.
        num_classes: Number of the model's classes, which targets count. ``None`` (default) accepts any target.
        unlabeled: Also accept batches in which some samples have the target UNLABELED.

    Raises:
        InputError: If the batch is anything else, or its targets are not (B,) class numbers in range.
    """
    found = _with_numbers(batch, source) if isinstance(batch, Batch) else _converted(batch, source, labeled)
    if num_classes is not None:
        check_targets(found.target, num_classes, source, unlabeled)
    return found


def check_targets(target: Tensor, num_classes: int, source: str, unlabeled: bool = False) -> None:
    """Check that targets are numbers of classes, since the error of a loss or a device is unclear.

    Args:
        target: (B,) targets.
        num_classes: Number of classes.
        source: Name of the loader, for the message.
        unlabeled: Accept :data:`~lightning_fusion.data.targets.UNLABELED`, but not alone.

    Raises:
        InputError: If one is out of range, or no sample has a label.

    Example:
        >>> check_targets(torch.tensor([0, 3]), 3, "a loader")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: a loader yields the target(s) 3; expected 0 to 2, numbers of 3 classes
    """
    outside = (target < 0) | (target >= num_classes)
    if unlabeled:
        outside &= target != UNLABELED
        outside |= (target == UNLABELED).all()
    if bool(outside.any()):
        values = shorten(target[outside].unique().tolist())
        without = bool((target[outside] == UNLABELED).any())
        only = f"; {UNLABELED} marks samples without a label (data modules leave them out with unlabeled: drop)"
        raise InputError(
            f"{source} yields the target(s) {values}; expected 0 to {num_classes - 1}, numbers of {num_classes} "
            f"classes{only if without else ''}"
        )


def _converted(batch: Any, source: str, labeled: bool) -> Batch:
    """Return a batch of another form."""
    parts = list(batch) if isinstance(batch, (tuple, list)) and not all(isinstance(x, str) for x in batch) else [batch]
    if any(isinstance(part, tuple) and hasattr(part, "_fields") for part in parts) or (
        len(parts) > 1 and _holds_batches(parts[-1])
    ):
        raise InputError(
            f"{source} yields {len(parts)} batches at once, as several loaders do; expected one loader: join their "
            "data sets, as in torch.utils.data.ConcatDataset"
        )
    if len(parts) == len(Batch._fields) and _are_facts(*parts[1:]):
        return _with_numbers(Batch(*parts), source)
    if len(parts) == 2:
        target = _target_tensor(parts[1], source)
    elif len(parts) == 1 and not labeled and (count := num_samples(parts[0])) is not None:
        device = parts[0].device if isinstance(parts[0], Tensor) else None
        target = torch.full((count,), UNLABELED, device=device)
    else:
        found = f"a tuple of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise InputError(
            f"{source} yields {found}; expected (input, target), or lightning_fusion.Batch(input, target, domain, "
            "index), where index identifies a sample over epochs"
        )
    domain = torch.zeros(len(target), 0, dtype=torch.bool, device=target.device)
    return UnnumberedBatch(parts[0], target, domain, torch.full_like(target, -1))


def _holds_batches(part: Any) -> bool:
    """Return whether a field is itself a batch: a list of tensors with rows, which no target is."""
    return isinstance(part, (list, tuple)) and any(isinstance(each, Tensor) and each.ndim for each in part)


def _are_facts(target: Any, domain: Any, index: Any) -> bool:
    """Return whether three fields are target (B,), domain (B, D) and index (B,) of a batch."""
    if not all(isinstance(part, Tensor) for part in (target, domain, index)):
        return False
    shapes: bool = target.ndim == index.ndim == 1 and domain.ndim == 2 and len(target) == len(domain) == len(index)
    return shapes and domain.dtype == torch.bool and not index.is_floating_point()


def _with_numbers(batch: Batch, source: str) -> Batch:
    """Return a batch whose targets are int64, as those of the library's loaders are."""
    if isinstance(batch.target, Tensor) and batch.target.dtype == torch.int64:
        return batch
    return batch._replace(target=_target_tensor(batch.target, source))


def _target_tensor(target: Any, source: str) -> Tensor:
    """Return (B,) int64 targets of a foreign loader."""
    if isinstance(target, Tensor) and target.ndim == 1 and target.dtype in (torch.int64, torch.int32, torch.uint8):
        return target.long()
    found = torch.from_numpy(as_targets(target, None, f"targets of {source}", unlabeled=True))
    return found.to(target.device) if isinstance(target, Tensor) else found


def num_samples(input: Any) -> int | None:
    """Return the number of samples of a batch of inputs; None if it has no length.

    Example:
        >>> num_samples({"ids": torch.zeros(3, 8)}), num_samples(["a text", "another"])
        (3, 2)
    """
    if isinstance(input, Mapping):
        return num_samples(next(iter(input.values()), None))
    return len(input) if hasattr(input, "__len__") and not isinstance(input, str) else None
