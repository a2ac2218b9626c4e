"""What one file may hold beside one recording of one sensor: several body positions, several bouts, grouped arrays."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from zipfile import BadZipFile

import numpy as np

from lightning_fusion.data.sensor.series import Recorded, Series
from lightning_fusion.data.tables import read_header
from lightning_fusion.errors import InputError, shorten

POSITION = "position"
"""The field that says which of a file's positions samples are from."""


def check_positions(positions: Mapping[str, Sequence[str]]) -> None:
    """Refuse positions that cannot be read by one network.

    Raises:
        InputError: If positions have different numbers of channels, or none.
    """
    counts = {name: len(columns) for name, columns in positions.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        found = shorten((f"{name} {count}" for name, count in counts.items()), 9)
        raise InputError(
            f"channels has positions of different numbers of channels ({found}); expected as many of each, in the same "
            "order, because one network reads them all"
        )


def split_positions(
    one: Recorded, channels: Sequence[str], positions: Mapping[str, Sequence[str]]
) -> Iterator[Recorded]:
    """One recording for each position, with its own channels.

    Args:
        one: A recording of all channels.
        channels: Their names.
        positions: Names of each position's channels.

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

    Samples stay where they are. Our choice.

    Args:
        series: Whole recordings.
        length: Samples of a part, at least.

    Returns:
        The pieces as recordings, and (P,) which recording each is from.

    Example:
        >>> from lightning_fusion.data.sensor.series import load_series
        >>> labels = np.array(["sit"] * 5 + ["walk"] * 2)
        >>> pieces, recording = cut_pieces(load_series([Recorded(np.zeros((7, 1), np.float32), labels)]), length=2)
        >>> pieces.lengths.tolist(), recording.tolist()
        ([2, 3, 2], [0, 0, 0])
    """
    changes = np.flatnonzero(np.diff(series.labels)) + 1
    begins = np.union1d(series.begins, changes)
    lengths = np.diff(begins, append=len(series.labels))
    parts = np.maximum(lengths // length, 1)
    place = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begins = np.repeat(begins, parts) + place * np.repeat(lengths, parts) // np.repeat(parts, parts)
    recording = np.searchsorted(series.begins, begins, side="right") - 1
    lengths = np.diff(begins, append=len(series.labels))
    return replace(series, begins=begins, lengths=lengths, rms=series.rms[recording]), recording


def numbered_columns(path: str, delimiter: str) -> list[str]:
    """Numbers as names of the columns of a file without a line of names: 0, 1, 2..."""
    if path.lower().endswith(".npy"):
        try:
            return [str(number) for number in range(np.load(path, mmap_mode="r").shape[-1])]
        except (ValueError, EOFError) as error:
            raise InputError(f"{path} is truncated, or no npy file of numbers ({error}); remove it") from error
    return [str(number) for number in range(len(read_header(path, delimiter)))]


def array_columns(path: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Names of single columns for the (T, columns) arrays of an npz file: ``acc`` becomes ``acc_0``, ``acc_1``...

    Returns:
        The columns of each name that is an array of several.

    Raises:
        InputError: If an array lies on its side.
    """
    found = {}
    try:
        with np.load(path) as arrays:
            for name in names:
                shape: tuple[int, ...] = arrays[name].shape if name in arrays.files else ()
                if len(shape) == 2 and shape[0] < shape[1]:
                    raise InputError(
                        f"{path}: the array {name} has shape {shape}; expected (T, columns), a row for each moment: "
                        "transpose it"
                    )
                if len(shape) == 2:
                    found[name] = [f"{name}_{number}" for number in range(shape[1])]
    except InputError:  # a ValueError too
        raise
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise InputError(f"{os.fspath(path)} is truncated, or no npz file of plain arrays ({error})") from error
    return found
