"""Where texts come from: delimited files, JSON lines, data set directories, and the layouts of some public sets."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_fusion.errors import InputError, shorten

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("val", "valid", "validation", "dev"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}
"""What files and columns may call a split, and its number."""
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
_ARROW = (".arrow", ".parquet")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")  # of a file that was written in parts
_NO_NAME = re.compile(r"[./\\\x00-\x1f]")


@dataclass
class Texts:
    """Texts in a row, each with what is known of it.

    Attributes:
        texts: N of them.
        pairs: Second texts; None where there are none.
        labels: Names of the labels.
        domains: Names of the domains.
        splits: (N,) 0, 1, 2 for train, val, test; empty where splits are to be drawn.
        where: File (or other place) and line of each.
        out_of_scope: Which have a label that no class stands for.
    """

    texts: list[str] = field(default_factory=list)
    pairs: list[str] | None = None
    labels: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    splits: list[int] = field(default_factory=list)
    where: list[tuple[str, int]] = field(default_factory=list)
    out_of_scope: list[bool] = field(default_factory=list)
    _said: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def add(
        self,
        text: str,
        label: str,
        domain: str,
        where: tuple[str, int],
        split: int | None = None,
        pair: str | None = None,
        out: bool = False,
    ) -> None:
        """One more; blanks around names are typing."""
        self.texts.append(text)
        self.labels.append(label.strip())
        name = _NO_NAME.sub("_", domain.strip())  # it may name an expert, and the file of one
        if self._said.setdefault(name, domain.strip()) != domain.strip():
            raise InputError(
                f"{where[0]}, line {where[1]}: the domains {self._said[name]!r} and {domain.strip()!r} would both be "
                f"called {name}; rename one"
            )
        self.domains.append(name)
        self.where.append(where)
        self.out_of_scope.append(out)
        if split is not None:
            self.splits.append(split)
        if pair is not None:
            self.pairs = self.pairs if self.pairs is not None else []
            self.pairs.append(pair)

    def name(self, row: int) -> str:
        """Where a row stands, for messages."""
        file, line = self.where[row]
        return f"{file}, line {line}"

    def kept(self, keep: np.ndarray) -> "Texts":
        """Those of a (N,) bool mask."""
        rows = np.flatnonzero(keep).tolist()

        def pick(values: Any) -> Any:
            return [values[row] for row in rows] if values else values

        return Texts(*(pick(getattr(self, name)) for name in self.__dataclass_fields__ if name != "_said"))


@dataclass(frozen=True)
class Fields:
    """Which columns hold what.

    Attributes:
        text: Column of the text.
        label: Column of the label.
        pair: Column of a second text.
        domains: Columns whose values, joined by ``_``, name the domain.
        split: Column that names the split.
        columns: Names of the columns where a file does not name them.
        delimiter: Between columns; by the suffix where None.
        outside: Label of the texts that are of no class, and need no domain.
    """

    text: str = "text"
    label: str = "label"
    pair: str | None = None
    domains: tuple[str, ...] = ()
    split: str | None = None
    columns: tuple[str, ...] | None = None
    delimiter: str | None = None
    outside: str | None = None

    @property
    def needed(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys(filter(None, (self.text, self.pair, self.label, *self.domains, self.split))))


def normalise(text: str) -> str:
    """What makes two texts the same: letters without case, in Unicode's compatible form, and single blanks.

    Example:
        >>> normalise("  Great  book ") == normalise("great book")
        True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def decode(path: Path, encoding: str) -> str:
    """A whole text file.

    Raises:
        InputError: If there is none, it cannot be decoded (with the line), or no encoding has this name.
    """
    if not path.is_file():
        raise InputError(f"root: found no file {path}")
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: found byte 0x{content[error.start]:02x}, which is no {encoding}; set encoding "
            "(latin-1 or cp1252, say), or repair this line"
        ) from error
    except LookupError as error:
        raise InputError(f"encoding is {encoding!r}; expected one that Python knows, utf-8 or latin-1 say") from error


