"""Concatenated recordings: one array of samples with labels, in memory or mapped from a cache."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.names import LabelForms, canonical_label, rename_labels
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.store import StoreWriter, cached

NO_LABEL, GAP = -1, -2
"""Codes of samples without a label, and of samples in gaps."""
_MOST_LABELS = np.iinfo(np.int16).max
_OTHER_SCALE = 4.0


class Recorded(NamedTuple):
    """One recording.

    Attributes:
        samples: (T, channels) float32.
        labels: (T,) texts, one text for all samples, or None without labels; an empty text marks an unlabeled sample.
        gaps: (T,) bool, samples in gaps, or ``None`` if there are none.
        rate_hz: Sample rate before resampling; ``None`` if the samples are not resampled.
        skipped_s: (G,) seconds left out at each of the G samples in gaps; ``None``: gaps have their full length.
        averaged: Fraction of the recorded samples whose timestamp another one has, of which the mean is used.
    """

    samples: np.ndarray
    labels: np.ndarray | str | None
    gaps: np.ndarray | None = None
    rate_hz: float | None = None
    skipped_s: np.ndarray | None = None
    averaged: float = 0.0


def rename_recorded(one: Recorded, names: Mapping[Any, Any]) -> Recorded:
    """Return a recording with other names of its labels; labels that have none keep theirs.

    Example:
        >>> rename_recorded(Recorded(np.zeros((2, 1), np.float32), np.array(["1.0", "up"], object)), {"1": "go"}).labels
        array(['go', 'up'], dtype=object)
    """
    if one.labels is None:
        return one
    known = {canonical_label(old): str(new) for old, new in names.items()}
    if isinstance(one.labels, str):
        return one._replace(labels=known.get(canonical_label(one.labels), one.labels))
    written, place = np.unique(one.labels.astype(str), return_inverse=True)
    new = np.array([known.get(canonical_label(label), label) for label in written.tolist()], object)
    return one._replace(labels=new[place])


@dataclass
class Series:
    """Concatenated recordings.

    Attributes:
        samples: (T, channels) float32, in memory or mapped from a file.
        labels: (T,) int16, indices of ``names``, or :data:`NO_LABEL`, or :data:`GAP`.
        names: Names of the labels.
        begins: (R,) int64, start of each recording.
        lengths: (R,) int64, number of samples of each recording.
        rms: (R, channels), root mean square of each recording.
        fingerprint: Fingerprint of samples and labels.
        merged: Written forms of labels that were written in several ways.
        rates_hz: (R,) sample rate of each recording before resampling, NaN if it was not resampled; empty for tables.
        skips: (G, 2) float64: each sample at which a gap was left out, and the seconds left out.
        averaged: (R,) fraction of the recorded samples of each recording that were averaged; empty for tables.
    """

    samples: Tensor
    labels: np.ndarray
    names: list[str]
    begins: np.ndarray
    lengths: np.ndarray
    rms: np.ndarray
    fingerprint: str
    merged: dict[str, list[str]] = field(default_factory=dict)
    rates_hz: np.ndarray = field(default_factory=lambda: np.empty(0))
    skips: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    averaged: np.ndarray = field(default_factory=lambda: np.empty(0))

    def skipped_s(self, begins: np.ndarray | int, samples: np.ndarray | int) -> np.ndarray:
        """Return the seconds left out between samples ``begins`` and ``samples`` of all recordings."""
        total = np.append(0, np.cumsum(self.skips[:, 1]))
        at = self.skips[:, 0]
        result: np.ndarray = (total[np.searchsorted(at, samples)] - total[np.searchsorted(at, begins)]).round(6)
        return result


def load_series(recordings: Iterable[Recorded], entry: Path | None = None) -> Series:
    """Read recordings into one array, or map the array that an earlier run cached.

    Args:
        recordings: Iterable that reads one recording after the other, used if they are not cached; at most one of
            them is in memory while the cache is written.
        entry: Folder of the array in a cache, named by a fingerprint of files and format. ``None`` keeps the samples in
            memory and writes no file.

    Raises:
        InputError: If a recording cannot be read, does not match :class:`Recorded`, or the entry is damaged.

    Example:
        >>> walk = Recorded(np.zeros((3, 2), np.float32), labels="walk")
        >>> series = load_series([walk, walk._replace(labels="sit")])
        >>> series.names, series.begins.tolist(), series.labels.tolist()
        (['walk', 'sit'], [0, 3], [0, 0, 0, 1, 1, 1])
    """
    if entry is None:
        parts: list[np.ndarray] = []
        columns, names, merged = _gather(recordings, parts.append)
        samples = np.concatenate(parts)
        return _series(samples, columns, names, _fingerprint(samples, columns, names), merged)

    def write(writer: StoreWriter) -> dict[str, Any]:
        columns, names, merged = _gather(recordings, lambda samples: writer.append("samples", samples))
        fingerprint = _fingerprint(writer.view("samples"), columns, names)
        for name, values in columns.items():
            writer[name] = values
        return {"names": names, "fingerprint": fingerprint, "merged": merged}

    store = cached(entry, "sensor series", write, writable=True)  # torch requires writable arrays
    columns = {name: np.asarray(store[name]) for name in ("labels", "lengths", "rms", "rates_hz", "skips", "averaged")}
    return _series(store["samples"], columns, *(store.metadata[name] for name in ("names", "fingerprint", "merged")))


def _gather(
    recordings: Iterable[Recorded], keep: Callable[[np.ndarray], Any]
) -> tuple[dict[str, np.ndarray], list[str], dict[str, list[str]]]:
    """Pass the samples on; return labels, lengths and rms of recordings, names of labels, and their several forms."""
    numbers: dict[str, int] = {}
    forms = LabelForms()
    labels: list[np.ndarray] = []
    lengths: list[int] = []
    rms: list[np.ndarray] = []
    rates: list[float] = []
    averaged: list[float] = []
    skips: list[np.ndarray] = [np.empty((0, 2))]
    total = 0
    for one in recordings:
        shape = (len(one.samples), len(rms[0]) if rms else one.samples.shape[-1])
        if one.samples.shape != shape or one.samples.dtype != np.float32:
            raise InputError(
                f"recording {len(rms)} has samples {one.samples.dtype} {one.samples.shape}; expected float32 (T, "
                f"channels), with equal numbers of channels: change read_source"
            )
        if one.gaps is not None and one.skipped_s is not None:
            skips.append(np.stack([np.flatnonzero(one.gaps) + total, one.skipped_s], 1))
        labels.append(_encode(one, numbers, forms))
        lengths.append(len(one.samples))
        total += len(one.samples)
        rms.append(np.sqrt(np.square(one.samples, dtype=np.float64).mean(0)))
        rates.append(np.nan if one.rate_hz is None else one.rate_hz)
        averaged.append(one.averaged)
        keep(one.samples)
    columns = {"labels": np.concatenate(labels), "lengths": np.array(lengths), "rms": np.array(rms)}
    columns |= {"rates_hz": np.array(rates), "skips": np.concatenate(skips), "averaged": np.array(averaged)}
    return columns, list(numbers), forms.merged


def _fingerprint(samples: np.ndarray, columns: dict[str, np.ndarray], names: list[str]) -> str:
    return digest(samples, columns["labels"], names, columns["lengths"])


def _series(
    samples: np.ndarray,
    columns: dict[str, np.ndarray],
    names: list[str],
    fingerprint: str,
    merged: dict[str, list[str]],
) -> Series:
    labels, lengths, rms = columns["labels"], columns["lengths"], columns["rms"]
    begins = np.cumsum(lengths) - lengths
    further = (columns[name] for name in ("rates_hz", "skips", "averaged"))
    return Series(torch.from_numpy(samples), labels, names, begins, lengths, rms, fingerprint, merged, *further)


def check_labels(names: Sequence[str]) -> None:
    """Check that labels are classes and not continuous values.

    Args:
        names: Distinct labels.

    Raises:
        InputError: If there are more labels than :class:`Series` can index.
    """
    if len(names) > _MOST_LABELS:
        raise InputError(
            f"found more than {_MOST_LABELS} different labels ({shorten(names, 3)}); expected classes: set label to "
            "another column; continuous targets (regression) are not supported"
        )


def rename_series(series: Series, renamed: Mapping[str, str]) -> Series:
    """Return recordings with new names of some labels; samples are not copied.

    Args:
        series: Recordings.
        renamed: New name of each renamed label.

    Raises:
        InputError: If the recordings have no such label.
    """
    if not renamed:
        return series
    names = rename_labels(series.names, renamed)
    kept = list(dict.fromkeys(names))
    codes = np.array([*map(kept.index, names), GAP, NO_LABEL], np.int16)  # -2 and -1 index the last two
    return replace(series, labels=codes[series.labels], names=kept)


def _encode(one: Recorded, numbers: dict[str, int], forms: LabelForms) -> np.ndarray:
    codes = np.full(len(one.samples), NO_LABEL, np.int16)
    if one.labels is not None:
        written = [one.labels] if isinstance(one.labels, str) else list(one.labels)
        form = {label: forms(label) for label in set(written)}
        own = {name: numbers.setdefault(name, len(numbers)) if name else NO_LABEL for name in sorted(form.values())}
        check_labels(list(numbers))
        if len(written) not in (1, len(codes)):
            raise InputError(f"found {len(written)} labels of {len(codes)} samples; expected one each, or one for all")
        codes[:] = [own[form[label]] for label in written]
    if one.gaps is not None:
        codes[one.gaps] = GAP
    return codes


def find_other_scales(rms: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Find recordings on a different scale than comparable ones, possibly in another unit.

    A recording is reported if at least half of its channels are all more than 4 times larger, or all smaller, than
    the median of comparable recordings: turning a sensor moves gravity from one axis to another, but does not scale
    all axes alike. Fewer than three comparable recordings are not compared. (Our choices.)

    Args:
        rms: (R, channels) root mean squares.
        alike: (R,) index of the set of comparable recordings.

    Returns:
        Sorted indices of the reported recordings.

    Example:
        >>> find_other_scales(np.array([[9.8], [9.7], [1.0], [9.9]]), np.zeros(4))
        array([2])
    """
    found = []
    for kind in np.unique(alike):
        rows = np.flatnonzero(alike == kind)
        if len(rows) >= 3:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = rms[rows] / np.median(rms[rows], 0)
            many = np.maximum((ratio > _OTHER_SCALE).mean(1), (ratio < 1 / _OTHER_SCALE).mean(1)) >= 0.5
            found.append(rows[many])
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def outside_scales(rms: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Find recordings without labels on another scale than all labeled ones, of which there must be three.

    Args:
        rms: (R, channels) root mean squares.
        known: (L, channels) those of the labeled recordings.

    Returns:
        Sorted indices of the reported recordings.

    Example:
        >>> outside_scales(np.array([[0.5], [9.8], [90.0]]), np.array([[1.0], [9.8], [10.0]]))
        array([2])
    """
    if len(known) < 3:
        return np.empty(0, np.int64)
    larger = (rms > _OTHER_SCALE * known.max(0)).mean(1) >= 0.5
    smaller = (rms < known.min(0) / _OTHER_SCALE).mean(1) >= 0.5
    return np.flatnonzero(larger | smaller)
