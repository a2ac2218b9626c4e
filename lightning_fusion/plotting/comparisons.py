"""Comparisons of methods: accuracies by group, by strength, by overlap, by target."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_fusion.plotting.page import color_of, label_axes, legend_below, name_ticks, page, styled

_MOST_BARS = 10
"""Maximum number of groups of bars; more groups are rows of dots, whose names are horizontal."""
_MARKERS = "os^Dv<>Ph*X"
_SPLITS = {"val": "validation"}


@styled
def grouped_bars(
    values: Mapping[str, Sequence[float]], groups: Sequence[str], *, label: str, title: str, top: float | None = None
) -> Figure:
    """Plot one bar for each method in each group, such as accuracies by domain; of many groups a row of dots each.

    Args:
        values: (G,) values of each method.
        groups: Names of the G groups.
        label: Label of the value axis.
        title: Title of the figure.
        top: Upper limit of the value axis, which then starts at 0. ``None`` (default) sets both limits by the values.
    """
    if len(groups) > _MOST_BARS:
        return _rows_of_dots(values, groups, label=label, title=title, top=top)
    width = 0.84 / len(values)
    figure, axes = page(min(15.0, max(6.5, 2 + 0.2 * (len(values) + 1) * len(groups))), 4.3)
    for number, (method, heights) in enumerate(values.items()):
        places = np.arange(len(groups)) + (number - (len(values) - 1) / 2) * width
        axes.bar(places, heights, width, label=method, color=color_of(number, len(values)))
    name_ticks(axes, "x", groups)
    if top is not None:
        axes.set_ylim(0, top)
    axes.axhline(0, color="black", linewidth=0.8)
    label_axes(axes, "y", ylabel=label, title=title)
    legend_below(figure, axes)
    return figure


def _rows_of_dots(
    values: Mapping[str, Sequence[float]], groups: Sequence[str], *, label: str, title: str, top: float | None
) -> Figure:
    figure, axes = page(8, 1.6 + 0.24 * len(groups))
    for number, (method, of_groups) in enumerate(values.items()):
        look = {"color": color_of(number, len(values)), "marker": _MARKERS[number % len(_MARKERS)], "alpha": 0.8}
        axes.plot(of_groups, range(len(groups)), linestyle="", markersize=6, label=method, clip_on=False, **look)
    name_ticks(axes, "y", groups)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    if top is not None:
        axes.set_xlim(0, top)
    label_axes(axes, xlabel=label, title=title)
    legend_below(figure, axes)
    return figure


@styled
def permutation_importance(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Plot the test accuracy that a fuser loses when the outputs of one expert are permuted over the samples.

    Args:
        losses: (S,) losses of accuracy for each expert, one per seed.
    """
    figure, axes = page(6.5, 1.3 + 0.28 * len(losses))
    axes.barh(range(len(losses)), [100 * np.mean(values) for values in losses.values()], color="tab:green")
    for row, values in enumerate(losses.values()):
        axes.plot(100 * np.asarray(values), [row] * len(values), "k.", markersize=4)
    name_ticks(axes, "y", list(losses))
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    label, title = "loss of test accuracy (points); dots: seeds", "Permutation importance of the experts"
    label_axes(axes, "x", xlabel=label, title=title)
    return figure


@styled
def overlap_curves(
    overlaps: Sequence[float], values: Mapping[str, ArrayLike], *, main: str, ceiling: str, label: str
) -> Figure:
    """Plot a metric of several methods against the overlap of the experts' domains, with a dot for each seed.

    Args:
        overlaps: O fractions, from 0 (disjoint domains) to 1 (identical domains).
        values: (O, S) values of each method.
        main: Method drawn with a thicker line.
        ceiling: Method drawn with a gray dashed line.
        label: Label of the value axis.
    """
    figure, axes = page(6.5, 4.3)
    for method, of_seeds in values.items():
        array = np.asarray(of_seeds, float)
        style: dict[str, Any] = {"marker": "o", "markersize": 5, "linewidth": 2.5 if method == main else 1.2}
        if method == ceiling:
            style = {"color": "tab:gray", "linestyle": "--"}
        (line,) = axes.plot(overlaps, array.mean(1), label=method, **style)
        axes.plot(overlaps, array, ".", color=line.get_color(), alpha=0.4)
    axes.set_xlim(-0.03, 1.03)
    label_axes(axes, xlabel="fraction of each expert's training samples drawn from all domains", ylabel=label)
    legend_below(figure, axes)
    return figure


