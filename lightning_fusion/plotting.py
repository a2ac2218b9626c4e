"""Every figure, once: functions of plain arrays that return a matplotlib ``Figure``, for reports and loggers alike.

No figure belongs to pyplot, so none has to be closed. Names stand in them as they are: a class called ``$5_to_$10`` is
no formula.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.stats import norm

from lightning_fusion.errors import InputError
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
_MOST_NUMBERS = 12
"""Rows or columns of a heat map up to which its values are written into it."""
_MOST_INCHES = 16.0
_LONGEST = 32
"""Characters of a name beside an axis; of longer ones the middle is left out."""


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure whole or not at all; the suffix of the path chooses the format."""
    with atomic_write(Path(path)) as draft:
        figure.savefig(draft, format=Path(path).suffix.removeprefix(".") or "png")


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of this module, whatever the caller's is."""

    @wraps(draw)
    def drawing(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawing


@_styled
def grouped_bars(
    values: Mapping[str, Sequence[float]], groups: Sequence[str], *, label: str, title: str, top: float | None = None
) -> Figure:
    """One bar for each method in each group: accuracies by domain, say.

    Args:
        values: (G,) values of each method.
        groups: Names of the G groups.
        label: Of the values' axis.
        title: Of the figure.
        top: End of the values' axis, which begins at 0; both as the values want it where None.
    """
    width = 0.84 / len(values)
    figure, axes = _page(min(15.0, max(6.5, 2 + 0.2 * (len(values) + 1) * len(groups))), 4.3)
    for number, (method, heights) in enumerate(values.items()):
        axes.bar(np.arange(len(groups)) + (number - (len(values) - 1) / 2) * width, heights, width, label=method)
    _name(axes, "x", groups)
    if top is not None:
        axes.set_ylim(0, top)
    axes.axhline(0, color="black", linewidth=0.8)
    _label(axes, "y", ylabel=label, title=title)
    _legend_below(figure, axes)
    return figure


@_styled
def confusion(
    targets: ArrayLike,
    predictions: ArrayLike,
    classes: Sequence[str],
    *,
    title: str,
    xlabel: str = "predicted class",
    ylabel: str = "true class",
) -> Figure:
    """Fractions of each true class that are predicted as each class.

    Args:
        targets: (N,) class numbers.
        predictions: (N,) class numbers.
        classes: Names of the C classes.
        title: Of the figure.
        xlabel: What the columns are.
        ylabel: What the rows are.
    """
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix  # brings pandas: longer than all else here

    count = len(classes)
    fractions = confusion_matrix(targets, predictions, labels=range(count), normalize="true")
    side = min(_MOST_INCHES, 3.2 + 0.3 * count)
    figure = Figure(figsize=(side + 0.7, side))
    axes = figure.subplots()
    ConfusionMatrixDisplay(fractions).plot(
        ax=axes,
        cmap="Blues",
        include_values=count <= _MOST_NUMBERS,
        values_format=".2f",
        im_kw={"vmin": 0, "vmax": 1},
        text_kw={"fontsize": 8},
    )
    _name(axes, "x", classes)
    _name(axes, "y", classes)
    axes.spines[:].set_visible(True)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.suptitle(title, fontsize=10)  # longer than the matrix is wide
    return figure


@_styled
def heat_map(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    top: float | None = 1.0,
) -> Figure:
    """Values of every row and column as shades.

    Args:
        values: (R, C) values >= 0; NaN stays white.
        rows: Names of the R rows.
        columns: Names of the C columns.
        title: Of the figure.
        xlabel: What the columns are.
        ylabel: What the rows are.
        top: The darkest shade's value; the largest one where None.
    """
    figure, axes = _page(3.4 + 0.65 * len(columns), 1.9 + 0.36 * len(rows))
    _shades(axes, np.asarray(values, float), rows, columns, top)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.suptitle(title, fontsize=10)
    return figure


@_styled
def diagnosis(accuracies: ArrayLike, disagreement: ArrayLike, experts: Sequence[str], domains: Sequence[str]) -> Figure:
    """Accuracy of each expert on each domain, and the disagreement of each pair of experts, side by side.

    Args:
        accuracies: (M, K), of K experts on M domains.
        disagreement: (K, K) fraction of samples on which one of a pair alone is right.
        experts: Names of the experts.
        domains: Names of the domains.
    """
    pairs = np.asarray(disagreement, float)
    figure, (left, right) = _page(8 + 0.6 * len(experts), 2.6 + 0.3 * max(len(domains), len(experts)), (1, 1))
    _shades(left, np.asarray(accuracies, float), domains, experts, 1.0)
    _shades(right, pairs, experts, experts, max(0.01, float(np.nanmax(pairs))))
    left.set(xlabel="expert", ylabel="domain of the samples", title="Accuracy of each expert on each domain")
    right.set(xlabel="expert", ylabel="expert", title="Fraction of samples on which one of a pair alone is right")
    return figure


@_styled
def permutation_importance(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Test accuracy that a fuser loses when the outputs of one expert are permuted over the samples.

    Args:
        losses: (S,) losses of accuracy of each expert, one per seed.
    """
    figure, axes = _page(6.5, 1.3 + 0.28 * len(losses))
    axes.barh(range(len(losses)), [100 * np.mean(values) for values in losses.values()], color="tab:green")
    for row, values in enumerate(losses.values()):
        axes.plot(100 * np.asarray(values), [row] * len(values), "k.", markersize=4)
    _name(axes, "y", list(losses))
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    label, title = "loss of test accuracy (points); dots: seeds", "Permutation importance of the experts"
    _label(axes, "x", xlabel=label, title=title)
    return figure


@_styled
def overlap_curves(
    overlaps: Sequence[float], values: Mapping[str, ArrayLike], *, main: str, ceiling: str, label: str
) -> Figure:
    """A metric of several methods against the overlap of the experts' domains; a dot for each seed.

    Args:
        overlaps: O fractions, from 0, disjoint domains, to 1, identical ones.
        values: (O, S) values of each method.
        main: The method whose line is thicker.
        ceiling: The one whose line is gray and dashed.
        label: Of the values' axis.
    """
    figure, axes = _page(6.5, 4.3)
    for method, of_seeds in values.items():
        array = np.asarray(of_seeds, float)
        style: dict[str, Any] = {"marker": "o", "markersize": 5, "linewidth": 2.5 if method == main else 1.2}
        if method == ceiling:
            style = {"color": "tab:gray", "linestyle": "--"}
        (line,) = axes.plot(overlaps, array.mean(1), label=method, **style)
        axes.plot(overlaps, array, ".", color=line.get_color(), alpha=0.4)
    _label(axes, xlabel="fraction of each expert's training samples drawn from all domains", ylabel=label)
    _legend_below(figure, axes)
    return figure


@_styled
def risk_coverage_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, main: str, in_scope: float | None = None
) -> Figure:
    """Error among the answered samples against their fraction, the samples of least risk first.

    Args:
        curves: (T,) coverages and (T,) errors of each rule.
        main: The rule whose line is black and solid.
        in_scope: Fraction of the samples whose class some expert knows, drawn as a line.
    """
    figure, axes = _page(6, 4.3)
    for rule, (coverage, error) in curves.items():
        style: dict[str, Any] = {"color": "black", "linewidth": 2} if rule == main else {"linestyle": "--"}
        axes.plot(100 * np.asarray(coverage), 100 * np.asarray(error), label=rule, **style)
    if in_scope is not None:
        axes.axvline(100 * in_scope, color="gray", linewidth=0.8, linestyle=":", label="fraction in scope")
    axes.set_xlim(0, 101)
    axes.set_ylim(bottom=0)
    axes.set_title("Abstention" if in_scope is None else "Abstention on samples out of scope")
    _label(axes, xlabel="samples answered (%), least risk first", ylabel="errors among them (%)")
    _legend_below(figure, axes)
    return figure


@_styled
def cost_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    points: Mapping[str, tuple[float, float]],
    *,
    main: str,
    close: tuple[float, float],
) -> Figure:
    """Test accuracy against the mean cost of a sample, whole at the left, an interval of accuracies at the right.

    Args:
        curves: (P,) rising costs and (P,) accuracies of each rule; variants of ``main`` begin with its name.
        points: Cost and accuracy of rules that have one of each; that of ``main`` is its row of the table.
        main: The rule whose line is black.
        close: Accuracies at the right, lowest and highest.
    """
    figure, (whole, part) = _page(12, 5.4, (1, 1))
    for axes in (whole, part):
        for number, (rule, (costs, accuracies)) in enumerate(curves.items()):
            style: dict[str, Any] = {"color": f"C{number}", "linestyle": ":" if rule.startswith(main) else "--"}
            if rule == main:
                style = {"color": "black", "linewidth": 2.6}
            axes.plot(costs, accuracies, label=rule, **style)
        for marker, (rule, (cost, accuracy)) in zip("s^Dvx*Pp<>dh", points.items(), strict=False):
            style = {"color": "tab:red", "markerfacecolor": "none", "markersize": 8, "markeredgewidth": 1.4}
            if rule == main:
                marker, style = "o", {"color": "black", "markersize": 7}
            if axes is whole or close[0] <= accuracy <= close[1]:
                name = f"{rule} in the table" if rule == main else rule
                axes.plot(cost, accuracy, marker, label=name, clip_on=False, zorder=3, **style)
        _label(axes, xlabel="mean cost per sample", ylabel="test accuracy")
    whole.set_title("Accuracy by cost")
    part.set(title="Close up", ylim=close)
    _legend_below(figure, whole)
    return figure


@_styled
def queries(queried: ArrayLike, experts: Sequence[str]) -> Figure:
    """How many experts a sample queries, and how often each expert is queried.

    Args:
        queried: (N, K) bool.
        experts: Names of the K experts.
    """
    array = np.asarray(queried, bool)
    count = len(experts)
    figure, (left, right) = _page(9, 1.5 + 0.24 * max(8, count), (1, 1))
    frequency = 100 * np.bincount(array.sum(1), minlength=count + 1) / len(array)
    first = int(frequency[0] == 0)  # a policy that always queries one has no bar at 0
    left.bar(range(first, count + 1), frequency[first:], color="tab:blue")
    _label(left, "y", xlabel="number of queries", ylabel="samples (%)", title="Number of queries per sample")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.barh(range(count), 100 * array.mean(0), color="tab:green")
    _name(right, "y", experts)
    right.invert_yaxis()
    _label(right, "x", xlabel="samples (%)", title="How often each expert is queried", xlim=(0, 100))
    return figure


@_styled
def reversal_strengths(
    strengths: Sequence[float],
    values: Mapping[str, ArrayLike],
    gains: Mapping[float, Mapping[str, tuple[ArrayLike, tuple[float, float] | None]]],
    *,
    metric: str,
    fusion: str,
    higher_is_better: bool,
) -> Figure:
    """A metric against the strength of the gradient reversal, and the paired gains over the chain without it.

    Args:
        strengths: L largest lambdas, rising; 0 is the chain that is trained without reversal.
        values: (L, S) values of each split, a column per seed.
        gains: By strength and by fusion (S,) gains, one per seed, and the interval of their mean.
        metric: Name of the metric.
        fusion: Name of the fusion at the left.
        higher_is_better: Whether a gain above 0 is an improvement.
    """
    figure, (left, right) = _page(10, 4.4, (1, 1.2))
    for (split, of_seeds), color in zip(values.items(), ("tab:gray", "tab:blue"), strict=False):
        array = np.asarray(of_seeds, float)
        left.plot(range(len(strengths)), array, color=color, alpha=0.25, linewidth=1)
        left.plot(range(len(strengths)), array.mean(1), "o-", color=color, label=split, linewidth=2)
    left.set_xticks(range(len(strengths)), [f"{strength:g}" if strength else "0\n(plain)" for strength in strengths])
    title = "Strength of the reversal; thin: seeds"
    _label(left, "y", xlabel="largest lambda", ylabel=f"{metric} of the {fusion}", title=title)
    fusions = list(dict.fromkeys(name for of_fusions in gains.values() for name in of_fusions))
    for number, (strength, of_fusions) in enumerate(gains.items()):
        shift = 0.6 * ((number + 0.5) / len(gains) - 0.5)
        for place, (per_seed, interval) in enumerate(of_fusions.values()):
            points = 100 * np.asarray(per_seed, float)
            mean, color, at = points.mean(), f"C{number + 1}", place + shift
            right.plot(points, np.full(len(points), at), ".", color=color, alpha=0.4)
            bounds = interval and [[mean - 100 * interval[0]], [100 * interval[1] - mean]]
            label = None if place else f"lambda {strength:g}"
            right.errorbar([mean], [at], xerr=bounds, fmt="o", color=color, capsize=4, label=label)
    right.axvline(0, color="black", linewidth=1)
    _name(right, "y", fusions)
    right.invert_yaxis()
    better = "higher" if higher_is_better else "lower"
    label = f"points of test {metric} over the plain chain ({better} is better)"
    _label(right, "x", xlabel=label, title="Paired gain, 95 % interval; dots: seeds")
    _legend_below(figure, left, right)
    return figure


@_styled
def target_accuracies(
    student: Mapping[str, float], local: Mapping[str, float], methods: Mapping[str, float], *, main: str, against: str
) -> Figure:
    """A student against a model of the target's labels alone, target by target, and the mean of every method.

    Args:
        student: Test accuracy of the student by target.
        local: Test accuracy of the local model by target.
        methods: Mean test accuracy of every method.
        main: Name of the student among the methods.
        against: Name of the local model.
    """
    figure, (left, right) = _page(10.5, max(4.2, 1.1 + 0.2 * len(methods)), (1, 1.3))
    left.axline((0, 0), slope=1, color="gray", linewidth=0.8, linestyle=":")
    left.plot([local[name] for name in student], list(student.values()), "o", alpha=0.6)
    limits = max(0.0, min(*student.values(), *local.values()) - 0.05), 1.01
    left.set(xlim=limits, ylim=limits, title="Each dot is a target")
    _label(left, xlabel=f"test accuracy of {against}", ylabel=f"test accuracy of {main}")
    names = sorted(methods, key=lambda name: methods[name])
    colors = ["tab:red" if name == main else "tab:blue" for name in names]
    right.barh(range(len(names)), [methods[name] for name in names], color=colors)
    _name(right, "y", names)
    right.tick_params(axis="y", labelsize=8)
    _label(right, "x", xlim=(0, 1), xlabel="test accuracy, mean over targets", title="Every method")
    return figure


@_styled
def traffic(stages: Mapping[str, float], everything: float) -> Figure:
    """Bytes that one target reads to select its sources, against those of all models.

    Args:
        stages: Bytes of each stage of the selection.
        everything: Bytes of all models.
    """
    figure, axes = _page(7, 2.3)
    start = 0.0
    for name, value in stages.items():
        axes.barh("selection", value / 1e6, left=start / 1e6, label=name)
        start += value
    axes.barh("all models", everything / 1e6, color="tab:gray")
    axes.invert_yaxis()
    _label(axes, "x", xlabel="megabytes that one target reads, mean over targets")
    _legend_below(figure, axes)
    return figure


@_styled
def det_curves(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Detection error trade-off curves on normal-deviate axes, with a mark at each equal error rate.

    Source: Martin et al., The DET Curve in Assessment of Detection Task Performance, Eurospeech 1997. (The one of
    scikit-learn has fixed ticks, too few of them around the rates of a good system, and no mark.)

    Args:
        curves: (P,) false-alarm rates, falling from 1 to 0, and (P,) miss rates, rising from 0 to 1, of each system,
            as :func:`~lightning_fusion.verification.error_rates.error_curve` gives them.

    Raises:
        InputError: If there is no curve.
    """
    if not curves:
        raise InputError("curves is empty; expected the error rates of one system or more, by name")
    figure, axes = _page(5.6, 5.6 + 0.18 * len(curves))
    lowest, highest = 0.05, 0.5
    for number, (name, rates) in enumerate(curves.items()):
        false_alarm, miss = (np.asarray(part, float) for part in rates)
        equal = float(np.interp(0, miss - false_alarm, miss))
        place = int(np.searchsorted(miss - false_alarm, 0))  # the mark lies on the line
        smallest = min(part[part > 0].min() for part in (false_alarm, miss))
        lowest, highest = min(lowest, max(smallest, 1e-4)), max(highest, min(1.2 * equal, 0.99))
        x, y = (_deviate(np.insert(part, place, equal)) for part in (false_alarm, miss))
        axes.plot(x, y, color=f"C{number}", label=f"{name}: EER {100 * equal:.2f} %", linewidth=1.4)
        mark = _deviate(equal)
        axes.plot(mark, mark, "o", color=f"C{number}", markersize=6, markeredgecolor="white", zorder=3)
    low, high = norm.ppf(0.8 * lowest), norm.ppf(highest)
    axes.axline((0, 0), slope=1, color="gray", linewidth=0.8, linestyle=":", zorder=0)
    places = [0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 0.95, 0.99]
    ticks = [rate for rate in places if low <= norm.ppf(rate) <= high]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(norm.ppf(ticks), [f"{100 * rate:g}" for rate in ticks])
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    _label(axes, xlabel="false alarms (%)", ylabel="misses (%)")
    _legend_below(figure, axes)  # no corner is free of curves for sure
    return figure


@_styled
def attribution_maps(images: ArrayLike, maps: Mapping[str, ArrayLike]) -> Figure:
    """Samples in rows: the input, then the attribution map of each model.

    Each map is scaled by its own 99th percentile: colors compare places within a map, not strengths between maps.

    Args:
        images: (N, C, H, W) images with one or three channels, in any range, or (N, mel, T) spectrograms, drawn with
            the low frequencies at the bottom; four samples, say.
        maps: (N, H, W) maps of :func:`~lightning_fusion.acorl.attribution.attribute` by the name of their model.

    Raises:
        InputError: If there is no map or no image, or shapes do not fit.
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


def _page(width: float, height: float, columns: Sequence[float] = (1,)) -> tuple[Figure, Any]:
    """A figure of some inches, and its axes: one for each column, whose relative widths are given."""
    figure = Figure(figsize=(min(_MOST_INCHES, width), min(_MOST_INCHES, height)))
    return figure, figure.subplots(1, len(columns), width_ratios=columns)


def _label(axes: Axes, grid: Literal["both", "x", "y"] = "both", **labels: Any) -> None:
    axes.set(**labels)
    axes.grid(axis=grid)


def _shades(axes: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], top: float | None) -> None:
    top = float(np.nanmax(values)) if top is None else top
    image = axes.imshow(values, vmin=0, vmax=top, cmap="Blues", aspect="auto")
    _name(axes, "x", columns)
    _name(axes, "y", rows)
    axes.spines[:].set_visible(True)
    axes.get_figure().colorbar(image, ax=axes, shrink=0.9)  # type: ignore[union-attr]
    for (row, column), value in np.ndenumerate(values) if max(values.shape) <= _MOST_NUMBERS else ():
        color = "white" if value > 0.6 * top else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)


def _name(axes: Axes, axis: str, names: Iterable[str]) -> None:
    """Write names beside an axis, one at each whole number: turned, small or not all of them where room is short."""
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


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[1 - _LONGEST // 2 :]}"


def _legend_below(figure: Figure, *parts: Axes) -> None:
    """What the lines and bars of some axes are, below the figure, in as many columns as there is room for."""
    entries = [axes.get_legend_handles_labels() for axes in parts]
    handles, labels = ([item for lists in kind for item in lists] for kind in zip(*entries, strict=True))
    if len(labels) > 1:
        wide = 0.55 + 0.058 * max(map(len, labels))  # inches of one entry
        columns = max(1, min(len(labels), int(figure.get_size_inches()[0] / wide)))
        columns = math.ceil(len(labels) / math.ceil(len(labels) / columns))  # as many in each row
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _deviate(rate: ArrayLike) -> np.ndarray:
    """Normal deviates; rates of 0 and 1 lie far outside of every picture."""
    return norm.ppf(np.clip(rate, 1e-7, 1 - 1e-7))
