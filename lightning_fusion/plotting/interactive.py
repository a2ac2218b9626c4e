"""Interactive figures: functions of arrays that return a plotly figure as plain data, for ``report.html``.

Names are escaped, since plotly reads some HTML in texts.
"""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

_LONGEST = 44
"""Maximum number of characters of a label beside an axis; hovering shows the whole name."""
_COST = "mean cost per sample (unit of the costs)"
THEME = "theme"
"""Color of the page's text, light or dark; the script of the page replaces it."""


class CurvePoint(NamedTuple):
    """A point of a rule's curve.

    Attributes:
        cost: Mean cost per sample.
        value: Metric of the rule.
        setting: The parameter of the rule at this point, and what its result is a mean of, in lines.
    """

    cost: float
    value: float
    setting: Sequence[str]


def method_chart(
    values: Mapping[str, Mapping[int, float]],
    intervals: Mapping[str, tuple[float, float] | None],
    *,
    label: str,
    main: str,
) -> dict[str, Any]:
    """Return the mean of every method over seeds, with its interval and a dot for each seed.

    Args:
        values: Metric of each method by seed.
        intervals: Bounds of the 95 % interval of each mean; ``None`` for one seed.
        label: Label of the value axis.
        main: Method drawn in the color of the text.
    """
    names = list(values)
    means = [float(np.mean(list(of.values()))) for of in values.values()]
    sides = [
        (0.0, 0.0) if (bounds := intervals[name]) is None else (mean - bounds[0], bounds[1] - mean)
        for name, mean in zip(names, means, strict=True)
    ]
    dots = [(place, seed, value) for place, of in enumerate(values.values()) for seed, value in of.items()]
    seeds = {
        "type": "scatter",
        "mode": "markers",
        "name": "seeds",
        "x": [value for *_, value in dots],
        "y": [place for place, *_ in dots],
        "marker": {"size": 6, "color": "#8a94a6", "opacity": 0.6},
        "text": [f"{escape(names[place])}<br>seed {seed}: {value:.4f}" for place, seed, value in dots],
        "hoverinfo": "text",
    }
    mean = {
        "type": "scatter",
        "mode": "markers",
        "name": "mean, 95 % interval",
        "x": means,
        "y": list(range(len(names))),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [upper for _, upper in sides],
            "arrayminus": [lower for lower, _ in sides],
            "thickness": 1.5,
            "color": "#4c78a8",
        },
        "marker": {"size": 10, "color": [THEME if name == main else "#4c78a8" for name in names]},
        "text": [
            f"<b>{escape(name)}</b><br>mean {value:.4f}"
            + ("" if (bounds := intervals[name]) is None else f"<br>95 % interval {bounds[0]:.4f} to {bounds[1]:.4f}")
            for name, value in zip(names, means, strict=True)
        ],
        "hoverinfo": "text",
    }
    ticks = [_cut(name) for name in names]
    axis = {"tickvals": list(range(len(names))), "ticktext": ticks, "autorange": "reversed", "automargin": True}
    layout = {
        "xaxis": {"title": {"text": escape(label)}, "automargin": True},
        "yaxis": axis | {"zeroline": False},
        "height": 150 + 24 * len(names),
        "showlegend": False,
    }
    return {"data": [seeds, mean], "layout": layout}


def cost_chart(
    curves: Mapping[str, Sequence[CurvePoint]],
    points: Mapping[str, CurvePoint],
    *,
    label: str,
    main: str,
    connected: Collection[str],
) -> dict[str, Any]:
    """Return a metric against the mean cost per sample: a line for each rule, and rules with a single point.

    Args:
        curves: Points of each rule with a curve.
        points: The point of each other rule, and of ``main`` in the table.
        label: Label of the metric.
        main: Rule drawn in the color of the text.
        connected: Rules whose points are joined by a line; points of different seeds are not.
    """
    data: list[dict[str, Any]] = []
    for rule, some in curves.items():
        ordered = sorted(some, key=lambda point: point.cost)
        style: dict[str, Any] = {"color": THEME, "width": 3} if rule == main else {"width": 1.5, "dash": "dot"}
        trace = _trace(rule, ordered, label) | {"line": style, "marker": {"size": 8 if rule == main else 6}}
        if rule == main:
            trace["marker"]["color"] = THEME
        data.append(trace | {"mode": "lines+markers" if rule in connected else "markers"})
    symbols = ("diamond", "square", "triangle-up", "x", "star", "hexagon", "cross", "triangle-down")
    for number, (rule, point) in enumerate(points.items()):
        marker = {"size": 11, "symbol": f"{symbols[number % len(symbols)]}-open", "line": {"width": 2}}
        if rule == main:
            marker = {"size": 14, "symbol": "circle-open", "line": {"width": 2}, "color": THEME}
        name = f"{rule}, in the table" if rule == main else rule
        data.append(_trace(name, [point], label) | {"mode": "markers", "marker": marker})
    layout = {
        "xaxis": {
            "title": {"text": _COST},
            "rangemode": "tozero",
            "automargin": True,
        },
        "yaxis": {"title": {"text": escape(label)}, "automargin": True},
        "hovermode": "closest",
        "height": 520,
        "showlegend": True,
    }
    return {"data": data, "layout": layout}


def _trace(rule: str, points: Sequence[CurvePoint], label: str) -> dict[str, Any]:
    texts = [
        "<br>".join(
            [
                f"<b>{escape(rule)}</b>",
                f"{escape(label)} {point.value:.4f} at mean cost {point.cost:.4g}",
                *(escape(line) for line in point.setting),
            ]
        )
        for point in points
    ]
    return {
        "type": "scatter",
        "name": _cut(rule),
        "x": [float(point.cost) for point in points],
        "y": [float(point.value) for point in points],
        "text": texts,
        "hoverinfo": "text",
    }


def _cut(name: str) -> str:
    return escape(name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[1 - _LONGEST // 2 :]}")
