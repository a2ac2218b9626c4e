"""Diagnosis of a pool of experts from stored outputs, before a fuser is trained."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_fusion import plotting
from lightning_fusion.baselines import BestSingle, MajorityVote, MostConfident, SoftmaxAverage, oracle_selection
from lightning_fusion.data.targets import single_class_message
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.experts.permutation import better_order, common_order
from lightning_fusion.files import write_text
from lightning_fusion.metrics.diversity import PairwiseDiversity
from lightning_fusion.terminal import open_console

LEAK_P = 0.05
"""Maximum p-value of an excess of accuracy on the fuser training set, before division by the number of experts."""
LEAK_ERRORS = 0.8
"""Maximum ratio of the error rate on the fuser training set to that on the unseen split that is reported as a leak."""
LEAK_SEEN = 0.01
"""Maximum fraction of the fuser training set that an expert may have been trained on without a leak."""

_LEAST_SAMPLES = 30  # that show whether an expert is better than a constant answer


@dataclass
class ExpertFigures:
    """Statistics of one expert.

    Attributes:
        name: Name of the expert.
        missing: Number of samples without an answer; the other figures are of the samples with one.
        accuracy: Accuracy on all samples.
        own_accuracy: Accuracy on samples of its domains; NaN if they are unknown.
        calibration_error: Expected calibration error over 15 bins, on samples of its classes.
        unseen_accuracy: As ``own_accuracy`` (``accuracy`` if NaN), on the unseen split; NaN without one. Samples of
            it that the expert was trained on are left out.
        seen: Number of samples of the fuser training set that it was trained on; ``None`` if its checkpoint does
            not record them.
        leak_p: One-sided p-value of the hypothesis that it is not more accurate on the fuser training set than on the
            unseen split.
        leak_bound: Upper 95 % bound of that excess of accuracy; NaN without an unseen split.
        leaks: Whether it was trained on more than 1 % of the fuser training set; if this is not recorded, whether
            its excess of accuracy is significant and its error rate there below 0.8 of that on the unseen split.
        class_order: Names of its outputs in an order that is significantly more accurate; ``None`` if there is none.
        class_order_accuracy: Accuracy on samples of its classes with that order; NaN if there is none.
        known: Number of samples of its classes, of its domains if they are known.
        known_accuracy: Accuracy on these samples; NaN without any.
        constant_accuracy: Accuracy of their most frequent class; NaN without any.
        ties: Number of answers with several most probable classes, of which the first counts.
    """

    name: str
    missing: int
    accuracy: float
    own_accuracy: float
    calibration_error: float
    unseen_accuracy: float
    seen: int | None
    leak_p: float
    leak_bound: float
    leaks: bool
    class_order: list[str] | None = None
    class_order_accuracy: float = float("nan")
    known: int = 0
    known_accuracy: float = float("nan")
    constant_accuracy: float = float("nan")
    ties: int = 0


@dataclass
class Diagnosis:
    """Result of :func:`~lightning_fusion.diagnose`.

    Attributes:
        split: Name of the split.
        rows: Number of samples; those without an answer of any expert are left out.
        experts: Statistics of each expert.
        domain_accuracy: {domain: {expert: accuracy}}.
        diversity: {measure: (K, K) nested lists} of :class:`~lightning_fusion.metrics.PairwiseDiversity`.
        accuracies: Accuracy of the baselines without training, and of ``oracle selection``, their upper bound.
        findings: Findings as sentences, warnings first.
        worthwhile: Whether selecting experts can gain at least 0.02 over the best single one.
    """

    split: str
    rows: int
    experts: list[ExpertFigures]
    domain_accuracy: dict[str, dict[str, float]]
    diversity: dict[str, list[list[float]]]
    accuracies: dict[str, float]
    findings: list[str] = field(default_factory=list)
    worthwhile: bool = True

    def to_json(self) -> str:
        """Return the diagnosis as JSON; undefined numbers are null."""
        return json.dumps(_without_nan(asdict(self)), indent=1)

    def print(self, console: Console | None = None) -> None:
        """Print tables and findings."""
        console = open_console() if console is None else console
        table = Table(title=f"{len(self.experts)} experts on {self.rows} rows of the split {self.split}")
        absent = any(expert.missing for expert in self.experts)
        names = ("expert", *(["missing"] if absent else []), "accuracy", "own domains", "unseen split")
        known = any(expert.seen is not None for expert in self.experts)
        for column in (*names, "calibration error", *(["trained on"] if known else []), "leak"):
            table.add_column(column, justify="left" if column == "expert" else "right")
        for expert in self.experts:
            table.add_row(
                escape(expert.name),
                *([str(expert.missing)] if absent else []),
                *(_number(v) for v in (expert.accuracy, expert.own_accuracy, expert.unseen_accuracy)),
                _number(expert.calibration_error),
                *([] if not known else ["-" if expert.seen is None else str(expert.seen)]),
                "[red]yes[/red]" if expert.leaks else "-" if np.isnan(expert.leak_p) else "not found",
            )
        console.print(table)
        rules = Table(title="baselines without training")
        rules.add_column("rule")
        rules.add_column("accuracy", justify="right")
        for name, value in self.accuracies.items():
            rules.add_row(name, _number(value))
        console.print(rules)
        for finding in self.findings:
            console.print(f"- {finding}", markup=False)

    def figure(self) -> Figure:
        """Plot the accuracy of each expert on each domain, and the disagreement of each pair."""
        grid = [list(of_experts.values()) for of_experts in self.domain_accuracy.values()]
        return plotting.diagnosis(
            grid or [[expert.accuracy for expert in self.experts]],
            self.diversity["disagreement"],
            [expert.name for expert in self.experts],
            list(self.domain_accuracy) or ["all"],
        )

    def save(self, folder: str | Path) -> None:
        """Write ``diagnosis.json`` and ``diagnosis.png``."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        write_text(target / "diagnosis.json", self.to_json())
        plotting.save(self.figure(), target / "diagnosis.png")


