"""Static subsets of experts: random subsets, and the best ones by held-out error.

The fuser of a subset is an argument (:class:`SubsetFusion`), so that a query policy and its baselines share it; the
point of all experts is ``subset_point(fusion, range(K), costs)``. All selections are made on the calibration set.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import chain, combinations
from typing import Protocol

import numpy as np

from lightning_fusion.baselines.checks import as_costs
from lightning_fusion.baselines.cost_points import CostPoint, Costs, total_cost
from lightning_fusion.errors import InputError

_MOST_EXHAUSTIVE = 10  # experts


class SubsetFusion(Protocol):
    """Fusion of the outputs of a subset of experts, given by increasing indices."""

    def error(self, subset: Sequence[int]) -> float:
        """Return the held-out error on the calibration set, or another loss >= 0."""

    def predict(self, subset: Sequence[int]) -> np.ndarray:
        """Return the (N,) predicted classes of the samples to predict."""


def subset_point(fusion: SubsetFusion, subset: Iterable[int], costs: Costs, *, held_out: bool = True) -> CostPoint:
    """Fuse the same experts for every sample.

    Args:
        fusion: Fusion of subsets.
        subset: Indices of the experts; ``range(K)`` queries all.
        costs: (K,) cost of a query to each expert.
        held_out: Compute the held-out error as well.

    Raises:
        InputError: If the subset is empty, repeats an expert or names one that does not exist, or costs are
            inconsistent.

    Example:
        >>> from types import SimpleNamespace
        >>> fusion = SimpleNamespace(error=lambda subset: 0.25, predict=lambda subset: np.array([0, 1]))
        >>> subset_point(fusion, range(2), [1, 3]).cost
        4.0
    """
    prices, chosen = as_costs(costs), tuple(sorted(int(k) for k in subset))
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(prices))):
        raise InputError(f"subset is {chosen}; expected distinct indices of experts, 0 to {len(prices) - 1}")
    return _subset_point(fusion, chosen, prices, fusion.error(chosen) if held_out else None)


def random_subsets(fusion: SubsetFusion, costs: Costs, num_subsets: int = 5, *, seed: int = 0) -> list[CostPoint]:
    """Draw several random subsets of each size, as a baseline of a query policy.

    Subsets of one size are distinct; all of them are used where there are fewer than ``num_subsets``.

    Args:
        fusion: Fusion of subsets; its held-out error is not used.
        costs: (K,) cost of a query to each expert.
        num_subsets: Number of subsets per size.
        seed: Seed of the draw.

    Returns:
        Points of increasing size 1..K, with the subset as ``setting``. For a curve, average the points of one size.

    Raises:
        InputError: If ``num_subsets`` is below 1, or costs are inconsistent.

    Example:
        >>> from types import SimpleNamespace
        >>> fusion = SimpleNamespace(error=lambda subset: 0.25, predict=lambda subset: np.array([0, 1]))
        >>> [point.setting for point in random_subsets(fusion, [1, 1], 2)]
        [(0,), (1,), (0, 1)]
    """
    prices = as_costs(costs)
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
    """Greedy forward selection by held-out error: nested subsets, the same for every sample.

    Each step adds the expert with the largest reduction of the error per unit of cost; once no expert reduces it, the
    one with the smallest increase, because an increase per cost would favor expensive experts. With equal costs each
    step has the smallest held-out error. Experts of cost 0 that reduce the error come first, by their gain. Ties go to
    the lower cost, then to the lower index. The rule is our choice; for selection under a budget it is usual to take
    the better of this rule and the largest gain regardless of cost, ``per_cost=False`` (Leskovec et al.,
    Cost-effective Outbreak Detection in Networks, KDD 2007).

    Args:
        fusion: Fusion of subsets; K (K + 1) / 2 held-out errors are computed.
        costs: (K,) cost of a query to each expert.
        empty_error: Held-out error of the prediction without any query, for example that of :func:`majority_class`.
            It affects the first expert only, where costs differ: at 1, an inexpensive weak expert may be chosen.
        per_cost: Divide gains by costs.

    Returns:
        K points of increasing size, with the sorted subset as ``setting``.

    Raises:
        InputError: If an error is negative or not finite, or costs are inconsistent.

    Example:
        >>> from types import SimpleNamespace
        >>> errors = {(0,): 0.5, (1,): 0.4, (2,): 0.3, (0, 2): 0.3, (1, 2): 0.1, (0, 1, 2): 0.2}
        >>> fusion = SimpleNamespace(error=errors.__getitem__, predict=lambda subset: np.array([0]))
        >>> [(point.setting, point.held_out_error) for point in best_static_subsets(fusion, [1, 1, 1])]
        [((2,), 0.3), ((1, 2), 0.1), ((0, 1, 2), 0.2)]
    """
    prices, error = as_costs(costs), _error(empty_error, "empty_error")
    unit = float(prices.mean()) or 1.0  # so that rates are rounded alike in any unit of cost
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
    """Find the best subset for every budget by exhaustive search: the same experts for every sample.

    A subset is kept if no other of equal or lower cost has an equal or smaller held-out error. Ties go to the smaller
    subset, then to the lower indices.

    Args:
        fusion: Fusion of subsets; 2^K - 1 held-out errors are computed.
        costs: (K,) cost of a query to each expert, K <= 10.

    Returns:
        The Pareto front, by increasing cost and strictly decreasing held-out error, with the subset as ``setting``.

    Raises:
        InputError: If there are more than 10 experts, an error is negative or not finite, or costs are inconsistent.

    Example:
        >>> from types import SimpleNamespace
        >>> errors = {(0,): 0.5, (1,): 0.4, (0, 1): 0.1}
        >>> fusion = SimpleNamespace(error=errors.__getitem__, predict=lambda subset: np.array([0]))
        >>> [(point.cost, point.setting) for point in exhaustive_subsets(fusion, [1, 1])]
        [(1.0, (1,)), (2.0, (0, 1))]
    """
    prices = as_costs(costs)
    if len(prices) > _MOST_EXHAUSTIVE:
        raise InputError(
            f"found {len(prices)} experts, which have too many subsets; expected {_MOST_EXHAUSTIVE} at most, or "
            "use best_static_subsets"
        )
    experts = range(len(prices))
    subsets = chain.from_iterable(combinations(experts, size + 1) for size in experts)
    known = sorted(
        (total_cost(prices, subset), _error(fusion.error(subset), f"error of {subset}"), len(subset), subset)
        for subset in subsets
    )
    points: list[CostPoint] = []
    least = math.inf
    for _, error, _, subset in known:
        if error < least:
            points.append(_subset_point(fusion, subset, prices, error))
            least = error
    return points


def _subset_point(fusion: SubsetFusion, subset: tuple[int, ...], prices: np.ndarray, error: float | None) -> CostPoint:
    predicted = np.asarray(fusion.predict(subset))
    if predicted.ndim != 1 or not len(predicted):
        raise InputError(f"predictions of {subset}: found shape {predicted.shape}; expected (N,) classes")
    queried = np.broadcast_to(np.isin(np.arange(len(prices)), subset), (len(predicted), len(prices)))
    return CostPoint(total_cost(prices, subset), predicted, queried, subset, error)


def _error(value: float, where: str) -> float:
    if not 0 <= value < math.inf:
        raise InputError(f"{where} is {value}; expected a finite number >= 0")
    return float(value)
