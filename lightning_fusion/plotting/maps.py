"""Heat maps: confusion matrices, tables and attribution maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_fusion.errors import InputError
from lightning_fusion.plotting.page import MOST_INCHES, label_inches, page, shades, styled


@styled
def confusion(
    targets: ArrayLike,
    predictions: ArrayLike,
    classes: Sequence[str],
    *,
    title: str,
    xlabel: str = "predicted class",
    ylabel: str = "true class",
) -> Figure:
    """Plot the fractions of each true class that are predicted as each class.

    Args:
        targets: (N,) true class indices.
        predictions: (N,) predicted class indices.
        classes: Names of the C classes.
        title: Title of the figure.
        xlabel: Label of the columns.
        ylabel: Label of the rows.
    """
    from sklearn.metrics import confusion_matrix  # imports pandas, which is slow

    count = len(classes)
    fractions = confusion_matrix(targets, predictions, labels=range(count), normalize="true")
    side = min(MOST_INCHES, 2.4 + 0.3 * count + 0.7 * label_inches(classes))
    figure, axes = page(side + 0.7, side)
    shades(axes, fractions, classes, classes, 1.0, f"fraction of the {ylabel}")
    axes.set(xlabel=xlabel, ylabel=ylabel, aspect="equal")
    figure.suptitle(title, fontsize=10)  # longer than the matrix is wide
    return figure


@styled
def heat_map(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    label: str,
    xlabel: str = "",
    ylabel: str = "",
    top: float | None = 1.0,
) -> Figure:
    """Plot a table of values as a heat map.

    Args:
        values: (R, C) values >= 0; NaN stays white.
        rows: Names of the R rows.
        columns: Names of the C columns.
        title: Title of the figure.
        label: Label of the values.
        xlabel: Label of the columns.
        ylabel: Label of the rows.
        top: Value of the darkest shade. ``None`` means the largest value.
    """
    wide, high = 2.4 + 0.65 * len(columns) + label_inches(rows), 1.9 + 0.36 * max(3, len(rows))
    figure, axes = page(max(5.0, wide), high + 0.6 * label_inches(columns))
    shades(axes, np.asarray(values, float), rows, columns, top, label)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.suptitle(title, fontsize=10)
    return figure


@styled
def diagnosis(accuracies: ArrayLike, disagreement: ArrayLike, experts: Sequence[str], domains: Sequence[str]) -> Figure:
    """Plot the accuracy of each expert on each domain, and the disagreement of each pair of experts.

    Args:
        accuracies: (M, K), of K experts on M domains.
        disagreement: (K, K) fraction of samples on which exactly one expert of a pair is right.
        experts: Names of the experts.
        domains: Names of the domains.
    """
    pairs = np.asarray(disagreement, float)
    wide = 6.4 + 0.6 * len(experts) + label_inches([*experts, *domains])
    high = 2.0 + 0.3 * max(3, len(domains), len(experts)) + 0.6 * label_inches(experts)
    figure, (left, right) = page(wide, high, (1, 1))
    shades(left, np.asarray(accuracies, float), domains, experts, 1.0, "accuracy")
    shades(right, pairs, experts, experts, max(0.01, float(np.nanmax(pairs))), "fraction of samples")
    left.set(xlabel="expert", ylabel="domain of the samples", title="Accuracy of each expert\non each domain")
    right.set(xlabel="expert", ylabel="expert", title="Samples on which one of a pair\nalone is right")
    return figure


@styled
def attribution_maps(images: ArrayLike, maps: Mapping[str, ArrayLike]) -> Figure:
    """Plot samples in rows: the input, then the attribution map of each model.

    Each map is scaled by its own 99th percentile: colors are comparable within a map, not between maps.

    Args:
        images: (N, C, H, W) images with one or three channels, in any range, or (N, mel, T) spectrograms, drawn with
            the low frequencies at the bottom.
        maps: (N, H, W) maps of :func:`~lightning_fusion.acorl.attribution.attribute` by the name of their model.

    Raises:
        InputError: If there is no map or no image, or shapes differ.
    """
    pictures = np.asarray(images, np.float32)
    arrays = {name: np.asarray(values, np.float32) for name, values in maps.items()}
    shape, origin = pictures.shape, "lower" if pictures.ndim == 3 else "upper"
    if pictures.ndim == 3:
        pictures = pictures[:, None]
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or not len(pictures):
        raise InputError(f"images has shape {shape}; expected (samples, 1 or 3, height, width)")
    height, width = pictures.shape[2:]
    expected = (len(pictures), height, width)
    if wrong := {name: part.shape for name, part in arrays.items() if part.shape != expected}:
        raise InputError(f"maps: found shapes {wrong}; expected {expected}")
    if not arrays:
        raise InputError("maps is empty; expected the maps of one model or more, by name")
    low, high = pictures.min((1, 2, 3), keepdims=True), pictures.max((1, 2, 3), keepdims=True)
    pictures = ((pictures - low) / np.maximum(high - low, 1e-12)).transpose(0, 2, 3, 1)
    side, ratio = 1.9, min(2.0, max(0.5, height / width))
    figure = Figure(figsize=(side * (1 + len(arrays)), side * ratio * len(pictures) + 0.4))
    grid = figure.subplots(len(pictures), 1 + len(arrays), squeeze=False)
    look: dict[str, Any] = {"interpolation": "nearest", "origin": origin}
    look["aspect"] = "auto" if ratio != height / width else "equal"
    for row, picture in enumerate(pictures):
        grid[row, 0].imshow(picture[..., 0] if picture.shape[2] == 1 else picture, cmap="gray", vmin=0, vmax=1, **look)
        for column, values in enumerate(arrays.values(), 1):
            strongest = max(float(np.quantile(values[row], 0.99)), 1e-12)
            grid[row, column].imshow(values[row], cmap="inferno", vmin=0, vmax=strongest, **look)
    for column, name in enumerate(("input", *arrays)):
        grid[0, column].set_title(name)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure
