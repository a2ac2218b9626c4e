"""Atomic writes of files, and fingerprints."""

import hashlib
import json
import os
import re
import shutil
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from lightning_fusion.errors import InputError, disk_message, is_disk_full, shorten, system_error

ARCHIVE_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)
"""What ``zipfile`` and ``numpy.load`` raise for a damaged archive: one bit of it decides which."""


@contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Context that converts errors of a full disk to an InputError with the free space.

    Args:
        path: File that is written, in an existing folder.
        needed: Its size in bytes, or that of the part that is written, if it is known.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not is_disk_full(error):
            raise
        free = f"{shutil.disk_usage(path.parent).free:,} free"
        size = free if needed is None else f"{needed:,} bytes needed, {free}"
        raise InputError(f"{path.parent}: {disk_message(error, size)}") from error


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Context that one process at a time can enter; the system ends the claim of a killed one.

    Args:
        path: Lock file, in a folder that is created if it is missing.
        what: What is claimed, for the message.

    Raises:
        InputError: If another process is inside.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / ".lock"
        >>> with exclusive(path, "output"):
        ...     path.name in [file.name for file in path.parent.iterdir()]
        True
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{what}: another process is writing {path.parent}; wait for it") from error
    except OSError as error:
        raise InputError(f"{what}: {path.parent} cannot be written ({error.strerror}); name another folder") from error
    except ValueError as error:
        raise InputError(f"{what}: {system_error(error) or error}") from error
    try:
        yield
    finally:
        lock.release()


def undrafted(name: str) -> str:
    """Return the name of the final file of a draft of :func:`atomic_write`; other names are returned unchanged.

    Example:
        >>> undrafted("run.json.0c4f.part"), undrafted("run.json")
        ('run.json', 'run.json')
    """
    return re.sub(r"\.[0-9a-f]+\.part$", "", name)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context of a draft file, which replaces the file if the block succeeds; safe for concurrent processes.

    The draft is flushed to disk before it is renamed: after a crash the file is either the old or the new one.

    Args:
        path: Path of the file, in an existing folder.

    Raises:
        InputError: If the disk is full; the file is unchanged.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_write(path) as draft:
        ...     _ = draft.write_text("all of it")
        >>> path.read_text(), [file.name for file in path.parent.iterdir()]
        ('all of it', ['a.txt'])
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")  # process ids of two containers may be equal
    try:
        with disk_errors(path):
            yield draft
            sync(draft)
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file to disk."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def digest(*parts: Any) -> str:
    """Return a short BLAKE2 fingerprint of texts, arrays and tensors, in order.

    Example:
        >>> digest("a", np.arange(3)) == digest("a", np.arange(3)), len(digest("a"))
        (True, 32)
    """
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous()
            state.update(f"{part.dtype}{tuple(part.shape)}".encode())
            if part.numel():  # an empty tensor may have a stride that cannot be viewed
                state.update(part.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, np.ndarray):
            state.update(f"{part.dtype}{part.shape}".encode())
            state.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            state.update(str(part).encode())
        state.update(b"\0")
    return state.hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with a digest of its other entries as ``digest``, to find damage when read.

    Args:
        content: Plain data; an entry ``digest`` is replaced.

    Example:
        >>> found = sealed({"names": ["a", "b"]})
        >>> is_sealed(found), is_sealed(found | {"names": ["b", "a"]})
        (True, False)
    """
    others = {key: value for key, value in content.items() if key != "digest"}
    return {**others, "digest": digest(json.dumps(others))}


def is_sealed(content: Mapping[str, Any]) -> bool:
    """Return whether the entries of a JSON file are those of :func:`sealed`."""
    return bool(content.get("digest") == sealed(content)["digest"])


_RESERVED_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)  # of Windows
_LONGEST_NAME = 150


def file_key(name: str, what: str = "the name") -> str:
    """Return the name of a file or folder for a free text; :func:`name_of_key` is its inverse.

    Letters, digits, blanks, ``-`` and ``_`` stay; dots, slashes and other characters that no system takes are written
    as in URLs.

    Args:
        name: Name of a domain or source.
        what: Meaning of the name, for the message.

    Raises:
        InputError: If the name is empty, longer than 150 bytes, or no Unicode text.

    Example:
        >>> file_key("street 7"), file_key("org/model-v1.0"), name_of_key("org%2Fmodel-v1%2E0")
        ('street 7', 'org%2Fmodel-v1%2E0', 'org/model-v1.0')
    """
    key = re.sub(r'[%./\\<>:"|?*\x00-\x1f\x7f]|^ | $', lambda found: f"%{ord(found[0]):02X}", name)
    if _RESERVED_NAMES.fullmatch(key):
        key = f"%{ord(key[0]):02X}{key[1:]}"
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InputError(f"{what} {name!a} is no Unicode text; rename it") from error
    if not 0 < size <= _LONGEST_NAME:
        raise InputError(
            f"{what} {shorten([ascii(name[:40])])} has {size} bytes; expected 1 to {_LONGEST_NAME}: rename it"
        )
    return key


def name_of_key(key: str) -> str | None:
    """Return the name of which :func:`file_key` made a file name; ``None`` if it did not make it."""
    name = unquote(key)
    with suppress(InputError):
        return name if file_key(name) == key else None
    return None


def row_digests(*arrays: Any) -> np.ndarray:
    """Return (N,) uint64, an 8-byte BLAKE2 digest of each sample: equal for equal content, in any process.

    Args:
        *arrays: (N, ...) arrays or tensors, or lists of N texts or bytes, whose rows make up a sample.

    Example:
        >>> found = row_digests(np.array([[1, 2], [3, 4], [1, 2]]))
        >>> bool(found[0] == found[2] != found[1]), len(row_digests(["a", "b"]))
        (True, 2)
    """
    result = np.empty(len(arrays[0]), np.uint64)
    parts = [_rows_as_bytes(values) for values in arrays]
    for row in range(len(result)):
        state = hashlib.blake2b(digest_size=8)
        for part in parts:
            state.update(part[row])
        result[row] = int.from_bytes(state.digest(), "little")
    return result


def _rows_as_bytes(values: Any) -> Any:
    """Return an object whose items are the bytes of the rows."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray):
        width = values.size // max(1, len(values))
        return np.ascontiguousarray(values).reshape(len(values), width).view(np.uint8)
    return [value.encode() if isinstance(value, str) else value for value in values]


def hash_files(files: Iterable[Path]) -> str:
    """Return a BLAKE2 fingerprint of the contents of files, in order; files of any size.

    Example:
        >>> hash_files([Path(__file__)]) == hash_files([Path(__file__)]) != hash_files([])
        True
    """
    state = hashlib.blake2b(digest_size=16)
    for path in files:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                state.update(piece)
        state.update(b"\0")
    return state.hexdigest()