def diagnose(outputs: ExpertOutputs, split: str = "train", unseen: str | None = "test") -> Diagnosis:
    """Estimate the potential gain of fusion: accuracies, complementarity, calibration, baselines, and leaks.

    A fuser overestimates experts that were trained on its training set. The training samples of experts that
    :class:`~lightning_fusion.ExpertModule` trained are recorded, and the store records which of them are in its splits.
    For other experts, the leak check compares the accuracy on the fuser training set with that on an unseen split, by a
    one-sided Fisher's exact test.

    Args:
        outputs: Stored outputs.
        split: Split that the fuser would be trained on.
        unseen: Split that no expert was trained on; ``None`` skips the leak check.

    Raises:
        InputError: If the store lacks a split, or it is empty.
    """
    part = outputs[split]
    if not len(part):
        raise InputError(f"split {split} of the store has no rows")
    if unseen is not None and unseen not in outputs.splits and unseen != "test":
        raise InputError(f"unseen: the store has no split {unseen!r}; it has {shorten(outputs.splits)}")
    unseen = unseen if unseen in outputs.splits and unseen != split and len(outputs[unseen]) else None
    answers = _Answers.of(outputs, split)
    if not len(answers.target):
        raise InputError(f"split {split} of the store has no answer of any expert")
    other = None if unseen is None else _Answers.of(outputs, unseen)
    experts = [_figures(outputs, number, answers, other) for number in range(len(outputs.names))]
    spread, target, right = answers.spread, answers.target, answers.right
    predictions = np.where(answers.there, spread.argmax(2), -1)
    by_domain = {
        name: {
            expert: _fraction(right[answers.member[:, column] & answers.there[:, k], k])
            for k, expert in enumerate(outputs.names)
        }
        for column, name in enumerate(outputs.domains)
        if answers.member[:, column].any()
    }
    pairs = PairwiseDiversity(len(outputs.names))
    pairs.update(torch.from_numpy(predictions), torch.from_numpy(target.copy()))
    accuracies = {
        "best single expert": BestSingle(),
        "softmax average": SoftmaxAverage(),
        "most confident": MostConfident(),
        "majority vote": MajorityVote(),
    }
    scores = {
        name: float((rule.fit(spread, target).predict(spread) == target).mean()) for name, rule in accuracies.items()
    }
    scores["oracle selection"] = float(oracle_selection(spread, target).mean())
    result = Diagnosis(
        split,
        len(target),
        experts,
        by_domain,
        # torchmetrics returns a scalar for a single entry
        {name: value.reshape(len(experts), -1).tolist() for name, value in pairs.compute().items()},
        scores,
    )
    orders = {each.name: (outputs.expert_classes[each.name], each.class_order) for each in experts}
    _conclude(result, unseen, len(outputs.classes), common_order(orders, outputs.classes))
    if message := single_class_message(target, outputs.classes, f"the {split} split"):
        result.findings.insert(0, f"{message[0].upper()}{message[1:]}.")
    if lost := len(part) - len(target):
        result.findings.insert(0, f"{lost} of {len(part)} samples have no answer of any expert; they are left out.")
    return result


