"""Trials of a sweep: the metric by trial and by parameter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_fusion.plotting.page import label_axes, legend_below, name_ticks, page, styled

_MOST_PARAMETERS = 5
"""Maximum number of parameters that are drawn: those that vary, in the order of the file."""


@styled
def sweep_trials(
    numbers: Sequence[int], values: ArrayLike, drawn: Mapping[str, Sequence[Any]], *, metric: str, maximize: bool
) -> Figure:
    """Plot the metric of each trial with the best one so far, and against each parameter.

    Args:
        numbers: (T,) numbers of the trials.
        values: (T,) metric of each trial.
        drawn: (T,) values of each parameter, numbers or names.
        metric: Name of the metric.
        maximize: Whether larger values are better.
    """
    found = np.asarray(values, float)
    shown = [key for key, own in drawn.items() if len(set(map(str, own))) > 1][:_MOST_PARAMETERS]
    figure, axes = page(4.5 + 2.6 * len(shown), 3.8, (1.4, *[1] * len(shown)))
    parts = [axes] if not shown else list(axes)
    best = (np.maximum if maximize else np.minimum).accumulate(found)
    parts[0].plot(numbers, found, "o", markersize=4, label="trial")
    parts[0].step(numbers, best, where="post", color="black", label="best so far")
    parts[0].xaxis.get_major_locator().set_params(integer=True)
    label_axes(parts[0], xlabel="trial", ylabel=metric, title="Trials")
    chosen = int(found.argmax() if maximize else found.argmin())
    for part, key in zip(parts[1:], shown, strict=True):
        own = list(drawn[key])
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in own):
            places = np.asarray(own, float)
            if places.min() > 0 and places.max() / places.min() > 20:
                part.set_xscale("log")
            else:
                part.locator_params(axis="x", nbins=3, integer=all(isinstance(value, int) for value in own))
        else:
            names = sorted(map(str, set(own)))
            places = np.array([names.index(str(value)) for value in own], float)
            name_ticks(part, "x", [name.rpartition(".")[2] for name in names])
            part.set_xlim(-0.5, len(names) - 0.5)
        part.plot(places, found, "o", markersize=4)
        part.plot(places[chosen], found[chosen], "k*", markersize=10, label="best" if key == shown[0] else None)
        part.tick_params(labelleft=False)
        part.set_ylim(parts[0].get_ylim())
        label_axes(part, xlabel=key.replace("init_args.", ""))
        part.xaxis.label.set_size(7)
    legend_below(figure, *parts)
    return figure
