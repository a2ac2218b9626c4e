"""Single test samples of a run: what each expert predicted, its weight, and the fused answer."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lightning_fusion.data.rows import Origins

MOST_SAMPLES = 200
"""Maximum number of samples of an :class:`Inspection`."""


@dataclass(frozen=True)
class Inspection:
    """Some test samples of one method and seed, for ``report.html``.

    Attributes:
        title: The method and the seed.
        drawn: Which samples these are, a sentence.
        names: Names of the N samples: their files, or their numbers.
        domains: Names of the domains of each sample, joined; empty texts where there are none.
        targets: True answers, N.
        answers: Fused answers, N.
        confidence: (N,) values of the fused answers, NaN where there is none.
        correct: (N,) bool.
        experts: Names of the K experts.
        expert_answers: Answers of the K experts for each sample; ``None`` where an expert gave none.
        values: (N, K) values of the experts' answers.
        value: What these values are.
        weights: (N, K) weights of the experts in the fused answer; ``None`` where the method has none.
        weighting: What the weights are, or why there are none; a sentence.
        queried: (N, K) bool, the queried experts; ``None`` where all of them are.
        numbers: Further values of each sample by name, such as its cost, (N,) numbers or bool each.
    """

    title: str
    drawn: str
    names: Sequence[str]
    domains: Sequence[str]
    targets: Sequence[str]
    answers: Sequence[str]
    confidence: np.ndarray
    correct: np.ndarray
    experts: Sequence[str]
    expert_answers: Sequence[Sequence[str | None]]
    values: np.ndarray
    value: str = "probability"
    weights: np.ndarray | None = None
    weighting: str = ""
    queried: np.ndarray | None = None
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the inspection as plain data, which JSON can hold; NaN is ``None``."""
        samples = [
            {
                "name": name,
                "domain": self.domains[row],
                "target": self.targets[row],
                "answer": self.answers[row],
                "confidence": _number(self.confidence[row]),
                "correct": bool(self.correct[row]),
                "experts": [
                    [
                        self.expert_answers[row][place],
                        _number(self.values[row, place]),
                        None if self.weights is None else _number(self.weights[row, place]),
                        True if self.queried is None else bool(self.queried[row, place]),
                    ]
                    for place in range(len(self.experts))
                ],
                "numbers": {key: _plain(values[row]) for key, values in self.numbers.items()},
            }
            for row, name in enumerate(self.names)
        ]
        return {
            "title": self.title,
            "drawn": self.drawn,
            "experts": list(self.experts),
            "value": self.value,
            "weighting": self.weighting,
            "has_weights": self.weights is not None,
            "has_queries": self.queried is not None,
            "samples": samples,
        }


