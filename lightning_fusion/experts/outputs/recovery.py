"""Reading of the journals that interrupted runs have left, record by record."""

import json
import os
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.experts.outputs.journal import (
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
    size = os.fstat(file.fileno()).st_size
    journal, position, damaged = None, 0, 0
    while position < size:
        content = _intact(file, position, size)
        if content is None:
            following = _following(file, position + 1)
            damaged += following is not None  # the last record of a killed run is no damage
            position = size if following is None else following
            continue
        if journal is None:
            journal = _header(path, content)
            if journal is None:
                break
        elif not (values.match(journal, content) and journal.note(content, position)):
            damaged += 1
        position += RECORD.size + len(content)
    if journal is None and size:
        rank_zero_warn(f"{path} is damaged: the answers in it cannot be read, and are queried again")
    elif damaged:
        rank_zero_warn(f"{path}: {damaged} record(s) are damaged; the answers in them are queried again")
    return [] if journal is None else [journal]


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
        kind = content[:1]
        if kind == b"s":
            return len(content) >= BATCH.size + SAMPLES.size
        if kind not in (b"a", b"p"):
            return False
        splits, experts = list(journal.data), list(journal.experts)
        split = BATCH.unpack_from(content)[1]
        for (expert, rows, classes, dims, start, *checksums), positions in entries(content):
            if (
                split >= len(splits)
                or expert >= len(experts)
                or len(range(rows) if positions is None else positions) != rows
            ):
                return False
            for also, width in ((False, classes), (True, dims)):
                if not width:
                    continue
                file = self._open(journal.values_path(splits[split], experts[expert], also))
                if file is None or zlib.crc32(read_rows(file, start, rows, width)) != checksums[also]:
                    return False
        return True


def _intact(file: BinaryIO, position: int, size: int) -> bytes | None:
    """Return the content of the record at a position; None if it is damaged."""
    file.seek(position)
    head = file.read(RECORD.size)
    if len(head) < RECORD.size:
        return None
    magic, expected, length = RECORD.unpack(head)
    if magic != MAGIC or length > size - position - RECORD.size:
        return None
    content = file.read(length)
    return content if digest(content) == expected else None


def _following(file: BinaryIO, position: int) -> int | None:
    """Return the position of the next record at or after a position, if any."""
    file.seek(position)
    before = b""
    while piece := file.read(1 << 20):
        found = (before + piece).find(MAGIC)
        if found >= 0:
            return position - len(before) + found
        position += len(piece)
        before = (before + piece)[-len(MAGIC) + 1 :]
    return None


def _header(path: Path, content: bytes) -> Journal | None:
    try:
        return Journal(path, **json.loads(content))
    except (TypeError, ValueError):
        return None
