"""The report of HaT's recipe: what is said and drawn of the rows of all targets."""

import re
from collections import Counter

import numpy as np

from lightning_fusion import plotting
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.recipes.report import Figures, Report, paired_gain

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
        text = paired_gain(of_group, [0.0] * len(of_group)).points()
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
    note = "In training: over the labeled rows in the last epoch, which scales the injection. True: on the test split."
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


def figures(report: Report) -> Figures:
    """The three figures of the report."""
    means = {method: float(np.mean(report.values(method))) for method in report.methods()}
    stages = {
        name.removeprefix("selection, "): float(np.mean(report.values(name, "bytes")))
        for name in report.methods("bytes")
        if name.startswith("selection, ")
    }
    rows = [row for row in report.rows if row["metric"] == "largest weight of a class"]
    rows = [row for row in rows if (row["domain"], row["seed"]) == (rows[-1]["domain"], rows[-1]["seed"])]
    weights = plotting.heat_map(
        [row["weights"] for row in rows],
        [row["label"] for row in rows],
        rows[0]["among"],
        title=f"Mean weight of the sources of {rows[0]['domain']}",
        ylabel="class of the test samples",
    )
    students = _by_target(report, MAIN), _by_target(report, LOCAL)
    return {
        "weights": (weights, "Mean mixer weight of each selected source, by class of the last target's test samples."),
        "targets": (
            plotting.target_accuracies(*students, means, main=MAIN, against=LOCAL),
            "Left: the student against a model of the labels alone. Right: every method.",
        ),
        "ledger": (
            plotting.traffic(stages, float(np.mean(report.values("send all", "bytes")))),
            "Bytes that a target reads to select its sources, by stage, and those of all models.",
        ),
    }
