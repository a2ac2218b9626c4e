"""Atomic reads and writes of small files in a local folder or a file system of fsspec."""

import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from filelock import FileLock
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from lightning_fusion.errors import InputError

_ATTEMPTS, _PAUSE_S = 3, 0.2
_THREADS = 16  # threads that wait for a network
_SLOWEST = 100_000  # bytes per second, below which a connection is given up
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_Content = TypeVar("_Content")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class UnreachableError(InputError):
    """A network address from which a file could not be read."""


class OversizeError(InputError):
    """A file has more bytes than permitted."""


class _Received(io.BytesIO):
    """Buffer that raises when it receives too many bytes, or too slowly."""

    def __init__(self, limit: int, seconds: float) -> None:
        super().__init__()
        self.limit, self.end, self.seconds = limit, time.monotonic() + seconds, seconds

    def write(self, content: Any) -> int:
        if self.tell() + len(content) > self.limit:
            raise OversizeError(f"it has more than {self.limit:,} bytes")
        if content and time.monotonic() > self.end:
            raise UnreachableError(f"it took more than {self.seconds:.0f} s")
        return super().write(content)


class Transport:
    """Reader and writer of small files below one address.

    Args:
        address: A folder, or a URL that fsspec supports.
        timeout_s: Seconds without data from a network address after which a connection fails. Reads are tried three
            times, and given up below 100 kB/s. Redirects to another host are rejected.

    Attributes:
        fs: The file system.
        root: Path of the address in the file system.
        is_http: Whether files are read-only and folders cannot be listed.
        is_remote: Whether each file is waited for, so that many small ones are slow.

    Raises:
        InputError: If fsspec does not support the protocol of the address, or the address is a file.

    Example:
        >>> files = Transport("memory://transport")
        >>> files.write(files.path("a", "card.json"), b"{}")
        >>> files.folders_with("card.json"), files.read(files.path("a", "card.json"), bytes.decode, print)
        2
        (['a'], '{}')
    """

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        self.is_http, self.timeout_s = re.match(r"https?://", address) is not None, timeout_s
        options: dict[str, Any] = {}
        if self.is_http:
            from aiohttp import ClientTimeout, TraceConfig

            trace = TraceConfig()
            trace.on_request_redirect.append(_check_redirect)
            client = {
                "timeout": ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s),
                "headers": {"Accept-Encoding": "identity"},
                "auto_decompress": False,  # a kilobyte may become a gigabyte
                "trace_configs": [trace],
            }
            options = {"client_kwargs": client, "skip_instance_cache": True}
        try:
            self.fs, root = url_to_fs(address, **options)
        except (ValueError, ImportError, OSError) as error:
            package = _PACKAGES.get(address.partition("://")[0])
            way = f"; pip install {package}" if package and isinstance(error, ImportError) else ""
            raise InputError(f"address: {address} cannot be opened by fsspec ({error}){way}") from error
        self.root = root.rstrip("/")
        self._local = isinstance(self.fs, LocalFileSystem)
        self.is_remote = not self._local and not isinstance(self.fs, MemoryFileSystem)
        if self._local and os.path.exists(self.root) and not os.path.isdir(self.root):
            raise InputError(f"address: {address!r} is no folder; set it to the folder that contains the sources")

    def path(self, *parts: str) -> str:
        """Return the path of a file or folder below the address."""
        return "/".join([self.root, *(quote(part) if self.is_http else part for part in parts)])

    def folders_with(self, file: str) -> list[str]:
        """Return the sorted names of the folders directly below the address that contain a file of this name."""
        if self._local:
            with suppress(FileNotFoundError), os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if os.path.isfile(os.path.join(entry.path, file)))
            return []
        self.fs.invalidate_cache()
        parts = (path[len(self.root) + 1 :].split("/") for path in self.fs.find(self.root, maxdepth=2))
        return sorted(found[0] for found in parts if found[1:] == [file])

    def each(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Return the results of a reading function in order; concurrently for network addresses."""
        if not self.is_remote:
            return [function(item) for item in items]
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(function, items))

    def read(
        self, path: str, parse: Callable[[bytes], _Content], count: Callable[[int], Any], limit: int = 1 << 20
    ) -> _Content:
        """Read a whole file and parse it; failed network reads are repeated.

        Args:
            path: Result of :meth:`path`.
            parse: Parser; raises InputError for incomplete content.
            count: Function that is called with the number of received bytes, once for each attempt.
            limit: Maximum number of bytes.

        Raises:
            FileNotFoundError: If there is no such file.
            InputError: If it cannot be read or parsed; UnreachableError where a network fails.
        """
        if self._local and os.path.exists(path) and not os.path.isfile(path):  # a pipe would block
            raise InputError(f"address: {path} could not be read (it is no regular file)")
        attempts = _ATTEMPTS if self.is_remote else 1
        seconds = self.timeout_s + limit / _SLOWEST
        for attempt in range(1, attempts + 1):
            arrived = _Received(limit, seconds)
            try:
                if self.is_http:  # streams, so that bytes received before a break are counted
                    self.fs.get_file(path, arrived)
                else:  # get_file of older releases of fsspec takes no file object
                    with self.fs.open(path, "rb") as file:
                        shutil.copyfileobj(file, arrived)
                return parse(arrived.getvalue())
            except FileNotFoundError:
                raise
            except (OversizeError, UnreachableError) as error:  # another attempt would be the same
                raise type(error)(f"address: {path} was not read: {error}") from error
            except InputError:  # possibly truncated without an error
                if attempt == attempts:
                    raise
            except Exception as error:  # file systems raise various types
                if attempt == attempts:
                    what = f"{type(error).__name__}: {error}".removesuffix(": ")
                    tried = (
                        f"tried {attempts} times; the last one broke after {arrived.tell()} bytes, which were discarded"
                    )
                    kind = UnreachableError if self.is_remote else InputError
                    raise kind(f"address: {path} could not be read ({what}; {tried})") from error
            finally:
                count(arrived.tell())
            time.sleep(_PAUSE_S * attempt)
        raise AssertionError("the last attempt returns or raises")

    def write(self, path: str, content: bytes, exclusive: bool = False) -> None:
        """Write a file atomically; with ``exclusive``, only if it does not exist.

        Raises:
            FileExistsError: If it exists, and ``exclusive`` is set.
        """
        if not self._local:
            self.fs.pipe_file(path, content, mode="create" if exclusive else "overwrite")
            return
        draft = Path(f"{path}.{uuid.uuid4().hex}")
        try:
            draft.write_bytes(content)
            if exclusive:
                _claim(draft, path)
            else:
                os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def write_below(self, path: str, content: bytes) -> None:
        """Write a file atomically into a folder that may not exist yet."""
        self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.write(path, content)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Context in which no other process publishes to a local folder; other file systems have no lock."""
        if not self._local:
            yield
            return
        os.makedirs(self.root, exist_ok=True)
        with FileLock(os.path.join(self.root, ".lock"), is_singleton=True):
            yield

    def remove_all_but(self, folder: str, kept: str, pattern: str) -> None:
        """Remove the folders with names of a pattern below a local folder, but one: remains of killed processes."""
        if self._local:
            for entry in list(os.scandir(folder)):
                if entry.name != kept and re.fullmatch(pattern, entry.name) and entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)

    def write_folder(self, folder: str, contents: dict[str, bytes]) -> None:
        """Write files by name into a new folder, which is not read before a card names it."""
        self.fs.makedirs(folder, exist_ok=True)
        for name, content in contents.items():
            self.fs.pipe_file(f"{folder}/{name}", content)

    def remove(self, folder: str) -> None:
        """Remove a folder; it may have been removed by another process."""
        with suppress(FileNotFoundError):
            self.fs.rm(folder, recursive=True)


async def _check_redirect(_session: Any, _context: Any, found: Any) -> None:
    """Reject a redirect to another host: a registry is one address."""
    target = found.url.join(type(found.url)(found.response.headers.get("Location", "")))
    if target.origin() != found.url.origin():
        raise UnreachableError(f"it is redirected to another host, {target.origin()}")


def _claim(draft: Path, path: str) -> None:
    """Rename a draft to its final path unless that exists."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.exists(path):
            raise FileExistsError(path) from None
        os.replace(draft, path)
