"""Sequential search of FrugalFoE: the next query of each sample, and the stopping rule."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_fusion.errors import shorten
from lightning_fusion.frugal.neighbors import SubsetNeighbors
from lightning_fusion.frugal.planning import TIE, best_set, further_sets
from lightning_fusion.frugal.risk import RiskEstimator
from lightning_fusion.frugal.subset_fusers import KNNFuser, SubsetFuser
from lightning_fusion.frugal.tables import DistanceTables, LossTables

Query = Callable[[int, Tensor], Tensor]
"""Function ``query(expert, rows)`` that returns the (R, C) outputs of an expert on samples (R,) int64; NaN: failed."""

_CHUNK = 4096  # number of samples that are decided together


@dataclass
class Calibration:
    """Fitted data of a policy for the search.

    Attributes:
        names: Names of the K experts.
        outputs: (K, N, C) outputs on the calibration set.
        targets: (N,) classes of the calibration set.
        costs: (K,) costs.
        fuser: F^S for every S.
        risk: Estimator of the risk of F^T, attached with M.
        neighbors: Neighbor search on the outputs of any set of experts.
        losses: Held-out loss of F^T on each calibration sample.
        distances: Detector of out-of-distribution samples.
        num_neighbors: M.
        min_queries: Minimum number of queries per sample.
        look_ahead: Maximum number of experts that a decision plans with.
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

    @property
    def rows(self) -> Tensor:
        """(N,) positions of all samples of the calibration set."""
        return torch.arange(len(self.targets), device=self.targets.device)

    def attach_risk(self) -> None:
        """Attach the risk estimator with M neighbors."""
        self.risk.attach(self.neighbors, self.outputs, self.losses, self.num_neighbors)

    def first(self, trade_off: float, failed: frozenset[int] = frozenset()) -> int:
        """Return the expert to query first, of the smallest unconditional risk including its cost.

        Args:
            trade_off: Loss per unit of cost.
            failed: Indices of experts that cannot be queried.
        """
        sets = further_sets(self.costs, failed, self.look_ahead)
        totals = self.losses((), sets, self.rows).sum(1)[None]
        return int(best_set(totals, sets, self.costs, trade_off, len(self.targets))[0][0])


@dataclass
class Decisions:
    """Result of :func:`decide` for B samples.

    Attributes:
        queried: (B, K) bool, the queried experts.
        probabilities: (B, C) class probabilities.
        risk: (B,) float64, expected loss of the prediction.
        ood: (B,) bool, whether the sample is out-of-distribution.
        failures: Number of samples on which each expert failed.
    """

    queried: Tensor
    probabilities: Tensor
    risk: Tensor
    ood: Tensor
    failures: dict[str, int] = field(default_factory=dict)


def decide(
    calibration: Calibration, query: Query, count: int, trade_off: float, own: Tensor | None = None
) -> Decisions:
    """Query experts for all samples until each has a prediction, some thousand samples at a time.

    Args:
        calibration: Calibration of the policy.
        query: Function that returns the outputs of an expert.
        count: B, number of samples.
        trade_off: Loss per unit of cost.
        own: (B,) position of each sample in the calibration set, to evaluate the policy on it: costs and risks only.
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
    """Samples with the same queried experts, the failed experts, and the data of the risk estimator.

    ``now`` is the loss after the queries so far, among M; ``live`` marks samples that may query further.
    """

    queried: tuple[int, ...]
    failed: tuple[int, ...]
    some: Tensor
    looked: Tensor | None = None
    now: Tensor = torch.empty(0)
    live: Tensor = torch.empty(0)


class _Search:
    """Search for a slice of the samples."""

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
        self.points = calibration.outputs.new_zeros(experts, len(self.rows), classes)  # outputs known so far
        self.failed = torch.zeros_like(self.queried)

    def run(self) -> None:
        """Query until every sample has a prediction."""
        active = torch.arange(len(self.rows), device=self.rows.device)
        following = torch.full_like(active, -1)
        while len(active):
            for state in self._states(active):
                following[state.some] = self._next(state)
            active = active[following[active] >= 0]
            for expert in following[active].unique().tolist():
                self._query(expert, active[following[active] == expert])
        answered = self.queried.any(1).nonzero().flatten()
        if self.own is None and len(answered):
            self._conclude(answered)

    def _query(self, expert: int, some: Tensor) -> None:
        rows = self.rows[some]
        values = self.query(expert, rows)
        sound = values.isfinite().all(1)
        if not sound.all():
            name = self.calibration.names[expert]
            self.failures[name] = self.failures.get(name, 0) + int((~sound).sum())
            self.failed[some[~sound], expert] = True
            some, values = some[sound], values[sound]
        self.points[expert, some] = values
        self.queried[some, expert] = True

    def _states(self, active: Tensor) -> list[_State]:
        """Group samples by their queried experts, with the data of the risk estimator."""
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
        """Set the loss after the queries so far, and which samples may query further."""
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
        """Return the (R,) expert to query next, -1 for stop, for samples in one state."""
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
        """Set the predictions of samples that queried at least one expert."""
        given, queried, points = self.calibration, self.queried[some], self.points[:, some]
        groups = [(tuple(members.nonzero().flatten().tolist()), places) for members, places in _alike(queried)]
        voters, last = given.neighbors.each(queried, points, given.distances.count)
        if (
            type(given.fuser) is KNNFuser and given.fuser.neighbors == given.distances.count
        ):  # the neighbors of the kNN fuser
            self.probabilities[some] = given.fuser.vote(voters[None])[0].to(self.probabilities.dtype)
        else:
            for subset, places in groups:
                answer = given.fuser.predict(subset, points[:, places])
                self.probabilities[some[places]] = answer.to(self.probabilities.dtype)
        self.ood[some] = given.distances.ood(groups, voters, last)


def _alike(states: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
    """Return the distinct rows of a matrix, and their positions."""
    different, inverse, counts = states.unique(dim=0, return_inverse=True, return_counts=True)
    return list(zip(different, inverse.argsort(stable=True).split(counts.tolist()), strict=True))
