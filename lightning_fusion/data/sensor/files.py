"""Reading, validation and resampling of files of sensor recordings."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from zipfile import ZipFile

import numpy as np
from rich.progress import track

from lightning_fusion.data.names import canonical_label
from lightning_fusion.data.sensor.series import Recorded
from lightning_fusion.data.tables import MissingColumnsError, check_columns, read_columns
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import ARCHIVE_ERRORS, digest

SERIES_SUFFIXES = {".csv", ".npy", ".npz", ".txt"}
TIMESTAMP_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_VERSION = 8
"""Version of the cache format; entries of other versions are ignored."""
_MOST_RATE_ERROR = 0.1
_RATE_OF_ANOTHER_UNIT = 20.0
_MEAN_ABOVE = 1.5
"""Recordings of more than this many times the target rate are averaged, not interpolated."""


_LARGE, _MOST_COMPRESSION = 1 << 28, 200  # bytes, and times; of recordings, zeros aside, 20 times are many


@dataclass(frozen=True)
class RecordingFormat:
    """Format of a file of one recording.

    Attributes:
        channels: Columns (CSV, npy) or arrays (npz) to read, in this order.
        sample_rate_hz: Sample rate to which recordings are resampled.
        label: Column or array of labels; ``None`` if the file has none.
        timestamp: Column or array of timestamps; ``None`` if samples are equally spaced.
        timestamp_unit: ``s``, ``ms``, ``us`` or ``ns``.
        recorded_rate_hz: Sample rate of the files. Timestamps that contradict it outside of gaps are an error; without
            timestamps it is assumed. ``None`` means ``sample_rate_hz``.
        columns: Names of the columns of files without a header.
        delimiter: Column delimiter of a CSV file: one character; a blank matches any whitespace.
        max_gap_s: Timestamps further apart than this enclose a gap without data, at which a recording is cut.
        limits: Smallest and largest permitted value of a channel.
        encoding: Encoding of a CSV file.
    """

    channels: tuple[str, ...]
    sample_rate_hz: float
    label: str | None = None
    timestamp: str | None = None
    timestamp_unit: str = "s"
    recorded_rate_hz: float | None = None
    columns: tuple[str, ...] | None = None
    delimiter: str = ","
    max_gap_s: float = 0.5
    limits: Mapping[str, Sequence[float]] = field(default_factory=dict)
    encoding: str = "utf-8"


def read_recordings(paths: Sequence[str], formats: Sequence[RecordingFormat]) -> Iterator[Recorded]:
    """Read files one after the other, with a progress bar for many files.

    A channel that only some files lack is NaN in them, and without the label a recording is unlabeled.

    Args:
        paths: Paths of the files.
        formats: Format of each file; all have the same number of channels.

    Raises:
        InputError: If a file cannot be read (:func:`read_recording`), all lack a channel, or all lack the label.
    """
    without: dict[bool, list[MissingColumnsError]] = {True: [], False: []}
    listed = zip(paths, formats, strict=True)
    bar = {"total": len(paths), "transient": True, "disable": len(paths) < 1000}
    for path, how in track(listed, "Reading recordings", **bar):  # type: ignore[arg-type]
        one, errors = _read_available(path, how)
        for error in errors:
            without[how.label in error.missing].append(error)
        yield one
    for errors in without.values():
        if errors and len(errors) == len(paths):
            raise errors[0]


def _read_available(path: str, how: RecordingFormat) -> tuple[Recorded, list[MissingColumnsError]]:
    """Read a file that may lack the label, and channels, which are NaN; return the errors about what it lacks."""
    try:
        return read_recording(path, how), []
    except MissingColumnsError as error:
        missing = set(error.missing)
        if how.timestamp in missing:
            raise
        if how.label in missing:
            one, errors = _read_available(path, replace(how, label=None))
            return one, [error, *errors]
        present = tuple(name for name in how.channels if name not in missing)
        samples = np.full((1, len(how.channels)), np.nan, np.float32)
        if not present:
            return Recorded(samples, None), [error]
        limits = {name: ends for name, ends in how.limits.items() if name in present}
        one, errors = _read_available(path, replace(how, channels=present, limits=limits))
        samples = samples.repeat(len(one.samples), 0)
        samples[:, [how.channels.index(name) for name in present]] = one.samples
        return one._replace(samples=samples), [error]


def files_key(paths: Sequence[str], names: Sequence[str], how: RecordingFormat, labels: Sequence[str] | None) -> str:
    """Return a fingerprint of files (names, sizes, modification times), their format, and labels from file names."""
    stats = [os.stat(path) for path in paths]
    listed = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)]
    return digest(_VERSION, json.dumps(asdict(how)), listed, labels)


def read_recording(path: str, how: RecordingFormat) -> Recorded:
    """Read one file and resample it.

    The signal is interpolated linearly. Where the recorded rate is more than 1.5 times the target rate, a new sample is
    the mean over its interval, which suppresses aliasing. Samples of equal timestamps are averaged. A recording is cut
    at gaps, however long: each piece is resampled from its own first timestamp, and one sample marked as a gap is put
    between two pieces. (Our choices.)

    Args:
        path: CSV file, NumPy array (T, columns), or npz file with an array (T,) per column or arrays (T, n), the
            columns of which are named by number: ``acc_0``, ``acc_1``...
        how: Format of the file.

    Raises:
        MissingColumnsError: If the file lacks columns, or a channel has no value at all.
        InputError: If the file is empty or truncated, has values that are not numbers or outside their
            limits, decreasing timestamps, or another rate. The message names file, row and remedy.
    """
    try:
        return _read_recording(path, how)
    except InputError:
        raise
    except Exception as error:  # of any reader: the file is named
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path} cannot be read ({what}); repair or remove it") from error


def _read_recording(path: str, how: RecordingFormat) -> Recorded:
    numeric = [*how.channels, *([how.timestamp] if how.timestamp else [])]
    suffix = os.path.splitext(path)[1].lower()
    reader = {".npz": _read_npz, ".npy": _read_npy}.get(suffix, _read_csv)
    try:
        values, labels = reader(path, numeric, how)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); repair or remove it") from error
    first = 2 if reader is _read_csv and how.columns is None else 1
    if not len(values):
        raise InputError(f"{path} is empty: found no row of samples; remove it")
    if empty := [name for name, none in zip(how.channels, np.isnan(values).all(0).tolist(), strict=False) if none]:
        raise MissingColumnsError(f"{path} has no value of {shorten(empty)}; remove the file, or leave them out", empty)
    sound = np.isfinite(values)
    sound[:, : len(how.channels)] &= np.abs(values[:, : len(how.channels)]) <= np.finfo(np.float32).max
    if not sound.all():
        row, column = np.argwhere(~sound)[0].tolist()
        raise InputError(
            f"{path}, row {row + first}: {numeric[column]} is {values[row, column]}; expected a number: repair the "
            "row, or remove it" + (" (a gap longer than max_gap_s is left out of all windows)" if how.timestamp else "")
        )
    samples = values[:, : len(how.channels)]
    _check_limits(path, samples, how, first)
    times, gaps = _times(path, values[:, -1] if how.timestamp else None, len(values), how, first)
    if times is None:
        return Recorded(samples.astype(np.float32), labels)
    return _resample(times, samples, labels, how, gaps)


def _check_limits(path: str, samples: np.ndarray, how: RecordingFormat, first: int) -> None:
    for name, (low, high) in how.limits.items():
        column = samples[:, how.channels.index(name)]
        outside = np.flatnonzero((column < low) | (column > high))
        if len(outside):
            raise InputError(
                f"{path}, row {outside[0] + first}: {name} is {column[outside[0]]:g}; limits are {low:g} to "
                f"{high:g}: convert or remove the recording if it is in another unit, or change limits"
            )


def _times(
    path: str, stamps: np.ndarray | None, count: int, how: RecordingFormat, first: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return seconds since the first sample, and whether a gap follows; ``None`` if no resampling is needed."""
    if stamps is None:
        rate = how.recorded_rate_hz or how.sample_rate_hz
        return (None, None) if rate == how.sample_rate_hz else (np.arange(count) / rate, None)
    steps = np.diff(stamps)
    if (steps < 0).any():
        row = int(np.argmax(steps < 0)) + 1
        raise InputError(
            f"{path}, row {row + first}: the timestamp {stamps[row]:.15g} is before the {stamps[row - 1]:.15g} of the "
            "row above; sort the rows, or split the file into one file per recording"
        )
    times = (stamps - stamps[0]) * TIMESTAMP_UNITS[how.timestamp_unit]
    if times[-1] <= 0:
        raise InputError(
            f"{path}: all {count} row(s) have the timestamp {stamps[0]:.15g}; expected increasing timestamps: "
            "remove the file, or set timestamp to another column"
        )
    rate, mean = _rates(times, how.max_gap_s)
    declared = how.recorded_rate_hz
    if declared is not None and min(abs(rate / declared - 1), abs(mean / declared - 1)) > _MOST_RATE_ERROR:
        raise InputError(
            f"{path}: the timestamps imply {rate:.4g} Hz, recorded_rate_hz is {declared:g}; change recorded_rate_hz, "
            f"or timestamp_unit (now {how.timestamp_unit}), or remove the file"
        )
    ratios = (rate / how.sample_rate_hz, mean / how.sample_rate_hz)  # far apart where the steps are irregular
    if declared is None and not any(1 / _RATE_OF_ANOTHER_UNIT < ratio < _RATE_OF_ANOTHER_UNIT for ratio in ratios):
        raise InputError(
            f"{path}: the timestamps imply {rate:.4g} Hz, sample_rate_hz is {how.sample_rate_hz:g}; change "
            f"timestamp_unit (now {how.timestamp_unit}), or set recorded_rate_hz to this rate"
        )
    step = np.diff(times)
    longest = how.max_gap_s if ((step > 0) & (step <= how.max_gap_s)).any() else 2 * float(np.median(step[step > 0]))
    return times, step > longest


