"""FrugalFoE: sequential query policy for experts with costs."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from threading import RLock
from typing import Any, Literal, Self

import torch
from torch import Tensor

from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.split import OutputsSplit
from lightning_fusion.frugal.arguments import (
    TRADE_OFF,
    TRADE_OFFS,
    check_size,
    costs_of,
    expert_numbers,
    is_number,
    per_mean_cost,
    read_arguments,
    read_trade_offs,
)
from lightning_fusion.frugal.diagnostics import fit_diagnostics, prediction_diagnostics
from lightning_fusion.frugal.inputs import check_labeled, complete_rows, floating, read_known, read_labeled
from lightning_fusion.frugal.neighbors import SubsetNeighbors
from lightning_fusion.frugal.planning import affordable_trade_off, default_neighbors
from lightning_fusion.frugal.prediction import FrugalCurve, FrugalPrediction
from lightning_fusion.frugal.queries import Ask, checked_query, replay_query, row_check
from lightning_fusion.frugal.risk import KNNRisk, RiskEstimator
from lightning_fusion.frugal.search import Calibration, Query, decide
from lightning_fusion.frugal.state import ARGUMENTS, PolicyState
from lightning_fusion.frugal.subset_fusers import KNNFuser, SubsetFuser
from lightning_fusion.frugal.tables import DistanceTables, LossTables


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method to run in one thread at a time, without gradients and outside inference mode."""

    @wraps(method)
    def run(self: "FrugalFoE", *args: Any, **kwargs: Any) -> Any:
        with self._lock, torch.inference_mode(False), torch.no_grad():
            return method(self, *args, **kwargs)

    return run


