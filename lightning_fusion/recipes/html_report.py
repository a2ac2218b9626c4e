"""Writer of ``report.html``: one file that needs no network, with the same results as ``report.md``."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.extras import installed
from lightning_fusion.files import write_text
from lightning_fusion.plotting.interactive import CurvePoint, cost_chart, method_chart
from lightning_fusion.recipes.report import Figures, Gain, Report, paired_gain, same_of_seeds

NAME = "report.html"
_PACKAGES = ("plotly", "markdown_it", "jinja2")
_TEMPLATES = Path(__file__).parent / "templates"


def missing_packages() -> list[str]:
    """Return the packages of the extra ``report`` that are not installed."""
    return [name for name in _PACKAGES if not installed(name)]


def warn_of_missing_packages() -> None:
    """Warn that ``report.html`` will not be written, and how to install what it needs."""
    if missing := missing_packages():
        rank_zero_warn(
            f"{NAME} is not written: found no package {missing[0]}; pip install 'lightning-fusion[report]', and run "
            "the recipe again: it resumes"
        )


def write_page(report: Report, main: str, folder: Path, figures: Figures, inspection: dict[str, Any] | None) -> None:
    """Write ``report.html``; without the packages of the extra ``report``, an earlier one is removed.

    Args:
        report: The results.
        main: The method whose gains are reported.
        folder: Folder of the run, which contains the figures.
        figures: Figures and their captions, by name.
        inspection: Single samples, as :meth:`Recipe.inspection <lightning_fusion.recipes.runner.Recipe.inspection>`
            returns them.
    """
    if missing_packages():
        (folder / NAME).unlink(missing_ok=True)
        return
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    pictures = [
        {"name": name, "caption": caption, "data": base64.b64encode((folder / f"{name}.png").read_bytes()).decode()}
        for name, (_, caption) in figures.items()
    ]
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    seeds = len(report.values(main, report.metric))
    text = environment.get_template("report.jinja").render(
        report=report,
        main=main,
        seeds=seeds,
        headings=_headings(report, main, seeds),
        rows=_rows(report, main),
        notes=same_of_seeds(report.notes),
        advice=None if report.advice is None else report.advice.sentence(),
        remarks=[] if report.advice is None else report.advice.remarks(),
        body=_rendered(report),
        charts=_charts(report, main),
        pictures=pictures,
        inspection=inspection,
        plotly=get_plotlyjs(),
    )
    write_text(folder / NAME, text)


def _headings(report: Report, main: str, seeds: int) -> list[str]:
    interval = ["95 % interval"] if seeds > 1 else []
    return ["method", report.metric, *interval, *report.beside, f"gain of {main} (points)"]


def _rows(report: Report, main: str) -> list[dict[str, Any]]:
    """Return the rows of the table: cells with the text and the number by which a column is sorted."""
    several = len(report.values(main, report.metric)) > 1
    gains = {entry["against"]: entry for entry in report.summary(main) if entry["against"]}
    methods = sorted(report.methods(report.metric), key=lambda method: method != main)
    advised = None if report.advice is None else report.advice.method
    rows = []
    for method in methods:
        cells: list[dict[str, Any]] = []
        for metric in (report.metric, *report.beside):
            values = report.values(method, metric)
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            cells.append(_cell(f"{np.mean(values):.3f}{spread}", float(np.mean(values))) if values else _cell())
            if several and metric == report.metric:
                bounds = _interval(values)
                cells.append(_cell() if bounds is None else _cell(f"{bounds[0]:.3f} to {bounds[1]:.3f}", bounds[0]))
        entry = gains.get(method)
        gain = None if entry is None else Gain(entry["gain"], entry["gain_low"], entry["gain_high"])
        cells.append(_cell() if gain is None else _cell(gain.points(), gain.mean))
        rows.append({"method": method, "cells": cells, "main": method == main, "advised": method == advised})
    return rows


def _cell(text: str = "", number: float | None = None) -> dict[str, Any]:
    return {"text": text, "number": number}


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over seeds, by Student's t."""
    return paired_gain(values, np.zeros(len(values)).tolist()).interval if values else None


def _rendered(report: Report) -> str:
    """Return the tables and texts of ``report.md`` beyond its head as HTML; names that look like HTML are escaped."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    result: str = reader.render("\n".join([*report.advice_lines(), *report.text]))
    return result


def _charts(report: Report, main: str) -> dict[str, Any]:
    """Return the figures of plotly by the name of their place in the page."""
    methods = sorted(report.methods(report.metric), key=lambda method: method != main)
    values = {
        method: {row["seed"]: row["value"] for row in _of_all_domains(report, method, report.metric)}
        for method in methods
    }
    intervals = {method: _interval(list(of.values())) for method, of in values.items()}
    found = {"methods": method_chart(values, intervals, label=report.title, main=main)}
    metric = f"{report.metric} on the curve"
    curves = {method: _curve(report.select(method=method, metric=metric)) for method in report.methods(metric)}
    if not curves:
        return found
    priced = [method for method in report.methods("cost") if method not in curves or method == main]
    points = {method: _point(report, method) for method in priced if report.values(method, report.metric)}
    seeds = len(report.values(main, report.metric))
    joined = {method for method, some in curves.items() if all(len(point.setting) == 1 + seeds for point in some)}
    found["costs"] = cost_chart(curves, points, label=f"test {report.metric}", main=main, connected=joined)
    return found


def _of_all_domains(report: Report, method: str, metric: str) -> list[dict[str, Any]]:
    return report.select(method=method, metric=metric, split="test", domain=None)


def _curve(rows: Sequence[dict[str, Any]]) -> list[CurvePoint]:
    """Return the points of a rule, those of one setting averaged over seeds; subsets of experts are not averaged."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.get("setting", (number,)), []).append(row)
    return [
        CurvePoint(
            float(np.mean([row["cost"] for row in some])),
            float(np.mean([row["value"] for row in some])),
            [_setting(some[0]), *(_of_seed(row) for row in some)],
        )
        for some in groups.values()
    ]


def _setting(row: dict[str, Any]) -> str:
    if "experts" in row:
        return f"experts: {', '.join(row['experts'])}"
    if "setting" in row:
        return f"{row.get('setting_name', 'setting')} {row['setting']:.4g}, {row['num_queries']:.3g} queries per sample"
    return f"{row['num_queries']:.3g} queries per sample"


def _of_seed(row: dict[str, Any]) -> str:
    return f"seed {row['seed']}: {row['value']:.4f} at {row['cost']:.4g}"


def _point(report: Report, method: str) -> CurvePoint:
    costs, values = report.values(method, "cost"), report.values(method, report.metric)
    rows = _of_all_domains(report, method, report.metric)
    lines = [_of_seed({**row, "cost": row.get("cost", cost)}) for row, cost in zip(rows, costs, strict=False)]
    return CurvePoint(float(np.mean(costs)), float(np.mean(values)), lines)
