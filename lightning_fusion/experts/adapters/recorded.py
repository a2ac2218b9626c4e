"""Recorded predictions in a CSV file as experts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_fusion.data.names import as_labels, canonical_label
from lightning_fusion.data.tables import check_once, likely_delimiter, read_columns, read_header
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import UnusableInputError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.formats import check_format
from lightning_fusion.files import hash_files

_POSITIONS = ("line", "row", "start_s")
_OTHERS = {
    *("index", "loader", "prediction", "confidence", "note"),
    *("expert", "queried", "cost", "risk", "abstained", "ood"),
    *("label", "domain", "group", "split"),
}
_ABSENT = 3  # names of samples without a prediction that a warning lists


class RecordedExpert(Expert):
    """Predictions of a model or service that were recorded earlier, found by the name of each sample's file.

    The CSV file has the column ``file``, and ``line``, ``row`` or ``start_s`` where a file has several samples, as
    ``predict`` writes them, and a column of probabilities per class. Names may be shorter than those of the data module
    (``cat/1.png`` for ``images/test/cat/1.png``), or longer. A sample without a row has no answer.

    Args:
        path: Path of the file.
        classes: Names of the classes, which are columns. ``None`` (default) uses all columns other than those that
            ``predict`` writes beside them, and ``label``, ``domain``, ``group`` and ``split``.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.

    Raises:
        InputError: If the file cannot be read, or lacks a column.
    """

    answers_by_name = True

    def __init__(self, path: str, classes: list[str] | None = None, **shared: Any) -> None:
        table = RecordedTable(path, classes)
        shared["version"] = shared.get("version") or hash_files([Path(path)])
        super().__init__(
            network=table, checkpoint=None, classes=table.classes, output="probabilities", features=None, **shared
        )


class RecordedTable:
    """Probabilities by name of sample.

    Args:
        path: Path of the CSV file.
        classes: Columns of the classes. ``None`` uses all that are of classes.

    Attributes:
        classes: Names of the classes.
    """

    def __init__(self, path: str, classes: Sequence[Any] | None = None) -> None:
        file = RecordedFile(path)
        self.path, self.unit = path, file.unit
        listed = (
            as_labels(classes, "classes")
            if classes
            else [name for name in file.columns if name not in {"file", *_POSITIONS, *_OTHERS}]
        )
        if lacking := [name for name in listed if name not in file.columns]:
            raise InputError(f"classes: {path} has no column {shorten(lacking)}, only {shorten(file.columns, 20)}")
        names, self.values, _ = file.read(listed)
        self.classes = listed
        absent = np.isnan(self.values)
        if short := np.flatnonzero(absent.any(1) & ~absent.all(1)).tolist():
            samples = [" ".join(map(str, names[row])).strip() for row in short]
            raise InputError(
                f"path: {path} lacks some of the {len(listed)} values of {shorten(samples)}; expected one for each "
                "class, or none for a missing answer: the file may be truncated"
            )
        self.rows: dict[tuple[str, Any], list[tuple[list[str], int]]] = defaultdict(list)
        for row, (name, place) in enumerate(names):
            parts = _parts(name)
            self.rows[parts[0], _place(place)].append((parts, row))
        self._warned = False

    def __call__(self, samples: Any) -> Tensor:
        """Return (B, C) probabilities, NaN for a sample without a row."""
        if not isinstance(samples, list):
            raise UnusableInputError(
                f"path: {self.path} has predictions by the file of each sample, and the data give none; use a data "
                "module of this library that reads files, with collect, FoEFuserModule or FrugalFoEModule"
            )
        found = np.full((len(samples), len(self.classes)), np.nan)
        absent = []
        for number, (file, place) in enumerate(samples):
            row = self._row(file, place if self.unit else "")
            if row is None:
                absent.append(f"{file}{f', {place}' if place != '' else ''}")
            else:
                found[number] = self.values[row]
        if absent and not self._warned:
            self._warned = True
            rank_zero_warn(f"{self.path} has no prediction for {len(absent)} samples: {shorten(absent, _ABSENT)}")
        return torch.from_numpy(found)

    def _row(self, file: str, place: Any) -> int | None:
        """Return the row of a sample: the only one whose name is the end of its own, or has its own as an end."""
        parts = _parts(file)
        same = self.rows.get((parts[0], _place(place)), []) + self.rows.get(("", _place(place)), [])
        rows = [row for other, row in same if other == [""] or parts[: len(other)] == other[: len(parts)]]
        if len(rows) > 1:
            raise UnusableInputError(
                f"path: {self.path} has {len(rows)} rows for {file}; expected one: write more of the folders in file, "
                "or the line, row or start_s of each sample"
            )
        return rows[0] if rows else None


class RecordedFile:
    """A CSV file whose rows are named: ``file``, and ``line``, ``row`` or ``start_s`` where a file has several samples.

    Args:
        path: Path of the file.
        key: Argument that holds it, for messages.

    Attributes:
        columns: Names of the columns in canonical form.
        unit: Column of the positions in a file; empty without one.

    Raises:
        InputError: If it cannot be read, or its first line does not name each column once.
    """

    def __init__(self, path: str, key: str = "path") -> None:
        check_format(path, ("a table",), key)
        where = f"{key}: {path}"
        try:
            self._written = read_header(path)
        except OSError as error:
            raise InputError(f"{where} cannot be read ({error.strerror})") from error
        if other := likely_delimiter(self._written):
            raise InputError(f"{where} separates its columns by {other!r}; expected commas")
        self.path, self.columns = path, [canonical_label(name) for name in self._written]
        if "" in self.columns:
            number = self.columns.index("") + 1
            raise InputError(
                f"{where} has no name for column {number}; name it, or leave it out (index=False of pandas)"
            )
        check_once(where, self.columns)
        self.unit = next((name for name in _POSITIONS if name in self.columns), "")
        if "file" not in self.columns and not self.unit:
            raise InputError(
                f"{where} has the columns {shorten(self.columns)}; expected file, the name of each sample's file, or "
                f"one of {', '.join(_POSITIONS)}"
            )

    def read(
        self, numbers: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> tuple[list[tuple[str, Any]], np.ndarray, dict[str, list[str]]]:
        """Read some columns.

        Args:
            numbers: Names of columns of numbers.
            texts: Names of columns of texts; those that the file lacks are left out.

        Returns:
            The N samples, each by file and position, which are empty where they have no column; (N, len(numbers))
            values, NaN for empty cells; and texts by column.

        Raises:
            InputError: If a row does not match the columns, or a value is no number.
        """
        positions = [self.unit] if self.unit else []
        own = [name for name in ("file", *texts) if name in self.columns]
        as_written = dict(zip(self.columns, self._written, strict=True))
        numeric, text = ([as_written[name] for name in part] for part in ([*positions, *numbers], own))
        values, cells = read_columns(self.path, numeric, text, missing="")
        found = dict(zip(own, cells.T.tolist(), strict=True))
        files = found.pop("file", [""] * len(cells))
        if not self.unit:
            return [(file, "") for file in files], values, found
        if wrong := (np.flatnonzero(~np.isfinite(values[:, 0])) + 2).tolist():
            raise InputError(f"{self.path} has no {self.unit} in row(s) {shorten(wrong)}; fill them in, or remove them")
        return list(zip(files, values[:, 0].tolist(), strict=True)), values[:, 1:], found


def _parts(file: str) -> list[str]:
    """Return the parts of a path, the last one first."""
    return [part for part in reversed(file.replace("\\", "/").split("/")) if part not in ("", ".")] or [""]


def _place(value: Any) -> Any:
    """Return a line, row or start in a form that is compared."""
    return "" if value == "" or value != value else round(float(value), 3)