class FrugalFoE(PolicyState):
    r"""FrugalFoE query policy (Wang et al., ICLR 2024, section 4): selects the next expert for each sample.

    With S the experts queried so far, the M calibration samples nearest on their outputs, costs c_k and a trade-off,

        R(T | x, S) = mean loss of F^T on these samples + trade_off * sum over k in T of c_k

    the expert with the lowest R(S + k | x, S) is queried next, until the gain is smaller than its cost. The first
    expert is the same for all samples; the prediction is F^S. Decisions need no query, because the outputs of all
    experts on the calibration set are known. Ties go to the lower cost, then to the first expert; queries continue
    where the gain equals the cost.

    The trade-off is the cost weight, as loss per unit of cost: with 0.02 an expert of cost 1 must save 2 errors in 100.

    Args:
        costs: Cost of a query to each expert, by name or in order; ``None`` (default) means those of the stored
            outputs, or 1.
        trade_off: Loss per unit of cost, >= 0; ``None`` with a budget.
        budget: Instead of a trade-off, the maximum mean cost per sample on the calibration set (leave-one-out): the
            smallest trade-off within it is found, to 1 %.
        neighbors: M; ``None`` (default) means min(N - 1, 50) for N calibration samples. An M above N / 4 raises a
            warning at the fit, because the estimated risks are then similar for all samples.
        fuser_neighbors: Number of neighbors of the kNN fuser.
        min_queries: Minimum number of queries per sample.
        leave_one_out: Exclude a calibration sample from its own neighbors in the fuser.
        loss: ``zero_one``, or ``log``.
        abstain_above: Abstain if the uncertainty of the prediction is larger.
        abstain_by: Measure of uncertainty: ``risk``, the loss of the M neighbors; or ``probability``, 1 minus the
            largest one. With many classes and few samples of each, M neighbors are of several classes, and the
            probability detects wrong predictions better (docs/methods/frugal.md).
        on_failure: Behavior if an expert raises, or a row of its outputs has another shape or is no distribution:
            ``raise``, or ``skip`` the expert for these samples, with a warning. A failed query costs nothing.
        fuser: Family of fusers F^S; ``None`` (default) means :class:`KNNFuser`.
        risk: Estimator of R; ``None`` (default) means :class:`KNNRisk`.
        look_ahead: Maximum number of experts that a decision plans with (our extension). 1 is the paper's greedy
            search; the number of experts gives an exhaustive one. Of the best set, the best single expert is queried.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> good = torch.eye(3).repeat(20, 1)  # an expert that is always sure and right
        >>> outputs, targets = {"good": good, "mute": torch.full((60, 3), 1 / 3)}, torch.arange(60) % 3
        >>> policy = FrugalFoE(trade_off=0.02).fit(outputs, targets)
        >>> answer = policy.predict(lambda name, rows: outputs[name][rows], num_rows=60)
        >>> answer.queried.sum(0).tolist(), float((answer.predicted == targets).float().mean())
        ([60, 0], 1.0)
    """

    def __init__(
        self,
        costs: dict[str, float] | list[float] | None = None,
        trade_off: float | None = TRADE_OFF,
        *,
        budget: float | None = None,
        neighbors: int | None = None,
        fuser_neighbors: int = 9,
        min_queries: int = 1,
        leave_one_out: bool = True,
        loss: Literal["zero_one", "log"] = "zero_one",
        abstain_above: float | None = None,
        abstain_by: Literal["risk", "probability"] = "risk",
        on_failure: Literal["raise", "skip"] = "raise",
        fuser: SubsetFuser | None = None,
        risk: RiskEstimator | None = None,
        look_ahead: int = 1,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name in ARGUMENTS}
        self._lock = RLock()
        for part, kind in ((fuser, SubsetFuser), (risk, RiskEstimator)):
            if not (part is None or isinstance(part, kind)):
                raise InputError(f"found a {type(part).__name__} where a {kind.__name__} was expected")
        for name, value in read_arguments(given).items():
            setattr(self, name, value)
        self.fuser = KNNFuser(fuser_neighbors) if fuser is None else _own(fuser)
        self.risk = KNNRisk() if risk is None else _own(risk)
        self.names: list[str] = []
        self.register_buffer("outputs", torch.empty(0, 0, 0))
        self.register_buffer("targets", torch.empty(0, dtype=torch.int64))

    def extra_repr(self) -> str:
        """Return the fitted settings, or the arguments before a fit."""
        if not self.names:
            goal = f"trade_off={self.trade_off:g}" if self.budget is None else f"budget={self.budget:g}"
            return f"{goal}, not fitted"
        return (
            f"trade_off={self.trade_off_:g}, neighbors={self.neighbors_}, {len(self.names)} experts, fitted on "
            f"{len(self.targets)} rows"
        )

    # ------------------------------------------------------------------ fitting

    @_guarded
    def fit(self, outputs: Mapping[str, Any] | OutputsSplit, targets: Any = None, missing: Any = None) -> Self:
        """Fit the policy on the outputs of all experts on a calibration set that no expert was trained on.

        Args:
            outputs: (N, C) by expert, or one split of an :class:`~lightning_fusion.ExpertOutputs`. Outputs in float64
                are not converted; neighbors are those of float64 in any case. Data frames and dicts of columns are
                read by the names of their columns, which the policy then knows.
            targets: (N,) classes 0..C-1, or names of the classes; a split has its own.
            missing: (N, K) bool, missing answers; a split has its own. Samples without an answer of every expert are
                left out, with a warning.

        Returns:
            The policy itself, with ``trade_off_`` and ``neighbors_`` set.

        Raises:
            InputError: If shapes, labels, costs or the number of samples are inconsistent.
        """
        names, stacked, goal, metadata = read_labeled(outputs, targets, missing)
        self.fit_array(names, stacked, goal, **metadata)
        return self

    @_guarded
    def fit_array(
        self,
        names: Sequence[str],
        outputs: Tensor,
        targets: Any,
        *,
        missing: Tensor | None = None,
        classes: list[str] | None = None,
        experts: Mapping[str, Any] | None = None,
        costs: Mapping[str, float] | None = None,
    ) -> Self:
        """Fit the policy on one array of outputs.

        Args:
            names: Names of the K experts.
            outputs: (K, N, C).
            targets: (N,) classes 0..C-1.
            missing: (K, N) bool, missing answers; ``None`` if every answer is there.
            classes: Names of the classes, to be compared with those of later outputs.
            experts: Metadata of the experts by name.
            costs: Costs by name, used if the policy has none.
        """
        outputs = floating(outputs)
        if missing is not None:
            complete = complete_rows(names, missing)
            outputs = outputs.masked_fill(~complete[:, None], 0)  # is left out below, after the check of the targets
        goal = check_labeled(names, outputs, targets, classes)
        if missing is not None:
            outputs, goal = outputs[:, complete], goal[complete]
        found = costs_of(self.costs, names, costs)
        check_size(len(goal), found, self.neighbors, self.budget, self.min_queries)
        device = self.outputs.device
        self.names, self.classes = list(names), classes
        self.experts = None if experts is None else dict(experts)
        self.outputs, self.targets, self.costs_ = outputs.to(device), goal.to(device), found
        self.trade_off_ = TRADE_OFF if self.trade_off is None else self.trade_off
        self.neighbors_ = self.neighbors or default_neighbors(len(goal))
        try:
            self._calibrate()
            self.fuser.fit()
            self.risk.fit(self.calibration.first(self.trade_off_), self.loss == "zero_one")
            if self.budget is not None:
                self.trade_off_ = affordable_trade_off(self.budget, found, self._mean_cost)
        except BaseException:
            self.names = []  # a failed fit leaves the policy unfitted
            raise
        for message in fit_diagnostics(self.calibration, self.loss, self.trade_off_ if self.budget is None else None):
            warnings.warn(message, stacklevel=4)
        return self

    @property
    def calibration(self) -> Calibration:
        """Data of the search, built once after a fit, a load or a move to another device.

        Raises:
            InputError: If the policy is not fitted.
        """
        self._check_fitted()
        found = self._calibrate() if self._calibration is None else self._calibration
        return replace(  # arguments that may change after a fit
            found,
            min_queries=self.min_queries,
            look_ahead=self.look_ahead,
        )

    def _calibrate(self) -> Calibration:
        neighbors = SubsetNeighbors(self.outputs)
        losses = LossTables(self.fuser, self.targets, self.loss)
        self.fuser.attach(neighbors, self.outputs, self.targets, self.leave_one_out)
        distances = DistanceTables(neighbors, self.outputs, min(self.fuser_neighbors, len(self.targets) - 1))
        data = self.names, self.outputs, self.targets, self.costs_
        self._calibration = Calibration(*data, self.fuser, self.risk, neighbors, losses, distances, self.neighbors_)
        self._calibration.attach_risk()
        self._valid = row_check(self.outputs)
        return self._calibration

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}  # a lock cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore: Callable[..., Any] = super().__setstate__  # torch gives it no types
        restore(state)
        self._lock = RLock()

    @_guarded
    def error(self, subset: Sequence[str]) -> float:
        """Return the held-out loss of the fuser of some experts on the calibration set.

        Args:
            subset: Names of the experts.
        """
        calibration = self.calibration
        return float(calibration.losses((), [expert_numbers(subset, self.names)], calibration.rows).mean())

    @_guarded
    def fuse(self, subset: Sequence[str], outputs: Mapping[str, Any] | OutputsSplit | Tensor) -> Tensor:
        """Return the (B, C) class probabilities of the fuser of some experts.

        Args:
            subset: Names of the experts.
            outputs: Outputs of all experts, in any form that :meth:`predict` takes.
        """
        calibration, known = self.calibration, self._known(outputs)[0]
        numbers = expert_numbers(subset, self.names)
        query = replay_query(known, self.names, valid=self._valid)
        for number in numbers:
            query(number, torch.arange(known.shape[1], device=known.device))  # raises for missing answers
        return calibration.fuser.predict(numbers, known)

    def _mean_cost(self, trade_off: float) -> float:
        """Return the leave-one-out mean cost on the calibration set."""
        rows = self.calibration.rows
        query = replay_query(self.outputs, self.names)
        return float(self._decide(self.calibration, query, len(rows), trade_off, rows).cost.mean())

    # --------------------------------------------------------------- predicting

    @_guarded
    def predict(
        self,
        ask: Mapping[str, Any] | OutputsSplit | Tensor | Ask,
        num_rows: int | None = None,
        missing: Any = None,
    ) -> FrugalPrediction:
        """Query experts until the gain of further queries is below their cost, and fuse the outputs.

        Args:
            ask: Known outputs, (B, C) by expert, one split of stored outputs, or one array (K, B, C) in the
                policy's order; or a function ``ask(expert name, rows)`` that runs the expert on these samples only,
                given as ascending (R,) int64, and returns (R, C) probabilities. It is called once per expert and step,
                for up to 4,096 samples at a time; again with fewer of them if it fails and ``on_failure`` is
                ``skip``.
            num_rows: B, required with a function.
            missing: (B, K) bool, missing answers among known outputs, in their order; a split has its own. The policy
                continues without a missing answer, which costs nothing.

        Returns:
            Predictions, queried experts and costs.

        Raises:
            InputError: If experts, shapes or values are inconsistent; the message names the expert and samples.
        """
        calibration = self.calibration
        if isinstance(ask, Mapping | OutputsSplit | Tensor):
            known, absent = self._known(ask, missing)
            if num_rows not in (None, known.shape[1]):
                raise InputError(f"num_rows is {num_rows}, but the outputs have {known.shape[1]} rows; leave it out")
            count, skip = known.shape[1], self.on_failure == "skip"
            query = replay_query(known, self.names, absent, skip, self._valid)
        else:
            if not callable(ask):
                raise InputError(f"ask is a {type(ask).__name__}; expected outputs by expert, or a function")
            if not is_number(num_rows, whole=True) or num_rows < 0:  # type: ignore[operator]  # a number by then
                raise InputError(
                    f"num_rows is {num_rows!r}; a function that queries experts requires the number of samples"
                )
            if missing is not None:
                raise InputError("missing belongs to known outputs; a function returns NaN for a missing answer")
            count = int(num_rows)  # type: ignore[arg-type]
            query = checked_query(ask, self.names, self.outputs, self.on_failure == "skip", self._valid, self.classes)
        prediction = self._decide(calibration, query, count, self.trade_off_)
        for message in self.diagnostics(prediction):
            warnings.warn(message, stacklevel=3)
        return prediction

    def diagnostics(self, prediction: FrugalPrediction) -> list[str]:
        """Return warnings about a policy that does not match a batch of 100 samples or more.

        Args:
            prediction: Predictions of this policy.
        """
        return prediction_diagnostics(prediction, self.trade_off_)

    @_guarded
    def curve(
        self,
        outputs: Mapping[str, Any] | OutputsSplit | Tensor,
        targets: Any = None,
        trade_offs: Iterable[float] | None = None,
        neighbors: int | None = None,
        missing: Any = None,
    ) -> FrugalCurve:
        """Compute accuracy and cost at several trade-offs from this fit, with the same M.

        Args:
            outputs: Outputs of all experts, in any form that :meth:`predict` takes.
            targets: (B,) classes; a split has its own.
            trade_offs: Trade-offs >= 0, in any order; ``None`` (default) means ten from 0.5 to 0.002 per mean cost
                of an expert.
            neighbors: M; ``None`` (default) means that of the fit.
            missing: (B, K) bool, missing answers; a split has its own.
        """
        calibration = self.calibration
        if neighbors is not None and not 1 <= neighbors <= len(self.targets):
            raise InputError(f"neighbors is {neighbors}; expected 1 to {len(self.targets)}, the calibration samples")
        if targets is None and isinstance(outputs, OutputsSplit):
            targets = outputs.target
        known, absent = self._known(outputs, missing, targets)
        present = known if absent is None else known.masked_fill(absent[:, :, None], 1 / known.shape[2])
        goal = check_labeled(self.names, present, targets, self.classes).to(self.targets.device)
        if not len(goal):
            raise InputError("targets: found no samples; a curve needs one at least")
        query = replay_query(known, self.names, absent, self.on_failure == "skip", self._valid)
        prices = read_trade_offs(per_mean_cost(TRADE_OFFS, self.costs_) if trade_offs is None else trade_offs)
        count = self.neighbors_ if neighbors is None else neighbors
        calibration = replace(calibration, num_neighbors=count)
        try:
            calibration.attach_risk()
            predictions = [self._decide(calibration, query, known.shape[1], price) for price in prices]
        finally:
            self.calibration.attach_risk()
        return FrugalCurve.of(prices, predictions, goal)

    def _known(
        self, outputs: Mapping[str, Any] | OutputsSplit | Tensor, missing: Any = None, targets: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the (K, B, C) outputs of the experts of this policy, in its order, and the missing answers (K, B)."""
        return read_known(outputs, self.names, self.outputs, self.classes, self.experts, missing, targets)

    def _decide(
        self, calibration: Calibration, query: Query, count: int, trade_off: float, own: Tensor | None = None
    ) -> FrugalPrediction:
        """Decide for ``count`` samples; ``own`` are their positions in the calibration set."""
        found = decide(calibration, query, count, trade_off, own)
        for name, number in found.failures.items():
            warnings.warn(f"expert {name} failed on {number} row(s): continued with the others", stacklevel=4)
        costs = torch.tensor(self.costs_, dtype=torch.float64, device=found.queried.device)
        doubt = found.risk if self.abstain_by == "risk" else 1 - found.probabilities.max(1).values
        above = math.inf if self.abstain_above is None else self.abstain_above
        return FrugalPrediction(
            found.probabilities,
            found.queried,
            found.queried.to(torch.float64) @ costs,
            found.risk,
            (doubt > above) | ~found.queried.any(1),
            found.ood,
        )


def _own(part: Any) -> Any:
    """Copy a fuser or estimator that another policy uses already."""
    return copy.deepcopy(part) if hasattr(part, "_search") else part
