"""The method that a run advises: the simplest one within one standard error of the best on validation samples.

The rule is that of Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984, section 3.4.3. The
standard error is that of the paired *difference* to the best method (Yates, Richards and Brook, Ecology 102, 2021,
e03475), since all methods answer the same samples: it is smaller than that of either mean where methods make the same
errors. For accuracies on one split, a method is within it if (b - c)^2 <= b + c (up to a factor 1 - 1/n), where the
best method alone is correct on b samples and the other one alone on c: McNemar's statistic is at most 1.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

_EPSILON = 1e-9
_FEW = 30
"""Validation samples below which a report says that they are few (our choice)."""


class SampleScores(NamedTuple):
    """A metric of one method and seed that is a mean over validation samples.

    Attributes:
        scores: (n,) contributions of the samples, whose mean is the metric.
        sample: (n,) int64 number of each sample; the same number in another seed is the same sample.
        group: (n,) int64 number of what samples share, such as a person. ``None``: samples are independent.
    """

    scores: np.ndarray
    sample: np.ndarray
    group: np.ndarray | None = None

    @property
    def value(self) -> float:
        """The metric."""
        return float(np.mean(self.scores))

    @property
    def num_samples(self) -> int:
        """Number of validation samples."""
        return len(self.scores)

    def minus(self, other: "SampleScores") -> "SampleScores":
        """Return the paired difference to another method on the same samples."""
        return self._replace(scores=np.asarray(self.scores, float) - other.scores)

    @staticmethod
    def errors(seeds: Sequence["SampleScores"]) -> list[float]:
        """Return the standard errors of the mean over seeds: over samples, and over groups of them."""
        scores = [np.asarray(each.scores, float) for each in seeds]
        groups = [each.group for each in seeds if each.group is not None]
        by_group = _clustered(scores, groups) if len(groups) == len(seeds) else []
        return _clustered(scores, [each.sample for each in seeds]) + by_group


class BootstrapScores(NamedTuple):
    """A metric of one method and seed that is no mean over samples, such as an equal error rate.

    Attributes:
        value: The metric.
        draws: (R,) values of the metric on bootstrap samples, the same ones for every method.
        num_samples: Number of validation samples.
    """

    value: float
    draws: np.ndarray
    num_samples: int

    def minus(self, other: "BootstrapScores") -> "BootstrapScores":
        """Return the paired difference to another method on the same bootstrap samples."""
        return self._replace(value=self.value - other.value, draws=self.draws - other.draws)

    @staticmethod
    def errors(seeds: Sequence["BootstrapScores"]) -> list[float]:
        """Return the standard error of the mean over seeds."""
        return [float(np.mean([each.draws for each in seeds], axis=0).std())]


Scores = SampleScores | BootstrapScores


def sample_scores(metric: str, right: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the (n,) contributions of samples to a metric, which is their mean.

    Args:
        metric: ``accuracy`` or ``balanced accuracy``.
        right: (n,) in [0, 1], correct predictions.
        targets: (n,) true classes.

    Example:
        >>> sample_scores("balanced accuracy", np.array([True, True, False]), np.array([0, 0, 1])).tolist()
        [0.75, 0.75, 0.0]
    """
    scores = np.asarray(right, float)
    if metric == "accuracy":
        return scores
    _, place, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    result: np.ndarray = scores * len(targets) / (len(sizes) * sizes[place])
    return result


@dataclass(frozen=True)
class Candidate:
    """Validation results of a method.

    Attributes:
        method: Name of the method, as in the table of the report.
        value: Metric on the validation samples, mean over seeds.
        error: Standard error of it.
        behind: How much worse it is than the best method; 0 for the best.
        behind_error: Standard error of ``behind``; 0 for the best, ``None`` if there is none (a single sample).
        within: Whether ``behind`` is at most one standard error.
        queries: Mean number of experts that are queried for a sample.
        seed: The seed with the best validation result, which answers new samples.
        excluded: Why the method cannot be advised; empty if it can.
    """

    method: str
    value: float
    error: float | None
    behind: float
    behind_error: float | None
    within: bool
    queries: float
    seed: int
    excluded: str = ""


