"""Whom FrugalFoE asks next, sample by sample, and when it stops."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.frugal.neighbors import SubsetNeighbours
from lightning_fusion.frugal.risk import RiskEstimator
from lightning_fusion.frugal.subset_fusers import KNNFuser, SubsetFuser
from lightning_fusion.frugal.tables import LossTables

FAR_RATIO = 2.0
"""A sample is far where its k-distance is this many times that of its neighbours."""
_TIE = 1e-6  # errors closer than this are equal
_MOST_SETS = 2000  # sets of experts that a look-ahead may compare


class Policy(Protocol):
    """What :class:`Asking` reads of a fitted :class:`~lightning_fusion.FrugalFoE`."""

    names: list[str]
    outputs: Tensor
    targets: Tensor
    fuser: SubsetFuser
    risk: RiskEstimator
    costs_: list[float]
    neighbors_: int
    fuser_neighbors: int
    min_queries: int
    look_ahead: int
    on_failure: Literal["raise", "skip"]
    spreads: dict[tuple[int, ...], Tensor]

    def search(self) -> SubsetNeighbours:
        """Nearest validation rows by any set of experts."""

    def first(self, trade_off: float, failed: frozenset[int]) -> int:
        """The expert to ask first, of those that did not fail."""


def further_sets(costs: Sequence[float], taken: Iterable[int], look_ahead: int = 1) -> list[tuple[int, ...]]:
    """Sets of experts that may be asked next, cheapest first.

    Args:
        costs: Of all experts.
        taken: Numbers of those that were asked.
        look_ahead: Experts in a set, at most.

    Raises:
        InputError: If there are too many.

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
    return sorted(sets, key=lambda found: (_price(costs, found), found))


