"""Candidate sets of experts, the choice among them, and default settings."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from lightning_fusion.errors import InputError

TIE = 1e-6
"""Losses, in errors among M samples, that differ by less than this are equal."""
_MOST_SETS = 2000  # sets of experts that a look-ahead may compare


def further_sets(costs: Sequence[float], taken: Iterable[int], look_ahead: int = 1) -> list[tuple[int, ...]]:
    """List the sets of experts that may be queried next, in order of increasing cost.

    Args:
        costs: Costs of all experts.
        taken: Indices of the experts that were queried.
        look_ahead: Maximum number of experts in a set.

    Raises:
        InputError: If there are too many sets.

    Example:
        >>> further_sets([3.0, 1.0, 1.0], taken=[1], look_ahead=2)
        [(2,), (0,), (0, 2)]
    """
    given = set(taken)
    free = [k for k in range(len(costs)) if k not in given]
    depth = min(look_ahead, len(free))
    number = sum(math.comb(len(free), size) for size in range(1, depth + 1))
    if number > _MOST_SETS and depth > 1:
        raise InputError(
            f"look_ahead is {look_ahead}: {number} sets of {len(free)} experts to compare at each step, of "
            f"{_MOST_SETS} at most; lower it"
        )
    sets = [found for size in range(1, depth + 1) for found in combinations(free, size)]
    return sorted(sets, key=lambda found: (_total(costs, found), found))


def best_set(
    totals: Tensor, sets: Sequence[tuple[int, ...]], costs: Sequence[float], trade_off: float, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the best set of further experts for each sample.

    Args:
        totals: (R, A) summed loss after querying each set.
        sets: The A sets, in order of increasing cost.
        costs: Costs of all K experts.
        trade_off: Loss per unit of cost.
        count: M, number of samples in a sum.

    Returns:
        (R,) expert to query next, (R,) summed loss after querying the best set, (R,) cost of the set in units of loss.

    Example:
        >>> best_set(torch.tensor([[4.0, 1.0]]), [(0,), (1,)], [1.0, 1.0], trade_off=0.1, count=10)[0]
        tensor([1])
    """
    prices = torch.tensor([trade_off * _total(costs, added) * count for added in sets], dtype=torch.float64)
    prices = prices.to(totals.device)
    scores = totals + prices
    best = (scores <= scores.amin(1, keepdim=True) + TIE).to(torch.uint8).argmax(1)
    after, price = totals.gather(1, best[:, None])[:, 0], prices[best]
    if all(len(found) == 1 for found in sets):
        return torch.tensor(sets, device=totals.device)[best, 0], after, price
    alone = {added[0]: place for place, added in enumerate(sets) if len(added) == 1}
    order = torch.full((len(totals), len(costs)), math.inf, dtype=torch.float64, device=totals.device)
    for expert, place in alone.items():
        order[:, expert] = scores[:, place]
    ranks = sorted(alone, key=lambda k: (costs[k], k))
    inside = order.masked_fill(~membership(sets, len(costs), totals.device)[best], math.inf)[:, ranks]
    chosen = (inside <= inside.amin(1, keepdim=True) + TIE).to(torch.uint8).argmax(1)
    return torch.tensor(ranks, device=totals.device)[chosen], after, price


def membership(sets: Sequence[tuple[int, ...]], num_experts: int, device: torch.device) -> Tensor:
    """Return (A, K) bool, the members of each of A sets.

    Args:
        sets: Indices of experts.
        num_experts: K, number of experts.
        device: Device of the result.
    """
    members = torch.zeros(len(sets), num_experts, dtype=torch.bool, device=device)
    for place, found in enumerate(sets):
        members[place, list(found)] = True
    return members


def default_neighbors(rows: int) -> int:
    """Return the default M = min(N - 1, 50), which depends on the size of the calibration set alone.

    A rule by the costs, such as ceil(1 / (trade_off * smallest cost)), includes all samples as soon as one expert is
    nearly free; risks are then no longer conditional on a sample.

    Args:
        rows: N, size of the calibration set.

    Example:
        >>> default_neighbors(1000), default_neighbors(30)
        (50, 29)
    """
    return min(rows - 1, 50)


def affordable_trade_off(budget: float, costs: Sequence[float], mean_cost: Callable[[float], float]) -> float:
    """Find the smallest trade-off, to 1 %, with a mean cost per sample within a budget.

    Args:
        budget: Maximum mean cost.
        costs: Costs of all experts.
        mean_cost: Function of the trade-off that returns the mean cost of the policy, decreasing.

    Raises:
        InputError: If even the first expert costs more.
    """
    if budget >= math.fsum(costs):
        return 0.0
    mean = math.fsum(costs) / len(costs) or 1.0
    high = 1 / mean
    while mean_cost(high) > budget:
        high *= 4
        if high * mean > 1e6:
            raise InputError(f"budget is {budget}, but the first expert alone costs {mean_cost(high):.4g} on average")
    low = high / 4
    while low * mean > 1e-4 and mean_cost(low) <= budget:
        high, low = low, low / 4
    while high / low > 1.01 and high * mean > 1e-4:
        middle = math.sqrt(high * low)
        high, low = (middle, low) if mean_cost(middle) <= budget else (high, middle)
    return high


def _total(costs: Sequence[float], experts: Iterable[int]) -> float:
    return math.fsum(costs[k] for k in experts)
