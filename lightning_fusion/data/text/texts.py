"""Texts with label, domain, split and location, as read by every source of texts."""

import codecs
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.names import LabelForms, canonical_label
from lightning_fusion.errors import InputError, nearest_path, shorten

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("val", "valid", "validation", "dev"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}
"""Names of splits in files and columns, and their indices."""
_CONTROLS = re.compile(r"[\x80-\x9f]")


@dataclass
class Texts:
    """Texts with their labels, domains, splits and locations.

    Attributes:
        texts: N texts.
        pairs: Second texts; ``None`` if there are none.
        labels: Label of each text; empty for an unlabeled text.
        domains: Domain of each text; empty for a text without a domain.
        splits: (N,) 0, 1, 2 for train, val, test; empty if splits are to be drawn.
        where: File (or table) and line of each text.
        out_of_scope: Whether the label of each text is outside the classes.
        forms: Function that returns the canonical form of a label.

    Example:
        >>> texts = Texts()
        >>> texts.add("a fine book", "good ", "books", ("reviews.csv", 2))
        >>> texts.labels, texts.place(0)
        (['good'], 'reviews.csv, line 2')
    """

    texts: list[str] = field(default_factory=list)
    pairs: list[str] | None = None
    labels: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    splits: list[int] = field(default_factory=list)
    where: list[tuple[str, int]] = field(default_factory=list)
    out_of_scope: list[bool] = field(default_factory=list)
    forms: Callable[[str], str] = field(default_factory=LabelForms, repr=False)

    def add(
        self,
        text: str,
        label: str,
        domain: str,
        where: tuple[str, int],
        split: int | None = None,
        pair: str | None = None,
        out_of_scope: bool = False,
    ) -> None:
        """Append one text, its label and domain in canonical form."""
        self.texts.append(text)
        self.labels.append(self.forms(label))
        self.domains.append(canonical_label(domain))
        self.where.append(where)
        self.out_of_scope.append(out_of_scope)
        if split is not None:
            self.splits.append(split)
        if pair is not None:
            self.pairs = self.pairs if self.pairs is not None else []
            self.pairs.append(pair)

    def place(self, row: int) -> str:
        """Return file and line of a text, for messages."""
        file, line = self.where[row]
        return f"{file}, line {line}"

    def kept(self, keep: np.ndarray) -> "Texts":
        """Return the texts in a (N,) bool mask."""
        rows = np.flatnonzero(keep).tolist()

        def pick(values: Any) -> Any:
            return [values[row] for row in rows] if values else values

        lists = (name for name in self.__dataclass_fields__ if name != "forms")
        return Texts(**{name: pick(getattr(self, name)) for name in lists}, forms=self.forms)


def number_labels(labels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the sorted names of labels, and the (N,) int64 index of each; -1 for unlabeled texts.

    Example:
        >>> number_labels(["good", "", "bad"])
        (['bad', 'good'], array([ 1, -1,  0]))
    """
    names, number = np.unique(np.array(labels), return_inverse=True)
    unlabeled = int(len(names) > 0 and not names[0])
    return names[unlabeled:].tolist(), number.astype(np.int64) - unlabeled


def normalize(text: str) -> str:
    """Normalize a text for comparison: case folding, Unicode compatibility form, single blanks.

    Example:
        >>> normalize("  Great  book ") == normalize("great book")
        True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read_text(path: Path, encoding: str, tell: Callable[[str], object] = rank_zero_warn) -> str:
    """Read a whole text file.

    Args:
        path: Path of the file.
        encoding: Encoding of the file.
        tell: Function that warns about content that another encoding explains better.

    Raises:
        InputError: If the file does not exist or cannot be decoded (with the line), or the encoding is unknown.
    """
    if not path.is_file():
        raise InputError(f"root: found no file {path}{nearest_path(path)}")
    content = path.read_bytes()
    try:
        name = codecs.lookup(encoding).name
        text = content.decode("utf-8-sig" if name == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: found byte 0x{content[error.start]:02x}, which is not {encoding}; set encoding "
            "(such as latin-1 or cp1252), or repair this line"
        ) from error
    except LookupError as error:
        raise InputError(f"encoding is {encoding!r}; expected one that Python has, such as utf-8") from error
    if not content.isascii() and (message := _doubt(content, text, name)):
        tell(f"{path}: {message}")
    return text


def _doubt(content: bytes, text: str, encoding: str) -> str | None:
    """Return a warning about a file that has another encoding than it is read with, or lost letters earlier."""
    if count := text.count("\ufffd"):
        return f"{count} letter(s) are U+FFFD, which an earlier conversion wrote in place of others; convert it anew"
    if encoding in ("utf-8", "utf-8-sig") or len(text) < len(content):  # not of one byte for each letter
        return None
    try:
        right = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if encoding == "iso8859-1" and (found := _CONTROLS.findall(text)):
            return (
                f"{len(found)} byte(s) are control characters in latin-1 and quotes, dashes or signs in cp1252; set "
                "encoding: cp1252"
            )
        return None
    letter = next(each for each in right if not each.isascii())
    return (
        f"the file is valid UTF-8 and is read as {encoding}, in which {letter!r} becomes "
        f"{letter.encode().decode(encoding, 'replace')!r}; set encoding: utf-8"
    )


def _root(root: str) -> Path:
    """Return the path of a file or folder that exists."""
    base = Path(root)
    if not base.is_file() and not base.is_dir():
        raise InputError(f"root: found no file or folder {root}{nearest_path(root)}")
    return base


def find_files(root: str, *patterns: str) -> list[Path]:
    """Return the file ``root``, or the sorted files in the folder ``root`` that match a pattern.

    Raises:
        InputError: If there is no such file.
    """
    base = _root(root)
    if base.is_file():
        return [base]
    found = sorted({path for pattern in patterns for path in base.glob(pattern) if path.is_file()})
    if not found:
        raise InputError(f"root: found none of {', '.join(patterns)} in {base}")
    return found


def find_tables(root: str, suffixes: Sequence[str], messages: MessageLog) -> list[Path]:
    """Return the file ``root``, or the sorted files in the folder ``root`` with one of some suffixes, in any case.

    Args:
        root: File or folder.
        suffixes: Suffixes of the files, in lower case.
        messages: Log of the files and folders that are left out.

    Raises:
        InputError: If there is no such file.
    """
    base = _root(root)
    if base.is_file():
        return [base]
    inside = sorted(path for path in base.iterdir() if not path.name.startswith("."))
    found = [path for path in inside if path.is_file() and path.suffix.lower() in suffixes]
    others = [path.name for path in inside if path not in found]
    if not found:
        raise InputError(
            f"root: found no file ({', '.join(suffixes)}) in {base}" + (f"; it has {shorten(others)}" if others else "")
        )
    if others:
        lost = [name for name in others if _first_word(name) in SPLIT_NAMES]
        tell = messages.warn if lost else messages.info
        tell(
            f"root: left out in {base}: {shorten(lost or others)}; the files that are read end in {', '.join(suffixes)}"
        )
    return found


def _first_word(name: str) -> str:
    return re.split(r"[-_.]", name.lower())[0]


def split_of(path: Path) -> int:
    """Return the split that the first word of a file's name names.

    Raises:
        InputError: If it names no split.
    """
    word = _first_word(path.name)
    if word not in SPLIT_NAMES:
        raise InputError(
            f"root: {path} does not name a split; expected names that begin with {shorten(SPLIT_NAMES, 9)}, or one "
            "file as root"
        )
    return SPLIT_NAMES[word]
