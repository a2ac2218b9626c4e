"""Pictures of single samples."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_fusion.errors import InputError
from lightning_fusion.plotting.page import styled

_COLUMNS = 6
_LONGEST = 22
"""Maximum number of characters in a line of a caption."""


@styled
def pictures(images: Sequence[ArrayLike], captions: Sequence[str], *, title: str) -> Figure:
    """Plot images in a grid, each with a caption.

    Args:
        images: (C, H, W) images with one or three channels, in any range and of any size.
        captions: Caption of each image; lines are separated by line breaks.
        title: Title of the figure.

    Raises:
        InputError: If there is no image, or one has another shape.
    """
    arrays = [np.asarray(image, np.float32) for image in images]
    if wrong := [array.shape for array in arrays if array.ndim != 3 or array.shape[0] not in (1, 3)]:
        raise InputError(f"images: found shape {wrong[0]}; expected (1 or 3, height, width)")
    if not arrays or len(arrays) != len(captions):
        raise InputError(f"found {len(arrays)} images and {len(captions)} captions; expected one for each, and some")
    columns = min(_COLUMNS, len(arrays))
    rows = math.ceil(len(arrays) / columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    figure = Figure(figsize=(1.6 * columns + 0.2, (1.5 + 0.16 * lines) * rows + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, array, caption in zip(grid, arrays, captions, strict=False):
        low, high = float(array.min()), float(array.max())
        shown = ((array - low) / max(high - low, 1e-12)).transpose(1, 2, 0)
        axes.imshow(shown[..., 0] if shown.shape[2] == 1 else shown, cmap="gray", vmin=0, vmax=1)
        axes.set_title("\n".join(_cut(line) for line in caption.split("\n")), fontsize=7)
    for axes in figure.axes:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=10)
    return figure


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