def _rates(times: np.ndarray, max_gap_s: float) -> tuple[float, float]:
    """Return the sample rate of a recording by the median and by the mean of its steps; gaps do not count.

    The median is not affected by single samples that are missing, the mean not by a coarse clock. Samples of equal
    timestamps share a step.
    """
    steps = np.diff(times)
    within = steps[steps <= max_gap_s]
    within = within if within.any() else steps  # slower than one sample in max_gap_s
    distinct = within[within > 0]
    shared = len(within) / len(distinct)
    return float(shared / np.median(distinct)), float(shared / distinct.mean())


def _resample(
    times: np.ndarray, samples: np.ndarray, labels: np.ndarray | None, how: RecordingFormat, gaps: np.ndarray | None
) -> Recorded:
    """Resample the pieces between gaps and join them by one sample, so that the result is bounded by the samples."""
    recorded = _rates(times, how.max_gap_s)[1] if len(times) > 1 else how.sample_rate_hz
    ends = [*(np.flatnonzero(gaps) + 1).tolist(), len(times)] if gaps is not None else [len(times)]
    parts, nearest, unknown, offsets = [], [], [], []
    length = 0
    for start, end in zip([0, *ends], ends, strict=False):
        part, places = _resample_piece(
            times[start:end] - times[start], samples[start:end], how.sample_rate_hz, recorded
        )
        between = int(end < len(times))
        offsets.append(times[start] - length / how.sample_rate_hz)
        parts.append(np.concatenate([part, part[-1:].repeat(between, 0)]))
        length += len(parts[-1])
        nearest.append(np.append(places, places[-1:].repeat(between)) + start)
        unknown.append(np.arange(len(parts[-1])) == len(part))
    known = None if labels is None else labels[np.concatenate(nearest)]
    samples = np.concatenate(parts)
    equal = np.diff(times) == 0
    averaged = float((np.append(equal, False) | np.append(False, equal)).mean())
    if len(parts) == 1:
        return Recorded(samples, known, rate_hz=recorded, averaged=averaged)
    return Recorded(samples, known, np.concatenate(unknown), recorded, np.diff(offsets), averaged)


