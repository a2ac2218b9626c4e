"""Texts without labels, for prediction."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.new_files import find_new_files
from lightning_fusion.data.rows import NewRows, Origins
from lightning_fusion.data.text.readers import JSON_SUFFIXES, Rows, read_delimited, read_json
from lightning_fusion.data.text.texts import read_text
from lightning_fusion.data.text.tokens import TextTokenizer, TokenRows, WrittenTexts, encode_texts
from lightning_fusion.errors import InputError, shorten

TEXT_SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES, ".txt")


@dataclass
class NewTexts:
    """Texts with their locations.

    Attributes:
        texts: N texts; an empty one has no sample.
        pairs: N second texts; empty if there are none.
        files: Names of files.
        file: N indices of files.
        line: N lines (or numbers) in the files.
    """

    texts: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    file: list[int] = field(default_factory=list)
    line: list[int] = field(default_factory=list)

    def add(self, name: str, rows: Rows, text: str, pair: str | None) -> None:
        """Append the rows of a file.

        Args:
            name: Name of the file.
            rows: Line and values of each row.
            text: Column of the text.
            pair: Column of a second text.

        Raises:
            InputError: If a value is no text or number.
        """
        self.files.append(name)
        for line, row in rows:
            for column, texts in ((text, self.texts), (pair, self.pairs)):
                if column is not None:
                    value = row[column]
                    if isinstance(value, dict | list | bytes):
                        raise InputError(f"{name}, line {line}: {column} is {value!r:.60}; expected a text or number")
                    texts.append("" if value is None or value != value else str(value))
            self.file.append(len(self.files) - 1)
            self.line.append(line)

    def samples(
        self,
        tokenizer: TextTokenizer | None,
        max_length: int,
        unreadable: str,
        keep_texts: bool,
        tell: Callable[[str], None],
    ) -> NewRows:
        """Return the texts as samples for prediction.

        Args:
            tokenizer: Tokenizer of the training. ``None``: inputs have the texts alone.
            max_length: Maximum number of tokens of a text.
            unreadable: ``raise`` an error for texts that are empty or contain unknown tokens only, or ``drop`` them:
                they have a note and no prediction.
            keep_texts: Inputs have the texts beside the tokens.
            tell: Logs a message.

        Raises:
            InputError: If a text is unreadable and must not be.
        """
        both = zip(self.texts, self.pairs or [""] * len(self.texts), strict=True)
        empty = np.array([not (one.strip() or two.strip()) for one, two in both], bool)
        unknown = np.zeros(len(empty), bool)
        inputs: Any = _TextsAlone(WrittenTexts.of(self.texts, self.pairs or None))
        if tokenizer is not None:
            found = encode_texts(tokenizer, self.texts, self.pairs or None, max_length)
            unknown, offsets = found.unknown, torch.from_numpy(np.concatenate([[0], np.cumsum(found.lengths)]))
            written = inputs.texts if keep_texts else None
            inputs = TokenRows(torch.from_numpy(found.tokens), offsets, tokenizer.pad_id, written)
            if found.cut:
                tell(f"truncated {found.cut} of {len(empty)} texts longer than max_length ({max_length} tokens)")
        wrong = empty | unknown
        if wrong.any() and unreadable == "raise":
            rows = np.flatnonzero(wrong)
            what = "empty" if empty[rows[0]] else "made of unknown tokens only"
            more = f", as are {len(rows) - 1} more" if len(rows) > 1 else ""
            raise InputError(
                f"predict_root: {self.files[self.file[rows[0]]]}, line {self.line[rows[0]]}: the text is {what}{more}; "
                "repair or remove it, or set unreadable: drop, which leaves its prediction blank"
            )
        notes = np.select([empty, unknown], ["the text is empty", "all tokens are unknown"], "").tolist()
        origins = Origins(self.files, np.array(self.file, np.int64), np.array(self.line, np.int64), "line")
        return NewRows(inputs, origins, notes, ~wrong)


class _TextsAlone:
    """Inputs of texts that experts tokenize themselves."""

    def __init__(self, texts: WrittenTexts) -> None:
        self.texts = texts

    def __getitem__(self, rows: Tensor) -> dict[str, Any]:
        return {"text": self.texts[rows]}


def read_new_texts(
    root: str, text: str, pair: str | None, messages: MessageLog, encoding: str = "utf-8", **delimited: Any
) -> NewTexts:
    """Read texts from a file, or from all files in a folder and the folders in it.

    Columns other than those of the texts are not read. In ``.txt`` files each line is a text.

    Args:
        root: File or folder.
        text: Column of the text, in CSV, TSV and JSON files.
        pair: Column of a second text.
        messages: Log of what is left out.
        encoding: Encoding of the files.
        **delimited: ``delimiter``, ``columns`` and ``quoting`` of
            :func:`~lightning_fusion.data.text.readers.read_delimited`.

    Raises:
        InputError: If there is no text, or a file cannot be read; the message names file and line.
    """
    base, texts, needed = Path(root), NewTexts(), [text, *([] if pair is None else [pair])]
    names, paths = [base.name], [base]  # a single file has any suffix
    if not base.is_file():
        names, paths = find_new_files(root, TEXT_SUFFIXES, "file of texts", messages)
    for path, name in zip(paths, names, strict=True):
        suffix = path.suffix.lower()
        if suffix == ".txt" and pair is not None:
            raise InputError(
                f"predict_root: {path} has a text per line, and pair is set; give two texts in the columns {text} and "
                f"{pair} of a CSV file"
            )
        if suffix == ".txt":
            rows: Rows = _lines(path, text, encoding, messages)
        elif suffix in JSON_SUFFIXES:
            rows = read_json(path, needed, encoding, messages.warn)
        else:
            rows = read_delimited(path, needed, encoding, tell=messages.warn, **delimited)
        texts.add(name, rows, text, pair)
    if not texts.texts:
        raise InputError(f"predict_root: {shorten(names)} in {root} has no text")
    return texts


def _lines(path: Path, column: str, encoding: str, messages: MessageLog) -> Rows:
    """Yield the lines of a file that are not blank."""
    content = io.StringIO(read_text(path, encoding, messages.warn), newline=None)  # universal newlines
    lines = [line.rstrip("\n") for line in content]
    if blank := sum(not line.strip() for line in lines):
        messages.info(f"{path}: {blank} blank line(s) are no texts")
    return ((number, {column: line}) for number, line in enumerate(lines, 1) if line.strip())
