"""Files of new samples in a folder of any layout, for prediction."""

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.folders import left_out_messages, walk_files
from lightning_fusion.errors import InputError, shorten


def find_new_files(
    root: str, suffixes: Collection[str], kind: str, messages: MessageLog
) -> tuple[list[str], list[Path]]:
    """Find a file, or all files of a kind in a folder and the folders in it, sorted by folder and name.

    Hidden files are skipped; files of other kinds are named in a warning.

    Args:
        root: File or folder, which exists.
        suffixes: Suffixes of the files, in lower case.
        kind: Name of the kind of file, for messages.
        messages: Log of what is left out.

    Returns:
        Names relative to the folder (the name of a single file), and paths.

    Raises:
        InputError: If there is no such file, or the name of one is not in UTF-8.
    """
    base, read = Path(root), ", ".join(sorted(suffixes))
    skipped = Counter[str]()
    names = [base.name] if base.is_file() else sorted(walk_files(root, "predict_root", skipped), key=_parts)
    found = [name for name in names if _suffix(name) in suffixes]
    if not found:
        seen = f", found {shorten(names, 3)}" if names else ""
        raise InputError(f"predict_root: found no {kind} in {root}; expected files that end in {read}{seen}")
    if wrong := [name for name in found if not _is_text(name)]:  # no table could name it
        raise InputError(f"predict_root: {wrong[0]!r} in {root} is no name in UTF-8; rename it")
    others = Counter(_suffix(name) for name in names if _suffix(name) not in suffixes)
    warning, message = left_out_messages(root, others, skipped, read)
    messages.warn(warning)
    messages.info(message)
    return found, [base] if base.is_file() else [base / name for name in found]


def _is_text(name: str) -> bool:
    """Whether a name has no bytes that the encoding of the file system does not explain."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _parts(name: str) -> list[str]:
    return name.split("/")
