"""Readers of delimited files and of JSON that report the line of each row.

They use Python's ``csv`` and ``json``: pandas, pyarrow and ``datasets`` skip, pad or merge invalid rows, or report no
line. Here every error names file and line, and values are not converted.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.data.tables import check_once, likely_delimiter, may_be_rows
from lightning_fusion.data.text.texts import read_text
from lightning_fusion.errors import InputError, shorten

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
Rows = Iterator[tuple[int, Mapping[str, Any]]]
"""Line and values of each row."""


def read_table(path: Path, needed: Sequence[str], encoding: str = "utf-8", **delimited: Any) -> Rows:
    """Read rows with :func:`read_json` or :func:`read_delimited`, by the suffix of the file."""
    if path.suffix.lower() in JSON_SUFFIXES:
        return read_json(path, needed, encoding)
    return read_delimited(path, needed, encoding, **delimited)


def read_delimited(
    path: Path,
    needed: Sequence[str],
    encoding: str = "utf-8",
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
    quoting: str | None = None,
    tell: Callable[[str], object] = rank_zero_warn,
) -> Rows:
    """Read rows of a CSV or TSV file; empty lines are skipped.

    Args:
        path: Path of the file.
        needed: Required columns.
        encoding: Encoding of the file.
        delimiter: Column delimiter. ``None`` selects it by the suffix, a comma for unknown suffixes.
        columns: Names of the columns of a file without a header.
        quoting: ``csv``, or ``none`` if quotes are part of the texts. ``None`` selects ``none`` for tabs.
        tell: Function that warns about cells that quotes may have merged or that keep their quotes, and about content
            that another encoding explains better.

    Raises:
        InputError: If columns are missing or repeated, or a row is invalid; the message names file and line.
    """
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the library's 128 kB
    delimiter = delimiter or DELIMITERS.get(path.suffix.lower(), ",")
    literal = (quoting or ("none" if delimiter == "\t" else "csv")) == "none"
    how: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if literal else {"strict": True}
    reader = csv.reader(io.StringIO(read_text(path, encoding, tell), newline=""), delimiter=delimiter, **how)
    line, quoted, merged = 0, 0, []
    try:
        names = list(columns) if columns else next(reader, [])
        hint = "" if columns else "; set text, label, pair, domain_fields or split_field, or columns"
        if found := likely_delimiter(names):
            hint += f"; the delimiter may be {found!r}"
        check_columns(names, needed, str(path), hint)
        line = reader.line_num
        for values in reader:
            first, line = line + 1, reader.line_num
            if not values:
                continue
            if len(values) != len(names):
                raise InputError(
                    f"{path}, line {first}: found {len(values)} values, expected {len(names)} ({shorten(names)}); "
                    + _remedy(literal, delimiter)
                )
            if values == names and not columns:
                raise InputError(
                    f"{path}, line {first}: found the names of the columns again, as where files are joined; remove "
                    "this row"
                )
            if literal:
                quoted += sum(map(_is_enclosed, values))
            elif line > first and any(may_be_rows(value, delimiter, len(names)) for value in values):
                merged.append(f"{first} to {line}")
            yield first, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line + 1}: {error}; correct the quotes of this row, or set quoting: none if quotes are "
            "part of the texts"
        ) from error
    if merged:
        tell(
            f"{path}: {len(merged)} cell(s) span several lines that look like rows: lines {shorten(merged, 3)}; if "
            "stray quotes merged these rows, set quoting: none"
        )
    if quoted:
        tell(
            f"{path}: {quoted} cell(s) begin and end with quotes, which are kept; set quoting: csv if they only "
            "enclose the texts"
        )


def _remedy(literal: bool, delimiter: str) -> str:
    """Return what to change for a row with a wrong number of values."""
    if literal:
        return f"set delimiter (now {delimiter!r}), or quoting: csv if quotes enclose texts with delimiters or lines"
    return f"quote texts that contain {delimiter!r}, or set delimiter"


def _is_enclosed(cell: str) -> bool:
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', "")


def read_json(
    path: Path,
    needed: Sequence[str],
    encoding: str = "utf-8",
    tell: Callable[[str], object] = rank_zero_warn,
    optional: str | None = None,
) -> Rows:
    """Read rows of JSON lines, an object per line, or of one JSON array of objects.

    Args:
        path: Path of the file.
        needed: Required keys of every object.
        encoding: Encoding of the file.
        tell: Function that warns about content that another encoding explains better.
        optional: One of them that some objects may lack, but not all.

    Raises:
        InputError: If keys are missing or repeated, or a row is no object; the message names file and line.
    """
    content = read_text(path, encoding, tell)
    escaped = _SURROGATE.search(content) is not None
    required, lacking = [name for name in needed if name != optional], optional is not None
    line = 1
    for line, pairs in _json_values(content, path):
        if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
            raise InputError(f"{path}, line {line}: found no JSON object; expected one per row")
        hint = "; set text, label, pair, domain_fields or split_field"
        names = [name for name, _ in pairs]
        check_columns(names, required, f"{path}, line {line},", hint)
        lacking &= optional not in names
        if escaped and (broken := [name for name, value in pairs if isinstance(value, str) and not _is_whole(value)]):
            raise InputError(
                f"{path}, line {line}: {shorten(broken)} has half of a surrogate pair (an escape such as \\ud83d), "
                "which is no character; repair this line"
            )
        yield line, dict(pairs)
    if lacking:
        check_columns(names, needed, f"{path}, line {line},", hint)


def _is_whole(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which no encoding can write."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _json_values(content: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Yield line and value of each JSON value, or of the elements of one array; objects as lists of pairs."""
    decoder = json.JSONDecoder(object_pairs_hook=list)
    array = content.lstrip().startswith("[")
    between = re.compile(r"[\s,]*" if array else r"\s*")
    place = between.match(content, content.index("[") + 1 if array else 0).end()  # type: ignore[union-attr]
    line, seen = 1, 0
    while place < len(content) and not (array and content[place] == "]"):
        line, seen = line + content.count("\n", seen, place), place
        try:
            pairs, place = decoder.raw_decode(content, place)
        except RecursionError as error:
            raise InputError(
                f"{path}, line {line}: the value is nested too deeply; expected an object of texts"
            ) from error
        except ValueError as error:
            reason = str(error).partition(": line")[0]  # counts from where it began
            raise InputError(
                f"{path}, line {line}: {reason}; expected JSON objects, one per line or in an array"
            ) from error
        yield line, pairs
        place = between.match(content, place).end()  # type: ignore[union-attr]
    if array and content[place:].strip() != "]":
        raise InputError(f"{path}, line {line}: the array does not end here; expected ']' as the last character")


def check_columns(names: Sequence[str], needed: Sequence[str], place: str, hint: str = "") -> None:
    """Check that all required columns exist, each once.

    Args:
        names: Names of the columns.
        needed: Required columns.
        place: File and line, for the message.
        hint: What to change, for the message.

    Raises:
        InputError: If one is missing or repeated.
    """
    check_once(place, names)
    known = set(names)
    if missing := [name for name in needed if name not in known]:
        raise InputError(f"{place} has no column {shorten(missing)}; its columns are {shorten(names, 9)}{hint}")
