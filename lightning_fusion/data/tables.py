"""Delimited tables of numbers and labels, with errors that name the row."""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np

from lightning_fusion.errors import InputError, shorten


class MissingColumnsError(InputError):
    """Error about a file that can be read, but lacks columns.

    Args:
        message: Text of the error.
        missing: Names of the columns, or arrays, that the file lacks.
    """

    def __init__(self, message: str, missing: Sequence[str]) -> None:
        super().__init__(message)
        self.missing = list(missing)


def read_columns(
    path: str,
    numeric: Sequence[str],
    text: Sequence[str],
    columns: Sequence[str] | None = None,
    delimiter: str = ",",
    missing: str | None = None,
    encoding: str = "utf-8",
) -> tuple[np.ndarray, np.ndarray]:
    """Read numeric and text columns of a delimited file.

    pandas reads the file. Where it finds a cell that is not a number, a missing value or a short row, the file is read
    again row by row: either an error names the row, or the content is valid all the same.

    Args:
        path: Path of the file; its first line contains the column names if ``columns`` is ``None``.
        numeric: Names of the numeric columns.
        text: Names of the text columns.
        columns: Names of all columns.
        delimiter: One character; a blank matches any whitespace.
        missing: Marker of a missing number; the marker and empty cells are read as NaN. ``None`` means every number is
            required.
        encoding: Encoding of the file.

    Returns:
        (N, len(numeric)) float64 and (N, len(text)) texts, as objects, without surrounding whitespace.

    Raises:
        InputError: If a column is missing, or a row does not match the columns.
    """
    check_delimiter(delimiter)
    header = columns is None
    names = read_header(path, delimiter, encoding) if columns is None else list(columns)
    check_columns(path, names, [*numeric, *text], "columns", header)
    content = _read_utf8(path, encoding)
    if header:
        _reject_long_rows(path, content, names, delimiter)
    numbered = {name: place for place, name in enumerate(names)}
    places = [numbered[name] for name in (*numeric, *text)]
    found = _read_fast(content, places, len(numeric), len(names), delimiter, header, missing)
    if found and len(found[0]) < sum(1 for line in BytesIO(content) if line.strip()) - header:
        found = None  # a cell spans several lines
    return found or _read_rows(path, content, names, places, len(numeric), delimiter, header, missing)


def _read_fast(
    content: bytes, places: list[int], numbers: int, width: int, delimiter: str, header: bool, missing: str | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the columns with pandas; ``None`` if the rows must be read one by one."""
    import pandas  # takes half a second, so it is imported only where tables are read

    numeric, text = places[:numbers], places[numbers:]
    older = tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1)  # from 3.1 on decimals are always exact
    exact: dict[str, Any] = {"float_precision": "round_trip"} if older else {}
    try:
        frame = pandas.read_csv(
            BytesIO(content),
            sep=r"\s+" if delimiter == " " else delimiter,
            header=None,
            names=list(range(width)),
            index_col=False,
            usecols=places,
            dtype=dict.fromkeys(text, object),
            skiprows=int(header),
            keep_default_na=False,
            na_values={} if missing is None else {place: ["", missing] for place in numeric},
            low_memory=False,  # one type for all of a column
            encoding="utf-8",
            **exact,
        )
    except ValueError:  # of which pandas' own errors are kinds
        return None
    if any(kind.kind not in "iuf" for kind in frame[numeric].dtypes):  # no numbers, or truth values
        return None
    values = frame[numeric].to_numpy(np.float64)
    last = frame[max(places)].isin([np.nan, ""])  # a row that ends early lacks it
    if last.any() or (missing is None and np.isnan(values).any()):
        return None
    texts = np.empty((len(frame), len(text)), object)
    for column, place in enumerate(text):
        texts[:, column] = [value.strip() for value in frame[place]]
    return values, texts


def _read_rows(
    path: str,
    content: bytes,
    names: list[str],
    places: list[int],
    numbers: int,
    delimiter: str,
    header: bool,
    missing: str | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read the columns row by row; errors name the row."""
    values, texts = [], []
    try:
        for number, row in enumerate(_split(content.decode("utf-8-sig"), delimiter), 1):
            if (header and number == 1) or not any(row):
                continue
            if any(may_be_rows(cell, delimiter, len(names)) for cell in row):
                raise InputError(
                    f"{path}, row {number}: a cell spans several lines that look like rows; remove or close the quote "
                    "that opens it"
                )
            if len(row) <= max(places):
                raise InputError(
                    f"{path}, row {number}: found {len(row)} columns, expected {len(names)} ({shorten(names, 9)}); the "
                    "file may be truncated: repair or remove the row"
                )
            cells = [row[place] for place in places]
            for place, cell in enumerate(cells[:numbers]):
                if missing is not None and cell in ("", missing):
                    cells[place] = "nan"
                elif not _is_number(cell):
                    raise InputError(
                        f"{path}, row {number}: {names[places[place]]} is {cell!r}; expected a number: {_remedy(cell)}"
                    )
            values.append([float(cell) for cell in cells[:numbers]])
            texts.append(cells[numbers:])
    except (UnicodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); repair or remove it") from error
    shape = len(values), len(places) - numbers
    return np.array(values, np.float64).reshape(len(values), numbers), np.array(texts, object).reshape(shape)


def may_be_rows(cell: str, delimiter: str, columns: int) -> bool:
    r"""Return whether a cell of several lines has the delimiters of as many rows, which a stray quote may have merged.

    Args:
        cell: Content of the cell.
        delimiter: Column delimiter.
        columns: Number of columns of the table.

    Example:
        >>> may_be_rows("5 in,good\nfine,good", ",", 2), may_be_rows("one line\nand another", ",", 2)
        (True, False)
    """
    breaks = len(cell.splitlines()) - 1
    return breaks > 0 and cell.count(delimiter) >= breaks * max(columns - 1, 1)


def _split(content: str, delimiter: str) -> Iterable[list[str]]:
    """Yield the cells of each line, without surrounding whitespace; blank lines have none."""
    lines = StringIO(content, newline="")
    if delimiter == " ":
        return (line.split() for line in lines)
    return ([cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter))


def _reject_long_rows(path: str, content: bytes, names: list[str], delimiter: str) -> None:
    """Raise InputError for rows with more values than column names (decimal commas, an index without a name)."""
    between = None if delimiter == " " else delimiter.encode()
    for number, line in enumerate(BytesIO(content), 1):
        if (line.count(between) if between else len(line.split()) - 1) >= len(names):
            row = next(iter(_split(line.decode("utf-8", "replace"), delimiter)), [])
            if any(row[len(names) :]):
                raise InputError(
                    f"{path}, row {number}: found {len(row)} columns, expected {len(names)} ({shorten(names, 9)}): "
                    "name all columns in the first line, or change delimiter (commas in numbers?)"
                )


def _read_utf8(path: str, encoding: str) -> bytes:
    """Return the content of a file in UTF-8, without a byte order mark."""
    content = Path(path).read_bytes()
    try:
        if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
            content = content.decode(encoding).encode()
    except LookupError as error:
        raise InputError(f"encoding is {encoding!r}; expected one that Python has, such as utf-8") from error
    except UnicodeError as error:
        raise InputError(f"{path} is not {encoding} ({error}); set encoding") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path} is UTF-16; set encoding: utf-16, or convert it to UTF-8")
    return content.removeprefix(codecs.BOM_UTF8)