@dataclass
class Validation:
    """Results of the methods that can answer new samples, on validation samples.

    Attributes:
        scores: Results by method and seed.
        queries: Number of queried experts per sample, by method and seed.
        excluded: Why methods cannot be advised, such as a model that was trained on the data of all domains.
        metric: Name of the metric; ``None`` means that of the report.
        lower_is_better: Whether the metric is an error.
        unit: What the number of samples counts, in texts.
    """

    scores: dict[str, dict[int, Scores]] = field(default_factory=dict)
    queries: dict[str, dict[int, float]] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    metric: str | None = None
    lower_is_better: bool = False
    unit: str = "samples"

    def add(self, method: str, seed: int, scores: Scores, queries: float, excluded: str = "") -> None:
        """Add the result of a method for one seed.

        Args:
            method: Name of the method.
            seed: Seed of the run.
            scores: Its result.
            queries: Mean number of experts that are queried for a sample.
            excluded: Why the method cannot be advised, as a sentence about "it"; empty if it can.
        """
        self.scores.setdefault(method, {})[seed] = scores
        self.queries.setdefault(method, {})[seed] = float(queries)
        if excluded:
            self.excluded[method] = excluded


@dataclass(frozen=True)
class Advice:
    """The advice of a run.

    Attributes:
        method: The advised method.
        best: The method with the best metric among the candidates.
        metric: Name of the metric.
        samples: Number of validation samples of a seed, the smallest over seeds.
        seeds: Number of seeds.
        unit: What ``samples`` counts.
        candidates: All methods, from the simplest to the most complex.
    """

    method: str
    best: str
    metric: str
    samples: int
    seeds: int
    unit: str
    candidates: list[Candidate]

    def of(self, method: str) -> Candidate:
        """Return the results of a method."""
        return next(each for each in self.candidates if each.method == method)

    def record(self) -> dict[str, Any]:
        """Return the advice as plain data, for ``results.json``."""
        own = self.of(self.method)
        rule = "the simplest method within one standard error of the best on validation"
        return {"method": self.method, "seed": own.seed, "split": "val", "rule": rule} | asdict(self)

    def sentence(self) -> str:
        """Return the advice as one sentence."""
        own, best = self.of(self.method), self.of(self.best)
        on = f"{self.samples} validation {self.unit}" + (f" of each of {self.seeds} seeds" if self.seeds > 1 else "")
        values = f"{self.metric} {own.value:.3f} on {on}"
        if self.method == self.best:
            return f"{self.method} ({values}): no simpler method is within one standard error of it"
        return (
            f"{self.method} ({values}): the simplest method within one standard error of the best, {self.best} "
            f"({best.value:.3f})"
        )

    def remarks(self) -> list[str]:
        """Return what a reader should know beside the sentence."""
        found = []
        if self.samples < _FEW:
            found.append(
                f"{self.samples} validation {self.unit} are few: standard errors are large, and the advice favors "
                "simple methods."
            )
        for each in self.candidates:
            if each.excluded and each.behind < -(each.behind_error or 0.0) - _EPSILON:
                found.append(f"{each.method} is better on validation ({each.value:.3f}), but {each.excluded}.")
        return found

    def rows(self) -> list[list[str]]:
        """Return the cells of a table: method, metric, difference to the best, and queries."""
        return [
            [
                f"**{each.method}**" if each.method == self.method else each.method,
                _with_error(each.value, each.error),
                "" if each.method == self.best else _with_error(each.behind, each.behind_error),
                "no candidate" if each.excluded else "yes" if each.within else "",
                f"{each.queries:.1f}",
                str(each.seed),
            ]
            for each in self.candidates
        ]