def draw(
    correct: np.ndarray, seed: int, most: int = MOST_SAMPLES, unit: str = "test samples"
) -> tuple[np.ndarray, str]:
    """Draw samples, half of them wrong where there are so many.

    Args:
        correct: (N,) bool.
        seed: Seed of the draw.
        most: Maximum number of samples.
        unit: What the samples are.

    Returns:
        (n,) ascending positions, and a sentence that states which samples these are.

    Example:
        >>> rows, sentence = draw(np.array([True] * 8 + [False] * 2), seed=0, most=6)
        >>> len(rows), rows[-2:].tolist(), sentence
        (6, [8, 9], '6 of 10 test samples: all 2 wrong ones, and 4 of 8 correct ones, drawn at random.')
    """
    count = len(correct)
    if count <= most:
        return np.arange(count), f"All {count} {unit}."
    right, wrong = np.flatnonzero(correct), np.flatnonzero(~correct)
    of_wrong = min(len(wrong), max(most // 2, most - len(right)))
    sizes = (most - of_wrong, of_wrong)
    generator = np.random.default_rng(seed)
    parts = [generator.choice(rows, size, replace=False) for rows, size in zip((right, wrong), sizes, strict=True)]
    shown = "all" if of_wrong == len(wrong) else f"{of_wrong} of"
    sentence = (
        f"{most} of {count} {unit}: {shown} {len(wrong)} wrong ones, and {sizes[0]} of {len(right)} correct ones, "
        "drawn at random."
    )
    return np.sort(np.concatenate(parts)), sentence


def of_classes(
    title: str,
    drawn: str,
    outputs: np.ndarray,
    probabilities: np.ndarray,
    targets: np.ndarray,
    classes: Sequence[str],
    experts: Sequence[str],
    **more: Any,
) -> Inspection:
    """Return the inspection of classifiers.

    Args:
        title: The method and the seed.
        drawn: Which samples these are.
        outputs: (N, K, C) probabilities of the experts, NaN for missing answers.
        probabilities: (N, C) of the fused answer.
        targets: (N,) classes.
        classes: Names of the C classes.
        experts: Names of the K experts.
        **more: Further attributes of :class:`Inspection`; ``names`` and ``domains`` are required.
    """
    answered = np.isfinite(outputs).all(2)
    predicted = np.where(answered, np.nan_to_num(outputs).argmax(2), -1)
    fused = probabilities.argmax(1)
    return Inspection(
        title=title,
        drawn=drawn,
        targets=[classes[number] for number in targets],
        answers=[classes[number] for number in fused],
        confidence=probabilities.max(1),
        correct=fused == targets,
        experts=experts,
        expert_answers=[[None if number < 0 else classes[number] for number in row] for row in predicted],
        values=outputs.max(2),
        **more,
    )


def sample_names(origins: Origins | None, index: np.ndarray) -> list[str]:
    """Return the files of samples, with line, row or start; their numbers where they come from no files.

    Folders that contain all of these files are left out: a page may be given to people who need not know them.

    Args:
        origins: Where the samples come from.
        index: (N,) numbers of the samples.

    Example:
        >>> sample_names(Origins(["/home/me/x/a.csv", "/home/me/y/b.csv"], np.array([0, 1])), np.array([3, 8]))
        ['x/a.csv', 'y/b.csv']
        >>> sample_names(Origins(["/home/me/x/a.csv"], np.array([0]), np.array([7]), "line"), np.array([3]))
        ['a.csv, line 7']
        >>> sample_names(None, np.array([3]))
        ['sample 3']
    """
    if origins is None:
        return [f"sample {number}" for number in index.tolist()]
    columns = origins.columns()
    names = _below_common(columns.pop("file"))
    for unit, places in columns.items():
        names = [f"{name}, {unit} {place}" if place != "" else name for name, place in zip(names, places, strict=True)]
    return names


def _below_common(files: Sequence[str]) -> list[str]:
    """Return paths without the folders that all of them share."""
    parents = {os.path.dirname(name) for name in files}
    same_kind = len({os.path.isabs(name) for name in parents}) == 1  # commonpath compares no others
    start = os.path.commonpath(parents) if same_kind else ""
    return [os.path.relpath(name, start) if start else name for name in files]


def domain_names(member: np.ndarray, domains: Sequence[str]) -> list[str]:
    """Return the domains of each sample, joined by commas.

    Args:
        member: (N, D) bool.
        domains: Names of the D domains.

    Example:
        >>> domain_names(np.array([[True, True], [False, True]]), ["x", "y"])
        ['x, y', 'y']
    """
    return [", ".join(name for name, own in zip(domains, row, strict=True) if own) for row in member]


def named(data: Any, index: np.ndarray) -> list[str]:
    """Return the names of samples of a data module.

    Args:
        data: Data module, or stored outputs' data module.
        index: (N,) numbers of the samples.
    """
    return sample_names(data.origins(torch.from_numpy(np.ascontiguousarray(index))), index)


def _plain(value: Any) -> float | bool | None:
    return bool(value) if isinstance(value, np.bool_) else _number(value)


def _number(value: Any) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
