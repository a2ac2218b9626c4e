"""Tables of the report of the recipe acorl_shift."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lightning_fusion.acorl.forecast import LEAST_R2, Forecast, verdict
from lightning_fusion.markdown import markdown_table
from lightning_fusion.recipes.acorl.arms import PLAIN, REWEIGHTING, Arm
from lightning_fusion.recipes.acorl.selection import Choice
from lightning_fusion.recipes.acorl.uncertainty import METRICS
from lightning_fusion.recipes.report import Gain, Report, paired_gain

FIRST, SHIFTED = "first member", "shifted accuracy"
WHO = ("member", "pool", "weighted pool")
"""The last member, the mean of all, and that with weights fitted on validation as trained."""
LEAST_GAIN = 0.02
"""Gain of a member on shifted samples from which the reversal is said to have paid, if its interval is above 0."""


class Selected(NamedTuple):
    """An arm that a criterion selected in one seed, and the test accuracy of its pool.

    Attributes:
        arm: Name of the arm.
        trained: Accuracy as trained.
        shifted: Accuracy on the shifted test split.
        weighted: As trained, with weights fitted on the samples of the criterion.
        weighted_shifted: Shifted, with these weights.
    """

    arm: str
    trained: float
    shifted: float
    weighted: float
    weighted_shifted: float


def shift_text(
    report: Report,
    arms: Mapping[str, Arm],
    selected: Mapping[tuple[str, str], Sequence[Selected]],
    forecasts: Sequence[Forecast],
    choices: Mapping[str, Sequence[Choice]],
) -> list[str]:
    """Return the sections of the report.

    Args:
        report: Report with the rows of all seeds.
        arms: All arms by name.
        selected: Selected arms by family and criterion, one for each seed.
        forecasts: One for each seed.
        choices: Arms that were chosen for their strength, by the label of their row, one for each seed.
    """
    both = [name for name, arm in arms.items() if arm.strength and name.endswith(f"+ {REWEIGHTING}")]
    reversals = [name for name, arm in arms.items() if arm.strength and not arm.joint and not arm.diversity]
    text = [
        "Gain over plain members, in points, paired by seed, with 95 % interval; weights of weighted pools "
        "are fitted on the validation split as trained:",
        "",
        *_gains(report, [*arms, *choices], WHO, "test"),
        "",
    ]
    if REWEIGHTING in arms:
        compared = [*both, *(label for label in choices if label.endswith(f"+ {REWEIGHTING}"))]
        text += [f"Gain of {name} over {REWEIGHTING}: {_against(report, name, REWEIGHTING)}." for name in compared]
    return [
        *text,
        "",
        "The same on the validation splits, on which settings are compared:",
        "",
        *_gains(report, list(arms), WHO[:2], "val"),
        "",
        *_chosen(report, choices),
        "Pools: calibration error (15 bins), and AUROC of telling shifted test samples from those as trained, by the "
        "disagreement of the members and by the entropy of their mean:",
        "",
        *_uncertain(report, [*arms, *choices]),
        "",
        "The arm of each seed whose pool is best by a criterion on validation samples. Its pool on test: the mean of "
        "all members, and their mean with weights that are fitted on the same samples.",
        "",
        *_selected(report, selected),
        "",
        "Forecast before the later members were trained, and what came of it:",
        "",
        *_forecasts(report, reversals, forecasts),
    ]


def gain(report: Report, who: str, name: str, metric: str, against: str = PLAIN, split: str = "test") -> Gain:
    """Return the paired gain of an arm's ``member``, ``pool`` or ``weighted pool`` over that of another arm."""
    own, other = (report.values(f"{who}, {each}", metric, split) for each in (name, against))
    return paired_gain(own, other)


def power(report: Report, arms: Mapping[str, Arm]) -> list[str]:
    """Say how small a gain the study can see: the median half width of the intervals of all arms."""
    seen = []
    for metric, samples in (("accuracy", "as trained"), (SHIFTED, "on shifted samples")):
        for who in WHO:
            found = [gain(report, who, name, metric).interval for name in arms if name != PLAIN]
            widths = [(interval[1] - interval[0]) / 2 for interval in found if interval is not None]
            if not widths:
                return ["One seed has no interval: set seeds."]
            seen.append(f"{100 * float(np.median(widths)):.1f} of a {who} {samples}")
    return [f"A gain is seen from about this many points: {', '.join(seen)}."]


def paid(found: Gain) -> bool:
    """Return whether a gain counts as such: at least :data:`LEAST_GAIN`, with an interval above 0 if there is one."""
    return found.mean >= LEAST_GAIN and (found.low is None or found.low > 0)


