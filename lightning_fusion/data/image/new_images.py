"""Images without labels, for prediction."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.image.files import IMAGE_SUFFIXES, ImageFiles, single_colors
from lightning_fusion.data.new_files import find_new_files
from lightning_fusion.data.rows import NewRows, Origins


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
    found, paths = find_new_files(root, IMAGE_SUFFIXES, "image", messages)
    images, broken = reader(paths).load(limit_gb, skip_unreadable)
    readable = np.array([row not in broken for row in range(len(paths))])
    blank = single_colors(images, readable)
    notes = ["a single color" if one else "" for one in blank.tolist()]
    for row, problem in broken.items():
        notes[row] = problem
    return NewRows(images, Origins(found, np.arange(len(found))), notes, readable)
