"""Files of a folder and all folders in it, without those that an operating system or a file server adds."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from lightning_fusion.errors import InputError, shorten

_SKIPPED = re.compile(
    r"\..*|#recycle|#snapshot|\$recycle\.bin|@eadir|@recycle|@tmp|__macosx|__pycache__|lost\+found|recycler"
    r"|system volume information",
    re.IGNORECASE,
)
"""Hidden folders, and folders of operating systems and file servers."""
_COMPANION = re.compile(
    r"(\.(bin|cfg|csv|db|docx?|html|ini|json|lnk|log|md|pdf|py|rst|sh|tex|toml|txt|url|xml|ya?ml))?"
)
"""Suffixes of files that accompany data."""


def walk_files(root: str, key: str, skipped: Counter[str]) -> Iterator[str]:
    """Yield the paths of all files under a folder, relative to it, with forward slashes; hidden files are skipped.

    Links to folders are followed.

    Args:
        root: Folder to search.
        key: Argument that names the folder, for messages.
        skipped: Counts the folders that are skipped by their name: hidden ones, and those of file servers.

    Raises:
        InputError: If a folder cannot be opened or links to one of its parents, or a file is a pipe, socket or device,
            which a reader would wait for.
    """
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except OSError as error:
            raise InputError(f"{key}: the folder {error.filename} cannot be opened ({error.strerror})") from error
        for entry in entries:
            if entry.is_dir():
                if is_skipped(entry.name):
                    skipped[entry.name] += 1
                    continue
                if entry.is_symlink() and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(entry.path)):
                    raise InputError(f"{key}: {entry.path} links to one of its parent folders; remove the link")
                waiting.append((entry.path, f"{prefix}{entry.name}/"))
            elif not entry.name.startswith("."):
                if not entry.is_file() and os.path.exists(entry.path):
                    raise InputError(f"{key}: {entry.path} is a pipe, socket or device, no file; remove it")
                yield prefix + entry.name


def is_skipped(folder: str) -> bool:
    """Return whether a folder of this name is skipped: a hidden one, or one of a file server."""
    return _SKIPPED.fullmatch(folder) is not None


def left_out_messages(
    root: object, others: Mapping[str, int], skipped: Mapping[str, int], read: str
) -> tuple[str | None, str | None]:
    """Return a warning and a message about files and folders that are not read; ``None`` if there are none.

    Args:
        root: Folder that was searched.
        others: Number of files of each suffix that is not read.
        skipped: Number of folders of each name that are skipped.
        read: Suffixes that are read, for the warning.

    Example:
        >>> left_out_messages("pets", {".heic": 2, ".md": 1}, {"@eaDir": 3}, ".jpg, .png")[0]
        '2 .heic file(s) under pets are left out; the files that are read end in .jpg, .png'
        >>> left_out_messages("pets", {".heic": 2, ".md": 1}, {"@eaDir": 3}, ".jpg, .png")[1]
        'left out under pets: 1 .md, 3 folder(s) @eaDir'
    """
    lost: list[str] = []
    small: list[str] = []
    for suffix, count in sorted(others.items()):
        kind = small if _COMPANION.fullmatch(suffix) else lost
        kind.append(f"{count} {suffix or 'without a suffix'}")
    small += [f"{count} folder(s) {name}" for name, count in sorted(skipped.items())]
    warning = f"{shorten(lost, 9)} file(s) under {root} are left out; the files that are read end in {read}"
    return warning if lost else None, f"left out under {root}: {shorten(small, 9)}" if small else None