def _chosen(report: Report, choices: Mapping[str, Sequence[Choice]]) -> list[str]:
    """Strength of each seed, and why."""
    without = (
        "without shifted samples take strength 0, the plain member: whether the first one lives on a cue that breaks "
        "is then unknown."
    )
    if not choices:
        return [f"No strength was chosen: {without}", ""]
    told: dict[tuple[int, str], dict[str, str]] = {}  # a forecast that objects does so with and without reweighting
    for label, found in choices.items():
        for seed, choice in zip(report.config["seeds"], found, strict=True):
            told.setdefault((seed, choice.reason), {})[label] = choice.arm
    rows = [[", ".join(arms), str(seed), ", ".join(arms.values()), reason] for (seed, reason), arms in told.items()]
    rule = (
        "Strength by shifted samples: 0 where the forecast by them objects (the first member does not live on a cue "
        "that breaks, or no other cue is at hand), else that of the best pool on them, of equal ones the smallest; "
        f"{without}"
    )
    return [rule, "", *markdown_table(["rows", "seed", "arms", "reason"], rows), ""]


def _gains(report: Report, arms: Sequence[str], answers: Sequence[str], split: str) -> list[str]:
    rows = []
    for name in arms:
        cells = [name]
        for metric in ("accuracy", SHIFTED):
            for who in answers:
                more = "" if name == PLAIN else f" ({gain(report, who, name, metric, split=split).points()})"
                cells.append(f"{np.mean(report.values(f'{who}, {name}', metric, split)):.3f}{more}")
        rows.append(cells)
    columns = [f"{who}, {how}" for how in ("as trained", "shifted") for who in answers]
    return markdown_table(["later members", *columns], rows)


def _uncertain(report: Report, arms: Sequence[str]) -> list[str]:
    rows = []
    for name in arms:
        cells = [name]
        for metric in METRICS:
            found = f"{np.mean(report.values(f'pool, {name}', metric)):.3f}"
            more = "" if name == PLAIN else f" ({gain(report, 'pool', name, metric).points()})"
            cells.append(found + more)
        rows.append(cells)
    return markdown_table(["later members", *METRICS], rows)


def _against(report: Report, name: str, other: str) -> str:
    parts = [f"{who} {gain(report, who, name, SHIFTED, other).points()}" for who in WHO]
    trained = gain(report, "member", name, "accuracy", other).points()
    return f"{', '.join(parts)} shifted; member {trained} as trained"


def _selected(report: Report, selected: Mapping[tuple[str, str], Sequence[Selected]]) -> list[str]:
    plain = report.values(f"pool, {PLAIN}", SHIFTED)
    rows = []
    for (family, criterion), found in selected.items():
        counts = Counter(each.arm for each in found).most_common()
        names = ", ".join(name if count == 1 else f"{name} ({count})" for name, count in counts)
        mean, weighted = ([getattr(each, key) for each in found] for key in ("shifted", "weighted_shifted"))
        rows.append(
            [
                family,
                criterion,
                names,
                f"{np.mean([each.trained for each in found]):.3f}",
                f"{np.mean(mean):.3f} ({paired_gain(mean, plain).points()})",
                f"{np.mean([each.weighted for each in found]):.3f}",
                f"{np.mean(weighted):.3f} ({paired_gain(weighted, plain).points()})",
            ]
        )
    tested = ["as trained", "shifted (gain)", "weighted, as trained", "weighted, shifted (gain)"]
    return markdown_table(["among", "criterion", "arms (seeds)", *tested], rows)


def _forecasts(report: Report, reversals: Sequence[str], forecasts: Sequence[Forecast]) -> list[str]:
    rows = [
        [
            str(seed),
            f"{found.r2:.2f}",
            f"{found.accuracy:.2f}",
            f"{found.shifted:.2f}",
            f"{found.other:.2f} ({found.chance:.2f})",
            f"{found.other_trained:.2f} ({found.chance_trained:.2f})",
            "pays" if found.pays else "does not pay",
        ]
        for seed, found in zip(report.config["seeds"], forecasts, strict=True)
    ]
    says = verdict(forecasts)
    if says == "uncertain":
        says += f" (seeds are on both sides of an R2 of {LEAST_R2:g}, which alone speaks against it)"
    columns = ["seed", "R2", "first member", "shifted", "few-sample network (chance)", "as trained", "the reversal"]
    results = [(name, gain(report, "member", name, SHIFTED)) for name in reversals]
    return [
        *markdown_table(columns, rows),
        "",
        *(
            f"Forecast: {says}. Result: {'paid' if paid(found) else 'did not pay'}, {name}, member, shifted: "
            f"{found.points()}."
            for name, found in results
        ),
    ]
