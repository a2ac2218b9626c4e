"""Style, layout, tick labels and legend of all figures."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_fusion.files import atomic_write

P = ParamSpec("P")
_STYLE: Any = {
    "text.parse_math": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 130,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.fontsize": 8,
}
MOST_NUMBERS = 12
"""Maximum number of rows or columns of a heat map with annotated values."""
MOST_INCHES = 16.0
"""Maximum side of a figure, in inches."""
_LONGEST = 32
"""Maximum number of characters of a tick label; the middle of longer names is left out."""


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically; the suffix of the path selects the format.

    Characters that the font lacks are one warning for a figure, not one for each.
    """
    with warnings.catch_warnings(record=True) as found, atomic_write(Path(path)) as draft:
        warnings.simplefilter("always")
        figure.savefig(draft, format=Path(path).suffix.removeprefix(".") or "png")
    missing = {str(each.message) for each in found if str(each.message).startswith("Glyph ")}
    if missing:
        warnings.warn(
            f"{Path(path).name}: the font of figures lacks {len(missing)} characters of the names, which are drawn as "
            "boxes; set font.family in a matplotlibrc to a font that has them",
            stacklevel=2,
        )
    for each in found:
        if str(each.message) not in missing:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function to draw in the style of this module, independent of the caller's style."""

    @wraps(draw)
    def drawing(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawing


def page(width: float, height: float, columns: Sequence[float] = (1,)) -> tuple[Figure, Any]:
    """Create a figure with one axes per column of the given relative widths; sizes are in inches."""
    figure = Figure(figsize=(min(MOST_INCHES, width), min(MOST_INCHES, height)))
    return figure, figure.subplots(1, len(columns), width_ratios=columns)


def label_axes(axes: Axes, grid: Literal["both", "x", "y"] = "both", **labels: Any) -> None:
    """Set titles, labels and limits of axes, and draw the grid of one axis or of both."""
    axes.set(**labels)
    axes.grid(axis=grid)


def color_of(number: int, count: int) -> Any:
    """Return the color of one of some methods: of ten different ones, or of twenty where there are more."""
    name, colors = ("tab10", 10) if count <= 10 else ("tab20", 20)
    return matplotlib.colormaps[name](number % colors)


def shades(
    axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], top: float | None, label: str
) -> None:
    """Draw (R, C) values >= 0 as shades.

    Args:
        axes: Axes to draw in.
        values: (R, C) values.
        rows: Names of the rows.
        columns: Names of the columns.
        top: Value of the darkest shade; ``None`` means the largest value.
        label: Label of the scale.
    """
    top = float(np.nanmax(values)) if top is None else top
    image = axes.imshow(values, vmin=0, vmax=top, cmap="Blues", aspect="auto")
    name_ticks(axes, "x", columns)
    name_ticks(axes, "y", rows)
    axes.spines[:].set_visible(True)
    axes.get_figure().colorbar(image, ax=axes, shrink=0.9, label=label)  # type: ignore[union-attr]
    for (row, column), value in np.ndenumerate(values) if max(values.shape) <= MOST_NUMBERS else ():
        color = "white" if value > 0.6 * top else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)


def name_ticks(axes: Axes, axis: str, names: Iterable[str]) -> None:
    """Set tick labels at whole numbers: rotated, small, or only some of them where space is limited."""
    labels = [_cut(name) for name in names]
    figure, grid = axes.get_figure(root=True), axes.get_gridspec()
    assert figure is not None and grid is not None
    size = figure.get_size_inches()
    room = 0.6 * (size[0] / grid.ncols if axis == "x" else size[1] / grid.nrows) / len(labels)  # inches, about
    look: dict[str, Any] = {"fontsize": 6} if room < 0.18 else {}
    if axis == "x" and room < 0.08 * max(map(len, labels)):
        look |= {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if room >= 0.18 else {"rotation": 90}
    step = math.ceil(0.09 / room)
    (axes.xaxis if axis == "x" else axes.yaxis).set_ticks(range(0, len(labels), step), labels[::step], **look)


def label_inches(names: Iterable[str]) -> float:
    """Return about how long the longest of some tick labels is, in inches."""
    return 0.075 * max((len(_cut(name)) for name in names), default=0)


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[1 - _LONGEST // 2 :]}"


def legend_below(figure: Figure, *parts: Axes) -> None:
    """Draw the legend of some axes below the figure, in as many columns as fit."""
    entries = [axes.get_legend_handles_labels() for axes in parts]
    handles, labels = ([item for lists in kind for item in lists] for kind in zip(*entries, strict=True))
    if len(labels) > 1:
        wide = 0.55 + 0.058 * max(map(len, labels))  # inches of one entry
        columns = max(1, min(len(labels), int(figure.get_size_inches()[0] / wide)))
        columns = math.ceil(len(labels) / math.ceil(len(labels) / columns))  # as many in each row
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
