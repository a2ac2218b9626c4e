"""Samples that experts were trained on, among those of a fuser."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.rows import sample_metadata
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert

MAJORITY = 0.5
"""Fraction of a fuser's training samples that may have trained an expert before a fuser rejects them."""


def seen_samples(experts: Mapping[str, Any], data: Any, split: str) -> np.ndarray | None:
    """Return (N, K) bool, which samples of a split each expert was trained on, in the order of the samples' indices.

    An expert whose checkpoint does not record its training samples counts as having seen none.

    Args:
        experts: Experts by name, of any kind that has ``training_samples``.
        data: Data module.
        split: Split of the data.

    Returns:
        None if no expert records its training samples, or the data module does not identify its samples.
    """
    known = [expert.training_samples for expert in experts.values()]
    if all(found is None for found in known) or not isinstance(data, FusionDataModule):
        return None
    with suppress(InputError):  # a data set of another class, whose samples cannot be identified
        digests = data.sample_digests(split)
        order = sample_metadata(data.rows(split))[2].argsort(stable=True).numpy()
        nothing = np.empty(0, np.uint64)
        return np.stack([np.isin(digests[order], nothing if own is None else own) for own in known], 1)
    return None


def describe_seen(seen: np.ndarray, names: Sequence[str], split: str) -> str | None:
    """Say how many samples of a split experts were trained on; None if they were trained on none.

    Args:
        seen: (N, K) bool.
        names: Names of the K experts.
        split: Name of the split.

    Example:
        >>> describe_seen(np.array([[True, False], [False, False]]), ["a", "b"], "train")
        '1 of 2 samples of train were training samples of an expert (a 1)'
    """
    count = int(seen.any(1).sum())
    each = [f"{name} {int(own.sum())}" for name, own in zip(names, seen.T, strict=True) if own.any()]
    if not count:
        return None
    return f"{count} of {len(seen)} samples of {split} were training samples of an expert ({shorten(each, 8)})"


@contextmanager
def seen_by_design() -> Iterator[None]:
    """Context without warnings about samples that experts were trained on.

    For protocols that query experts on their own training samples: the members of ACoRL have one training set, and the
    local model of HaT's target domain is a reference that no fuser reads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s:.*) were training samples of an expert")
        yield


def check_unseen(seen: np.ndarray, names: Sequence[str], split: str, allow: bool, remedy: str) -> None:
    """Reject training samples of a fuser most of which an expert was trained on; warn about some.

    Args:
        seen: (N, K) bool.
        names: Names of the K experts.
        split: Name of the split.
        allow: Warn only.
        remedy: How to train on other samples, for the message.

    Raises:
        InputError: If most of them were seen, and ``allow`` is not set.
    """
    message = describe_seen(seen, names, split)
    if message is None:
        return
    message += ": on these, its outputs are more accurate than on new samples"
    if seen.any(1).mean() > MAJORITY and not allow:
        raise InputError(f"{message}; {remedy}")
    rank_zero_warn(message)


def warn_seen(experts: Mapping[str, Expert], data: Any) -> None:
    """Warn if experts were trained on the training samples of raw data that a fuser is trained on.

    Args:
        experts: Experts by name.
        data: Data module; None if there is none.
    """
    seen = seen_samples(experts, data, "train")
    if seen is not None:
        check_unseen(seen, list(experts), "train", allow=True, remedy="")