def read_header(path: str, delimiter: str = ",", encoding: str = "utf-8") -> list[str]:
    """Read the names in the first line of a delimited file."""
    content = StringIO(_read_utf8(path, encoding).decode("utf-8", "replace"), newline="")
    return next(iter(_split(content.readline(), delimiter)), [])


def check_delimiter(delimiter: str) -> None:
    """Check that a delimiter is one character.

    Raises:
        InputError: Otherwise.
    """
    if len(delimiter) != 1:
        raise InputError(f"delimiter is {delimiter!r}; expected one character, such as ';', or a blank for whitespace")


def check_columns(path: str, found: Sequence[str], wanted: Sequence[str], what: str, header: bool = True) -> None:
    """Check that a file has the required columns, once each.

    Args:
        path: Path of the file.
        found: Names of the columns of the file.
        wanted: Names of the columns to read.
        what: ``columns`` or ``arrays``, for messages.
        header: Whether the first line of the file contains the names.

    Raises:
        InputError: Otherwise.
    """
    known = set(found)
    if missing := [name for name in wanted if name not in known]:
        if what == "columns" and header:
            check_header(path, found, wanted)
        if what == "columns" and header and found and all(_is_number(name) for name in found):
            raise InputError(
                f"{path} has no {shorten(missing)}; its columns are {shorten(found, 6)}. If its first line contains "
                "samples, not names, set columns: numbered (0, 1, 2, ...), or columns to the list of names"
            )
        raise MissingColumnsError(
            f"{path} has no {shorten(missing)}; its {what} are {shorten(found, 12)}: name those to read with channels, "
            "label and timestamp, or remove the file",
            missing,
        )
    check_once(path, found, wanted, what)


def check_once(where: str, found: Sequence[str], wanted: Sequence[str] | None = None, what: str = "columns") -> None:
    """Check that names are not repeated.

    Args:
        where: File, or file and line, for the message.
        found: Names of the columns.
        wanted: Names that matter. ``None`` (default) means all.
        what: What they are, for the message.

    Raises:
        InputError: If one is repeated.
    """
    counts = Counter(found)
    if doubled := [name for name in (counts if wanted is None else wanted) if counts[name] > 1]:
        raise InputError(f"{where} has more than one {shorten(doubled)} among its {what}; rename or remove all but one")


def likely_delimiter(names: Sequence[str]) -> str | None:
    """Return the delimiter that a header of one name seems to have.

    Args:
        names: Names in the first line.

    Example:
        >>> likely_delimiter(["file;cat;dog"]), likely_delimiter(["file", "cat;dog"])
        (';', None)
    """
    return next((sign for sign in ";\t|" if len(names) == 1 and sign in names[0]), None)


def check_header(path: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that the first line of a file is not empty, and does not separate its names by another delimiter.

    Args:
        path: Path of the file.
        found: Names in its first line.
        wanted: Names of the columns to read.

    Raises:
        InputError: Otherwise.
    """
    if not any(found):
        raise InputError(f"{path} is empty: expected column names in its first line; remove it")
    other = _other_delimiter(found, wanted)
    if other is not None and not set(wanted) <= set(found):
        raise InputError(f'{path} separates its columns by {other!r}; set delimiter: "{ascii(other)[1:-1]}"')


def _other_delimiter(found: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return a delimiter that splits a header into all wanted names; ``None`` if there is none."""
    for other in (";", "\t", "|", ",", " "):
        cells = [cell for name in found for cell in (name.split() if other == " " else name.split(other))]
        if {cell.strip(" \t\"'") for cell in cells} >= set(wanted):
            return other
    return None


def _remedy(cell: str) -> str:
    """Return how to repair a cell that is no number."""
    if re.fullmatch(r"[+-]?\d*,\d+([eE][+-]?\d+)?", cell):
        return "decimal commas are not read: write decimal points, as in " + cell.replace(",", ".")
    return "repair the row, or remove it"


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return "_" not in value  # Python's own digit groups
