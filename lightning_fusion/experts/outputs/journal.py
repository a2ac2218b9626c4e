"""Journals of answers on their way to a store: an interrupted run leaves them, and the next run reads them.

A journal is a file of records: a header, the samples of each batch, and for each answer the expert, the samples and
where its values are: in a file of raw rows per split and expert beside it. Values are written before their record. Each
record has a digest, and the values of each answer a checksum.
"""

import hashlib
import json
import os
import re
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lightning_fusion.errors import InputError
from lightning_fusion.files import disk_errors

FOLDER = ".answers"
"""Hidden folder of the journals in the folder of a store."""

MAGIC = b"\x93LFansw\n"
RECORD = struct.Struct("<8s16sQ")  # magic, BLAKE2 digest and size of the content that follows
BATCH = struct.Struct("<cII")  # kind of the record, split, number of the batch in the split
SAMPLES = struct.Struct("<II")  # rows, domains; then index, target, domain
ANSWER = struct.Struct("<IIIIQII")  # expert, rows, classes, size of representations, first row; checksums of both
_SYNC_S = 5.0
_NAME = re.compile(r"\d{6,}-\d+(\.journal|\.\d+\.\d+r?\.bin)")

Block = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Indices (B,), answers (B, C_k), and representations (B, D_k) or None."""


class _Answer(NamedTuple):
    """Where an answer is."""

    batch: int
    start: int
    rows: int
    classes: int
    dims: int
    positions: np.ndarray | None  # in the batch; None for all of it


@dataclass
class Journal:
    """Intact content of a journal; damaged records, such as the last one of a killed run, are left out.

    Attributes:
        path: File.
        experts: Fingerprint of each expert by name.
        data: Fingerprint of each split by name.
        precision: Precision of the Trainer.
        overwrite: Whether the run was to replace a store.
        digests: BLAKE2 digests of the files of values that this process has written, by their paths.
    """

    path: Path
    experts: dict[str, str]
    data: dict[str, str]
    precision: str
    overwrite: bool
    digests: dict[Path, str] = field(default_factory=dict)
    _samples: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict, init=False)
    """Position of the record, and number of rows, of each batch."""
    _answers: dict[tuple[str, str], list[_Answer]] = field(default_factory=dict, init=False)

    @property
    def session(self) -> int:
        """Number of the run."""
        return session_of(self.path)

    @property
    def answers(self) -> list[tuple[str, str]]:
        """Splits and experts with answers."""
        return list(self._answers)

    def values_path(self, split: str, expert: str, representations: bool = False) -> Path:
        """Return the path of the values of an expert: raw float32 rows."""
        numbers = list(self.data).index(split), list(self.experts).index(expert)
        return self.path.with_suffix(f".{numbers[0]}.{numbers[1]}{'r' if representations else ''}.bin")

    def read(self, split: str, expert: str) -> Iterator[Block]:
        """Yield the answers of an expert."""
        answers = self._answers.get((split, expert), [])
        with ExitStack() as stack:
            if not answers:
                return
            record = stack.enter_context(_reading(self.path))
            values = stack.enter_context(_reading(self.values_path(split, expert)))
            dims = any(answer.dims for answer in answers)
            also = stack.enter_context(_reading(self.values_path(split, expert, True))) if dims else values
            for answer in answers:
                index = self._batch(record, split, answer.batch)[0]
                index = index if answer.positions is None else index[answer.positions]
                representations = _floats(also, answer.start, answer.rows, answer.dims) if answer.dims else None
                yield index, _floats(values, answer.start, answer.rows, answer.classes), representations

    def read_samples(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (B,) indices and targets and (B, D) domains of the batches."""
        with _reading(self.path) as file:
            for number in self._samples.get(split, ()):
                yield self._batch(file, split, number)

    def _batch(self, file: BinaryIO, split: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        file.seek(self._samples[split][number][0])
        content = memoryview(file.read(RECORD.unpack(file.read(RECORD.size))[2]))
        rows, domains = SAMPLES.unpack_from(content, BATCH.size)
        start = BATCH.size + SAMPLES.size
        index, target = (np.frombuffer(content, np.int64, rows, start + 8 * rows * part) for part in (0, 1))
        return index, target, np.frombuffer(content, bool, rows * domains, start + 16 * rows).reshape(rows, domains)

    def whole(self, split: str, expert: str) -> list[tuple[int, int]] | None:
        """Return the shapes of the files of an expert if they have one row per sample of all batches, in their order.

        Returns:
            The shape of the answers, and that of the representations if there are any; None if they do not.
        """
        answers = self._answers.get((split, expert), [])
        batches = [answer.batch for answer in answers if answer.positions is None]
        widths = {(answer.classes, answer.dims) for answer in answers}
        starts = np.cumsum([0, *(answer.rows for answer in answers)]).tolist()
        if len(widths) != 1 or len(batches) < len(answers) or [answer.start for answer in answers] != starts[:-1]:
            return None
        if batches != list(self._samples.get(split, ())):
            return None
        return [(starts[-1], width) for width in widths.pop() if width]

    def note(self, content: bytes | memoryview, position: int) -> bool:
        """Note what a record contains; return whether it is a valid one.

        Args:
            content: Content of the record.
            position: Position of the record in the file.
        """
        splits, experts = list(self.data), list(self.experts)
        kind, split, batch = BATCH.unpack_from(content)
        if split >= len(splits):
            return False
        known = self._samples.setdefault(splits[split], {})
        if kind == b"s":
            rows, domains = SAMPLES.unpack_from(content, BATCH.size)
            if batch in known or len(content) != BATCH.size + SAMPLES.size + rows * (16 + domains):
                return False
            known[batch] = position, rows
            return True
        if batch not in known:  # its record is damaged
            return False
        found = []
        for (expert, rows, classes, dims, start, *_), positions in entries(content):
            if expert >= len(experts) or not _is_part(positions, rows, known[batch][1]):
                return False
            answer = _Answer(batch, start, rows, classes, dims, positions)
            found.append((self._answers.setdefault((splits[split], experts[expert]), []), answer))
        for answers, answer in found:
            answers.append(answer)
        return True

    def widths(self, split: str, expert: str) -> set[int]:
        """Return the number of classes in the answers of an expert; several where they differ."""
        return {answer.classes for answer in self._answers.get((split, expert), [])}


def _is_part(positions: np.ndarray | None, rows: int, batch: int) -> bool:
    """Return whether an answer with some rows is of these positions of a batch of some size, or of all of it."""
    if positions is None:
        return rows == batch
    return (
        0 < len(positions) == rows
        and bool((np.diff(positions) > 0).all())
        and 0 <= positions[0] <= positions[-1] < batch
    )


def entries(content: bytes | memoryview) -> Iterator[tuple[tuple[int, ...], np.ndarray | None]]:
    """Yield the answers of a record: their fields (``ANSWER``), and the positions in the batch, or None for all of it.

    Args:
        content: Content of a record of answers.
    """
    kind, start = content[:1], BATCH.size
    if kind == b"p":  # one answer on a part of the batch
        yield ANSWER.unpack_from(content, start), np.frombuffer(content, np.int64, -1, start + ANSWER.size)
        return
    for entry in ANSWER.iter_unpack(content[start:]):
        yield entry, None


class JournalWriter:
    """Appends answers to a journal as they are received; what was written survives a kill of the process.

    The disk is synchronized every few seconds and on closing, which limits what a power failure takes.

    Args:
        path: File, which must not exist; its folder is created.
        experts: Fingerprint of each expert by name.
        data: Fingerprint of each split by name.
        precision: Precision of the Trainer.
        overwrite: Whether the run replaces a store.

    Attributes:
        journal: Its content.
    """

    def __init__(
        self, path: Path, experts: Mapping[str, str], data: Mapping[str, str], precision: str, overwrite: bool
    ) -> None:
        self.journal = Journal(path, dict(experts), dict(data), precision, overwrite)
        self._splits = {name: number for number, name in enumerate(data)}
        self._experts = {name: number for number, name in enumerate(experts)}
        with _writing(path):
            path.parent.mkdir(exist_ok=True)
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115  (closed by close)
        self._values: dict[tuple[str, bool], _Values] = {}
        self._split, self._size, self._batches = "", 0, dict.fromkeys(data, -1)
        self._synced = time.monotonic()
        header = {"experts": dict(experts), "data": dict(data), "precision": precision, "overwrite": overwrite}
        self._append(b"h", json.dumps(header).encode())

    def add_samples(self, split: str, index: np.ndarray, target: np.ndarray, domain: np.ndarray) -> None:
        """Begin a batch.

        Args:
            split: Name of the split.
            index: (B,) int64 sample indices.
            target: (B,) int64.
            domain: (B, D) bool.
        """
        if split != self._split:
            self._close_values()
            self._split = split
        self._batches[split] += 1
        sizes = SAMPLES.pack(len(index), domain.shape[1])
        self._append(b"s", b"".join((sizes, index.tobytes(), target.tobytes(), domain.tobytes())))

    def add(
        self,
        values: Mapping[str, np.ndarray],
        representations: Mapping[str, np.ndarray] | None = None,
        positions: np.ndarray | None = None,
    ) -> None:
        """Append answers on the samples of the last batch.

        Args:
            values: (B, C_k) float32 by expert; NaN for missing answers.
            representations: (B, D_k) float32 by expert.
            positions: (B,) positions of the samples in the batch; ``None`` for all of them.
        """
        entries = []
        with _writing(self.journal.path, sum(rows.nbytes for rows in values.values())):
            for name, rows in values.items():
                start, checksum = self._file_of(name, False).append(rows)
                dims, also = 0, 0
                if representations is not None:
                    dims, also = (
                        representations[name].shape[1],
                        self._file_of(name, True).append(representations[name])[1],
                    )
                entries.append(ANSWER.pack(self._experts[name], len(rows), rows.shape[1], dims, start, checksum, also))
        where = b"" if positions is None else positions.astype(np.int64).tobytes()
        self._append(b"a" if positions is None else b"p", b"".join((*entries, where)))

    def _file_of(self, name: str, representations: bool) -> "_Values":
        """Return the file of an expert's values of the current split."""
        key = name, representations
        if key not in self._values:
            self._values[key] = _Values(self.journal.values_path(self._split, name, representations))
        return self._values[key]

    def _append(self, kind: bytes, content: bytes) -> None:
        """Append a record of the current batch; the header has no batch."""
        if kind != b"h":
            content = BATCH.pack(kind, self._splits[self._split], self._batches[self._split]) + content
        record = RECORD.pack(MAGIC, digest(content), len(content)) + content
        with _writing(self.journal.path, len(record)):
            _write_all(self._file, record)
            if kind != b"h":
                self.journal.note(content, self._size)
            self._size += len(record)
            if time.monotonic() - self._synced > _SYNC_S:
                for file in (*(values.file for values in self._values.values()), self._file):
                    os.fsync(file.fileno())
                self._synced = time.monotonic()

    def _close_values(self) -> None:
        for values in self._values.values():
            with values.file, _writing(values.path, 0):
                os.fsync(values.file.fileno())
            self.journal.digests[values.path] = values.hash.hexdigest()
        self._values = {}

    def close(self) -> None:
        """Synchronize and close the files."""
        if not self._file.closed:
            with self._file, _writing(self.journal.path, 0):
                self._close_values()
                os.fsync(self._file.fileno())


class _Values:
    """A file of raw rows that is being written."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self.file = open(path, "xb", buffering=0)  # noqa: SIM115  (closed by the journal)
        self.hash = hashlib.blake2b(digest_size=16)

    def append(self, rows: np.ndarray) -> tuple[int, int]:
        """Append rows; return the number of the first one, and a checksum."""
        content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        try:
            _write_all(self.file, content)
        except OSError:
            self.file.seek(self.rows * rows.itemsize * rows.shape[1])  # what follows is no whole answer
            self.file.truncate()
            raise
        self.hash.update(content)
        start = self.rows
        self.rows += len(rows)
        return start, zlib.crc32(content)


@contextmanager
def _writing(path: Path, needed: int | None = None) -> Iterator[None]:
    """Context that converts errors of the system to an InputError."""
    try:
        with disk_errors(path, needed):
            yield
    except OSError as error:
        raise InputError(
            f"output: {path} cannot be written ({error.strerror or error}); the answers until now are kept where the "
            "folder still exists: collect again"
        ) from error


def _write_all(file: Any, content: Any) -> None:
    """Write to an unbuffered file, which may take a part at a time."""
    written = file.write(content)
    while written < len(content):
        written += file.write(memoryview(content)[written:])


def _reading(path: Path) -> BinaryIO:
    """Open a file of a journal whose content was read before."""
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise InputError(f"output: {path} was removed while the run went on; collect again") from error


def read_rows(file: BinaryIO, start: int, rows: int, width: int) -> bytes:
    """Return the bytes of float32 rows of a file of values; fewer where it is too short."""
    file.seek(4 * start * width)
    return file.read(4 * rows * width)


def digest(content: bytes) -> bytes:
    """Return the digest of a record's content."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _floats(file: BinaryIO, start: int, rows: int, width: int) -> np.ndarray:
    content = read_rows(file, start, rows, width)
    if len(content) < 4 * rows * width:
        raise InputError(
            f"{file.name} has become shorter while the run went on; collect again: only lost answers are queried"
        )
    return np.frombuffer(content, np.float32).reshape(rows, width)


def session_of(path: Path) -> int:
    """Return the number of the run that wrote a file of a journal."""
    return int(path.name.partition("-")[0])


def journal_path(folder: Path, session: int, process: int) -> Path:
    """Return the path of the journal of a process of a run."""
    return folder / FOLDER / f"{session:06d}-{process}.journal"


def journal_files(folder: Path) -> list[Path]:
    """Return all files of journals in the folder of a store.

    Args:
        folder: Folder of the store.

    Raises:
        InputError: If they, or their folder, are links or something else that no run writes.
    """
    inside = folder / FOLDER
    found = sorted(path for path in inside.glob("*") if _NAME.fullmatch(path.name))
    expected = [(inside, stat.S_ISDIR, "a folder"), *((path, stat.S_ISREG, "a file") for path in found)]
    for path, is_right, kind in expected:
        with suppress(FileNotFoundError):  # the first process has removed it
            if not is_right(path.lstat().st_mode):
                raise InputError(f"output: {path} is not {kind} of the store itself, such as a link; remove it")
    return found


def remove_journals(folder: Path, kept: Sequence[Journal] = ()) -> None:
    """Remove the journals in the folder of a store.

    Args:
        folder: Folder of the store.
        kept: Journals that stay.
    """
    stems = {journal.path.stem for journal in kept}
    for path in journal_files(folder):
        if path.name.partition(".")[0] not in stems:
            path.unlink(missing_ok=True)
    if (folder / FOLDER).is_dir() and not any((folder / FOLDER).iterdir()):
        (folder / FOLDER).rmdir()