def best_set(
    totals: Tensor, sets: Sequence[tuple[int, ...]], costs: Sequence[float], trade_off: float, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best set of further experts for each sample.

    Args:
        totals: (R, A) summed loss after asking each set.
        sets: The A sets, cheapest first.
        costs: Of all K experts.
        trade_off: In use.
        count: M, samples in a sum.

    Returns:
        (R,) the expert to ask next, (R,) summed loss after asking the best set, (R,) its price.

    Example:
        >>> best_set(torch.tensor([[4.0, 1.0]]), [(0,), (1,)], [1.0, 1.0], trade_off=0.1, count=10)[0]
        tensor([1])
    """
    prices = torch.tensor([trade_off * _price(costs, added) * count for added in sets], dtype=torch.float64)
    prices = prices.to(totals.device)
    scores = totals + prices
    best = (scores <= scores.amin(1, keepdim=True) + _TIE).to(torch.uint8).argmax(1)
    after, price = totals.gather(1, best[:, None])[:, 0], prices[best]
    if all(len(found) == 1 for found in sets):
        return torch.tensor(sets, device=totals.device)[best, 0], after, price
    alone = {added[0]: place for place, added in enumerate(sets) if len(added) == 1}
    order = torch.full((len(totals), len(costs)), math.inf, dtype=torch.float64, device=totals.device)
    for expert, place in alone.items():
        order[:, expert] = scores[:, place]
    ranks = sorted(alone, key=lambda k: (costs[k], k))
    inside = order.masked_fill(~_members(sets, len(costs), totals.device)[best], math.inf)[:, ranks]
    chosen = (inside <= inside.amin(1, keepdim=True) + _TIE).to(torch.uint8).argmax(1)
    return torch.tensor(ranks, device=totals.device)[chosen], after, price


def _price(costs: Sequence[float], experts: Iterable[int]) -> float:
    return math.fsum(costs[k] for k in experts)


def _members(sets: Sequence[tuple[int, ...]], count: int, device: torch.device) -> Tensor:
    """(A, K) bool."""
    members = torch.zeros(len(sets), count, dtype=torch.bool, device=device)
    for place, found in enumerate(sets):
        members[place, list(found)] = True
    return members


class _Look(NamedTuple):
    """Samples in one state: whom they asked, who failed, and, once somebody was asked, what the risk looked up."""

    asked: tuple[int, ...]
    failed: tuple[int, ...]
    some: Tensor
    looked: Tensor | None = None
    now: Tensor = torch.empty(0)
    live: Tensor = torch.empty(0)


class Asking:
    """What is known about some samples while a policy decides whom to ask.

    Args:
        policy: Fitted.
        question: Gives the (R, C) outputs of an expert on some rows.
        rows: (B,) which rows these samples are, to ``question``.
        trade_off: In use.
        own: (B,) the validation row that each sample is itself, for judging the policy on these rows.
        failures: Rows on which each expert failed; counted on.

    Attributes:
        asked: (B, K) whom :meth:`run` asked.
        probabilities: (B, C) the answer.
        risk: (B,) float64, expected loss of it.
        far: (B,) whether the sample is unlike the validation rows.
    """

    def __init__(
        self,
        policy: Policy,
        question: Callable[[int, Tensor], Tensor],
        rows: Tensor,
        trade_off: float,
        own: Tensor | None,
        failures: dict[str, int],
    ) -> None:
        self.policy, self.question, self.rows, self.trade_off, self.own = policy, question, rows, trade_off, own
        self.failures = failures
        experts, _, classes = policy.outputs.shape
        self.points = policy.outputs.new_zeros(experts, len(rows), classes)
        self.asked = torch.zeros(len(rows), experts, dtype=torch.bool, device=rows.device)
        self.failed = torch.zeros_like(self.asked)
        self.probabilities = torch.zeros(len(rows), classes, device=rows.device)
        self.risk = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        self.far = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)

    def run(self) -> None:
        """Ask until every sample has its answer."""
        active = torch.arange(len(self.rows), device=self.rows.device)
        following = torch.full_like(active, -1)
        while len(active):
            for look in self._look(active):
                following[look.some] = self._decide(look)
            active = active[following[active] >= 0]
            for expert in following[active].unique().tolist():
                self._ask(expert, active[following[active] == expert])
        answered = self.asked.any(1).nonzero().flatten()
        if self.own is None and len(answered):  # judged on its own rows, only costs and risks are wanted
            self._conclude(answered)

    def _ask(self, expert: int, some: Tensor) -> None:
        rows = self.rows[some]
        values = self.question(expert, rows)
        sound = values.isfinite().all(1)
        if not sound.all():
            name, wrong = self.policy.names[expert], rows[~sound]
            if self.policy.on_failure == "raise":
                raise InputError(
                    f"expert {name} returned NaN or infinite outputs for row(s) {shorten(wrong.tolist())}; "
                    "on_failure='skip' goes on without it"
                )
            self.failures[name] = self.failures.get(name, 0) + len(wrong)
            self.failed[some[~sound], expert] = True
            some, values = some[sound], values[sound]
        self.points[expert, some] = values
        self.asked[some, expert] = True

    def _look(self, active: Tensor) -> list[_Look]:
        """What is known about samples, state by state, and which of them may go on."""
        risk = self.policy.risk
        begun = self.asked[active].any(1)
        some = active[begun]
        looked = risk.look_each(self.asked[some], self.points[:, some], None if self.own is None else self.own[some])
        place = begun.cumsum(0) - 1
        looks = []
        for state, places in _alike(torch.cat([self.asked[active], self.failed[active]], 1)):
            asked, failed = (tuple(part.nonzero().flatten().tolist()) for part in state.chunk(2))
            some, seen = active[places], None
            if asked and looked is not None:
                seen = looked[place[places]]
            elif asked:
                seen = risk.look(asked, self.points[:, some], None if self.own is None else self.own[some])
            looks.append(_Look(asked, failed, some, seen))
        if self.policy.look_ahead == 1:
            risk.prepare([(look.asked, look.looked) for look in looks if look.looked is not None], further=False)
        looks = [self._judge(look) for look in looks]
        if self.policy.look_ahead == 1:
            going = [(look.asked, look.looked[look.live]) for look in looks if look.looked is not None]
            risk.prepare([(asked, seen) for asked, seen in going if len(seen)], further=True)
        return looks

    def _judge(self, look: _Look) -> _Look:
        """With the loss of what was asked, and which samples may go on."""
        if look.looked is None:
            return look
        policy, count = self.policy, self.policy.neighbors_
        now = policy.risk.total(look.looked, look.asked, [()])[:, 0]
        taken = {*look.asked, *look.failed}
        if len(taken) == len(policy.names):
            live = torch.zeros_like(now, dtype=torch.bool)
        elif len(look.asked) < policy.min_queries:
            live = torch.ones_like(now, dtype=torch.bool)
        else:  # no gain is larger than the whole loss
            cheapest = min(cost for k, cost in enumerate(policy.costs_) if k not in taken)
            live = now >= self.trade_off * cheapest * count - _TIE
        return look._replace(now=now, live=live)

    def _decide(self, look: _Look) -> Tensor:
        """(R,) the expert to ask next, -1 where the answer is given, for samples in one state."""
        policy, count, asked, some = self.policy, self.policy.neighbors_, look.asked, look.some
        if look.looked is None:
            if len(look.failed) < len(policy.names):
                return torch.full_like(some, policy.first(self.trade_off, frozenset(look.failed)))
            warnings.warn(f"every expert failed on row(s) {shorten(self.rows[some].tolist())}: abstained", stacklevel=3)
            share = torch.bincount(policy.targets, minlength=self.probabilities.shape[1]) / len(policy.targets)
            self.probabilities[some] = share.to(self.probabilities.dtype)
            self.risk[some] = 1.0
            return torch.full_like(some, -1)
        following, live = torch.full_like(some, -1), look.live
        if live.any():
            sets = further_sets(policy.costs_, {*asked, *look.failed}, policy.look_ahead)
            totals = policy.risk.total(look.looked[live], asked, sets)
            expert, after, price = best_set(totals, sets, policy.costs_, self.trade_off, count)
            must = len(asked) < policy.min_queries
            goes_on = torch.ones_like(live[live]) if must else look.now[live] - after >= price - _TIE
            following[live] = torch.where(goes_on, expert, -1)
        self.risk[some] = torch.where(following < 0, look.now / count, self.risk[some])
        return following

    def _conclude(self, some: Tensor) -> None:
        """Answer for samples that asked somebody."""
        policy, asked, points = self.policy, self.asked[some], self.points[:, some]
        groups = [(tuple(sets.nonzero().flatten().tolist()), places) for sets, places in _alike(asked)]
        count = min(policy.fuser_neighbors, len(policy.targets) - 1)
        voters, last = policy.search().each(asked, points, count)
        if type(policy.fuser) is KNNFuser and policy.fuser.neighbors == count:  # these are its voters
            self.probabilities[some] = policy.fuser.vote(voters[None])[0].to(self.probabilities.dtype)
        else:
            for subset, places in groups:
                answer = policy.fuser.predict(subset, points[:, places])
                self.probabilities[some[places]] = answer.to(self.probabilities.dtype)
        self.far[some] = self._is_far(groups, voters, last)

    def _is_far(self, groups: Sequence[tuple[tuple[int, ...], Tensor]], voters: Tensor, last: Tensor) -> Tensor:
        """(R,) whether the k-distance of a sample is more than twice that of its neighbours (Breunig et al., 2000).

        Args:
            groups: Sets of experts, and which samples asked them.
            voters: (R, k) the nearest validation rows of each sample.
            last: (R,) squared distance of the farthest of them.
        """
        policy = self.policy
        search, targets = policy.search(), policy.targets
        nothing = torch.full(targets.shape, math.nan, dtype=last.dtype)
        if (len(policy.spreads) + len(groups)) * 8 * len(targets) > LossTables.limit_bytes:
            policy.spreads.clear()
        spreads = [policy.spreads.setdefault(subset, nothing.to(last.device, copy=True)) for subset, _ in groups]
        unknown = [
            near[spread[near].isnan()]
            for spread, near in (
                (spread, voters[some].unique()) for spread, (_, some) in zip(spreads, groups, strict=True)
            )
        ]
        counts = [len(rows) for rows in unknown]
        sets = _members([subset for subset, _ in groups], len(policy.names), targets.device)
        sets = sets.repeat_interleave(torch.tensor(counts, device=sets.device), dim=0)
        rows = torch.cat(unknown)
        count = min(voters.shape[1], len(targets) - 1)
        found = search.each(sets, policy.outputs[:, rows], count, rows)[1].sqrt()
        far = torch.empty(len(voters), dtype=torch.bool, device=voters.device)
        for (_, some), spread, near, values in zip(groups, spreads, unknown, found.split(counts), strict=True):
            spread[near] = values
            far[some] = last[some].sqrt() > FAR_RATIO * spread[voters[some]].mean(1) + 1e-3
        return far


def _alike(states: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The different rows of a matrix, and where they are."""
    different, inverse, counts = states.unique(dim=0, return_inverse=True, return_counts=True)
    return list(zip(different, inverse.argsort(stable=True).split(counts.tolist()), strict=True))