def files_of(source: str, root: str) -> list[Path]:
    """The files that a source reads, sorted.

    Raises:
        InputError: If there are none.
    """
    base = Path(root)
    if source == "files" and base.is_file():
        return [base]
    patterns = {
        "files": [f"*{suffix}" for suffix in (".csv", ".tsv", *JSON_SUFFIXES)],
        "huggingface": [f"**/*{suffix}" for suffix in (".csv", ".tsv", ".jsonl", *_ARROW, "dataset_info.json")],
        "reviews": ["*/positive.review", "*/negative.review"],
        "clinc150": ["data_full.json", "domains.json"],
        "tweeteval": ["**/*_text.txt", "**/*_labels.txt", "**/mapping.txt"],
        "ag_news": ["test.csv", "train.csv", "classes.txt"],
    }[source]
    found = sorted({path for pattern in patterns for path in base.glob(pattern) if path.is_file()})
    if not found:
        raise InputError(f"root: found none of {', '.join(patterns)} in {base}, which source {source} reads")
    return found


def from_files(files: Sequence[Path], fields: Fields, encoding: str) -> Texts:
    """Delimited files and JSON lines: one file, or one per split, called train.csv, val.csv and test.csv, say."""
    splits: list[int | None] = [None]
    if len(files) > 1:
        splits = [split_of(path) for path in files]
    texts = Texts()
    for path, split in zip(files, splits, strict=True):
        _add_rows(texts, rows_of(path, fields, encoding), path, fields, split)
    return texts


def split_of(path: Path) -> int:
    """The split that a file's name says: its first word.

    Raises:
        InputError: If it says none.
    """
    word = re.split(r"[-_.]", path.name.lower())[0]
    if word not in SPLIT_NAMES:
        raise InputError(
            f"root: {path} is called after no split; expected names that begin with {shorten(SPLIT_NAMES, 9)}, or one "
            "file as root"
        )
    return SPLIT_NAMES[word]


