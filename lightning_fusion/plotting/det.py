"""Detection error trade-off curves."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.stats import norm

from lightning_fusion.errors import InputError
from lightning_fusion.plotting.page import label_axes, legend_below, page, styled


def _deviate(rate: ArrayLike) -> np.ndarray:
    """Return normal deviates; rates of 0 and 1 are placed outside the axes."""
    result: np.ndarray = norm.ppf(np.clip(rate, 1e-7, 1 - 1e-7))
    return result


@styled
def det_curves(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Plot detection error trade-off curves on normal-deviate axes, with a mark at each equal error rate.

    Source: Martin et al., The DET Curve in Assessment of Detection Task Performance, Eurospeech 1997. (scikit-learn's
    display has fixed ticks, too few of them around the rates of a good system, and no mark.)

    Args:
        curves: (P,) false-alarm rates, from 1 to 0, and (P,) miss rates, from 0 to 1, of each system, as returned by
            :func:`~lightning_fusion.verification.error_rates.error_curve`.

    Raises:
        InputError: If there is no curve.
    """
    if not curves:
        raise InputError("curves is empty; expected the error rates of one system or more, by name")
    figure, axes = page(5.6, 5.6 + 0.18 * len(curves))
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
    label_axes(axes, xlabel="false alarms (%)", ylabel="misses (%)")
    legend_below(figure, axes)  # no corner is free of curves for sure
    return figure