HEADINGS = ["method, simplest first", "{metric}, validation", "behind the best", "within", "queries", "seed"]
"""Headings of :meth:`Advice.rows`."""


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def advise(validation: Validation, simplicity: Sequence[str], metric: str) -> Advice | None:
    """Apply the rule of one standard error.

    The standard error is the largest of those over samples, over groups of samples (if there are two or more), and
    over seeds (if there are two or more). That over samples and groups is within seeds: it has many degrees of freedom,
    and does not contain the variance of the training. That over seeds contains both, but two or three seeds may agree
    by chance.

    Args:
        validation: Results of all methods. Methods that lack a seed are left out.
        simplicity: Names of methods, the simplest first. Others follow in the order in which they were added.
        metric: Name of the metric, unless the results name another.

    Returns:
        ``None`` if no method has results.

    Example:
        >>> found = Validation()
        >>> for method, right in {"average": [1, 1, 0, 1], "fuser": [1, 1, 1, 1]}.items():
        ...     found.add(method, 0, SampleScores(np.array(right, float), np.arange(4)), queries=3)
        >>> advise(found, ["average", "fuser"], "accuracy").sentence()  # one sample decides nothing
        'average (accuracy 0.750 on 4 validation samples): the simplest method within one standard error of the best, \
fuser (1.000)'
    """
    seeds = list(dict.fromkeys(seed for of_seed in validation.scores.values() for seed in of_seed))
    whole = {method: of_seed for method, of_seed in validation.scores.items() if set(of_seed) == set(seeds)}
    sign = -1.0 if validation.lower_is_better else 1.0
    means = {method: float(np.mean([each.value for each in of.values()])) for method, of in whole.items()}
    order = sorted(whole, key=lambda name: simplicity.index(name) if name in simplicity else len(simplicity))
    choices = [name for name in order if name not in validation.excluded]
    if not choices:
        return None
    best = max(choices, key=lambda name: sign * means[name])  # of equals the simplest
    candidates = []
    for name in order:
        of = [whole[name][seed] for seed in seeds]
        behind = sign * (means[best] - means[name]) + 0.0
        behind_error = 0.0 if name == best else standard_error(of, [whole[best][seed] for seed in seeds])
        candidates.append(
            Candidate(
                name,
                means[name],
                standard_error(of),
                behind,
                behind_error,
                behind_error is None or behind <= behind_error + _EPSILON,
                float(np.mean([validation.queries[name][seed] for seed in seeds])),
                max(seeds, key=lambda seed: sign * whole[name][seed].value),
                validation.excluded.get(name, ""),
            )
        )
    chosen = next(each.method for each in candidates if each.within and not each.excluded)
    count = min(each.num_samples for of_seed in whole.values() for each in of_seed.values())
    return Advice(chosen, best, validation.metric or metric, count, len(seeds), validation.unit, candidates)


def standard_error(ours: Sequence[Scores], theirs: Sequence[Scores] | None = None) -> float | None:
    """Compute the standard error of a mean over seeds, or of the paired difference of two; ``None`` for one sample.

    Args:
        ours: Results of a method by seed.
        theirs: Results of another one, for the same seeds and samples.

    Example:
        >>> one, other = (SampleScores(np.array(right, float), np.arange(4)) for right in ([1, 1, 1, 0], [1, 0, 0, 0]))
        >>> round(standard_error([one], [other]), 4), round(standard_error([one]), 4)
        (0.2887, 0.25)
    """
    of: Any = ours  # all of one kind
    if theirs is not None:
        of = [one.minus(other) for one, other in zip(of, theirs, strict=True)]
    values = np.array([each.value for each in of])
    found = [float(values.std(ddof=1) / np.sqrt(len(values)))] if len(values) > 1 else []
    return max([*found, *type(of[0]).errors(of)], default=None)


def _clustered(scores: Sequence[np.ndarray], clusters: Sequence[np.ndarray]) -> list[float]:
    """Return the standard error of the mean over seeds of the mean over samples; empty for a single cluster.

    Scores of one cluster may depend on one another, in one seed and across seeds.
    """
    parts = [(score - score.mean()) / (len(scores) * len(score)) for score in scores]
    _, place = np.unique(np.concatenate(clusters), return_inverse=True)
    count = int(place.max()) + 1
    if count < 2:
        return []
    sums = np.bincount(place, weights=np.concatenate(parts))
    return [float(np.sqrt((sums**2).sum() * count / (count - 1)))]
