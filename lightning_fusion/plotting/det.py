"""Detection error trade-off curves."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.stats import norm

from lightning_fusion.errors import InputError
from lightning_fusion.plotting.page import label_axes, legend_below, page, styled


def _deviate(rate: ArrayLike) -> np.ndarray:
    """Return normal deviates; rates of 1 are placed outside the axes."""
    result: np.ndarray = norm.ppf(np.clip(rate, 1e-7, 1 - 1e-7))
    return result


@styled
def det_curves(curves: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Plot detection error trade-off curves on normal-deviate axes, with a mark at each equal error rate.

    The axes begin below the smallest rate above 0 of a curve inside them; rates of 0 lie on their edge.

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
    both = {name: [np.asarray(part, float) for part in rates] for name, rates in curves.items()}
    equal = {name: float(np.interp(0, miss - alarm, miss)) for name, (alarm, miss) in both.items()}
    highest = max(0.5, min(1.2 * max(equal.values()), 0.99))
    inside = np.concatenate([part[(np.array(parts) <= highest).all(0)] for parts in both.values() for part in parts])
    lowest = 0.8 * max(inside[inside > 0].min(initial=0.1), 1e-4)
    low, high = norm.ppf(lowest), norm.ppf(highest)
    for number, (name, parts) in enumerate(both.items()):
        rate = equal[name]
        place = int(np.searchsorted(parts[1] - parts[0], 0))  # the mark lies on the line
        x, y = (_deviate(np.insert(part, place, rate).clip(lowest)) for part in parts)
        axes.plot(x, y, color=f"C{number}", label=f"{name}: EER {100 * rate:.2f} %", linewidth=1.4)
        mark = _deviate(max(rate, lowest))
        look = {"color": f"C{number}", "markersize": 6, "markeredgecolor": "white", "zorder": 3, "clip_on": False}
        axes.plot(mark, mark, "o", **look)
    axes.axline((0, 0), slope=1, color="gray", linewidth=0.8, linestyle=":", zorder=0)
    places = [0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 0.95, 0.99]
    ticks = [rate for rate in places if low <= norm.ppf(rate) <= high]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(norm.ppf(ticks), [f"{100 * rate:g}" for rate in ticks])
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    label_axes(axes, xlabel="false alarms (%)", ylabel="misses (%)")
    legend_below(figure, axes)  # no corner is free of curves for sure
    return figure
