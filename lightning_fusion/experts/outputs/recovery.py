"""Reading of the journals that interrupted runs have left, record by record."""

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.experts.outputs.checks import is_answer
from lightning_fusion.experts.outputs.journal import (
    ANSWER,
    BATCH,
    MAGIC,
    RECORD,
    SAMPLES,
    Journal,
    digest,
    entries,
    journal_files,
    read_rows,
    session_of,
)

_OPEN_AT_ONCE = 16
_DAMAGED_BYTES = 1 << 30
"""Number of bytes of damaged records that are read in search of intact ones."""


def read_journals(folder: Path, session: int | None = None) -> list[Journal]:
    """Return the journals in the folder of a store, in the order of the runs; damaged ones are left out with a warning.

    Args:
        folder: Folder of the store.
        session: Number of a run, to read its journals only.
    """
    found = []
    for path in journal_files(folder):
        if path.suffix == ".journal" and session in (None, session_of(path)):
            try:
                with open(path, "rb") as file, ExitStack() as stack:
                    found += _scan(path, file, _Values(stack))
            except FileNotFoundError:  # the first process has removed it
                continue
    return found


def _scan(path: Path, file: BinaryIO, values: "_Values") -> list[Journal]:
    """Return the journal of a file; an empty list if its header is damaged."""
    records = _Records(file)
    journal, damaged = None, 0
    for position, content in records:
        if journal is None:
            journal = _header(path, content)
            if journal is None:
                break
        elif not (values.match(journal, content) and journal.note(content, position)):
            damaged += 1
    damaged += records.damaged
    if journal is None and records.size:
        rank_zero_warn(f"{path} is damaged: the answers in it cannot be read, and are queried again")
    elif damaged:
        rank_zero_warn(
            f"{path}: {damaged} record(s) {'and the rest of the file ' * records.given_up}are damaged; the answers in "
            "them are queried again"
        )
    return [] if journal is None else [journal]


class _Records:
    """Intact records of a file.

    Args:
        file: The file.

    Attributes:
        size: Its size in bytes.
        damaged: Number of damaged records so far.
        given_up: Whether the damage is so large that the rest of the file is not searched.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size = file, os.fstat(file.fileno()).st_size
        self.damaged, self.given_up, self._left = 0, False, _DAMAGED_BYTES

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield positions and contents."""
        position = 0
        while position < self.size:
            if (content := self._intact(position)) is not None:
                yield position, content
                position += RECORD.size + len(content)
            elif (following := self._following(position + 1)) is not None:
                self.damaged += 1
                position = following
            else:  # the last record of a killed run is no damage
                break

    def _intact(self, position: int) -> bytes | None:
        """Return the content of the record at a position; None if it is damaged."""
        self._file.seek(position)
        head = self._file.read(RECORD.size)
        if len(head) < RECORD.size:
            return None
        magic, expected, length = RECORD.unpack(head)
        if magic != MAGIC or length > self.size - position - RECORD.size:
            return None
        content = self._file.read(length)
        if digest(content) == expected:
            return content
        self._left -= length
        return None

    def _following(self, position: int) -> int | None:
        """Return the position of the next record at or after a position, if any."""
        self._file.seek(position)
        before, size = b"", 1 << 12
        while self._left > 0 and (piece := self._file.read(size)):
            self._left -= len(piece)
            found = (before + piece).find(MAGIC)
            if found >= 0:
                return position - len(before) + found
            position += len(piece)
            before, size = (before + piece)[-len(MAGIC) + 1 :], min(2 * size, 1 << 20)
        self.given_up = self._left <= 0
        return None


class _Values:
    """Files of values, some of them open."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._opened = stack, dict[Path, BinaryIO | None]()

    def _open(self, path: Path) -> BinaryIO | None:
        if path not in self._opened:
            if len(self._opened) >= _OPEN_AT_ONCE:
                self._stack.close()
                self._opened.clear()
            self._opened[path] = self._stack.enter_context(path.open("rb")) if path.is_file() else None
        return self._opened[path]

    def match(self, journal: Journal, content: bytes) -> bool:
        """Return whether the values of a record of answers have its checksums; True for records of samples."""
        kind, size = content[:1], len(content) - BATCH.size
        if kind == b"s":
            return size >= SAMPLES.size
        part = size - ANSWER.size  # after the first answer: positions, or further answers
        if part < 0 or kind not in (b"a", b"p") or part % (8 if kind == b"p" else ANSWER.size):
            return False
        splits, experts = list(journal.data), list(journal.experts)
        split = BATCH.unpack_from(content)[1]
        return split < len(splits) and all(
            expert < len(experts) and self._match(journal, (splits[split], experts[expert]), *fields)
            for (expert, *fields), _ in entries(content)
        )

    def _match(
        self, journal: Journal, key: tuple[str, str], rows: int, classes: int, dims: int, start: int, *checksums: int
    ) -> bool:
        """Return whether an answer has its checksums, and values that an expert can give."""
        for also, width in ((False, classes), (True, dims)):
            if also and not width:
                continue
            file = self._open(journal.values_path(*key, also))
            if file is None or not 0 < 4 * (start + rows) * width <= os.fstat(file.fileno()).st_size:
                return False
            content = read_rows(file, start, rows, width)
            if zlib.crc32(content) != checksums[also]:
                return False
            values = np.frombuffer(content, np.float32).reshape(rows, width)
            if not (np.isfinite(values) if also else is_answer(values)).all():
                return False
        return True


def _header(path: Path, content: bytes) -> Journal | None:
    """Return the journal of a header; None if it is damaged."""
    try:
        found = json.loads(content)
    except (RecursionError, ValueError):
        return None
    types = {"experts": dict, "data": dict, "precision": str, "overwrite": bool}
    if not isinstance(found, dict) or {key: type(value) for key, value in found.items()} != types:
        return None
    if not all(isinstance(print, str) for part in ("experts", "data") for print in found[part].values()):
        return None
    return Journal(path, **found)
