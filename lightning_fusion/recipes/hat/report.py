"""The report of HaT's recipe: text and figures from the results of all targets."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lightning_fusion import plotting
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.markdown import markdown_table
from lightning_fusion.recipes.report import Figures, Report, paired_gain

_SELECTED = re.compile(r"average of \d+, selected")
MAIN, LOCAL = "HaT", "local model, few labels"
TUNED, ENSEMBLE = "best source, fine-tuned on the labels", "sources with a fitted teacher, kept"
CONSTANT, OWN = "constant answer", "local model, all labels"
_IMBALANCED = 0.8  # accuracy of a constant answer from which a note says that there is little above it (our choice)


def groups_of(data: FusionDataModule) -> dict[str, str]:
    """Return the group (person, site) of each domain; the domain itself if the data have no groups."""
    return dict(getattr(data, "groups", {name: name for name in data.domains}))


def average(report: Report) -> None:
    """Add the mean over targets of every method and seed."""
    kept = {"accuracy", "bytes", "rank correlation", "model bytes", "seconds per sample"}
    kept |= {"teacher accuracy", "teacher test accuracy"}
    for method, metric, seed in dict.fromkeys(
        (row["method"], row["metric"], row["seed"])
        for row in report.rows
        if row["metric"] in kept and row["split"] == "test"
    ):
        own = report.select(method=method, metric=metric, seed=seed, split="test")
        report.add(method, metric, np.mean([row["value"] for row in own]), seed)


def _by_target(report: Report, method: str) -> dict[str, float]:
    """Return the mean over seeds of a method's accuracy, by target."""
    found: dict[str, list[float]] = {}
    for row in report.select(method=method, metric="accuracy"):
        if "domain" in row:
            found.setdefault(row["domain"], []).append(row["value"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def over_groups(report: Report, data: FusionDataModule) -> list[str]:
    """Return HaT's gain over each method with an interval over groups, as targets of one group are not independent."""
    groups, ours = groups_of(data), _by_target(report, MAIN)
    names = sorted({groups[name] for name in ours})
    rows = []
    for method in report.methods():
        theirs = _by_target(report, method)
        if method == MAIN or set(theirs) != set(ours):
            continue
        gain = {name: ours[name] - theirs[name] for name in ours}
        of_group = [float(np.mean([gain[name] for name in ours if groups[name] == group])) for group in names]
        text = paired_gain(of_group, [0.0] * len(of_group)).points()
        signs = [sum(sign * value > 1e-9 for value in gain.values()) for sign in (1, -1)]
        rows.append([method, text, f"{signs[0]} / {len(gain) - sum(signs)} / {signs[1]}"])
    title = f"Gains of {MAIN} in points, paired by target; 95 % interval over {len(names)} groups (Student's t):"
    return [title, "", *markdown_table(["against", "gain", "targets: better / equal / worse"], rows)]


_CRITERIA = {
    "similarity": "statistics, a",
    "centroid_score": "centroids, s(c)",
    "accuracy": "accuracy on the labels, Acc",
    "score": "product, r",
}


def ranks(report: Report) -> list[str]:
    """Return how well each criterion of the selection ranks the sources."""
    found = {name: report.values(criterion, "rank correlation") for criterion, name in _CRITERIA.items()}
    rows = [[name, f"{np.mean(values):.2f}"] for name, values in found.items() if values]
    if not rows:  # a rank correlation needs more than two sources
        return []
    lines = markdown_table(["selection criterion", "rank correlation with the true accuracy"], rows)
    return [*lines, "", "Mean over targets; the true accuracy is that of the source on the target's test split."]


def verdicts(report: Report, students: Iterable[str] = (), all_classes: bool = True) -> list[str]:
    """Return notes on better methods, simple ones and students of the same size, and on what makes the table useless.

    Args:
        report: The report.
        students: Names of the further students.
        all_classes: Whether the sources were trained on all of their classes.
    """
    own = float(np.mean(report.values(MAIN)))
    local = float(np.mean(report.values(LOCAL)))
    notes = []
    if own < local:
        notes.append(f"{MAIN} ({own:.3f}) is below the local model ({local:.3f}): the sources reduce the accuracy.")
    averages = {name: float(np.mean(report.values(name))) for name in report.methods() if _SELECTED.fullmatch(name)}
    simple = [name for name in (TUNED,) if name in report.methods()]
    for name in simple:
        if own < (value := float(np.mean(report.values(name)))) - 0.01:
            notes.append(f"{MAIN} ({own:.3f}) is below the {name} ({value:.3f}), which is simpler: use that model.")
    known = {name: float(np.mean(report.values(name))) for name in (CONSTANT, OWN) if name in report.methods()}
    if (constant := known.get(CONSTANT, 0.0)) >= _IMBALANCED:
        notes.append(
            f"A constant answer, the most frequent class of each target, has {constant:.3f}: accuracies say little of "
            "the other classes."
        )
    if all_classes and known.get(OWN, local) < local - 0.01:
        notes.append(
            f"The {OWN} ({known[OWN]:.3f}), is below the one with few ({local:.3f}): it and the sources are trained "
            "for too few steps; raise source_epochs."
        )
    averages |= {name: float(np.mean(report.values(name))) for name in (ENSEMBLE,) if name in report.methods()}
    others = {name: float(np.mean(report.values(name))) for name in students if name in report.methods()}
    if others and own < others[best := max(others, key=lambda name: others[name])] - 0.01:
        notes.append(
            f"The student of the row {best} ({others[best]:.3f}) has the size of {MAIN}'s ({own:.3f}) and is better on "
            "these targets: set its arguments by student, and test it on others."
        )
    for name, value in averages.items():
        if own < value - 0.01:
            notes.append(
                f"The {name} ({value:.3f}), is better than {MAIN}'s small model ({own:.3f}): use it where all of these "
                "sources can be evaluated for every sample."
            )
    return notes


def rows_of_students(student: Mapping[str, Any], further: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a note on what the rows of the table are.

    Args:
        student: Arguments of the main student.
        further: Those of the further students of the table, by name.

    Example:
        >>> rows_of_students({}, {"HaT from scratch": {"init": "scratch"}})[:87]
        'Rows: HaT is the student with the default arguments; HaT from scratch: {init: scratch}.'
    """

    def shown(arguments: Mapping[str, Any]) -> str:
        return "{" + ", ".join(f"{name}: {value}" for name, value in arguments.items()) + "}"

    own = shown(student) if student else "the default arguments"
    others = "".join(f"; {name}: {shown(arguments)}" for name, arguments in further.items())
    return (
        f"Rows: {MAIN} is the student with {own}{others}. Rows with *kept* are the sources with a teacher, which all "
        "answer for each sample; (teacher kept) is the mixer of that student. Students and local models have one size."
    )


def teachers(report: Report) -> list[str]:
    """Return cross-validated (of mixers: training) and test accuracy of each student's teacher."""
    head = ["teacher of", "accuracy on the labels", "test accuracy", "targets with accuracy 1 on the labels"]
    rows = []
    for method in report.methods("teacher accuracy"):
        found = report.select(method=method, metric="teacher accuracy")
        training = [row["value"] for row in found if "domain" in row]
        true = np.mean(report.values(method, "teacher test accuracy"))
        ones = f"{training.count(1.0)} of {len(training)}"
        rows.append([method, f"{np.mean(training):.3f}", f"{true:.3f}", ones])
    note = (
        "Accuracy on the labels: cross-validated; of attention and static weights in training, in the last epoch, by "
        "default. Below its threshold, the student learns from the labels alone."
    )
    return [*markdown_table(head, rows), "", f"Means over targets. {note}"]


def coverage(report: Report) -> list[str]:
    """Return the class coverage of the selected sources."""
    rows = report.select(metric="coverage")
    share = np.mean([row["value"] for row in rows])
    lines = [f"A selected source has {share:.0%} of the target's classes on average."]
    without = Counter(label for row in rows for label in row["uncovered"])
    if not without:
        return [*lines, "For every target, each class is covered by a selected source."]
    named = ", ".join(f"{label} ({count})" for label, count in without.most_common())
    return [*lines, f"Classes that no selected source has (number of {len(rows)} selections): {named}."]


def corruption(report: Report) -> list[str]:
    """Return how often label-corrupted sources were selected; empty if there are none."""
    rows = []
    for kind in ("label-corrupted sources", "other sources"):
        sources, picked = (
            [row["value"] for row in report.select(method=kind, metric=metric)] for metric in ("sources", "chosen")
        )
        if there := sum(sources):
            chosen = sum(picked)
            rows.append([kind, f"{chosen:.0f} of {there:.0f} ({chosen / there:.0%})"])
    if not rows:
        return []
    lines = markdown_table(["over all targets", "selected"], rows)
    return [*lines, "", "Label-corrupted: trained on permuted labels, each class under the name of another."]


def guards(report: Report) -> list[str]:
    """Return how often the guard selected each answer, and how often it was within a point of the best of the three."""
    rows = [row for row in report.select(method="guard", metric="choice") if "domain" in row]
    if not rows:
        return []
    counts = Counter(row["choice"] for row in rows)
    within = sum(row["value"] for row in rows)
    chosen = ", ".join(f"{name} {counts[name]}" for name in ("student", "local", "ensemble"))
    return [
        f"The guard selected, of {len(rows)} targets: {chosen}. Its answer was within a point of the best of the three "
        f"on the test samples for {within:.0f}."
    ]


def costs(report: Report) -> list[str]:
    """Return the size and the time per sample of the answers that can be kept."""
    rows = []
    for method in report.methods("model bytes"):
        size, took = (np.mean(report.values(method, metric)) for metric in ("model bytes", "seconds per sample"))
        rows.append([method, f"{np.mean(report.values(method)):.3f}", f"{size:,.0f}", f"{1000 * took:.3f}"])
    if not rows:
        return []
    best = max(report.methods("model bytes"), key=lambda name: float(np.mean(report.values(name))))
    lines = markdown_table(["answer", "test accuracy", "bytes of weights", "ms per sample"], rows)
    return [*lines, "", f"Means over targets; one batch of all test samples on one device. The most accurate: {best}."]


def traffic(report: Report) -> list[str]:
    """Return the bytes that one target reads, by stage."""
    rows = [[name, f"{np.mean(report.values(name, 'bytes')):,.0f}"] for name in report.methods("bytes")]
    return markdown_table(["mean over targets", "bytes"], rows)


def figures(report: Report) -> Figures:
    """Return the three figures of the report."""
    means = {method: float(np.mean(report.values(method))) for method in report.methods()}
    stages = {
        name.removeprefix("selection, "): float(np.mean(report.values(name, "bytes")))
        for name in report.methods("bytes")
        if name.startswith("selection, ")
    }
    last = [row for row in report.rows if row["metric"] == "accuracy of a class"][-1]
    rows = report.select(metric=last["metric"], domain=last["domain"], seed=last["seed"])
    of_class = plotting.heat_map(
        [row["accuracies"] for row in rows],
        [row["label"] for row in rows],
        rows[0]["among"],
        title=f"Accuracy of the sources of {rows[0]['domain']}",
        label="accuracy",
        xlabel="source",
        ylabel="class of the test samples",
    )
    students = _by_target(report, MAIN), _by_target(report, LOCAL)
    return {
        "sources": (of_class, "Test accuracy of each selected source by class, last target of the last seed."),
        "targets": (
            plotting.target_accuracies(*students, means, main=MAIN, against=LOCAL),
            "Left: the student and the local model on each target, mean over seeds. Right: every method.",
        ),
        "ledger": (
            plotting.traffic(stages, float(np.mean(report.values("all models", "bytes")))),
            "Bytes that a target reads to select its sources, by stage, and the bytes of all models.",
        ),
    }
