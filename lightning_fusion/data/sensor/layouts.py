"""Files with several body positions, several bouts of activity, or grouped arrays."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lightning_fusion.data.sensor.files import check_compression
from lightning_fusion.data.sensor.series import Recorded, Series
from lightning_fusion.data.tables import read_header
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import ARCHIVE_ERRORS

POSITION = "position"
"""Field that names the body position of samples in files of several positions."""


def check_positions(positions: Mapping[str, Sequence[str]]) -> None:
    """Check that all body positions have the same number of channels.

    Raises:
        InputError: If positions have different numbers of channels, or none.
    """
    counts = {name: len(columns) for name, columns in positions.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        found = shorten((f"{name} {count}" for name, count in counts.items()), 9)
        raise InputError(
            f"channels has positions with different numbers of channels ({found}); expected equal numbers, in the "
            "same order"
        )


def split_positions(
    one: Recorded, channels: Sequence[str], positions: Mapping[str, Sequence[str]]
) -> Iterator[Recorded]:
    """Split a recording into one recording for each body position, with its channels.

    Args:
        one: Recording of all channels.
        channels: Names of the channels.
        positions: Names of the channels of each position.

    Example:
        >>> one = Recorded(np.arange(4.0).reshape(1, 4), None)
        >>> parts = split_positions(one, ["x1", "y1", "x2", "y2"], {"leg": ["x1", "y1"], "arm": ["x2", "y2"]})
        >>> [part.samples.tolist() for part in parts]
        [[[0.0, 1.0]], [[2.0, 3.0]]]
    """
    for columns in positions.values():
        yield one._replace(samples=np.ascontiguousarray(one.samples[:, [channels.index(name) for name in columns]]))


def cut_pieces(series: Series, length: int) -> tuple[Series, np.ndarray]:
    """Cut recordings where the label changes, and bouts of at least twice ``length`` into parts of ``length`` or more.

    Samples are not copied. (Our choice.)

    Args:
        series: Whole recordings.
        length: Minimum number of samples of a part.

    Returns:
        The pieces as recordings, and the (P,) index of each piece's recording.

    Example:
        >>> from lightning_fusion.data.sensor.series import load_series
        >>> labels = np.array(["sit"] * 5 + ["walk"] * 2)
        >>> pieces, recording = cut_pieces(load_series([Recorded(np.zeros((7, 1), np.float32), labels)]), length=2)
        >>> pieces.lengths.tolist(), recording.tolist()
        ([2, 3, 2], [0, 0, 0])
    """
    changes = np.flatnonzero(np.diff(series.labels)) + 1
    ends = series.begins + series.lengths  # between two recordings there may be samples that are left out
    edges = np.unique(np.concatenate([series.begins, ends, changes]))
    begins, lengths = edges[:-1], np.diff(edges)
    recording = np.searchsorted(series.begins, begins, side="right") - 1
    inside = (recording >= 0) & (begins < ends[recording])
    begins, lengths = begins[inside], lengths[inside]
    parts = np.maximum(lengths // length, 1)
    place = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    offsets = place * np.repeat(lengths, parts) // np.repeat(parts, parts)
    lengths = (place + 1) * np.repeat(lengths, parts) // np.repeat(parts, parts) - offsets
    begins = np.repeat(begins, parts) + offsets
    recording = np.searchsorted(series.begins, begins, side="right") - 1
    of_recording = {name: getattr(series, name)[recording] for name in ("rms", "rates_hz", "averaged")}
    return replace(series, begins=begins, lengths=lengths, **of_recording), recording


def numbered_columns(path: str, delimiter: str, encoding: str = "utf-8") -> list[str]:
    """Return the column names 0, 1, 2... of a file without a header."""
    if path.lower().endswith(".npy"):
        try:
            return [str(number) for number in range(np.load(path, mmap_mode="r").shape[-1])]
        except (ValueError, EOFError) as error:
            raise InputError(f"{path} is truncated or no npy file of numbers ({error}); remove it") from error
    return [str(number) for number in range(len(read_header(path, delimiter, encoding)))]


def array_columns(path: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Name the columns of the arrays of an npz file: ``acc`` (T, columns) becomes ``acc_0``, ``acc_1``...

    Returns:
        Names of the columns of each array that the file has; an array (T,) is a column by itself.

    Raises:
        InputError: If an array is transposed.
    """
    found = {}
    try:
        check_compression(os.fspath(path))
        with np.load(path) as arrays:
            for name in names:
                if name not in arrays.files:
                    continue
                shape: tuple[int, ...] = arrays[name].shape
                if len(shape) == 2 and shape[0] < shape[1]:
                    raise InputError(
                        f"{path}: the array {name} has shape {shape}; expected (T, columns), a row for each sample: "
                        "transpose it"
                    )
                found[name] = [f"{name}_{number}" for number in range(shape[1])] if len(shape) == 2 else [name]
    except InputError:  # a ValueError too
        raise
    except ARCHIVE_ERRORS as error:
        raise InputError(f"{os.fspath(path)} is truncated or no npz file of plain arrays ({error})") from error
    return found