@styled
def reversal_strengths(
    strengths: Sequence[float],
    values: Mapping[str, ArrayLike],
    gains: Mapping[float, Mapping[str, tuple[ArrayLike, tuple[float, float] | None]]],
    *,
    metric: str,
    fusion: str,
    higher_is_better: bool,
) -> Figure:
    """Plot a metric against the strength of gradient reversal, and paired gains over the chain without reversal.

    Args:
        strengths: L largest lambdas, in increasing order; 0 is the chain trained without reversal.
        values: (L, S) values of each split, a column per seed.
        gains: By strength and by fusion (S,) gains, one per seed, and the interval of their mean.
        metric: Name of the metric.
        fusion: Name of the fusion in the left panel.
        higher_is_better: Whether a gain above 0 is an improvement.
    """
    figure, (left, right) = page(10, 4.4, (1, 1.2))
    for (split, of_seeds), color in zip(values.items(), ("tab:gray", "tab:blue"), strict=False):
        array = np.asarray(of_seeds, float)
        left.plot(range(len(strengths)), array, color=color, alpha=0.25, linewidth=1)
        left.plot(range(len(strengths)), array.mean(1), "o-", color=color, label=_SPLITS.get(split, split), linewidth=2)
    left.set_xticks(range(len(strengths)), [f"{strength:g}" if strength else "0\n(plain)" for strength in strengths])
    title = "Strength of the reversal; thin: seeds"
    label_axes(left, "y", xlabel="largest lambda", ylabel=f"{metric} of the {fusion}", title=title)
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
    name_ticks(right, "y", fusions)
    right.invert_yaxis()
    better = "higher" if higher_is_better else "lower"
    label = f"points of test {metric} over the plain chain ({better} is better)"
    label_axes(right, "x", xlabel=label, title="Paired gain, 95 % interval; dots: seeds")
    legend_below(figure, left, right)
    return figure


@styled
def target_accuracies(
    student: Mapping[str, float], local: Mapping[str, float], methods: Mapping[str, float], *, main: str, against: str
) -> Figure:
    """Plot a student and the local model for each target, in the order of the gain, and the mean of every method.

    Args:
        student: Test accuracy of the student by target.
        local: Test accuracy of the local model by target.
        methods: Mean test accuracy of every method.
        main: Name of the student among the methods.
        against: Name of the local model.
    """
    figure, (left, right) = page(10.5, max(3.2, 1.4 + 0.2 * max(len(methods), len(student))), (1, 1))
    targets = sorted(student, key=lambda name: local[name] - student[name])
    rows = range(len(targets))
    ours, theirs = ([of[name] for name in targets] for of in (student, local))
    left.hlines(rows, ours, theirs, color="tab:gray", linewidth=1.5, alpha=0.6)
    left.plot(theirs, rows, "o", color="tab:gray", label=against)
    left.plot(ours, rows, "o", color="tab:red", label=main)
    name_ticks(left, "y", targets)
    left.set_ylim(len(targets) - 0.5, -0.5)
    label_axes(left, xlabel="test accuracy", title="Accuracy by target, largest gain first")
    names = sorted(methods, key=lambda name: methods[name])
    colors = ["tab:red" if name == main else "tab:blue" for name in names]
    right.barh(range(len(names)), [methods[name] for name in names], color=colors)
    name_ticks(right, "y", names)
    right.tick_params(axis="y", labelsize=8)
    label_axes(right, "x", xlim=(0, 1), xlabel="test accuracy, mean over targets", title="All methods")
    legend_below(figure, left)
    return figure
