"""Images without labels, for prediction."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.folders import left_out_messages, walk_files
from lightning_fusion.data.image.files import IMAGE_SUFFIXES, ImageFiles, examples, single_colors
from lightning_fusion.data.rows import NewRows, Origins
from lightning_fusion.errors import InputError


def read_new_images(
    root: str, reader: Callable[[list[Path]], ImageFiles], limit_gb: float, skip_unreadable: bool, messages: MessageLog
) -> NewRows:
    """Read an image file, or all image files in a folder and the folders in it, for prediction.

    Args:
        root: File or folder.
        reader: Returns the reader of some files.
        limit_gb: Memory limit; decoded images larger than this stay on disk.
        skip_unreadable: Give files that cannot be decoded a note in place of an error.
        messages: Log of what is left out.

    Raises:
        InputError: If there is no image, sizes differ, or a file cannot be decoded.
    """
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    base = Path(root)
    others, skipped = Counter[str](), Counter[str]()
    names = [base.name] if base.is_file() else sorted(walk_files(root, "predict_root", skipped), key=_parts)
    found = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    others.update(os.path.splitext(name)[1].lower() for name in set(names) - set(found))
    if not found:
        raise InputError(
            f"predict_root: found no image in {root}; expected files that end in {suffixes}{examples(names)}"
        )
    warning, message = left_out_messages(root, others, skipped, suffixes)
    messages.warn(warning)
    messages.info(message)
    paths = [base] if base.is_file() else [base / name for name in found]
    images, broken = reader(paths).load(limit_gb, skip_unreadable)
    readable = np.array([row not in broken for row in range(len(paths))])
    blank = single_colors(images, readable)
    notes = ["a single color" if one else "" for one in blank.tolist()]
    for row, problem in broken.items():
        notes[row] = problem
    return NewRows(images, Origins(found, np.arange(len(found))), notes, readable)


def _parts(name: str) -> list[str]:
    return name.split("/")
