"""Text on terminals of any encoding, and files in UTF-8 whatever the locale."""

import locale
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console


def open_console(quiet: bool = False) -> Console:
    """Return a console that prints ``?`` for characters that standard output cannot encode.

    Args:
        quiet: Print nothing.
    """
    file: Any = None if _is_utf8(sys.stdout.encoding) else _Lossy(sys.stdout)
    return Console(markup=False, quiet=quiet, file=file)


def use_utf8() -> None:
    """Let this process read and write text files as UTF-8, and never fail on a character that cannot be printed.

    For the command line alone: the locale of the process is changed if it has another encoding.
    """
    for name in ("C.UTF-8", "en_US.UTF-8", "UTF-8"):
        if _is_utf8(locale.getpreferredencoding(False)):
            break
        with suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, name)
    for stream in (sys.stdout, sys.stderr):
        if not _is_utf8(stream.encoding) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _is_utf8(encoding: str | None) -> bool:
    return (encoding or "utf-8").lower().replace("-", "").replace("_", "") in ("utf8", "cp65001")


class _Lossy:
    """A text stream that replaces what it cannot encode."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        encoding = self._stream.encoding
        written: int = self._stream.write(text.encode(encoding, "replace").decode(encoding))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