@dataclass
class _Answers:
    """Answers of the experts on the samples of a split that have at least one.

    Attributes:
        spread: (N, K, C) outputs.
        target: (N,) classes.
        there: (N, K) bool, which answers are there.
        right: (N, K) bool, which answers are correct.
        expert_targets: (N, K) bool, which experts were trained on a domain of each sample.
        member: (N, D) bool, domains of each sample.
        seen: (N, K) bool, which samples each expert was trained on; None if nothing is recorded.
    """

    spread: np.ndarray
    target: np.ndarray
    there: np.ndarray
    right: np.ndarray
    expert_targets: np.ndarray
    member: np.ndarray
    seen: np.ndarray | None

    @classmethod
    def of(cls, outputs: ExpertOutputs, split: str) -> "_Answers":
        part = outputs[split]
        kept = ~np.asarray(part.missing).all(1)
        spread, target, there = outputs.scattered(split)[kept], np.asarray(part.target)[kept], ~part.missing[kept]
        right = (spread.argmax(2) == target[:, None]) & there
        domain, seen = np.asarray(part.domain, bool)[kept], None if part.seen is None else np.asarray(part.seen)[kept]
        return cls(spread, target, there, right, outputs.expert_targets(split)[kept], domain, seen)


def _figures(outputs: ExpertOutputs, number: int, answers: _Answers, unseen: _Answers | None) -> ExpertFigures:
    name = outputs.names[number]
    there, right = answers.there[:, number], answers.right[:, number]
    own = answers.expert_targets[:, number] & there
    classes = [outputs.classes.index(label) for label in outputs.expert_classes[name]]
    known = np.isin(answers.target, classes) & there
    error = float("nan")
    if known.any():
        spread = answers.spread[known, number]
        error = multiclass_calibration_error(
            torch.from_numpy(np.pad(spread, ((0, 0), (0, max(0, 2 - spread.shape[1]))))),  # a task may have one class
            torch.from_numpy(answers.target[known]),
            max(2, len(outputs.classes)),
            n_bins=15,
        ).item()
    recorded = outputs.experts[name].get("training_samples") is not None and answers.seen is not None
    seen = int(answers.seen[:, number].sum()) if recorded and answers.seen is not None else None
    unseen_accuracy, p, bound = float("nan"), float("nan"), float("nan")
    leaks = seen is not None and seen > LEAK_SEEN * len(answers.target)
    if unseen is not None:
        theirs, answered = unseen.expert_targets[:, number], unseen.there[:, number]
        if unseen.seen is not None:
            answered = answered & ~unseen.seen[:, number]
        both = own.any() and (theirs & answered).any()
        here, elsewhere = (own, theirs & answered) if both else (there, answered)
        hits = unseen.right[elsewhere, number]
        if here.any() and elsewhere.any():
            unseen_accuracy = float(hits.mean())
            counts = int(right[here].sum()), int(here.sum()), int(hits.sum()), len(hits)
            p, bound = _larger(*counts), _excess_bound(*counts)
            fewer = 1 - right[here].mean() < LEAK_ERRORS * (1 - unseen_accuracy)
            leaks |= bool(seen is None and fewer and p * len(outputs.names) < LEAK_P)
    accuracy, own_accuracy = _fraction(right[there]), _fraction(right[own])
    missing = int((~there).sum())
    names = outputs.expert_classes[name]
    place = {label: number for number, label in enumerate(classes)}
    predicted = answers.spread[known, number][:, classes].argmax(1)
    found = better_order(predicted, np.array([place[label] for label in answers.target[known]], int), names)
    order = found if found is not None else (None, float("nan"))
    leak = unseen_accuracy, seen, p, bound, leaks
    theirs = known & own if own.any() else known
    frequent = int(np.bincount(answers.target[theirs], minlength=1).max())
    constant = float(frequent / theirs.sum()) if theirs.any() else float("nan")
    own_answers = answers.spread[there, number][:, classes]
    ties = int(((own_answers == own_answers.max(1, keepdims=True)).sum(1) > 1).sum()) if len(classes) > 1 else 0
    figures = ExpertFigures(name, missing, accuracy, own_accuracy, error, *leak, *order)
    figures.known, figures.known_accuracy, figures.constant_accuracy = (
        int(theirs.sum()),
        _fraction(right[theirs]),
        constant,
    )
    figures.ties = ties
    return figures


