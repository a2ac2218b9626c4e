"""Recorded predictions in a CSV file as experts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_fusion.data.names import as_labels, canonical_label
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import UnusableInputError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.formats import check_format
from lightning_fusion.files import hash_files

if TYPE_CHECKING:
    from pandas import DataFrame

_POSITIONS = ("line", "row", "start_s")
_OTHERS = {
    *("index", "loader", "prediction", "confidence", "note"),
    *("expert", "queried", "cost", "risk", "abstained", "ood"),
    *("label", "domain", "group", "split"),
}
_TEXTS = {"file", "label", "domain", "group", "split"}
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
        table = read_recorded(path)
        columns = list(table.columns)
        keys = [name for name in ("file", *_POSITIONS) if name in columns]
        self.unit = next((name for name in _POSITIONS if name in columns), "")
        if not keys:
            raise InputError(
                f"path: {path} has the columns {shorten(columns)}; expected file, the name of each sample's file, or "
                f"one of {', '.join(_POSITIONS)}, and a column per class"
            )
        listed = (
            as_labels(classes, "classes") if classes else [name for name in columns if name not in (*keys, *_OTHERS)]
        )
        if lacking := [name for name in listed if name not in columns]:
            raise InputError(f"classes: {path} has no column {shorten(lacking)}, only {shorten(columns, 20)}")
        self.path, self.classes = path, listed
        try:
            self.values = table[listed].to_numpy(np.float64)
        except ValueError as error:
            raise InputError(
                f"classes: {path} has values that are no numbers ({error}) in {shorten(listed)}"
            ) from error
        absent = np.isnan(self.values)
        if short := (np.flatnonzero(absent.any(1) & ~absent.all(1)) + 2).tolist():
            raise InputError(
                f"path: {path} lacks some of the {len(listed)} values in row(s) {shorten(short)}; expected one "
                "for each class, or none for a missing answer: the file may be truncated"
            )
        files = table["file"].fillna("").tolist() if "file" in columns else [""] * len(table)
        places = positions(table, self.unit, path) if self.unit else [""] * len(table)
        self.rows: dict[tuple[str, Any], list[tuple[list[str], int]]] = defaultdict(list)
        for row, (file, place) in enumerate(zip(files, places, strict=True)):
            parts = _parts(file)
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


def read_recorded(path: str, key: str = "path") -> "DataFrame":
    """Read a CSV file with names of samples; an empty cell is missing, and no other text is.

    Args:
        path: Path of the file.
        key: Argument that holds it, for messages.

    Returns:
        The table, whose columns have their names in canonical form; ``file``, ``label``, ``domain``, ``group`` and
        ``split`` are texts.

    Raises:
        InputError: If it cannot be read, or its first line does not name each column once.
    """
    import pandas  # takes half a second, so it is imported only where tables are read

    check_format(path, ("a table",))
    how: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
    try:
        written = pandas.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0].tolist()
        names = [canonical_label(name) for name in written]
        _check_names(f"{key}: {path}", names)
        texts = dict.fromkeys(set(names) & _TEXTS, str)
        table = pandas.read_csv(path, header=None, names=names, skiprows=1, dtype=texts, **how)
    except InputError:
        raise
    except (ValueError, OSError) as error:  # pandas' own errors are kinds of ValueError
        what = " ".join(str(error).split())[:200]
        raise InputError(f"{key}: {path} cannot be read as CSV ({what})") from error
    if not isinstance(table.index, pandas.RangeIndex):  # pandas takes surplus values for names of rows
        raise InputError(f"{key}: {path} has more values in its rows than names in its first line; name every column")
    return table


def _check_names(where: str, names: Sequence[str]) -> None:
    """Check that the first line of a table names each column once."""
    if len(names) == 1 and (other := next((sign for sign in ";\t|" if sign in names[0]), None)):
        raise InputError(f"{where} separates its columns by {other!r}; expected commas")
    if "" in names:
        raise InputError(
            f"{where} has no name for column {names.index('') + 1}; name it, or leave it out (index=False of pandas)"
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{where} has several columns {shorten(twice)}; rename or remove all but one")


def positions(table: "DataFrame", unit: str, path: str) -> list[float]:
    """Return the lines, rows or starts of samples.

    Args:
        table: Table with samples.
        unit: Name of the column.
        path: Path of its file, for the message.

    Raises:
        InputError: If one is no number.
    """
    import pandas

    found = pandas.to_numeric(table[unit], errors="coerce").to_numpy(np.float64)
    if wrong := (np.flatnonzero(~np.isfinite(found)) + 2).tolist():
        raise InputError(
            f"path: {path} has a {unit} that is no number in row(s) {shorten(wrong)}; repair or remove them"
        )
    result: list[float] = found.tolist()
    return result


def _parts(file: str) -> list[str]:
    """Return the parts of a path, the last one first."""
    return [part for part in reversed(file.replace("\\", "/").split("/")) if part not in ("", ".")] or [""]


def _place(value: Any) -> Any:
    """Return a line, row or start in a form that is compared."""
    return "" if value == "" or value != value else round(float(value), 3)
