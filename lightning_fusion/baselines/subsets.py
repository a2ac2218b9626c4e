"""What FrugalFoE must beat where questions cost money: rules that ask some experts only, as points of cost and answers.

Rules that fuse the outputs of a subset take the fuser from outside (:class:`SubsetFusion`), so that a policy and what
it is compared with answer alike; the point of all experts is ``subset_point(fusion, range(K), costs)``. All choices are
made on validation rows; only :func:`cheapest_right` looks at the labels of the rows that it answers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Protocol

import numpy as np

from lightning_fusion.errors import InputError, shorten

Costs = Sequence[float] | np.ndarray
"""(K,) finite prices >= 0 of a question to each expert."""

_TIE = 1e-9  # gains, in samples, that are closer than this are equal
_MOST_EXHAUSTIVE = 10  # experts


class SubsetFusion(Protocol):
    """Answers from the outputs of some experts, given by their numbers, rising."""

    def error(self, subset: Sequence[int]) -> float:
        """Held-out error on the validation rows, or another loss >= 0."""

    def predict(self, subset: Sequence[int]) -> np.ndarray:
        """(N,) predicted classes of the rows to answer."""


@dataclass(frozen=True, eq=False)
class CostPoint:
    """What a rule answers, and what that costs.

    Attributes:
        cost: Mean cost per sample.
        predicted: (N,) predicted classes.
        asked: (N, K) bool, who was asked about which row; read-only where all rows ask the same experts.
        setting: What tells the points of one rule apart: the subset, the threshold or the trade-off; None if single.
        held_out_error: Share of wrong answers on the validation rows, or what a fusion gives as its error; None where
            nobody looked. Choices were made on these rows, so it is optimistic, most of all where many were made.
    """

    cost: float
    predicted: np.ndarray
    asked: np.ndarray
    setting: tuple[int, ...] | float | None = None
    held_out_error: float | None = None

    @property
    def experts(self) -> float:
        """Mean number of experts asked per sample."""
        return float(self.asked.sum(1).mean())

    def accuracy(self, targets: np.ndarray) -> float:
        """Share of right answers.

        Args:
            targets: (N,) classes.

        Raises:
            InputError: If the shapes differ.
        """
        if np.shape(targets) != self.predicted.shape:
            raise InputError(f"targets: found shape {np.shape(targets)} for {len(self.predicted)} predicted classes")
        return float((self.predicted == targets).mean())


def zero_cost(train_targets: np.ndarray, num_rows: int, num_experts: int = 0) -> CostPoint:
    """The most frequent class, asking nobody; the lowest of equally frequent ones.

    Args:
        train_targets: (N,) classes of labelled rows.
        num_rows: Rows to answer.
        num_experts: K, the columns of ``asked``.

    Returns:
        A point of cost 0; its held-out error is that on the labelled rows.

    Raises:
        InputError: If there is no row, or the targets are not (N,) classes.

    Example:
        >>> zero_cost(np.array([2, 0, 2]), num_rows=2).predicted
        array([2, 2])
    """
    targets = _classes(train_targets, "train_targets")
    if num_rows < 1:
        raise InputError(f"num_rows is {num_rows}; expected at least 1")
    counts = np.bincount(targets)
    error = 1 - float(counts.max()) / len(targets)
    asked = np.zeros((num_rows, num_experts), bool)
    return CostPoint(0.0, np.full(num_rows, counts.argmax()), asked, None, error)


def subset_point(fusion: SubsetFusion, subset: Iterable[int], costs: Costs, *, held_out: bool = True) -> CostPoint:
    """The same experts for every row, fused.

    Args:
        fusion: Answers for subsets.
        subset: Numbers of the experts; ``range(K)`` asks all.
        costs: (K,) price of a question to each expert.
        held_out: Also ask for the held-out error.

    Raises:
        InputError: If the subset is empty, repeats an expert or names one that does not exist, or costs do not fit.

    Example:
        >>> from types import SimpleNamespace
        >>> fusion = SimpleNamespace(error=lambda subset: 0.25, predict=lambda subset: np.array([0, 1]))
        >>> subset_point(fusion, range(2), [1, 3]).cost
        4.0
    """
    prices, chosen = _prices(costs), tuple(sorted(int(k) for k in subset))
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(prices))):
        raise InputError(f"subset is {chosen}; expected different numbers of experts, 0 to {len(prices) - 1}")
    return _subset_point(fusion, chosen, prices, fusion.error(chosen) if held_out else None)


def random_subsets(fusion: SubsetFusion, costs: Costs, num_subsets: int = 5, *, seed: int = 0) -> list[CostPoint]:
    """For each size, several random subsets: what a policy gains by choosing at all.

    The subsets of one size are different ones; where there are fewer than asked for, it is all of them.

    Args:
        fusion: Answers for subsets; its held-out error is not used.
        costs: (K,) price of a question to each expert.
        num_subsets: Subsets per size.
        seed: Of the draw.

    Returns:
        Points by rising size 1..K, ``setting`` the subset. To draw a curve, average those of one size.

    Raises:
        InputError: If ``num_subsets`` is below 1, or costs do not fit.

    Example:
        >>> from types import SimpleNamespace
        >>> fusion = SimpleNamespace(error=lambda subset: 0.25, predict=lambda subset: np.array([0, 1]))
        >>> [point.setting for point in random_subsets(fusion, [1, 1], 2)]
        [(0,), (1,), (0, 1)]
    """
    prices = _prices(costs)
    if num_subsets < 1:
        raise InputError(f"num_subsets is {num_subsets}; expected at least 1")
    generator, experts = np.random.default_rng(seed), len(prices)
    points = []
    for size in range(1, experts + 1):
        if math.comb(experts, size) <= num_subsets:
            drawn = list(combinations(range(experts), size))
        else:
            found: dict[tuple[int, ...], None] = {}
            while len(found) < num_subsets:
                found[tuple(sorted(generator.choice(experts, size, replace=False).tolist()))] = None
            drawn = sorted(found)
        points += [_subset_point(fusion, subset, prices, None) for subset in drawn]
    return points


def best_static_subsets(
    fusion: SubsetFusion, costs: Costs, *, empty_error: float = 1.0, per_cost: bool = True
) -> list[CostPoint]:
    """Greedy forward selection by held-out error: one growing subset, the same for every row.

    Each step adds the expert that saves most errors per unit of cost; once none saves any, the one that adds fewest
    errors, for a loss per cost would favour dear experts. With equal costs this is the least held-out error at each
    step. Experts that cost nothing and save errors come first, by their gain. Ties go to the cheaper expert, then to
    the lower number. The rule is our choice; for selection under a budget it is usual to take the better of it and of
    the largest gain whatever it costs, ``per_cost=False`` (Leskovec et al., Cost-effective Outbreak Detection in
    Networks, KDD 2007).

    Args:
        fusion: Answers for subsets; K (K + 1) / 2 held-out errors are asked for.
        costs: (K,) price of a question to each expert.
        empty_error: Held-out error of what is answered where nobody is asked, say that of :func:`zero_cost`. It
            matters for the first expert only, where costs differ: at 1, a cheap one that is hardly ever right may win.
        per_cost: Divide gains by costs.

    Returns:
        K points by rising size, ``setting`` the subset in the order of its numbers.

    Raises:
        InputError: If an error is negative or not finite, or costs do not fit.

    Example:
        >>> from types import SimpleNamespace
        >>> errors = {(0,): 0.5, (1,): 0.4, (2,): 0.3, (0, 2): 0.3, (1, 2): 0.1, (0, 1, 2): 0.2}
        >>> fusion = SimpleNamespace(error=errors.__getitem__, predict=lambda subset: np.array([0]))
        >>> [(point.setting, point.held_out_error) for point in best_static_subsets(fusion, [1, 1, 1])]
        [((2,), 0.3), ((1, 2), 0.1), ((0, 1, 2), 0.2)]
    """
    prices, error = _prices(costs), _error(empty_error, "empty_error")
    unit = float(prices.mean()) or 1.0  # so that rates are rounded alike in any currency
    chosen: tuple[int, ...] = ()
    points = []
    for _ in range(len(prices)):
        left = [k for k in range(len(prices)) if k not in chosen]
        after = {k: _error(fusion.error(tuple(sorted((*chosen, k)))), f"error of {(*chosen, k)}") for k in left}

        def worth(k: int, error: float = error, after: dict[int, float] = after) -> tuple[float, float, float, int]:
            gain, price = round(error - after[k], 12), float(prices[k])
            rate = gain
            if per_cost and gain > 0:
                rate = round(gain / (price / unit), 9) if price > 0 else math.inf
            return rate, gain if rate == math.inf else 0.0, -price, -k

        best = max(left, key=worth)
        chosen, error = tuple(sorted((*chosen, best))), after[best]
        points.append(_subset_point(fusion, chosen, prices, error))
    return points


def exhaustive_subsets(fusion: SubsetFusion, costs: Costs) -> list[CostPoint]:
    """The best subset for every budget, of all subsets: the same experts for every row.

    A subset is kept if none that costs as much or less has a held-out error as small. Ties go to the smaller subset,
    then to the lower numbers.

    Args:
        fusion: Answers for subsets; 2^K - 1 held-out errors are asked for.
        costs: (K,) price of a question to each expert, K <= 10.

    Returns:
        The Pareto front, by rising cost and strictly falling held-out error, ``setting`` the subset.

    Raises:
        InputError: If there are more than 10 experts, an error is negative or not finite, or costs do not fit.

    Example:
        >>> from types import SimpleNamespace
        >>> errors = {(0,): 0.5, (1,): 0.4, (0, 1): 0.1}
        >>> fusion = SimpleNamespace(error=errors.__getitem__, predict=lambda subset: np.array([0]))
        >>> [(point.cost, point.setting) for point in exhaustive_subsets(fusion, [1, 1])]
        [(1.0, (1,)), (2.0, (0, 1))]
    """
    prices = _prices(costs)
    if len(prices) > _MOST_EXHAUSTIVE:
        raise InputError(
            f"found {len(prices)} experts, of which all subsets are too many; expected {_MOST_EXHAUSTIVE} at most, or "
            "use best_static_subsets"
        )
    experts = range(len(prices))
    subsets = chain.from_iterable(combinations(experts, size + 1) for size in experts)
    known = sorted(
        (_total(prices, subset), _error(fusion.error(subset), f"error of {subset}"), len(subset), subset)
        for subset in subsets
    )
    points: list[CostPoint] = []
    least = math.inf
    for _, error, _, subset in known:
        if error < least:
            points.append(_subset_point(fusion, subset, prices, error))
            least = error
    return points


def cheapest_right(outputs: np.ndarray, targets: np.ndarray, costs: Costs) -> CostPoint:
    """An oracle that knows the label asks the cheapest expert that is right, the cheapest of all where none is.

    Of the rules that ask somebody about every row and give an answer that they got, none is more accurate, and none
    that is as accurate is cheaper. Fusing several wrong answers to a right one is beyond it. Of equally cheap experts
    the first.

    Args:
        outputs: (N, K, C) probabilities.
        targets: (N,) classes.
        costs: (K,) price of a question to each expert.

    Raises:
        InputError: If shapes, labels or costs do not fit, or values are not finite.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]])
        >>> point = cheapest_right(outputs, np.array([0, 1]), [1, 5])
        >>> point.cost, point.predicted.tolist()
        (3.0, [0, 1])
    """
    given, goal, prices = _outputs(outputs), _classes(targets), _prices(costs)
    _fit_together(given, goal, prices)
    predictions = given.argmax(2)
    # without a right expert all prices are raised alike, so the cheapest one wins there too
    right = predictions == goal[:, None]
    expert = np.where(right | ~right.any(1, keepdims=True), prices, np.inf).argmin(1)
    asked = expert[:, None] == np.arange(len(prices))
    return CostPoint(_mean_cost(asked, prices), np.take_along_axis(predictions, expert[:, None], 1)[:, 0], asked)


def _subset_point(fusion: SubsetFusion, subset: tuple[int, ...], prices: np.ndarray, error: float | None) -> CostPoint:
    predicted = np.asarray(fusion.predict(subset))
    if predicted.ndim != 1 or not len(predicted):
        raise InputError(f"predictions of {subset}: found shape {predicted.shape}; expected (N,) classes")
    asked = np.broadcast_to(np.isin(np.arange(len(prices)), subset), (len(predicted), len(prices)))
    return CostPoint(_total(prices, subset), predicted, asked, subset, error)


def _total(prices: np.ndarray, subset: tuple[int, ...]) -> float:
    """Summed exactly, so that equal costs in another order are equal."""
    return math.fsum(prices[list(subset)].tolist())


def _mean_cost(asked: np.ndarray, prices: np.ndarray) -> float:
    return math.fsum((asked.sum(0) * prices).tolist()) / len(asked)


def _error(value: float, where: str) -> float:
    if not 0 <= value < math.inf:
        raise InputError(f"{where} is {value}; expected a finite number >= 0")
    return float(value)


def _prices(costs: Costs) -> np.ndarray:
    """(K,) float64."""
    prices = np.asarray(costs, np.float64)
    if prices.ndim != 1 or not len(prices):
        raise InputError(f"costs: found shape {prices.shape}; expected (K,), one per expert")
    bad = ~(np.isfinite(prices) & (prices >= 0))
    if bad.any():
        raise InputError(f"costs: found {shorten(prices[bad])}; expected finite numbers >= 0")
    return prices


def _classes(targets: np.ndarray, where: str = "targets") -> np.ndarray:
    """(N,) int64."""
    values = np.asarray(targets)
    if values.ndim != 1 or not len(values):
        raise InputError(f"{where}: found shape {values.shape}; expected (N,) classes of one row at least")
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"{where}: found {values.dtype}; expected integer classes")
    if values.min() < 0:
        raise InputError(f"{where}: found class {values.min()}; expected 0 or more")
    return values.astype(np.int64)


def _outputs(outputs: np.ndarray, where: str = "outputs") -> np.ndarray:
    """(N, K, C), floating-point."""
    values = np.asarray(outputs)
    if values.ndim != 3 or not values.size:
        raise InputError(f"{where}: found shape {values.shape}; expected (N, K, C), none of them 0")
    bad = ~np.isfinite(values).all((1, 2))
    if bad.any():
        raise InputError(f"{where}: found NaN or infinite values in row(s) {shorten(np.flatnonzero(bad))}")
    return values


def _fit_together(outputs: np.ndarray, targets: np.ndarray, prices: np.ndarray) -> None:
    rows, experts, classes = outputs.shape
    if len(targets) != rows:
        raise InputError(f"targets: found {len(targets)} for {rows} rows of outputs")
    if targets.max() >= classes:
        raise InputError(f"targets: found class {targets.max()}; the outputs have the classes 0 to {classes - 1}")
    if len(prices) != experts:
        raise InputError(f"costs: found {len(prices)} for {experts} experts")


def _problem(
    outputs: np.ndarray, validation_outputs: np.ndarray, validation_targets: np.ndarray, costs: Costs
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows to answer, labelled rows, their targets and the costs, checked."""
    given, known = _outputs(outputs), _outputs(validation_outputs, "validation_outputs")
    if given.shape[1:] != known.shape[1:]:
        raise InputError(
            f"outputs: found (K, C) = {given.shape[1:]}, validation_outputs: {known.shape[1:]}; expected the same"
        )
    targets, prices = _classes(validation_targets, "validation_targets"), _prices(costs)
    _fit_together(known, targets, prices)
    return given, known, targets, prices