def _fraction(values: np.ndarray) -> float:
    """Return the mean; NaN of no values."""
    return float(values.mean()) if len(values) else float("nan")


def _larger(hits: int, rows: int, other_hits: int, other_rows: int) -> float:
    """Return the one-sided p-value that the first of two proportions is not larger (Fisher's exact test)."""
    from scipy.stats import fisher_exact

    table = [[hits, rows - hits], [other_hits, other_rows - other_hits]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _excess_bound(hits: int, rows: int, other_hits: int, other_rows: int) -> float:
    """Return the upper 95 % bound of the difference of two proportions (Newcombe, from Wilson's intervals)."""
    first, other = hits / rows, other_hits / other_rows
    above, below = _wilson(first, rows, 1.645), _wilson(other, other_rows, -1.645)
    return first - other + math.hypot(above - first, other - below)


def _wilson(fraction: float, rows: int, z: float) -> float:
    spread = z * math.sqrt(fraction * (1 - fraction) / rows + z * z / (4 * rows * rows))
    return (fraction + z * z / (2 * rows) + spread) / (1 + z * z / rows)


def _conclude(result: Diagnosis, unseen: str | None, classes: int, order: list[str] | None) -> None:
    absent = [f"{expert.name} {expert.missing}" for expert in result.experts if expert.missing]
    if absent:
        result.findings.append(
            f"Missing answers among {result.rows} samples: {shorten(absent)}. Each expert's figures are those of its "
            "answers."
        )
    trained = [f"{expert.name} {expert.seen}" for expert in result.experts if expert.seen]
    if trained:
        leak = "LEAK: " if any(expert.leaks and expert.seen for expert in result.experts) else ""
        result.findings.append(
            f"{leak}experts were trained on samples of the fuser training set ({result.rows} rows of {result.split}): "
            f"{shorten(trained, 8)}. They are more accurate there than on new samples. Hold out samples that no "
            "expert was trained on."
        )
    leaking = [expert.name for expert in result.experts if expert.leaks and not expert.seen]
    if leaking:
        result.findings.append(
            f"LEAK: {shorten(leaking)} are significantly more accurate on the fuser training set than on {unseen}: "
            f"they were trained on these or very similar samples, or {unseen} has another distribution. Hold out "
            "samples that no expert was trained on."
        )
    best, ceiling = result.accuracies["best single expert"], result.accuracies["oracle selection"]
    result.worthwhile = ceiling - best >= 0.02
    guess = 1 - (1 - 1 / max(1, classes)) ** len(result.experts)
    if result.worthwhile:
        result.findings.append(
            f"At least one expert is correct on {ceiling:.1%} of the samples, the best single expert on {best:.1%}: "
            f"selecting an expert per sample can gain up to {100 * (ceiling - best):.1f} points. (With "
            f"{len(result.experts)} experts that guess among {classes} classes, the former is {guess:.1%}.)"
        )
    else:
        result.findings.append(
            f"The experts are not complementary: at least one expert is correct on {ceiling:.1%} of the samples, the "
            f"best single expert on {best:.1%}. Fusion can gain little."
        )
    rule = max(
        (n for n in result.accuracies if n not in ("oracle selection", "best single expert")),
        key=result.accuracies.__getitem__,
    )
    gain = result.accuracies[rule] - best
    result.findings.append(
        f"The best baseline without training is {rule}: {result.accuracies[rule]:.1%} ({100 * gain:+.1f} points "
        "relative to the best single expert). A trained fuser should exceed it."
    )
    if order is not None:
        result.findings.insert(
            0,
            "CLASS ORDER: one order of the task's classes explains the errors of all experts: the targets count "
            f"{shorten(order, 20)}, in this order: set classes of the ExpertPool to it, and collect again.",
        )
    for expert in result.experts:
        if expert.class_order is not None and order is None:
            result.findings.insert(
                0,
                f"CLASS ORDER: {expert.name} (accuracy {expert.accuracy:.1%}) is correct on "
                f"{expert.class_order_accuracy:.1%} of the samples of its classes if its outputs are those of "
                f"{shorten(expert.class_order, 20)}, in this order: check its classes.",
            )
    blind = [
        f"{expert.name} {expert.known_accuracy:.1%} against {expert.constant_accuracy:.1%}"
        for expert in result.experts
        if expert.known >= _LEAST_SAMPLES and expert.class_order is None and order is None
        if expert.known_accuracy <= expert.constant_accuracy < 1
    ]
    if blind:
        result.findings.append(
            "CHANCE: experts are not more accurate than a constant answer on the samples of their classes and domains: "
            f"{shorten(blind)}. Check the order of their rows and classes, and how their input was preprocessed.",
        )
    tied = [f"{expert.name} {expert.ties}" for expert in result.experts if expert.ties]
    if tied:
        result.findings.append(
            f"Answers with several most probable classes, of which the first counts, among {result.rows} samples: "
            f"{shorten(tied)}."
        )
    poor = [e.name for e in result.experts if e.calibration_error > 0.15 and e.class_order is None]
    if poor:
        result.findings.append(
            f"Poorly calibrated (expected calibration error above 0.15): {shorten(poor)}. This affects rules that "
            "compare confidences, not a trained fuser."
        )
    if any(expert.leaks for expert in result.experts):
        return
    unknown = [expert.name for expert in result.experts if expert.seen is None]
    if not unknown:
        count = sum(expert.seen or 0 for expert in result.experts)
        if not count:
            result.findings.append(f"No expert was trained on a sample of {result.split}, as recorded in training.")
    elif unseen is not None:
        bound = max((e.leak_bound for e in result.experts if not np.isnan(e.leak_bound)), default=float("nan"))
        result.findings.append(
            f"The leak check is not conclusive: no expert is significantly more accurate on {result.split} than on "
            f"{unseen}, but an excess of {100 * bound:.1f} points is not excluded, and experts that were trained on "
            f"both splits are not detected. The training samples of {shorten(unknown)} are not recorded; experts that "
            "ExpertModule trains have a record."
        )
    else:
        result.findings.append(
            f"The training samples of {shorten(unknown)} are not recorded, and there is no unseen split: whether they "
            f"were trained on samples of {result.split} is not known."
        )


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
