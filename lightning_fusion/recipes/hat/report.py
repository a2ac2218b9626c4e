"""The report of HaT's recipe: what is said and drawn of the rows of all targets."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.plotting import plain_names
from lightning_fusion.recipes.report import Report, paired_gain

_SELECTED = re.compile(r"average of \d+, selected")
MAIN, LOCAL = "HaT", "local, few labels"


def groups_of(data: FusionDataModule) -> dict[str, str]:
    """The group (person, site) of each domain; the domain itself where the data name none."""
    return dict(getattr(data, "groups", {name: name for name in data.domains}))


def average(report: Report) -> None:
    """Add the mean over targets of every method and seed."""
    kept = ("accuracy", "bytes", "rank correlation", "mixer accuracy")
    for method, metric, seed in dict.fromkeys(
        (row["method"], row["metric"], row["seed"]) for row in report.rows if row["metric"] in kept
    ):
        own = [
            row["value"] for row in report.rows if (row["method"], row["metric"], row["seed"]) == (method, metric, seed)
        ]
        report.add(method, metric, np.mean(own), seed)


def _by_target(report: Report, method: str) -> dict[str, float]:
    """Mean over seeds of a method's accuracy, by target."""
    found: dict[str, list[float]] = {}
    for row in report.rows:
        if (row["method"], row["metric"]) == (method, "accuracy") and "domain" in row:
            found.setdefault(row["domain"], []).append(row["value"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def over_groups(report: Report, data: FusionDataModule) -> list[str]:
    """HaT's gain over each method with an interval over groups: targets of one person are not independent."""
    groups, ours = groups_of(data), _by_target(report, MAIN)
    names = sorted({groups[name] for name in ours})
    lines = [f"Gains of {MAIN} in points, paired by target; 95 % interval over {len(names)} groups (Student's t):", ""]
    lines += ["| against | gain | targets where better / equal / worse |", "|---|---|---|"]
    for method in report.methods():
        theirs = _by_target(report, method)
        if method == MAIN or set(theirs) != set(ours):
            continue
        gain = {name: ours[name] - theirs[name] for name in ours}
        of_group = [float(np.mean([gain[name] for name in ours if groups[name] == group])) for group in names]
        mean, low, high = paired_gain(of_group, [0.0] * len(of_group))
        text = f"{100 * mean:+.1f}" + ("" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]")
        signs = [sum(sign * value > 1e-9 for value in gain.values()) for sign in (1, -1)]
        lines.append(f"| {method} | {text} | {signs[0]} / {len(gain) - sum(signs)} / {signs[1]} |")
    return lines


_CRITERIA = {
    "similarity": "statistics, a",
    "centroid_score": "centroids, s(c)",
    "accuracy": "accuracy on the labels, Acc",
    "score": "product, r",
}


def ranks(report: Report) -> list[str]:
    """How well each criterion of the selection ranks the sources."""
    lines = ["| criterion of the selection | rank correlation with the true accuracy |", "|---|---|"]
    for criterion, name in _CRITERIA.items():
        if values := report.values(criterion, "rank correlation"):
            lines.append(f"| {name} | {np.mean(values):.2f} |")
    if len(lines) == 2:  # two sources have no ranks to speak of
        return []
    return [*lines, "", "Mean over targets; the true accuracy is the source's own on the target's test split."]


def verdicts(report: Report) -> list[str]:
    """What a reader should not overlook: that something simpler is better."""
    own = float(np.mean(report.values(MAIN)))
    local = float(np.mean(report.values(LOCAL)))
    notes = []
    if own < local:
        notes.append(f"{MAIN} ({own:.3f}) is below the local model ({local:.3f}): the sources harm here.")
    averages = {name: float(np.mean(report.values(name))) for name in report.methods() if _SELECTED.fullmatch(name)}
    for name, value in averages.items():
        if own < value - 0.01:
            notes.append(
                f"The {name} ({value:.3f}), is better than {MAIN}'s small model ({own:.3f}): take it where all of them "
                "can be asked about every sample."
            )
    return notes


def mixers(report: Report) -> list[str]:
    """What each student's mixer is held to be worth while it is trained, and what its predictions are worth."""
    lines = [
        "| mixer of | accuracy in training | true accuracy of the fused prediction | targets with 1 in training |",
        "|---|---|---|---|",
    ]
    for method in report.methods("mixer accuracy"):
        rows = [row for row in report.rows if (row["method"], row["metric"]) == (method, "mixer accuracy")]
        believed = [row["value"] for row in rows if "domain" in row]
        true = np.mean(report.values(f"{method}, mixer kept"))
        lines.append(f"| {method} | {np.mean(believed):.3f} | {true:.3f} | {believed.count(1.0)} of {len(believed)} |")
    note = "In training: over the labelled rows in the last epoch, which scales the injection. True: on the test split."
    return [*lines, "", f"Means over targets. {note}"]


def coverage(report: Report) -> list[str]:
    """What chosen sources know of the classes, and which no chosen source knows."""
    rows = [row for row in report.rows if row["metric"] == "coverage"]
    lines = [
        f"A chosen source knows {np.mean([row['value'] for row in rows]):.0%} of the target's classes, on average."
    ]
    without = Counter(label for row in rows for label in row["uncovered"])
    if not without:
        return [*lines, "Every class is known to a chosen source of every target."]
    named = ", ".join(f"{label} ({count})" for label, count in without.most_common())
    return [*lines, f"Classes that no chosen source knows, and for how many of {len(rows)} selections: {named}."]


def poison(report: Report) -> list[str]:
    """How often poisoned sources were chosen, and what the mixer thought of them; nothing where there are none."""
    lines = []
    for kind in ("poisoned sources", "sound sources"):
        found = {
            metric: [row["value"] for row in report.rows if (row["method"], row["metric"]) == (kind, metric)]
            for metric in ("sources", "chosen", "mixer weight")
        }
        if found["sources"]:
            weight = f"{np.mean(found['mixer weight']):.3f}" if found["mixer weight"] else "none was chosen"
            chosen, there = sum(found["chosen"]), sum(found["sources"])
            lines.append(f"| {kind} | {chosen:.0f} of {there:.0f} ({chosen / there:.0%}) | {weight} |")
    if not lines:
        return []
    head = ["| over all targets | chosen | mean weight in the mixer, where chosen |", "|---|---|---|"]
    return [*head, *lines, "", "Poisoned: trained on permuted labels, each class under the name of another."]


def traffic(report: Report) -> list[str]:
    """Bytes that one target reads, by stage."""
    lines = ["| bytes of one selection, mean over targets | |", "|---|---|"]
    for method in report.methods("bytes"):
        lines.append(f"| {method} | {np.mean(report.values(method, 'bytes')):,.0f} |")
    return lines


@plain_names
def draw(report: Report, folder: Path) -> dict[str, str]:
    """The four pictures of the report."""
    from matplotlib.figure import Figure

    ours, local = _by_target(report, MAIN), _by_target(report, LOCAL)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    left.plot([0, 1], [0, 1], color="tab:gray", linewidth=1)
    left.plot([local[name] for name in ours], list(ours.values()), "o", alpha=0.7)
    low = max(0.0, min(*ours.values(), *local.values()) - 0.05)
    left.set(
        xlim=(low, 1.01), ylim=(low, 1.01), xlabel=f"test accuracy: {LOCAL}", ylabel=MAIN, title="One dot per target"
    )
    methods = sorted(report.methods(), key=lambda method: float(np.mean(report.values(method))))
    means = [float(np.mean(report.values(method))) for method in methods]
    right.barh(methods, means, color=["tab:red" if method == MAIN else "tab:blue" for method in methods])
    right.set(xlim=(0, 1), xlabel="test accuracy, mean over targets")
    right.tick_params(axis="y", labelsize=7)
    figure.savefig(folder / "targets.png", dpi=130)

    stages = [name for name in report.methods("bytes") if name.startswith("selection, ")]
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axes, start = figure.subplots(), 0.0
    for name in stages:
        value = float(np.mean(report.values(name, "bytes"))) / 1e6
        axes.barh("selection", value, left=start, label=name.removeprefix("selection, "))
        start += value
    axes.barh("send all", float(np.mean(report.values("send all", "bytes"))) / 1e6, color="tab:gray")
    axes.set(xlabel="megabytes that one target reads, mean over targets")
    axes.legend(fontsize=8)
    figure.savefig(folder / "ledger.png", dpi=130)
    rows = [row for row in report.rows if row["metric"] == "largest weight of a class"]
    rows = [row for row in rows if (row["domain"], row["seed"]) == (rows[-1]["domain"], rows[-1]["seed"])]
    names, weights = rows[0]["among"], np.array([row["weights"] for row in rows])
    figure = Figure(figsize=(2.5 + 0.9 * len(names), 1.6 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for (place, column), value in np.ndenumerate(weights):
        axes.text(column, place, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set(title=f"Mean weight of the sources of {rows[0]['domain']}", ylabel="class of the test samples")
    figure.colorbar(image, ax=axes)
    figure.savefig(folder / "weights.png", dpi=130)
    return {
        "weights.png": "How much the mixer lets each chosen source count, by class of the last target's test samples.",
        "targets.png": "Left: the student against a model of the labels alone. Right: every method.",
        "ledger.png": "What a target reads to select its sources, by stage, and what all models would take.",
    }
