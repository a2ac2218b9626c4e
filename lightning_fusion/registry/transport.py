"""Files behind one address, a local folder or any that fsspec knows: read whole, written in one step."""

import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from lightning_fusion.errors import InputError

_ATTEMPTS, _PAUSE_S = 3, 0.2
_THREADS = 16  # that wait for a network
_Content = TypeVar("_Content")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class UnreachableError(InputError):
    """An address in the network that did not give a file."""


class Transport:
    """Reads and writes small files below one address.

    Args:
        address: A folder, or an address that fsspec knows.
        timeout_s: Without a byte from a network address, after which a connection counts as dead. A read is tried
            three times.

    Attributes:
        fs: The file system.
        root: Path of the address in it.
        is_http: Whether files are only read, and folders are not listed.

    Raises:
        InputError: If fsspec does not know the address's kind, or it names a file.

    Example:
        >>> files = Transport("memory://transport")
        >>> files.write(files.path("a", "card.json"), b"{}")
        >>> files.folders_with("card.json"), files.read(files.path("a", "card.json"), bytes.decode, print)
        2
        (['a'], '{}')
    """

    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        self.is_http = re.match(r"https?://", address) is not None
        options: dict[str, Any] = {}
        if self.is_http:
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
            options = {"client_kwargs": {"timeout": timeout}}
        try:
            self.fs, root = url_to_fs(address, **options)
        except (ValueError, ImportError, OSError) as error:
            raise InputError(f"address: {address} is none that fsspec can open ({error})") from error
        self.root = root.rstrip("/")
        self._local = isinstance(self.fs, LocalFileSystem)
        self._waits = not self._local and not isinstance(self.fs, MemoryFileSystem)
        if self._local and os.path.exists(self.root) and not os.path.isdir(self.root):
            raise InputError(f"address: {address!r} is no folder; name the one that holds the sources")

    def path(self, *parts: str) -> str:
        """The path of a file or folder below the address."""
        return "/".join([self.root, *(quote(part) if self.is_http else part for part in parts)])

    def folders_with(self, file: str) -> list[str]:
        """Names of the folders right below the address that hold a file of this name, sorted."""
        if self._local:
            with suppress(FileNotFoundError), os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if os.path.isfile(os.path.join(entry.path, file)))
            return []
        self.fs.invalidate_cache()
        parts = (path[len(self.root) + 1 :].split("/") for path in self.fs.find(self.root, maxdepth=2))
        return sorted(found[0] for found in parts if found[1:] == [file])

    def each(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Results of a function that reads, in order; several at once where a network is waited for."""
        if not self._waits:
            return [function(item) for item in items]
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(function, items))

    def read(self, path: str, parse: Callable[[bytes], _Content], count: Callable[[int], Any]) -> _Content:
        """Read a file whole and parse it; what a network breaks is read again.

        Args:
            path: Of :meth:`path`.
            parse: Raises InputError for content that is not whole.
            count: Called with the bytes that arrived, once for each attempt.

        Raises:
            FileNotFoundError: If there is no such file.
            InputError: If it cannot be read or parsed; UnreachableError where a network fails.
        """
        attempts = _ATTEMPTS if self._waits else 1
        for attempt in range(1, attempts + 1):
            arrived = io.BytesIO()
            try:
                if self.is_http:  # streams, so that what arrived before a break is counted
                    self.fs.get_file(path, arrived)
                else:  # get_file of older releases of fsspec takes no file object
                    with self.fs.open(path, "rb") as file:
                        shutil.copyfileobj(file, arrived)
                return parse(arrived.getvalue())
            except FileNotFoundError:
                raise
            except InputError:  # cut short without a word, perhaps
                if attempt == attempts:
                    raise
            except Exception as error:  # each file system has its own
                if attempt == attempts:
                    what = f"{type(error).__name__}: {error}".removesuffix(": ")
                    tried = f"tried {attempts} times; the last one broke after {arrived.tell()} bytes, nothing was kept"
                    kind = UnreachableError if self._waits else InputError
                    raise kind(f"address: {path} could not be read ({what}; {tried})") from error
            finally:
                count(arrived.tell())
            time.sleep(_PAUSE_S * attempt)
        raise AssertionError("the last attempt returns or raises")

    def write(self, path: str, content: bytes, exclusive: bool = False) -> None:
        """Write a file in one step; where ``exclusive``, only if there is none.

        Raises:
            FileExistsError: If there is one, and ``exclusive``.
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

    def write_folder(self, folder: str, contents: dict[str, bytes]) -> None:
        """Write files by name into a new folder, which nobody reads before it is named elsewhere."""
        self.fs.makedirs(folder, exist_ok=True)
        for name, content in contents.items():
            self.fs.pipe_file(f"{folder}/{name}", content)

    def remove(self, folder: str) -> None:
        """Remove a folder; none is there already where another process was faster."""
        with suppress(FileNotFoundError):
            self.fs.rm(folder, recursive=True)


def _claim(draft: Path, path: str) -> None:
    """Give a file its name only where there is none of that name."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.exists(path):
            raise FileExistsError(path) from None
        os.replace(draft, path)