def _resample_piece(
    times: np.ndarray, samples: np.ndarray, rate: float, recorded: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 samples at multiples of ``1 / rate``, and the index of the nearest sample of each."""
    grid = np.arange(int(times[-1] * rate + 1e-6) + 1) / rate
    before = np.searchsorted(times, grid, side="right") - 1
    after = np.minimum(before + 1, len(times) - 1)
    nearest = np.where(times[after] - grid < grid - times[before], after, before)
    if (np.diff(times) == 0).any():
        starts = np.flatnonzero(np.diff(times, prepend=-1.0) > 0)
        counts = np.diff(starts, append=len(times))
        samples, times = np.add.reduceat(samples, starts) / counts[:, None], times[starts]
    resampled = np.empty((len(grid), samples.shape[1]), np.float32)
    edges = (np.arange(len(grid) + 1) - 0.5) / rate
    edges = edges.clip(0, times[-1])
    for channel, values in enumerate(samples.T):
        if recorded <= _MEAN_ABOVE * rate or len(times) == 1:
            resampled[:, channel] = np.interp(grid, times, values)
        else:
            area = np.append(0, np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(times)))
            resampled[:, channel] = np.diff(np.interp(edges, times, area)) / np.diff(edges)
    return resampled, nearest


def _read_npz(path: str, numeric: list[str], how: RecordingFormat) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        check_compression(path)
        with np.load(path) as arrays:
            wanted = [*numeric, *([how.label] if how.label else [])]
            single: dict[str, Any] = {}
            found = []
            for name in arrays.files:
                array = arrays[name] if any(one == name or one.startswith(f"{name}_") for one in wanted) else None
                if array is not None and array.ndim == 2 and name != how.label:  # the columns are name_0, name_1, ...
                    single |= {f"{name}_{number}": column for number, column in enumerate(array.T)}
                    found.append(f"{name} {array.shape}")
                else:
                    single[name] = array
                    found.append(name)
            if (label := single.get(how.label or "")) is not None and label.ndim == 2 and label.shape[1] == 1:
                single[str(how.label)] = label[:, 0]
            if not set(wanted) <= set(single):
                check_columns(path, found, [name for name in wanted if name not in single], "arrays")
            columns = [np.asarray(single[name], np.float64) for name in numeric]
            labels = _texts(single[how.label]) if how.label else None
    except InputError:  # InputError is a ValueError
        raise
    except ARCHIVE_ERRORS as error:
        raise InputError(
            f"{path} is truncated or no npz file of plain arrays ({error}); repair or remove it"
        ) from error
    shapes = {name: column.shape for name, column in zip(numeric, columns, strict=True)}
    if labels is not None:
        labels = np.repeat(labels, len(columns[0])) if labels.ndim == 0 else labels
        shapes[str(how.label)] = labels.shape
    if len(set(shapes.values())) > 1 or columns[0].ndim != 1:
        raise InputError(
            f"{path}: expected arrays (T,) of one length; found {shorten(f'{k} {v}' for k, v in shapes.items())}"
        )
    return np.stack(columns, 1), labels


def check_compression(path: str) -> None:
    """Raise InputError for an npz file whose arrays are many times larger than the file: no recording is."""
    with ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > _LARGE and entry.file_size > _MOST_COMPRESSION * max(entry.compress_size, 1):
                raise InputError(
                    f"{path}: its array {entry.filename.removesuffix('.npy')} has {entry.file_size / 1e9:.1f} GB in "
                    f"{entry.compress_size / 1e6:.1f} MB; if it is right, store it without compression (numpy.savez)"
                )


def _texts(labels: np.ndarray) -> np.ndarray:
    """Return labels as texts, empty for NaN: the label 2.0 is read as 2."""
    if labels.dtype.kind != "f":
        return labels.astype(str).astype(object)
    values, place = np.unique(labels, return_inverse=True)
    texts = ["" if np.isnan(value) else canonical_label(value) for value in values]
    return np.array(texts, object)[place.reshape(labels.shape)]


def _read_npy(path: str, numeric: list[str], how: RecordingFormat) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        table = np.load(path)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is truncated or no npy file of numbers ({error}); repair or remove it") from error
    columns = how.columns or tuple(numeric)
    if table.ndim != 2 or table.shape[1] != len(columns):
        raise InputError(
            f"{path} has shape {table.shape}; expected (T, {len(columns)}) with the columns {shorten(columns, 9)}: set "
            "columns to the names of its columns"
        )
    check_columns(path, columns, [*numeric, *([how.label] if how.label else [])], "columns")
    labels = _texts(table[:, columns.index(how.label)]) if how.label else None
    return table[:, [columns.index(name) for name in numeric]].astype(np.float64), labels


def _read_csv(path: str, numeric: list[str], how: RecordingFormat) -> tuple[np.ndarray, np.ndarray | None]:
    label = [how.label] if how.label else []
    try:
        values, texts = read_columns(path, numeric, label, how.columns, how.delimiter, "", how.encoding)
        blank = np.isnan(values)
        if some := [numeric[place] for place in np.flatnonzero(blank.any(0) & ~blank.all(0))]:
            read_columns(path, some, [], how.columns, how.delimiter, encoding=how.encoding)  # names the row
    except InputError as error:
        if how.timestamp is None or not re.search(rf" {re.escape(how.timestamp)} is '\d+[-/.:]\d+[-/.:]\d", str(error)):
            raise
        raise InputError(
            f"{error}; dates and times are not read: convert them to numbers, in UTC, as seconds"
        ) from error
    return values, texts[:, 0] if how.label else None
