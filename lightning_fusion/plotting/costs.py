"""Accuracy against cost: queries, abstention and bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_fusion.plotting.page import label_axes, legend_below, name_ticks, page, styled


@styled
def risk_coverage_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, main: str, in_scope: float | None = None
) -> Figure:
    """Plot the error among the answered samples against their fraction, in order of increasing risk.

    Args:
        curves: (T,) coverages and (T,) errors of each rule.
        main: Rule drawn with a solid black line.
        in_scope: Fraction of the samples with a class of some expert, drawn as a vertical line.
    """
    figure, axes = page(6, 4.3)
    for rule, (coverage, error) in curves.items():
        style: dict[str, Any] = {"color": "black", "linewidth": 2} if rule == main else {"linestyle": "--"}
        axes.plot(100 * np.asarray(coverage), 100 * np.asarray(error), label=rule, **style)
    if in_scope is not None:
        axes.axvline(100 * in_scope, color="gray", linewidth=0.8, linestyle=":", label="fraction in scope")
    axes.set_xlim(0, 101)
    axes.set_ylim(bottom=0)
    axes.set_title("Risk and coverage" if in_scope is None else "Risk and coverage, with samples out of scope")
    label_axes(axes, xlabel="coverage (%), lowest risk first", ylabel="error of answered samples (%)")
    legend_below(figure, axes)
    return figure


@styled
def cost_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    points: Mapping[str, tuple[float, float]],
    *,
    main: str,
    close: tuple[float, float],
) -> Figure:
    """Plot test accuracy against the mean cost per sample, with a zoomed panel at the right.

    Args:
        curves: (P,) increasing costs and (P,) accuracies of each rule; variants of ``main`` begin with its name.
        points: Cost and accuracy of rules with a single point; that of ``main`` is its row of the table.
        main: Rule drawn with a black line.
        close: Lowest and highest accuracy of the right panel.
    """
    figure, (whole, part) = page(12, 5.4, (1, 1))
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
        label_axes(axes, xlabel="mean cost per sample (unit of the costs)", ylabel="test accuracy")
    whole.set_title("Accuracy by cost")
    part.set(title="Close up", ylim=close)
    legend_below(figure, whole)
    return figure


@styled
def queries(queried: ArrayLike, experts: Sequence[str]) -> Figure:
    """Plot the number of queries per sample, and how often each expert is queried.

    Args:
        queried: (N, K) bool.
        experts: Names of the K experts.
    """
    array = np.asarray(queried, bool)
    count = len(experts)
    figure, (left, right) = page(9, 1.5 + 0.24 * max(8, count), (1, 1))
    frequency = 100 * np.bincount(array.sum(1), minlength=count + 1) / len(array)
    first = int(frequency[0] == 0)  # a policy that always queries one has no bar at 0
    left.bar(range(first, count + 1), frequency[first:], color="tab:blue")
    label_axes(left, "y", xlabel="number of queries", ylabel="samples (%)", title="Number of queries per sample")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.barh(range(count), 100 * array.mean(0), color="tab:green")
    name_ticks(right, "y", experts)
    right.invert_yaxis()
    label_axes(right, "x", xlabel="samples (%)", title="How often each expert is queried", xlim=(0, 100))
    return figure


@styled
def traffic(stages: Mapping[str, float], everything: float) -> Figure:
    """Plot the bytes that one target reads to select its sources, against the size of all models.

    Args:
        stages: Bytes of each stage of the selection.
        everything: Bytes of all models.
    """
    figure, axes = page(7, 2.3)
    start = 0.0
    for name, value in stages.items():
        axes.barh("selection", value / 1e6, left=start / 1e6, label=name)
        start += value
    axes.barh("all models", everything / 1e6, color="tab:gray")
    axes.invert_yaxis()
    label_axes(axes, "x", xlabel="megabytes that one target reads, mean over targets")
    legend_below(figure, axes)
    return figure
