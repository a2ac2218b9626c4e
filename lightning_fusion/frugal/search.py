"""Which expert FrugalFoE queries next, sample by sample, and when it stops."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.frugal.neighbors import SubsetNeighbors
from lightning_fusion.frugal.planning import TIE, best_set, further_sets
from lightning_fusion.frugal.risk import RiskEstimator
from lightning_fusion.frugal.subset_fusers import KNNFuser, SubsetFuser
from lightning_fusion.frugal.tables import DistanceTables, LossTables

Query = Callable[[int, Tensor], Tensor]
"""Gives the (R, C) outputs of an expert on some samples, (R,) int64; called as ``query(expert, rows)``."""

_CHUNK = 4096  # samples that are decided together


@dataclass
class Calibration:
    """What a fit leaves for the search.

    Attributes:
        names: Of the K experts.
        outputs: (K, N, C) of the calibration set.
        targets: (N,) its classes.
        costs: (K,).
        fuser: F^S for every S.
        risk: The risk of F^T, attached with M.
        neighbors: Nearest calibration samples on the outputs of any set of experts.
        losses: Held-out loss of F^T on each calibration sample.
        distances: Tell which samples are out-of-distribution.
        num_neighbors: M.
        min_queries: Experts to query in any case.
        look_ahead: How many more experts a decision may plan with.
        skip_failures: Go on without an expert that gives no finite outputs; else that raises.
    """

    names: list[str]
    outputs: Tensor
    targets: Tensor
    costs: list[float]
    fuser: SubsetFuser
    risk: RiskEstimator
    neighbors: SubsetNeighbors
    losses: LossTables
    distances: DistanceTables
    num_neighbors: int
    min_queries: int = 1
    look_ahead: int = 1
    skip_failures: bool = False

    @property
    def rows(self) -> Tensor:
        """(N,) numbers of all samples of the calibration set."""
        return torch.arange(len(self.targets), device=self.targets.device)

    def attach_risk(self) -> None:
        """Let the risk look at M neighbors."""
        self.risk.attach(self.neighbors, self.outputs, self.losses, self.num_neighbors)

    def first(self, trade_off: float, failed: frozenset[int] = frozenset()) -> int:
        """The expert to query first: the smallest unconditional risk, cost included.

        Args:
            trade_off: Loss per unit of cost.
            failed: Numbers of experts that cannot be queried.
        """
        sets = further_sets(self.costs, failed, self.look_ahead)
        totals = self.losses((), sets, self.rows).sum(1)[None]
        return int(best_set(totals, sets, self.costs, trade_off, len(self.targets))[0][0])


@dataclass
class Decisions:
    """What :func:`decide` found for B samples.

    Attributes:
        queried: (B, K) bool.
        probabilities: (B, C) the answer.
        risk: (B,) float64, its expected loss.
        ood: (B,) bool, whether the sample is out-of-distribution.
        failures: Samples on which each expert failed.
    """

    queried: Tensor
    probabilities: Tensor
    risk: Tensor
    ood: Tensor
    failures: dict[str, int] = field(default_factory=dict)


def decide(
    calibration: Calibration, query: Query, count: int, trade_off: float, own: Tensor | None = None
) -> Decisions:
    """Query the experts about all samples until each has its answer, some thousand at a time.

    Args:
        calibration: Of the policy.
        query: Gives the outputs of an expert.
        count: B.
        trade_off: Loss per unit of cost.
        own: (B,) the calibration sample that each one is itself, to judge the policy on these: costs and risks alone.
    """
    experts, _, classes = calibration.outputs.shape
    device = calibration.outputs.device
    found = Decisions(
        torch.zeros(count, experts, dtype=torch.bool, device=device),
        torch.zeros(count, classes, device=device),
        torch.zeros(count, dtype=torch.float64, device=device),
        torch.zeros(count, dtype=torch.bool, device=device),
    )
    for first in range(0, count, _CHUNK):
        _Search(calibration, query, slice(first, first + _CHUNK), trade_off, own, found).run()
    return found


class _State(NamedTuple):
    """Samples that queried the same experts: these, those that failed, and what the risk looked up, once there is any.

    ``now`` is the loss of what was queried, among M; ``live`` says which samples may go on.
    """

    queried: tuple[int, ...]
    failed: tuple[int, ...]
    some: Tensor
    looked: Tensor | None = None
    now: Tensor = torch.empty(0)
    live: Tensor = torch.empty(0)


class _Search:
    """The search for some of the samples, a slice of them."""

    def __init__(
        self,
        calibration: Calibration,
        query: Query,
        part: slice,
        trade_off: float,
        own: Tensor | None,
        found: Decisions,
    ) -> None:
        self.calibration, self.query, self.trade_off, self.failures = calibration, query, trade_off, found.failures
        self.queried, self.probabilities = found.queried[part], found.probabilities[part]  # views, written in place
        self.risk, self.ood = found.risk[part], found.ood[part]
        self.own = None if own is None else own[part]
        self.rows = torch.arange(part.start, part.start + len(self.queried), device=self.queried.device)
        experts, _, classes = calibration.outputs.shape
        self.points = calibration.outputs.new_zeros(experts, len(self.rows), classes)  # what is known so far
        self.failed = torch.zeros_like(self.queried)

    def run(self) -> None:
        """Query until every sample has its answer."""
        active = torch.arange(len(self.rows), device=self.rows.device)
        following = torch.full_like(active, -1)
        while len(active):
            for state in self._states(active):
                following[state.some] = self._next(state)
            active = active[following[active] >= 0]
            for expert in following[active].unique().tolist():
                self._ask(expert, active[following[active] == expert])
        answered = self.queried.any(1).nonzero().flatten()
        if self.own is None and len(answered):
            self._conclude(answered)

    def _ask(self, expert: int, some: Tensor) -> None:
        rows = self.rows[some]
        values = self.query(expert, rows)
        sound = values.isfinite().all(1)
        if not sound.all():
            name, wrong = self.calibration.names[expert], rows[~sound]
            if not self.calibration.skip_failures:
                raise InputError(
                    f"expert {name} returned NaN or infinite outputs for row(s) {shorten(wrong.tolist())}; "
                    "on_failure='skip' goes on without it"
                )
            self.failures[name] = self.failures.get(name, 0) + len(wrong)
            self.failed[some[~sound], expert] = True
            some, values = some[sound], values[sound]
        self.points[expert, some] = values
        self.queried[some, expert] = True

    def _states(self, active: Tensor) -> list[_State]:
        """What is known about samples, state by state, and which of them may go on."""
        risk = self.calibration.risk
        some = active[self.queried[active].any(1)]
        own = None if self.own is None else self.own[some]
        looked = risk.look_each(self.queried[some], self.points[:, some], own)
        place = self.queried[active].any(1).cumsum(0) - 1
        states = []
        for found, places in _alike(torch.cat([self.queried[active], self.failed[active]], 1)):
            queried, failed = (tuple(part.nonzero().flatten().tolist()) for part in found.chunk(2))
            some, seen = active[places], None
            if queried and looked is not None:
                seen = looked[place[places]]
            elif queried:
                seen = risk.look(queried, self.points[:, some], None if self.own is None else self.own[some])
            states.append(_State(queried, failed, some, seen))
        greedy = self.calibration.look_ahead == 1
        if greedy:
            risk.prepare([(state.queried, state.looked) for state in states if state.looked is not None], further=False)
        states = [self._judge(state) for state in states]
        if greedy:
            going = [(state.queried, state.looked[state.live]) for state in states if state.looked is not None]
            risk.prepare([(queried, seen) for queried, seen in going if len(seen)], further=True)
        return states

    def _judge(self, state: _State) -> _State:
        """With the loss of what was queried, and which samples may go on."""
        if state.looked is None:
            return state
        given = self.calibration
        now = given.risk.total(state.looked, state.queried, [()])[:, 0]
        taken = {*state.queried, *state.failed}
        if len(taken) == len(given.names):
            live = torch.zeros_like(now, dtype=torch.bool)
        elif len(state.queried) < given.min_queries:
            live = torch.ones_like(now, dtype=torch.bool)
        else:  # no gain is larger than the whole loss
            cheapest = min(cost for k, cost in enumerate(given.costs) if k not in taken)
            live = now >= self.trade_off * cheapest * given.num_neighbors - TIE
        return state._replace(now=now, live=live)

    def _next(self, state: _State) -> Tensor:
        """(R,) the expert to query next, -1 where the answer is given, for samples in one state."""
        given, count, some = self.calibration, self.calibration.num_neighbors, state.some
        if state.looked is None:
            if len(state.failed) < len(given.names):
                return torch.full_like(some, given.first(self.trade_off, frozenset(state.failed)))
            warnings.warn(f"every expert failed on row(s) {shorten(self.rows[some].tolist())}: abstained", stacklevel=3)
            frequency = torch.bincount(given.targets, minlength=self.probabilities.shape[1]) / len(given.targets)
            self.probabilities[some] = frequency.to(self.probabilities.dtype)
            self.risk[some] = 1.0
            return torch.full_like(some, -1)
        following, live = torch.full_like(some, -1), state.live
        if live.any():
            sets = further_sets(given.costs, {*state.queried, *state.failed}, given.look_ahead)
            totals = given.risk.total(state.looked[live], state.queried, sets)
            expert, after, price = best_set(totals, sets, given.costs, self.trade_off, count)
            must = len(state.queried) < given.min_queries
            goes_on = torch.ones_like(live[live]) if must else state.now[live] - after >= price - TIE
            following[live] = torch.where(goes_on, expert, -1)
        self.risk[some] = torch.where(following < 0, state.now / count, self.risk[some])
        return following

    def _conclude(self, some: Tensor) -> None:
        """Answer for samples that queried an expert at least."""
        given, queried, points = self.calibration, self.queried[some], self.points[:, some]
        groups = [(tuple(members.nonzero().flatten().tolist()), places) for members, places in _alike(queried)]
        voters, last = given.neighbors.each(queried, points, given.distances.count)
        if type(given.fuser) is KNNFuser and given.fuser.neighbors == given.distances.count:  # these are its voters
            self.probabilities[some] = given.fuser.vote(voters[None])[0].to(self.probabilities.dtype)
        else:
            for subset, places in groups:
                answer = given.fuser.predict(subset, points[:, places])
                self.probabilities[some[places]] = answer.to(self.probabilities.dtype)
        self.ood[some] = given.distances.ood(groups, voters, last)


def _alike(states: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
    """The different rows of a matrix, and where they are."""
    different, inverse, counts = states.unique(dim=0, return_inverse=True, return_counts=True)
    return list(zip(different, inverse.argsort(stable=True).split(counts.tolist()), strict=True))
