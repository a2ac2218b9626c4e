"""Stores of named arrays with a manifest in a folder, the format of all data kept between runs."""

import errno
import hashlib
import json
import math
import mmap
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from filelock import FileLock, Timeout

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

from lightning_fusion.errors import InputError, nearest_path, shorten, system_error
from lightning_fusion.files import disk_errors, is_sealed, sealed, undrafted, write_text

MANIFEST = "manifest.json"
FORMAT = 2
_MAX_BYTES, _MAX_CONTAINERS = 1 << 28, 1 << 21
"""Of a manifest; one with the names of a million files has a quarter of the bytes."""
_SPARE_FILES = 8  # modules and logs that are opened meanwhile
_FOREIGN = "contains other files ({}); choose another folder"
_DATA = re.compile("data-[0-9a-f]{12}")
_KEYS = {"format", "kind", "data", "arrays", "metadata", "digest"}
_ARRAY_KEYS = {"file", "dtype", "shape", "digest"}


class MissingStoreError(InputError):
    """The folder contains no store."""


class DamagedStoreError(InputError):
    """The manifest or an array of a store is damaged."""


class ForeignFolderError(InputError):
    """The folder contains something else: other files, a store of another kind, or one of another format."""


class ArrayStore(Mapping[str, np.ndarray]):
    """Memory-mapped arrays of a folder by name, with their metadata.

    The folder contains ``manifest.json`` and a folder of numbered files of raw bytes: the names of arrays are free
    text, with ``/`` for nested ones. The manifest has dtype, shape and BLAKE2 digest of each array, and a digest of
    itself.

    Args:
        folder: Folder of the store.
        kind: Kind of the store, such as ``"expert outputs"``.
        verify: Compare each array with its digest, which reads all bytes; sizes are always compared.
        writable: Map arrays copy-on-write, as torch requires; changes do not reach the file.

    Attributes:
        folder: Folder of the store.
        metadata: Plain data.

    Raises:
        MissingStoreError: If there is no store.
        DamagedStoreError: If it is damaged.
        ForeignFolderError: If the folder contains something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with StoreWriter(folder, "scores") as writer:
        ...         writer["train/gpt-4o"] = np.ones((2, 3), np.float32)
        ...         writer.commit({"seed": 0})
        ...     store = ArrayStore(folder, "scores")
        >>> list(store), store["train/gpt-4o"].shape, list(store.group("train")), store.metadata
        (['train/gpt-4o'], (2, 3), ['gpt-4o'], {'seed': 0})
    """

    def __init__(self, folder: str | Path, kind: str, verify: bool = True, writable: bool = False) -> None:
        self.folder = Path(folder)
        mode: Literal["c", "r"] = "c" if writable else "r"
        with _accessible(kind, self.folder, "read"):
            while True:
                manifest = _read_manifest(self.folder, kind)
                data, described = self.folder / manifest["data"], manifest["arrays"].items()
                try:
                    self._arrays = {name: _open_array(data, name, record, verify, mode) for name, record in described}
                    break
                except FileNotFoundError as error:
                    if _read_manifest(self.folder, kind) == manifest:  # not replaced by another process meanwhile
                        raise _damaged(kind, Path(error.filename), "the file is missing") from error
                except (OverflowError, ValueError) as error:
                    raise _damaged(kind, data, error) from error
        self.metadata: dict[str, Any] = manifest["metadata"]

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays with names that begin with ``prefix/``, by the rest of their names."""
        return {name[len(prefix) + 1 :]: array for name, array in self.items() if name.startswith(f"{prefix}/")}


class StoreWriter:
    """Atomic writer of a store.

    Arrays are written to a new folder ``data-<token>``; :meth:`commit` replaces the manifest, which names that folder,
    in one step. An existing store is valid until then, and removed afterwards. A lock excludes a second writer. The
    next writer removes and reports the remains of a killed one.

    Args:
        folder: Folder of the store, created where it is missing.
        kind: Kind of the store.
        overwrite: Replace a store of the same kind.
        wait: Wait for another writer instead of raising; an existing store is no error then (:attr:`exists`).

    Attributes:
        folder: Folder of the store.
        exists: Whether there is a store already, inside the ``with`` block.

    Raises:
        ForeignFolderError: If the folder contains something else.
        InputError: If it contains a store and ``overwrite`` is not set, another process is writing it, or the disk is
            full.
    """

    def __init__(self, folder: str | Path, kind: str, overwrite: bool = False, wait: bool = False) -> None:
        self.folder, self.kind, self.overwrite, self.wait = Path(folder), kind, overwrite, wait
        self._data = self.folder / f"data-{uuid.uuid4().hex[:12]}"
        self._arrays: dict[str, dict[str, Any]] = {}
        self._files: dict[str, BinaryIO] = {}  # arrays to which rows are appended
        self._count = 0

    def __enter__(self) -> "StoreWriter":
        with _accessible(self.kind, self.folder, "written"):
            self._claim()
        return self

    def _claim(self) -> None:
        """Lock the folder, and create the folder of the arrays."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.kind}: {self.folder} is a file; name a folder")
        if foreign := _foreign(self.folder):
            raise ForeignFolderError(f"{self.kind}: {self.folder} {_FOREIGN.format(shorten(foreign))}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / ".lock")
        try:
            self._lock.acquire(timeout=-1 if self.wait else 0)
        except Timeout as error:
            raise InputError(f"{self.kind}: another process is writing {self.folder}; wait for it") from error
        try:
            current = self._current(damaged=self.overwrite)
            self.exists = current is not None
            if self.exists and not (self.overwrite or self.wait):
                raise InputError(
                    f"{self.kind}: {self.folder} contains a store already; set overwrite (--overwrite=true) "
                    "to replace it"
                )
            if removed := self._remove_all_but(current):
                whole = "; the earlier store is complete" if self.exists else ""
                warnings.warn(
                    f"removed {removed} half-written store(s) that a killed run left in {self.folder}{whole}",
                    stacklevel=4,
                )
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            with suppress(OSError):  # a full disk, which append has reported
                file.close()
        with suppress(InputError, OSError):
            self._remove_all_but(self._current(damaged=True))
        self._lock.release()

    def _current(self, damaged: bool) -> str | None:
        """Return the folder that the manifest names; ``None`` if the manifest is missing or damaged."""
        try:
            return str(_read_manifest(self.folder, self.kind)["data"])
        except MissingStoreError:
            return None
        except DamagedStoreError:
            if damaged:
                return None
            raise

    def _remove_all_but(self, current: str | None) -> int:
        folders = [path for path in self.folder.iterdir() if _DATA.fullmatch(path.name) and path.name != current]
        for path in folders:
            shutil.rmtree(path, ignore_errors=True)  # some systems keep files that are mapped elsewhere
        for path in self.folder.glob(f"{MANIFEST}.*.part"):
            path.unlink(missing_ok=True)
        return len(folders)

    def __setitem__(self, name: str, values: Any) -> None:
        """Store a whole array."""
        values = np.asarray(values)
        path = self._new(name, values.dtype, values.shape)
        with disk_errors(self.folder / MANIFEST, values.nbytes), open(path, "wb") as file:
            file.write(_bytes(values))

    def append(self, name: str, values: np.ndarray) -> None:
        """Append (B, ...) rows to an array, which is created where it does not exist."""
        if name not in self._arrays:
            path = self._new(name, values.dtype, (0, *values.shape[1:]))
            self._files[name] = open(path, "wb")  # noqa: SIM115  (closed by commit, view or __exit__)
        record = self._arrays[name]
        if values.dtype.str != record["dtype"] or list(values.shape[1:]) != record["shape"][1:]:
            raise ValueError(f"{name}: rows {values.dtype}{values.shape} do not match {record}")
        with disk_errors(self.folder / MANIFEST, values.nbytes):
            self._files[name].write(_bytes(values))
        record["shape"][0] += len(values)

    def create(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Create a mapped array to be filled before :meth:`commit`; its disk space is reserved."""
        path = self._new(name, np.dtype(dtype), shape)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with disk_errors(self.folder / MANIFEST, size), open(path, "wb") as file:
            if size and hasattr(os, "posix_fallocate"):  # a page without space would kill the process
                os.posix_fallocate(file.fileno(), 0, size)
            elif size > shutil.disk_usage(self.folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.truncate(size)
        return _map(path, self._arrays[name], "r+")

    def adopt(self, name: str, path: Path, shape: tuple[int, ...], dtype: Any, digest: str) -> bool:
        """Take a file of raw bytes beside the store as an array, by a further link to it.

        Args:
            name: Name of the array.
            path: File, which must not change any more.
            shape: Shape of the array.
            dtype: Its dtype.
            digest: Its BLAKE2 digest.

        Returns:
            Whether it could be linked; if not, the array does not exist.
        """
        target = self._new(name, np.dtype(dtype), shape)
        try:
            os.link(path, target)
        except OSError:  # a file system without links
            self.discard(name)
            return False
        self._arrays[name]["digest"] = digest
        return True

    def discard(self, name: str) -> None:
        """Withdraw an array, and free its name."""
        self._close(name)
        self._arrays.pop(name, None)

    def view(self, name: str) -> np.ndarray:
        """Return a stored array, mapped; no further rows may be appended to it."""
        self._close(name)
        record = self._arrays[name]
        return _map(self._data / record["file"], record, "r")

    def commit(self, metadata: Mapping[str, Any]) -> None:
        """Publish the arrays as the store.

        Args:
            metadata: Plain data that JSON can represent.
        """
        for name in list(self._files):
            self._close(name)
        used = {record["file"] for record in self._arrays.values()}
        self._data.mkdir(exist_ok=True)
        for path in self._data.iterdir():
            if path.name not in used:
                path.unlink()
        for record in self._arrays.values():
            if "digest" not in record:
                with open(self._data / record["file"], "rb+") as file:
                    record["digest"] = _digest(file)
                    os.fsync(file.fileno())
        manifest = {
            "format": FORMAT,
            "kind": self.kind,
            "data": self._data.name,
            "arrays": self._arrays,
            "metadata": dict(metadata),
        }
        text = json.dumps(sealed(manifest), indent=1)  # ASCII: file names need not be Unicode
        if len(text) > _MAX_BYTES or text.count("[") + text.count("{") > _MAX_CONTAINERS:
            raise InputError(
                f"{self.kind}: the manifest of {self.folder} is too large: too many names of files or arrays"
            )
        write_text(self.folder / MANIFEST, text)

    def _new(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Path:
        if name in self._arrays:
            raise ValueError(f"{name} is stored already")
        if dtype.hasobject or dtype.names:
            raise ValueError(f"{name}: arrays of objects or of records cannot be stored")
        self._arrays[name] = {"file": f"{self._count}.bin", "dtype": dtype.str, "shape": list(shape)}
        self._count += 1
        self._data.mkdir(exist_ok=True)
        return self._data / str(self._arrays[name]["file"])

    def _close(self, name: str) -> None:
        if name in self._files:
            with disk_errors(self.folder / MANIFEST, 0):
                self._files.pop(name).close()


def cached(
    folder: str | Path,
    kind: str,
    write: Callable[[StoreWriter], Mapping[str, Any]],
    writable: bool = False,
) -> ArrayStore:
    """Open an entry of a cache, which is created first where it does not exist; waits for other processes.

    Args:
        folder: Folder of the entry, named by a fingerprint of its sources.
        kind: Kind of the store.
        write: Function of a writer that stores the arrays and returns the metadata, called where there is no entry.
        writable: Map arrays copy-on-write, as torch requires.

    Raises:
        DamagedStoreError: If the entry is damaged.
        ForeignFolderError: If the folder contains something else.
    """
    with suppress(MissingStoreError):
        return ArrayStore(folder, kind, writable=writable)
    with StoreWriter(folder, kind, wait=True) as writer:
        if not writer.exists:
            writer.commit(write(writer))
    return ArrayStore(folder, kind, writable=writable)


def release(*arrays: np.ndarray) -> None:
    """Release the memory of pages of mapped arrays; the files keep their content."""
    for array in arrays:
        pages: Any = getattr(array, "_mmap", None)
        if hasattr(pages, "madvise"):  # not on every system
            pages.madvise(mmap.MADV_DONTNEED)


def check_open_files(count: int, what: str) -> None:
    """Check that further files can be opened, one for each mapped array.

    Args:
        count: Number of files.
        what: What they are, for the message.

    Raises:
        InputError: If the limit of the process does not permit them.
    """
    if resource is None:
        return
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    used = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 16
    if limit != resource.RLIM_INFINITY and used + count + _SPARE_FILES > limit:
        raise InputError(
            f"open files: {count} {what} need as many, {used} are open, and the limit of this process is {limit}; "
            f"raise it, as in: ulimit -n {max(1024, 2 * (used + count + _SPARE_FILES))}"
        )


def _foreign(folder: Path) -> list[str]:
    """Return the names of files that do not belong to a store; hidden files are ignored."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if name[0] != "." and undrafted(name) != MANIFEST and not _DATA.fullmatch(name)]


def _read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        if foreign := _foreign(folder):
            raise ForeignFolderError(f"{kind}: {folder} {_FOREIGN.format(shorten(foreign))}")
        raise MissingStoreError(f"{kind}: found no {MANIFEST} in {folder}{nearest_path(folder)}")
    try:
        if (size := file.stat().st_size) > _MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes; a manifest has at most {_MAX_BYTES:,}")
        text = file.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > _MAX_CONTAINERS:  # a small text would take gigabytes
            raise ValueError(f"it has more than {_MAX_CONTAINERS:,} lists and mappings")
        manifest = json.loads(text)
    except (RecursionError, ValueError) as error:
        raise _damaged(kind, file, error) from error
    found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
    if type(found) is not int or found != FORMAT:
        raise ForeignFolderError(f"{kind}: {file} has format {found}; this version reads {FORMAT}")
    if manifest.get("kind", kind) != kind:
        raise ForeignFolderError(f"{kind}: {folder} contains {manifest['kind']}; name a folder of {kind}")
    try:
        _check_schema(manifest)
    except (OverflowError, RecursionError, TypeError, ValueError) as error:
        raise _damaged(kind, file, error) from error
    result: dict[str, Any] = manifest
    return result


def _check_schema(manifest: dict[str, Any]) -> None:
    _check_keys("the manifest", manifest, _KEYS)
    if not _DATA.fullmatch(manifest["data"]):
        raise ValueError(f"data is {manifest['data']}")
    if not is_sealed(manifest):
        raise ValueError("its content has another digest")
    _check_keys("metadata", manifest["metadata"])
    _check_keys("arrays", manifest["arrays"])
    for name, record in manifest["arrays"].items():
        _check_keys(f"array {name}", record, _ARRAY_KEYS)
        dtype, shape = np.dtype(record["dtype"]), record["shape"]
        sizes = all(type(size) is int and size >= 0 for size in shape)
        written = dtype.str == record["dtype"] and not dtype.hasobject
        if not sizes or not written or not re.fullmatch(r"\d+\.bin", record["file"]):
            raise ValueError(f"array {name} is {record}")


def _check_keys(what: str, found: Any, expected: set[str] | None = None) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{what} is a {type(found).__name__}, not a mapping")
    if expected is not None and set(found) != expected:
        raise ValueError(f"{what} has the keys {shorten(sorted(found))}; expected {shorten(sorted(expected))}")


def _damaged(kind: str, path: Path, what: object) -> DamagedStoreError:
    return DamagedStoreError(f"{kind}: {path} is damaged ({what}); delete the folder, and create it again")


def _open_array(data: Path, name: str, record: dict[str, Any], verify: bool, mode: Literal["c", "r"]) -> np.ndarray:
    path = data / record["file"]
    if data.is_symlink() or path.is_symlink():
        raise ValueError(f"{path if path.is_symlink() else data} is a link; expected a file of the store itself")
    expected = math.prod(record["shape"]) * np.dtype(record["dtype"]).itemsize
    found = path.stat().st_size
    if found != expected:
        raise ValueError(f"{path.name} of {name} has {found} bytes, the manifest has {expected}")
    if verify:
        with open(path, "rb") as file:
            if _digest(file) != record["digest"]:
                raise ValueError(f"{path.name} of {name} has another digest than in the manifest")
    return _map(path, record, mode)


def _map(path: Path, record: dict[str, Any], mode: Literal["c", "r", "r+"]) -> np.ndarray:
    dtype, shape = np.dtype(record["dtype"]), tuple(record["shape"])
    if 0 in shape or not dtype.itemsize:  # nothing to map
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, mode, shape=shape)


def _digest(file: Any) -> str:
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _bytes(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


@contextmanager
def _accessible(kind: str, folder: Path, what: str) -> Iterator[None]:
    """Convert errors of the system to an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{kind}: {folder} cannot be {what} ({error.strerror or error}); change its permissions, or name another "
            "folder"
        ) from error
    except ValueError as error:  # the name of the folder has characters that the system cannot encode
        found = None if isinstance(error, InputError) else system_error(error)
        if found is None:
            raise
        raise InputError(f"{kind}: {found}") from error
