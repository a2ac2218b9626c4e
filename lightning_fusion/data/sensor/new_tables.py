"""Tables of features without labels, for prediction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.rows import NewRows, Origins, Rows
from lightning_fusion.errors import InputError, shorten


@dataclass
class NewTables:
    """Rows of new tables; a table that cannot be read has one row without values.

    Attributes:
        names: Names of the tables.
        channels: Names of the F features; empty if no table can be read.
        values: (N, F) float32, NaN for missing values.
        file: (N,) int64, index of the table of each row.
        position: (N,) int64, line (or number) of each row in its table.
        unit: ``line``, or ``row`` if lines and rows differ.
        notes: N reasons why rows cannot be read; empty for others.
    """

    names: list[str]
    channels: list[str]
    values: Tensor
    file: np.ndarray
    position: np.ndarray
    unit: str
    notes: list[str]

    def samples(self, fill: Tensor, inputs: Rows) -> NewRows:
        """Return the samples; a row with an infinite value, or a missing one without a replacement, has none.

        Args:
            fill: (F,) replacements of missing values; NaN where they are unknown.
            inputs: Rows in which missing values are replaced.
        """
        sound = torch.where(self.values.isnan(), fill, self.values).isfinite()
        notes = list(self.notes)
        for row in (~sound.all(1)).nonzero().flatten().tolist():
            if not notes[row]:
                place = int((~sound[row]).nonzero()[0])
                what = "has no value" if self.values[row, place].isnan() else "is infinite"
                notes[row] = f"{self.channels[place]} {what}"
        origins = Origins(self.names, self.file, self.position, self.unit)
        return NewRows(inputs, origins, notes, np.array([not note for note in notes]))


def read_new_tables(
    names: Sequence[str],
    paths: Sequence[Path],
    read: Callable[[str], tuple[list[str], np.ndarray, np.ndarray, str]],
    messages: MessageLog,
) -> NewTables:
    """Read tables for prediction; one that cannot be read is named in a warning.

    Args:
        names: Names of the tables.
        paths: Paths of the tables.
        read: Returns features, (n, F) values, (n,) positions and their unit of a table.
        messages: Log of unreadable tables.
    """
    channels: list[str] = []
    values: list[np.ndarray | None] = []
    positions: list[np.ndarray] = []
    units, problems = set(), []
    for path in paths:
        try:
            own, part, position, unit = read(str(path))
            if channels and own != channels:
                raise InputError(f"{path} has the features {shorten(own, 9)}; others have {shorten(channels, 9)}")
            channels = own
            units.add(unit)
            values.append(part)
            positions.append(position)
            problems.append("")
        except InputError as error:
            values.append(None)
            positions.append(np.array([1]))
            problems.append(str(error))
    if channels and any(problems):
        lost = [problem for problem in problems if problem]
        messages.warn(f"{len(lost)} of {len(names)} tables cannot be read and have no prediction: {shorten(lost, 3)}")
    counts = [1 if part is None else len(part) for part in values]
    parts = [np.full((1, len(channels)), np.nan) if part is None else part for part in values]
    return NewTables(
        list(names),
        channels,
        torch.from_numpy(np.concatenate(parts).astype(np.float32)),
        np.repeat(np.arange(len(counts)), counts),
        np.concatenate(positions),
        "line" if units <= {"line"} else "row",
        [problem for problem, count in zip(problems, counts, strict=True) for _ in range(count)],
    )
