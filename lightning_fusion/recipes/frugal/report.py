"""Tables and figures of the recipe frugal."""

from pathlib import Path

import numpy as np

from lightning_fusion.plotting import plain_names
from lightning_fusion.recipes.frugal.rows import _MARKERS, HALF_ANSWERED, IN_SCOPE, MAIN, SCOPE_ANSWERED, TOLD_APART
from lightning_fusion.recipes.frugal.study import _Study, curve_of, subset_cost
from lightning_fusion.recipes.report import Report


def _sensitivity_table(report: Report) -> list[str]:
    rows = [row for row in report.rows if row["metric"] == "accuracy by setting"]
    prices = sorted({row["trade_off"] for row in rows})
    lines = ["Accuracy of FrugalFoE at a mean cost, by neighbours M and trade-off (mean over seeds):", ""]
    lines += ["| M | " + " | ".join(f"{price:.4g}" for price in prices) + " |", "|---" * (len(prices) + 1) + "|"]
    for count in sorted({row["neighbors"] for row in rows}):
        cells = []
        for price in prices:
            some = [row for row in rows if (row["neighbors"], row["trade_off"]) == (count, price)]
            cells.append(f"{np.mean([r['value'] for r in some]):.3f} at {np.mean([r['cost'] for r in some]):.2f}")
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return lines


def _abstention_table(report: Report, study: _Study) -> list[str]:
    metrics = (IN_SCOPE, TOLD_APART, "area under risk and coverage", HALF_ANSWERED, SCOPE_ANSWERED)
    lines = [
        f"Abstention: {int(study.unknown.sum())} of {len(study.unknown)} test samples are out of scope: no expert "
        "knows their class, so every answer to them is wrong and no accuracy above can reach 1. Samples are answered "
        "in the order of a rule's risk: FrugalFoE's estimate, or 1 - the largest probability (abstain_by: probability) "
        "(mean over seeds).",
        "",
        "| rule | " + " | ".join(metrics) + " |",
        "|---" * (len(metrics) + 1) + "|",
    ]
    for method in study.abstaining:
        cells = (f"{np.mean(report.values(method, metric)):.3f}" for metric in metrics)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


@plain_names
def _draw_abstention(study: _Study, folder: Path) -> dict[str, str]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.subplots()
    for method, curve in study.abstaining.items():
        main = method == MAIN
        style = "-" if main else "--"
        axes.plot(100 * curve.coverage, 100 * curve.error, style, label=method, color="black" if main else None)
    inside = 100 * float((~study.unknown).mean())
    axes.axvline(inside, color="grey", linewidth=0.8, label="as many as are in scope")
    axes.set(xlabel="share of samples answered (%), least risk first", ylabel="errors among them (%)", xlim=(0, 102))
    axes.set_ylim(bottom=0)
    axes.set_title("Abstaining on what no expert knows")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(folder / "abstention.png", dpi=130)
    return {"abstention.png": f"Risk and coverage over test samples in and out of scope, seed {study.seed}."}


@plain_names
def _draw(report: Report, folder: Path, study: _Study) -> dict[str, str]:
    """The three pictures of the report."""
    from matplotlib.figure import Figure

    seeds = sorted({row["seed"] for row in report.rows})
    total = subset_cost(study.costs)
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    whole, close = figure.subplots(1, 2)
    grid = np.linspace(0, total, 400)
    nobody = {
        row["seed"]: row["value"]
        for row in report.rows
        if row["method"].startswith("nobody") and row["metric"] == "accuracy"
    }
    for number, method in enumerate(report.methods("accuracy on the curve")):
        lines = [curve_of(report, method, seed, nobody[seed]) for seed in seeds]
        end = max(line[0][-1] for line in lines)
        place = grid[grid <= end + 1e-9]
        mean = np.mean([np.interp(place, *line) for line in lines], axis=0)
        main = method == MAIN
        style = "-" if main else (":" if method.startswith(MAIN) else "--")
        color = "black" if main else f"C{number}"
        for axes in (whole, close):
            axes.plot(place, mean, style, label=method, linewidth=2.6 if main else 1.6, color=color)
    single = {method: marker for method, marker in _MARKERS.items() if report.values(method)}
    for method, marker in single.items():
        cost, value = np.mean(report.values(method, "cost")), np.mean(report.values(method))
        for axes in (whole, close):
            axes.plot(cost, value, marker, label=method, color="tab:red", markersize=8)
    own = np.mean(report.values(MAIN, "cost")), np.mean(report.values(MAIN))
    for axes in (whole, close):
        axes.plot(*own, "o", color="black", label=f"{MAIN} in the table")
        axes.set(xlabel="mean cost per sample", ylabel="test accuracy")
        axes.grid(alpha=0.3)
    top = max(np.mean(report.values(method)) for method in report.methods() if not method.startswith("oracle"))
    close.set(ylim=(own[1] - 0.25 * (own[1] - 0.9 * min(nobody.values())), top + 0.02), title="The upper part")
    whole.set_title("What a sample costs, and what that buys")
    handles, labels = whole.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(folder / "curve.png", dpi=130)

    asked = study.answer.asked.cpu().numpy()
    names = study.policy.names
    figure = Figure(figsize=(9, 1.6 + 0.24 * max(8, len(names))), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = np.bincount(asked.sum(1), minlength=len(names) + 1)[1:] / len(asked)
    left.bar(range(1, len(names) + 1), 100 * counts, color="tab:blue")
    left.set(xlabel="experts asked", ylabel="share of samples (%)", title="How many")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.barh(range(len(names)), 100 * asked.mean(0), color="tab:green")
    right.set_yticks(range(len(names)), names, fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="share of samples (%)", title="Whom")
    figure.savefig(folder / "asked.png", dpi=130)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * study.coverage.coverage, 100 * study.coverage.error, ".-", color="tab:red")
    axes.set(
        xlabel="share of samples answered (%), least risk first",
        ylabel="errors among them (%)",
        xlim=(0, 102),
        title="Abstaining where the estimated risk is high",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.savefig(folder / "coverage.png", dpi=130)
    return {
        "curve.png": "Accuracy against mean cost, mean over seeds; lines join the points of a rule.",
        "asked.png": f"How many experts a sample asks, and whom: FrugalFoE on the test split, seed {study.seed}.",
        "coverage.png": f"Error among the answered samples when those of high risk are left out, seed {study.seed}.",
    }
