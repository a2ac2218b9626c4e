"""Tables and figures of the recipe frugal."""

import numpy as np

from lightning_fusion import plotting
from lightning_fusion.markdown import markdown_table
from lightning_fusion.recipes.frugal.rows import (
    HALF_COVERAGE,
    IN_SCOPE,
    MAIN,
    MAJORITY,
    SCOPE_AUROC,
    SCOPE_COVERAGE,
    SINGLE,
)
from lightning_fusion.recipes.frugal.study import Study, curve_of, subset_cost
from lightning_fusion.recipes.report import Figures, Report


def sensitivity_table(report: Report) -> list[str]:
    """Return the table of accuracy and cost by number of neighbors and trade-off."""
    metric = "accuracy by setting"
    prices, counts = (sorted({row[key] for row in report.select(metric=metric)}) for key in ("trade_off", "neighbors"))
    rows = []
    for count in counts:
        cells = [f"{count}"]
        for price in prices:
            some = report.select(metric=metric, neighbors=count, trade_off=price)
            cells.append(f"{np.mean([r['value'] for r in some]):.3f} at {np.mean([r['cost'] for r in some]):.2f}")
        rows.append(cells)
    title = "Accuracy of FrugalFoE at a mean cost, by number of neighbors M and trade-off (mean over seeds):"
    return [title, "", *markdown_table(["M", *(f"{price:.4g}" for price in prices)], rows)]


def abstention_table(report: Report, study: Study) -> list[str]:
    """Return the table of abstention, if some test samples are out of scope."""
    metrics = (IN_SCOPE, SCOPE_AUROC, "area under the risk-coverage curve", HALF_COVERAGE, SCOPE_COVERAGE)
    rows = [
        [method, *(f"{np.mean(report.values(method, metric)):.3f}" for metric in metrics)]
        for method in study.abstaining
    ]
    return [
        f"Abstention: {int(study.unknown.sum())} of {len(study.unknown)} test samples are out of scope: no expert "
        "has their class, every prediction for them is wrong, and the accuracies above cannot reach 1. Samples are "
        "answered in ascending order of risk, which is FrugalFoE's estimate or 1 - the maximum probability "
        "(abstain_by: probability). Values are means over seeds.",
        "",
        *markdown_table(["rule", *metrics], rows),
    ]


def figures(report: Report, study: Study) -> Figures:
    """Return the figures of the report; with out-of-scope test samples also the one of abstention."""
    seeds = sorted({row["seed"] for row in report.rows})
    empty = {row["seed"]: row["value"] for row in report.select(method=MAJORITY, metric="accuracy")}
    grid = np.linspace(0, subset_cost(study.costs), 400)
    curves = {}
    for method in report.methods("accuracy on the curve"):
        lines = [curve_of(report, method, seed, empty[seed]) for seed in seeds]
        costs = grid[grid <= max(line[0][-1] for line in lines) + 1e-9]
        curves[method] = costs, np.mean([np.interp(costs, *line) for line in lines], axis=0)
    points = {
        method: (float(np.mean(report.values(method, "cost"))), float(np.mean(report.values(method))))
        for method in (*SINGLE, MAIN)
        if report.values(method)
    }
    own = points[MAIN][1]
    top = max(np.mean(report.values(method)) for method in report.methods() if not method.startswith("oracle"))
    close = own - 0.25 * (own - 0.9 * min(empty.values())), float(top) + 0.02
    coverage = {MAIN: (study.coverage.coverage, study.coverage.error)}
    found: Figures = {
        "curve": (
            plotting.cost_curves(curves, points, main=MAIN, close=close),
            "Test accuracy against mean cost, mean over seeds; lines connect the points of a rule.",
        ),
        "queries": (
            plotting.queries(study.answer.queried.cpu().numpy(), study.policy.names),
            f"Queries per sample, and how often each expert is queried: {MAIN}, test split, seed {study.seed}.",
        ),
        "coverage": (
            plotting.risk_coverage_curves(coverage, main=MAIN),
            f"Risk-coverage curve: error among the answered samples by coverage, seed {study.seed}.",
        ),
    }
    if study.abstaining:
        coverage = {method: (curve.coverage, curve.error) for method, curve in study.abstaining.items()}
        found["abstention"] = (
            plotting.risk_coverage_curves(coverage, main=MAIN, in_scope=float((~study.unknown).mean())),
            f"Risk-coverage curves over test samples in and out of scope, seed {study.seed}.",
        )
    return found
