"""What every source of texts gives: texts in a row, each with its label, domain, split and place."""

import re
import unicodedata
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
_NO_NAME = re.compile(r"[./\\\x00-\x1f]")


@dataclass
class Texts:
    """Texts in a row, each with what is known of it.

    Attributes:
        texts: N of them.
        pairs: Second texts; None where there are none.
        labels: Names of the labels.
        domains: Names of the domains; empty ones where a text is of none.
        splits: (N,) 0, 1, 2 for train, val, test; empty where splits are to be drawn.
        where: File (or other place) and line of each.
        out_of_scope: Which have a label that no class stands for.

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
    _written: dict[str, str] = field(default_factory=dict, init=False, repr=False)

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
        """Append one text; blanks around names do not count.

        Raises:
            InputError: If two domains differ only in characters that cannot stand in an expert's name.
        """
        self.texts.append(text)
        self.labels.append(label.strip())
        name = _NO_NAME.sub("_", domain.strip())  # it may name an expert, and the file of one
        if self._written.setdefault(name, domain.strip()) != domain.strip():
            raise InputError(
                f"{where[0]}, line {where[1]}: the domains {self._written[name]!r} and {domain.strip()!r} would both "
                f"be called {name}; rename one"
            )
        self.domains.append(name)
        self.where.append(where)
        self.out_of_scope.append(out_of_scope)
        if split is not None:
            self.splits.append(split)
        if pair is not None:
            self.pairs = self.pairs if self.pairs is not None else []
            self.pairs.append(pair)

    def place(self, row: int) -> str:
        """Where a row stands, for messages."""
        file, line = self.where[row]
        return f"{file}, line {line}"

    def kept(self, keep: np.ndarray) -> "Texts":
        """Those of a (N,) bool mask."""
        rows = np.flatnonzero(keep).tolist()

        def pick(values: Any) -> Any:
            return [values[row] for row in rows] if values else values

        return Texts(*(pick(getattr(self, name)) for name in self.__dataclass_fields__ if name != "_written"))


def normalize(text: str) -> str:
    """What makes two texts the same: letters without case, in Unicode's compatible form, and single blanks.

    Example:
        >>> normalize("  Great  book ") == normalize("great book")
        True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read_text(path: Path, encoding: str) -> str:
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


def find_files(root: str, *patterns: str) -> list[Path]:
    """The file ``root``, or the files below the folder ``root`` that a pattern fits, sorted.

    Raises:
        InputError: If there are none.
    """
    base = Path(root)
    if base.is_file():
        return [base]
    if not base.is_dir():
        raise InputError(f"root: found no file or folder {root}")
    found = sorted({path for pattern in patterns for path in base.glob(pattern) if path.is_file()})
    if not found:
        raise InputError(f"root: found none of {', '.join(patterns)} in {base}")
    return found


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
