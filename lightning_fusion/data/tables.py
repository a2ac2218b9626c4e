"""Delimited tables of numbers and labels, with the line of what cannot be read."""

import csv
import os
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from lightning_fusion.errors import InputError, shorten


def read_columns(
    path: str,
    numeric: Sequence[str],
    text: Sequence[str],
    columns: Sequence[str] | None = None,
    delimiter: str = ",",
    missing: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and texts of a delimited file.

    Args:
        path: The file; with a line of names where ``columns`` is None.
        numeric: Names of the columns that hold numbers.
        text: Names of those that hold text.
        columns: Names of all columns.
        delimiter: Between them; a blank stands for any white space.
        missing: What stands in a number's place where it is missing; that, and an empty cell, is read as NaN. None:
            every number must be there.

    Returns:
        (N, len(numeric)) float64 and (N, len(text)) texts.

    Raises:
        InputError: If a column is missing, or a row does not fit.
    """
    between = None if delimiter == " " else delimiter
    header = columns is None
    names = read_header(path, delimiter) if columns is None else list(columns)
    _check_columns(path, names, [*numeric, *text], "columns", header)
    if missing is None:
        source: Any = path
    else:
        edge = re.escape(delimiter)  # a line that is blank as a whole has none, and stays as it is
        pattern = rf"(?m)(?:^(?=[^\n]*{edge})|(?<={edge})) *(?:{re.escape(missing)})? *(?={edge}|\r?$)"
        source = StringIO(re.sub(pattern, "nan", Path(path).read_text(encoding="utf-8-sig")))
    fields: list[tuple] = [("numbers", np.float64, (len(numeric),))] if numeric else []
    fields += [("texts", "U64", (len(text),))] if text else []
    if os.path.getsize(path) == 0 or (header and _lines(path) < 2):
        return np.empty((0, len(numeric))), np.empty((0, len(text)), str)
    try:
        table = np.loadtxt(
            source,
            dtype=fields,
            delimiter=between,
            skiprows=int(header),
            usecols=[names.index(name) for name in (*numeric, *text)],
            quotechar='"',
            comments=None,
            ndmin=1,
            encoding="utf-8",
        )
    except (ValueError, UnicodeError) as error:
        raise _bad_row(path, names, numeric, text, between, header, missing, error) from error
    if header:
        _refuse_long_rows(path, names, delimiter)
    texts = np.char.strip(table["texts"]) if text else np.empty((len(table), 0), str)
    return (table["numbers"] if numeric else np.empty((len(table), 0))), texts


def _refuse_long_rows(path: str, names: list[str], delimiter: str) -> None:
    """Rows with more values than names: which value is whose is not known (decimal commas, an index without a name)."""
    if delimiter == " ":
        return
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.count(delimiter) >= len(names):
                row = next(csv.reader([line.rstrip("\n")], delimiter=delimiter))
                if any(value.strip() for value in row[len(names) :]):
                    raise InputError(
                        f"{path}, row {number}: found {len(row)} columns, expected {len(names)} ({shorten(names, 9)}): "
                        "name all columns in the first line, or change delimiter (commas in numbers?)"
                    )


def read_header(path: str, delimiter: str = ",") -> list[str]:
    """The names in the first line of a delimited file."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline().strip("\r\n")
    names = line.split() if delimiter == " " else next(csv.reader([line], delimiter=delimiter), [])
    return [name.strip() for name in names]


def _lines(path: str) -> int:
    """Whether a file has none, one or more lines that are not blank, as 0, 1 or 2."""
    count = 0
    with open(path, "rb") as file:
        for line in file:
            count += bool(line.strip())
            if count == 2:
                break
    return count


def _check_columns(path: str, found: Sequence[str], wanted: Sequence[str], what: str, header: bool = True) -> None:
    if missing := [name for name in wanted if name not in found]:
        if what == "columns" and header and found and all(_is_number(name) for name in found):
            raise InputError(
                f"{path} has no {shorten(missing)}; its columns are {shorten(found, 6)}. Where its first line holds "
                "samples, not names, set header: false (columns are 0, 1, 2, ... then), or columns to their names"
            )
        raise InputError(
            f"{path} has no {shorten(missing)}; its {what} are {shorten(found, 12)}: name those to read with channels, "
            "label and timestamp, or remove the file"
        )
    if doubled := [name for name in wanted if list(found).count(name) > 1]:
        raise InputError(f"{path} has more than one {doubled[0]} among its {what}; rename one")


def _bad_row(
    path: str,
    names: list[str],
    numeric: Sequence[str],
    text: Sequence[str],
    delimiter: str | None,
    header: bool,
    missing: str | None,
    error: Exception,
) -> InputError:
    """What is wrong with which row: NumPy counts rows in two ways, and passes over blank ones."""
    last = max(names.index(name) for name in (*numeric, *text))
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = (line.split() for line in file) if delimiter is None else csv.reader(file, delimiter=delimiter)
        for number, row in enumerate(rows, 1):
            if not row or (header and number == 1):
                continue
            if len(row) <= last:
                return InputError(
                    f"{path}, row {number}: found {len(row)} columns, expected {len(names)} ({shorten(names, 9)}); the "
                    "file may be truncated: repair or remove the row"
                )
            for name in numeric:
                value = row[names.index(name)].strip()
                if not _is_number(value) and value != missing:
                    return InputError(
                        f"{path}, row {number}: {name} is {value!r}; expected a number: repair the row, or remove it"
                    )
    return InputError(f"{path} cannot be read ({error}); repair or remove it")


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