def rows_of(path: Path, fields: Fields, encoding: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line and values of each row of a file.

    Raises:
        InputError: If columns are missing or doubled, or a row does not fit.
    """
    content = decode(path, encoding)
    if path.suffix.lower() in JSON_SUFFIXES:
        return _json_rows(content, path, fields)
    return _csv_rows(content, path, fields)


def _csv_rows(content: str, path: Path, fields: Fields) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(2**31 - 1)  # a text may be longer than the library's 128 kB
    delimiter = fields.delimiter or DELIMITERS.get(path.suffix.lower(), ",")
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        names = list(fields.columns) if fields.columns else next(reader, [])
        _check_columns(names, fields, path)
        line = reader.line_num
        for values in reader:
            first, line = line + 1, reader.line_num
            if not values:
                continue
            if len(values) != len(names):
                raise InputError(
                    f"{path}, line {first}: found {len(values)} values, expected {len(names)} ({shorten(names)}); "
                    f"quote texts that hold {delimiter!r}, or set delimiter"
                )
            yield first, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; mend the quotes of this row") from error


def _check_columns(names: Sequence[str], fields: Fields, path: Path) -> None:
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} has {shorten(double)} twice among its columns; rename one")
    if missing := [name for name in fields.needed if name not in names]:
        how = "" if fields.columns else "; set text, label, pair, domain_fields or split_field, or columns"
        if len(names) == 1 and (found := next((mark for mark in ";\t|" if mark in names[0]), None)):
            how += f"; the file may want delimiter: {found!r}"
        raise InputError(f"{path} has no column {shorten(missing)}; its columns are {shorten(names, 9)}{how}")


def _json_rows(content: str, path: Path, fields: Fields) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            pairs = json.loads(text, object_pairs_hook=list)
        except ValueError as error:
            raise InputError(f"{path}, line {line}: {error}; expected one JSON object per line") from error
        if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
            raise InputError(f"{path}, line {line}: found no JSON object; expected one per line")
        names = [name for name, _ in pairs]
        _check_columns(names, fields, Path(f"{path}, line {line},"))
        yield line, dict(pairs)


def _add_rows(
    texts: Texts,
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    path: Path,
    fields: Fields,
    split: int | None,
    names: Sequence[str] = (),
) -> None:
    for line, row in rows:
        values = {name: row.get(name) for name in fields.needed}
        label = values[fields.label]
        if names and isinstance(label, int):
            label = names[label] if 0 <= label < len(names) else label
        out = fields.outside is not None and str(label).strip() == fields.outside
        needless = fields.domains if out else ()
        if strange := [
            name for name, value in values.items() if isinstance(value, dict | list | bytes) or value != value
        ]:
            raise InputError(
                f"{path}, line {line}: {strange[0]} is {values[strange[0]]!r:.60}; expected a text or number"
            )
        if lacking := [name for name, value in values.items() if value is None and name not in needless]:
            raise InputError(f"{path}, line {line}: {shorten(lacking)} is missing; name it, or remove the row")
        own = split
        if fields.split is not None:
            said = str(values[fields.split])
            if said.lower() not in SPLIT_NAMES:
                raise InputError(
                    f"{path}, line {line}: {fields.split} is {said!r}; expected one of {shorten(SPLIT_NAMES, 9)}"
                )
            own = SPLIT_NAMES[said.lower()]
        named = {fields.label: label} | {name: values[name] for name in fields.domains if not out}
        if blank := [name for name, value in named.items() if not str(value).strip()]:
            raise InputError(f"{path}, line {line}: {shorten(blank)} is empty; name it, or remove the row")
        texts.add(
            str(values[fields.text]),
            str(label),
            "" if out else "_".join(str(values[name]) for name in fields.domains) or "all",
            (str(path), line),
            own,
            None if fields.pair is None else str(values[fields.pair]),
            out,
        )


def from_huggingface(files: Sequence[Path], fields: Fields, encoding: str, root: str) -> Texts:
    """A data set directory: a folder per split, as ``save_to_disk`` writes it, or a file (or several) per split.

    JSON lines and CSV are read as they are; Arrow and Parquet want the package pyarrow. Numbers of labels become the
    names that ``dataset_info.json`` or the file itself gives them.
    """
    texts, base = Texts(), Path(root)
    names: Sequence[str] = ()
    rest = []
    for path in files:
        if path.name != "dataset_info.json":
            rest.append(path)
        elif found := _class_names(decode(path, "utf-8"), fields.label):
            names = found
    single = len({path.parent / _SHARD.sub("", path.stem) for path in rest}) == 1
    for path in rest:
        parts = path.relative_to(base).parts
        known = [SPLIT_NAMES[part.lower()] for part in parts[:-1] if part.lower() in SPLIT_NAMES]
        split = known[-1] if known else None if single else split_of(path)
        if path.suffix in _ARROW:
            table = _read_arrow(path)
            _check_columns(table.column_names, fields, path)
            said = (table.schema.metadata or {}).get(b"huggingface", b"{}")
            own = names or _class_names(json.dumps(json.loads(said).get("info") or {}), fields.label)
            _add_rows(texts, enumerate(table.select(fields.needed).to_pylist(), 1), path, fields, split, own)
        else:
            _add_rows(texts, rows_of(path, fields, encoding), path, fields, split, names)
    return texts


def _class_names(info: str, label: str) -> Sequence[str]:
    """Names of a column's classes in what the datasets library says about a data set; none for other columns."""
    features = json.loads(info).get("features") or {}
    return (features.get(label) or {}).get("names") or ()


def _read_arrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"{path}: Arrow and Parquet files are read by pyarrow, which is not installed; pip install pyarrow, or "
            "write the data set as JSON lines (Dataset.to_json)"
        ) from error
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        with pyarrow.memory_map(str(path)) as file:
            return pyarrow.ipc.open_stream(file).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: {error}; the file is damaged or of another kind, copy it again") from error
