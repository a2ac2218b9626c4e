"""Recordings in a row: one array of samples with labels, in memory or mapped from a cache."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest, write_whole

NO_LABEL, GAP = -1, -2
"""Codes of samples without a label, and of samples that were never recorded."""
_MOST_LABELS = np.iinfo(np.int16).max
_OTHER_SCALE = 4.0


class Recorded(NamedTuple):
    """One recording.

    Attributes:
        samples: (T, channels) float32.
        labels: (T,) texts, one text for all samples, or None where the file names none; an empty text is no label.
        gaps: (T,) bool, samples that were never recorded, or None where there are none.
    """

    samples: np.ndarray
    labels: np.ndarray | str | None
    gaps: np.ndarray | None = None


@dataclass
class Series:
    """Recordings in a row.

    Attributes:
        samples: (T, channels) float32, in memory or mapped from a file.
        labels: (T,) int16, numbers of ``names``, or :data:`NO_LABEL`, or :data:`GAP`.
        names: The labels.
        begins: (R,) int64, where each recording begins.
        lengths: (R,) int64, samples of each.
        rms: (R, channels), root mean square of each.
        fingerprint: Of samples and labels.
    """

    samples: Tensor
    labels: np.ndarray
    names: list[str]
    begins: np.ndarray
    lengths: np.ndarray
    rms: np.ndarray
    fingerprint: str


def load_series(recordings: Iterable[Recorded], entry: Path | None = None) -> Series:
    """Read recordings into one array, or map the array into memory that an earlier run left behind.

    An entry of the cache is written by :func:`write_whole`.

    Args:
        recordings: Reads one after the other, where they are not in the cache.
        entry: Folder of the array in a cache; its name stands for the files and for how they are read. None keeps the
            samples in memory and writes no file.

    Raises:
        InputError: If a recording cannot be read, or the entry is damaged.
    """
    if entry is None:
        parts: list[np.ndarray] = []
        facts = _gather(recordings, parts.append)
        return _series(np.concatenate(parts), *facts)
    write_whole(entry, lambda draft: _write(recordings, draft))
    return _open(entry)


def _gather(
    recordings: Iterable[Recorded], keep: Callable[[np.ndarray], Any]
) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Labels, their names, lengths and root mean squares of recordings whose samples go elsewhere."""
    numbers: dict[str, int] = {}
    labels, lengths, rms = [], [], []
    for one in recordings:
        labels.append(_encode(one, numbers))
        lengths.append(len(one.samples))
        rms.append(np.sqrt(np.square(one.samples, dtype=np.float64).mean(0)))
        keep(one.samples)
    return np.concatenate(labels), list(numbers), np.array(lengths), np.array(rms)


def _series(
    samples: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    lengths: np.ndarray,
    rms: np.ndarray,
    fingerprint: str | None = None,
) -> Series:
    fingerprint = fingerprint or digest(samples, labels, names, lengths)
    return Series(torch.from_numpy(samples), labels, names, np.cumsum(lengths) - lengths, lengths, rms, fingerprint)


def _write(recordings: Iterable[Recorded], folder: Path) -> None:
    """Write samples as they are read, so that no more than one recording is held in memory."""
    with open(folder / "samples.bin", "wb") as file:
        labels, names, lengths, rms = _gather(recordings, lambda samples: samples.tofile(file))
    samples = np.memmap(folder / "samples.bin", np.float32, "r", shape=(len(labels), rms.shape[1]))
    np.savez(folder / "arrays.npz", labels=labels, lengths=lengths, rms=rms)
    facts = {"names": names, "fingerprint": digest(samples, labels, names, lengths)}
    (folder / "facts.json").write_text(json.dumps(facts))


def _open(folder: Path) -> Series:
    try:
        facts = json.loads((folder / "facts.json").read_text())
        with np.load(folder / "arrays.npz") as arrays:
            labels, lengths, rms = arrays["labels"], arrays["lengths"], arrays["rms"]
        path = folder / "samples.bin"
        if path.stat().st_size != 4 * len(labels) * rms.shape[1]:
            raise ValueError(f"samples.bin has {path.stat().st_size} bytes")
        # "c": torch wants memory that may be written to; what is written never reaches the file
        samples = np.memmap(path, np.float32, "c", shape=(len(labels), rms.shape[1]))
        return _series(samples, labels, facts["names"], lengths, rms, facts["fingerprint"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise InputError(f"cache: {folder} is damaged ({error}); remove this folder, and it is made again") from error


def check_labels(names: Sequence[str]) -> None:
    """See that labels are classes, and not as many as samples.

    Args:
        names: Different labels.

    Raises:
        InputError: If there are more than :class:`Series` can number.
    """
    if len(names) > _MOST_LABELS:
        raise InputError(
            f"found more than {_MOST_LABELS} different labels ({shorten(names, 3)}); expected classes: name another "
            "column as label"
        )


def _encode(one: Recorded, numbers: dict[str, int]) -> np.ndarray:
    codes = np.full(len(one.samples), NO_LABEL, np.int16)
    if one.labels is not None:
        names = [one.labels] if isinstance(one.labels, str) else [str(label) for label in one.labels]
        own = {name: numbers.setdefault(name, len(numbers)) if name else NO_LABEL for name in sorted(set(names))}
        check_labels(list(numbers))
        codes[:] = [own[name] for name in names]
    if one.gaps is not None:
        codes[one.gaps] = GAP
    return codes


def find_other_scales(rms: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Recordings whose values are of another size than those of their like: another unit, perhaps.

    A recording is told where at least half of its channels are more than 4 times larger, or smaller, than the median
    of its like: turning a sensor moves gravity from one axis to another, but does not change them all one way. Our
    choice. Fewer than three alike tell nothing.

    Args:
        rms: (R, channels) root mean squares.
        alike: (R,) numbers of what is to be compared.

    Returns:
        Their numbers, sorted.

    Example:
        >>> find_other_scales(np.array([[9.8], [9.7], [1.0], [9.9]]), np.zeros(4))
        array([2])
    """
    told = []
    for kind in np.unique(alike):
        rows = np.flatnonzero(alike == kind)
        if len(rows) >= 3:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = rms[rows] / np.median(rms[rows], 0)
            many = np.maximum((ratio > _OTHER_SCALE).mean(1), (ratio < 1 / _OTHER_SCALE).mean(1)) >= 0.5
            told.append(rows[many])
    return np.sort(np.concatenate(told)) if told else np.empty(0, np.int64)
