"""Samples of equal content: found by size, then by a block, then by all bytes; counted by domain, split and label."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.errors import shorten
from lightning_fusion.files import row_digests

SPLIT_NAMES = ("train", "val", "test", "fuser")
"""Parts of a data set; the fuser's part is held out from experts."""
_BLOCK = 4096
"""Bytes that are compared first, from the middle: files of one device begin alike, and recordings end in silence."""


def equal_files(paths: Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """Return the first file of the same content for each file; only files of equal size are opened.

    Args:
        paths: Paths of N files.

    Returns:
        (N,) int64 positions; its own for a file unlike all earlier ones, for an empty one, and if it cannot be read.
    """

    def size(number: int) -> int:
        try:
            return os.stat(paths[number]).st_size
        except OSError:
            return 0

    def read(number: int, start: int, count: int) -> bytes:
        try:
            file = os.open(paths[number], os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError:
            return str(paths[number]).encode()
        try:
            os.lseek(file, start, os.SEEK_SET)
            content = os.read(file, count)
            while len(content) < count and (part := os.read(file, count - len(content))):
                content += part
            return content
        except OSError:
            return str(paths[number]).encode()
        finally:
            os.close(file)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        sizes = np.array(_for_each(size, range(len(paths)), threads), np.int64)
        return _first_equal(sizes, read, _BLOCK, threads)


def _for_each(work: Callable[[int], Any], rows: Sequence[int], threads: ThreadPoolExecutor | None) -> list[Any]:
    """Return the results for many rows, a few hundred by one thread after the other."""
    if threads is None:
        return list(map(work, rows))
    parts = threads.map(lambda part: list(map(work, part)), [rows[n : n + 256] for n in range(0, len(rows), 256)])
    return [result for part in parts for result in part]


def equal_rows(rows: np.ndarray, begins: np.ndarray | None = None, lengths: np.ndarray | None = None) -> np.ndarray:
    """Return the first sample of the same content for each sample of an array.

    Args:
        rows: (N, ...) samples, or the (T, ...) rows of samples of several rows.
        begins: (N,) int64 first row of each sample of several rows.
        lengths: (N,) int64 number of rows of each sample of several rows.

    Returns:
        (N,) int64 positions; its own for a sample unlike all earlier ones.

    Example:
        >>> equal_rows(np.array([[1, 2], [3, 4], [1, 2]])).tolist()
        [0, 1, 0]
        >>> equal_rows(np.array([1, 2, 1, 2, 2]), np.array([0, 2, 4]), np.array([2, 2, 1])).tolist()
        [0, 0, 2]
    """
    if begins is None or lengths is None:
        first, sums = np.arange(len(rows)), _sums(rows)
        _, place, count = np.unique(sums, return_inverse=True, return_counts=True)
        alike = np.flatnonzero(count[place] > 1)
        _, earliest, place = np.unique(row_digests(rows[alike]), return_index=True, return_inverse=True)
        first[alike] = alike[earliest][place]
        return first
    width = max(rows.nbytes // max(len(rows), 1), 1)

    def read(number: int, start: int, count: int) -> bytes:
        begin = begins[number] + start
        return rows[begin : begin + count].tobytes()

    return _first_equal(lengths, read, max(_BLOCK // width, 1))


def _sums(rows: np.ndarray) -> np.ndarray:
    """Return (N,) uint64 weighted sums of the bytes of samples: equal samples have equal sums."""
    width = rows.nbytes // max(len(rows), 1)
    weights = np.random.default_rng(0).integers(0, 2**63, -(-width // 8), np.uint64) * 2 + 1
    sums = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _BLOCK):
        part = np.ascontiguousarray(rows[start : start + _BLOCK])
        words = np.zeros((len(part), 8 * len(weights)), np.uint8)
        words[:, :width] = part.reshape(len(part), -1).view(np.uint8)
        sums[start : start + _BLOCK] = (words.view(np.uint64) * weights).sum(1)
    return sums


def _first_equal(
    sizes: np.ndarray,
    read: Callable[[int, int, int], bytes],
    block: int,
    threads: ThreadPoolExecutor | None = None,
) -> np.ndarray:
    """Return the first sample of the same content for each.

    Args:
        sizes: (N,) int64 size of each sample; samples of size 0 are unlike all others.
        read: Function of sample, start and count that reads a part of its content.
        block: Size of the part that is compared first.
        threads: Threads that read.
    """

    def digest(number: int, most: int | None) -> bytes:
        size = int(sizes[number])
        count = min(size, most or size)
        return hashlib.blake2b(read(number, (size - count) // 2, count), digest_size=16).digest()

    rows = np.flatnonzero(sizes > 0)
    _, place, count = np.unique(sizes[rows], return_inverse=True, return_counts=True)
    rows, place = rows[count[place] > 1], place[count[place] > 1]
    known: dict[int, Hashable] = dict(zip(rows.tolist(), place.tolist(), strict=True))
    for most in (block, None):
        compared = [row for row in known if most is not None or sizes[row] > block]
        found = _for_each(partial(digest, most=most), compared, threads)
        known |= {row: (known[row], value) for row, value in zip(compared, found, strict=True)}
        counts = Counter(known.values())
        known = {row: kind for row, kind in known.items() if counts[kind] > 1}
    first, seen = np.arange(len(sizes)), dict[Hashable, int]()
    for row, kind in known.items():
        first[row] = seen.setdefault(kind, row)
    return first


@dataclass
class Samples:
    """What is known of N samples beside their content.

    Attributes:
        name: Function that returns the name of a sample, for messages.
        label: (N,) label of each sample; -1 for none.
        task: (N,) task of each sample: labels are contradictory if a task has both. None: one task.
        domain: (N,) domain of each sample; -1 for none. None if a domain is no property of a sample.
        split: (N,) split of each sample, an index of ``splits``; -1 for none. None if splits are unknown.
        domains: Names of the domains.
        splits: Names of the splits.
    """

    name: Callable[[int], str]
    label: np.ndarray
    task: np.ndarray | None = None
    domain: np.ndarray | None = None
    split: np.ndarray | None = None
    domains: Sequence[str] = ()
    splits: Sequence[str] = SPLIT_NAMES


def duplicates_message(first: np.ndarray, what: str, samples: Samples, across: str = "domains") -> tuple[str, set[str]]:
    """Count samples of equal content: with contradictory labels, across splits, across domains, and all others.

    Args:
        first: (N,) first sample of the same content for each sample.
        what: Meaning of the samples, for the message.
        samples: Names, labels, domains and splits of the samples.
        across: Meaning of the domains, for the message.

    Returns:
        The message, empty if all samples differ; and the kinds of duplicates, some of ``labels``, ``splits``,
        ``domains`` and ``others``.

    Example:
        >>> samples = Samples(str, np.array([0, 1, 0]), split=np.array([0, 0, 2]))
        >>> duplicates_message(np.array([0, 1, 0]), "images", samples)[0]
        '2 of 3 images have the content of another one: 2 across splits (train and test share 1), such as 0 and 2'
    """
    rows = np.flatnonzero(np.bincount(first, minlength=len(first))[first] > 1)
    if not len(rows):
        return "", set()
    group, none = first[rows], np.full(len(first), -1)
    domain = none if samples.domain is None else samples.domain
    split = none if samples.split is None else samples.split
    task = none if samples.task is None else samples.task
    parts, kinds, other = [], set(), np.ones(len(rows), bool)
    for kind, how, values, names in (
        ("labels", "with contradictory labels", _competing(first, rows, samples.label, task), ()),
        ("splits", "across splits", split[rows], samples.splits),
        ("domains", f"across {across}", domain[rows], samples.domains),
    ):
        own = _differ(group, values)
        other &= ~own
        if own.any():
            kinds.add(kind)
            example = _pair(rows, own, group, values, samples)
            parts.append(f"{own.sum()} {how}{_shared(group, values, names)}, such as {example}")
    if other.any():
        kinds.add("others")
        parts.append(f"{other.sum()} others, such as {_pair(rows, other, group, none[rows], samples)}")
    return f"{len(rows)} of {len(first)} {what} have the content of another one: {'; '.join(parts)}", kinds


def tensors_message(parts: Mapping[str, tuple[Any, Tensor]]) -> str | None:
    """Return a warning about inputs that are equal across splits or have contradictory labels; None if there are none.

    Args:
        parts: (N, ...) inputs and (N,) int64 targets of each split; inputs that are no tensors of one shape and dtype
            are not compared.

    Example:
        >>> one, other = torch.zeros(1, 2), torch.ones(1, 2)
        >>> train, test = (torch.cat([one, other]), torch.tensor([0, 1])), (one, torch.tensor([0]))
        >>> tensors_message({"train": train, "test": test}).partition(", such as")[0]
        '2 of 3 inputs have the content of another one: 2 across splits (train and test share 1)'
    """
    tensors = [inputs for inputs, _ in parts.values() if isinstance(inputs, Tensor)]
    if len(tensors) < len(parts) or len({(part.dtype, part.shape[1:]) for part in tensors}) != 1:
        return None
    first = equal_rows(torch.cat(tensors).numpy())
    sizes = [len(part) for part in tensors]
    names = [f"{split} row {row}" for split, size in zip(parts, sizes, strict=True) for row in range(size)]
    label = torch.cat([targets for _, targets in parts.values()]).numpy()
    samples = Samples(names.__getitem__, label, split=np.repeat(np.arange(len(parts)), sizes), splits=list(parts))
    message, kinds = duplicates_message(first, "inputs", samples)
    return f"{message}; remove the copies" if kinds - {"others"} else None


def _differ(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (n,) bool, whether the group of each sample has several values; -1 is none."""
    pairs = np.unique(np.stack([group, values], 1)[values >= 0], axis=0)
    groups, count = np.unique(pairs[:, 0], return_counts=True)
    return np.isin(group, groups[count > 1])


def _competing(first: np.ndarray, rows: np.ndarray, label: np.ndarray, task: np.ndarray) -> np.ndarray:
    """Return (n,) label of each duplicate in a group with two labels that one task has; -1 for all others."""
    found = np.full(len(rows), -1)
    several = np.flatnonzero(_differ(first[rows], label[rows]))
    of_task = defaultdict[int, set[int]](set)
    for one, other in np.unique(np.stack([task, label], 1), axis=0).tolist() if len(several) else []:
        of_task[one].add(other)
    for group in np.unique(first[rows][several]):
        own = several[first[rows][several] == group]
        labels = set(label[rows][own].tolist()) - {-1}
        if any(len(labels & known) > 1 for known in of_task.values()):
            found[own] = label[rows][own]
    return found


def _shared(group: np.ndarray, values: np.ndarray, names: Sequence[str]) -> str:
    """Name the pairs of domains or splits that share content, those that share most first."""
    if not len(names):
        return ""
    of_group = defaultdict[int, set[int]](set)
    for one, value in zip(group.tolist(), values.tolist(), strict=True):
        of_group[one].add(value)
    pairs = Counter(pair for own in of_group.values() for pair in combinations(sorted(own - {-1}), 2))
    return f" ({shorten((f'{names[a]} and {names[b]} share {count}' for (a, b), count in pairs.most_common()), 3)})"


def _pair(rows: np.ndarray, own: np.ndarray, group: np.ndarray, values: np.ndarray, samples: Samples) -> str:
    """Name two samples of the first group, of different values if there are any."""
    inside = np.flatnonzero(own & (group == group[own][0]))
    other = inside[(values[inside] != values[inside[0]]) & (values[inside] >= 0)]
    second = other[0] if len(other) else inside[1]
    return f"{samples.name(int(rows[inside[0]]))} and {samples.name(int(rows[second]))}"
