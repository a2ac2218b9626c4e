"""FrugalFoE: asks as few experts as a sample needs."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from threading import RLock
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.store import OutputsSplit
from lightning_fusion.experts.pool import check_same_experts
from lightning_fusion.frugal.files import build_part, describe_part, digest_of, read_policy, write_policy
from lightning_fusion.frugal.inputs import read_costs, read_labelled, read_outputs
from lightning_fusion.frugal.neighbors import SubsetNeighbours
from lightning_fusion.frugal.prediction import FrugalCurve, FrugalPrediction
from lightning_fusion.frugal.risk import KNNRisk, RiskEstimator
from lightning_fusion.frugal.search import Asking, best_set, further_sets
from lightning_fusion.frugal.subset_fusers import KNNFuser, SubsetFuser
from lightning_fusion.frugal.tables import LossTables

FORMAT = 1
TRADE_OFFS = (0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.015, 0.01, 0.005, 0.002)
"""Trade-offs of a curve, unless others are given."""
FAR_SHARE = 0.1
"""Share of far samples in a batch from which on :meth:`FrugalFoE.predict` warns."""
ARGUMENTS = (
    "costs",
    "trade_off",
    "budget",
    "neighbors",
    "fuser_neighbors",
    "min_queries",
    "leave_one_out",
    "loss",
    "abstain_above",
    "abstain_by",
    "on_failure",
    "look_ahead",
)

Ask = Callable[[str, Tensor], Any]
"""Called as ``ask(expert name, rows)`` with (R,) ascending row indices; gives that expert's (R, C) outputs."""

_CHUNK = 4096  # samples whose questions are decided together


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    """One thread at a time, without gradients, and outside inference mode: tables that are filled there are kept."""

    @wraps(method)
    def run(self: "FrugalFoE", *args: Any, **kwargs: Any) -> Any:
        with self._lock, torch.inference_mode(False), torch.no_grad():
            return method(self, *args, **kwargs)

    return run


class FrugalFoE(nn.Module):
    r"""Fusion of frugal experts (Wang et al., ICLR 2024, section 4): decides for each sample whom to ask next.

    With S the experts asked so far, M validation rows that are nearest on their outputs, costs c_k and a trade-off,

        R(T | x, S) = mean loss of F^T on these rows + trade_off * sum over k in T of c_k

    the expert that lowers R(S + k | x, S) most is asked next, until the gain is smaller than its price. The first one
    is the same for all samples; the answer is F^S. Deciding costs no question: what every expert says about the
    validation rows is known. Ties go to the cheaper expert, then to the first; a gain equal to the price goes on.

    The trade-off is the loss that one unit of cost must save: at 0.02 an expert of cost 1 must save 2 errors in 100.

    Args:
        costs: Price of a question to each expert, by name or in order; where None, that of the stored outputs, or 1.
        trade_off: Loss per unit of cost, >= 0.
        budget: Instead of a trade-off, the mean cost per sample that the validation rows (each judged by the others)
            may have: the smallest trade-off that keeps it is found, to 1 %.
        neighbors: M. Where None, as many as resolve the price of the cheapest expert: ceil(1 / (trade_off * cost)),
            at least 10 and at most N - 1; 50 where the trade-off is 0 or a budget is given.
        fuser_neighbors: Voters of the kNN fuser.
        min_queries: Experts to ask in any case.
        leave_one_out: A validation row is no voter for itself.
        loss: ``zero_one``, or ``log``.
        abstain_above: Abstain where the answer is in more doubt.
        abstain_by: What doubt is: the answer's ``risk``, which is the loss of the M neighbours; or 1 - its largest
            ``probability``. With many classes and few rows of each, M neighbours are of several, and the probability
            tells wrong answers better (docs/methods/frugal.md).
        on_failure: What to do when an expert raises, or its outputs are not finite: ``raise``, or ``skip`` it for these
            samples, with a warning. A question that failed costs nothing.
        fuser: The family of fusers F^S; :class:`KNNFuser` where None.
        risk: The estimator of R; :class:`KNNRisk` where None.
        look_ahead: How many more experts a decision may plan with (our extension). 1 is the paper's greedy search; the
            number of experts is the exhaustive one. Of the best set, the one that helps most alone is asked.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> good = torch.eye(3).repeat(20, 1)  # an expert that is always sure and right
        >>> outputs, targets = {"good": good, "mute": torch.full((60, 3), 1 / 3)}, torch.arange(60) % 3
        >>> policy = FrugalFoE(trade_off=0.02).fit(outputs, targets)
        >>> answer = policy.predict(lambda name, rows: outputs[name][rows], num_rows=60)
        >>> answer.asked.sum(0).tolist(), float((answer.probabilities.argmax(1) == targets).float().mean())
        ([60, 0], 1.0)
    """

    outputs: Tensor
    targets: Tensor

    def __init__(
        self,
        costs: dict[str, float] | list[float] | None = None,
        trade_off: float = 0.02,
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
        self._lock = RLock()
        numbers = {
            "trade_off": trade_off,
            "budget": budget,
            "neighbors": neighbors,
            "fuser_neighbors": fuser_neighbors,
            "min_queries": min_queries,
            "abstain_above": abstain_above,
            "look_ahead": look_ahead,
        }
        for name, number in numbers.items():
            whole = name not in ("trade_off", "budget", "abstain_above")
            optional = name in ("budget", "neighbors", "abstain_above")
            if not (optional and number is None) and not _is_number(number, whole):
                raise InputError(f"{name} is {number!r}; expected a {'whole ' * whole}number")
        if isinstance(costs, str | bytes) or not (costs is None or hasattr(costs, "__len__")):
            raise InputError(f"costs: found {costs!r}; expected one number per expert, by name or in order")
        for part, kind in ((fuser, SubsetFuser), (risk, RiskEstimator)):
            if not (part is None or isinstance(part, kind)):
                raise InputError(f"found a {type(part).__name__} where a {kind.__name__} was expected")
        if not 0 <= trade_off < math.inf:
            raise InputError(f"trade_off is {trade_off}; expected a number >= 0")
        if budget is not None and not budget > 0:
            raise InputError(f"budget is {budget}; expected a number > 0")
        for name, value in (("neighbors", neighbors), ("fuser_neighbors", fuser_neighbors), ("look_ahead", look_ahead)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; expected at least 1")
        if min_queries < 1:
            raise InputError(f"min_queries is {min_queries}; expected at least 1: an answer needs one expert")
        if abstain_by not in ("risk", "probability"):
            raise InputError(f"abstain_by is {abstain_by!r}; expected risk or probability")
        if loss not in ("zero_one", "log") or on_failure not in ("raise", "skip"):
            raise InputError(
                f"loss is {loss!r}, on_failure {on_failure!r}; expected zero_one or log, and raise or skip"
            )
        if abstain_above is not None and not abstain_above >= 0:
            raise InputError(f"abstain_above is {abstain_above}; expected a number >= 0")
        try:
            if isinstance(costs, Mapping):
                costs = {str(name): float(cost) for name, cost in costs.items()}
            elif costs is not None:
                costs = [float(cost) for cost in costs]
        except (TypeError, ValueError) as error:
            raise InputError(f"costs: found {costs!r}; expected numbers ({error})") from error
        self.costs, self.trade_off = costs, float(trade_off)
        self.budget = None if budget is None else float(budget)
        self.neighbors = None if neighbors is None else int(neighbors)
        self.fuser_neighbors, self.min_queries = int(fuser_neighbors), int(min_queries)
        self.leave_one_out, self.loss, self.on_failure = bool(leave_one_out), loss, on_failure
        self.abstain_above = None if abstain_above is None else float(abstain_above)
        self.abstain_by = abstain_by
        self.look_ahead = int(look_ahead)
        self.fuser = KNNFuser(fuser_neighbors) if fuser is None else _own(fuser)
        self.risk = KNNRisk() if risk is None else _own(risk)
        self.names: list[str] = []
        self.register_buffer("outputs", torch.empty(0, 0, 0))
        self.register_buffer("targets", torch.empty(0, dtype=torch.int64))

    def extra_repr(self) -> str:
        """What was found by the fit, or what is wanted of it."""
        if not self.names:
            return f"trade_off={self.trade_off:g}, not fitted"
        return (
            f"trade_off={self.trade_off_:g}, neighbors={self.neighbors_}, {len(self.names)} experts, fitted on "
            f"{len(self.targets)} rows"
        )

    # ------------------------------------------------------------------ fitting

    @_guarded
    def fit(self, outputs: Mapping[str, Any] | OutputsSplit, targets: Any = None) -> Self:
        """Learn from what every expert says about labelled rows that none of them was trained on.

        Args:
            outputs: (N, C) by expert, or one split of an :class:`~lightning_fusion.ExpertOutputs`. Outputs of float64
                are kept as they are; neighbours are those of float64 in any case.
            targets: (N,) classes 0..C-1; a split has its own.

        Returns:
            The policy itself, with ``trade_off_`` and ``neighbors_`` as found.

        Raises:
            InputError: If shapes, labels, costs or the number of rows do not fit.
        """
        (names, stacked), goal, facts = read_labelled(outputs, targets)
        costs = read_costs(self.costs, names, facts["costs"])
        rows = len(goal)
        if rows < 2:
            raise InputError(f"targets: found {rows} validation row(s); expected two at least")
        most = rows if self.budget is None else rows - 1  # judged by a budget, a row is no neighbour of its own
        if self.neighbors is not None and self.neighbors > most:
            raise InputError(
                f"neighbors is {self.neighbors}, but there are {most} validation rows; give more, or fewer"
            )
        if self.budget is not None:
            least = math.fsum(sorted(costs)[: self.min_queries])
            if self.budget < least:
                raise InputError(f"budget is {self.budget}, but {self.min_queries} expert(s) cost {least} at least")
        cheapest = min((cost for cost in costs if cost > 0), default=0.0)
        if self.budget is None and self.loss == "zero_one" and self.trade_off * cheapest > 1:
            warnings.warn(
                f"trade_off * cost is {self.trade_off * cheapest:.3g} for the cheapest expert: none can save more than "
                "1 error per sample, so no second one is ever asked; scale the costs, or lower trade_off",
                stacklevel=2,
            )
        device = self.outputs.device
        self.names, self.classes, self.experts = names, facts["classes"], facts["experts"]
        self.outputs, self.targets, self.costs_ = stacked.to(device), goal.to(device), costs
        self.trade_off_ = self.trade_off
        self.neighbors_ = self.neighbors or self._resolution(rows)
        try:
            self._learn()
        except BaseException:
            self.names = []  # half a fit is none
            raise
        self._warn_of_the_fuser()
        return self

    def _learn(self) -> None:
        self._ready(fresh=True)
        self.fuser.fit()
        self.risk.fit(self.first(self.trade_off_), self.loss == "zero_one")
        if self.budget is not None:
            self.trade_off_ = self._affordable(self.budget)

    def _resolution(self, rows: int) -> int:
        """M by default: enough neighbours to tell one price from none."""
        cheapest = min((cost for cost in self.costs_ if cost > 0), default=0.0)
        price = self.trade_off * cheapest
        if self.budget is not None or price == 0:
            return min(rows - 1, 50)
        return min(rows - 1, max(10, math.ceil(1 / price - 1e-9)))

    def _ready(self, fresh: bool = False) -> None:
        """Build what is derived from the rows, after a fit, a load or a move to another device."""
        if not self.names:
            raise InputError("this FrugalFoE is not fitted; call fit(outputs, targets), or FrugalFoE.load(folder)")
        if not fresh and self._search is not None and self._search.device == self.outputs.device:
            return
        self._search = SubsetNeighbours(self.outputs)
        self._tables = LossTables(self.fuser, self.targets, self.loss)
        self.spreads: dict[tuple[int, ...], Tensor] = {}
        self.fuser.attach(self._search, self.outputs, self.targets, self.leave_one_out)
        self.risk.attach(self._search, self.outputs, self._tables, self.neighbors_)

    _search: SubsetNeighbours | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}  # a lock cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = RLock()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow a move to another device; numbers keep their precision, which decides who is nearest."""
        kept = {name: value.dtype for name, value in self.state_dict().items()}
        outputs = self.outputs
        super()._apply(fn, recurse)
        if self.outputs.dtype != outputs.dtype:
            self.outputs = outputs.to(self.outputs.device)
        for part in (self.fuser, self.risk):
            if any(value.dtype != kept[name] for name, value in self.state_dict().items()):
                part.float()
        self._search = None
        return self

    def search(self) -> SubsetNeighbours:
        """Finds the nearest validation rows by the outputs of any set of experts."""
        self._ready()
        assert self._search is not None
        return self._search

    def first(self, trade_off: float, failed: frozenset[int] = frozenset()) -> int:
        """The expert to ask first: the smallest unconditional risk, price included.

        Args:
            trade_off: Price of a unit of cost.
            failed: Numbers of experts that cannot be asked.
        """
        rows = torch.arange(len(self.targets), device=self.targets.device)
        sets = further_sets(self.costs_, failed, self.look_ahead)
        totals = self._tables((), sets, rows).sum(1)[None]
        return int(best_set(totals, sets, self.costs_, trade_off, len(rows))[0][0])

    @_guarded
    def error(self, subset: Sequence[str]) -> float:
        """Held-out loss of the fuser on the validation rows, from the outputs of some experts.

        Args:
            subset: Their names.
        """
        self._ready()
        rows = torch.arange(len(self.targets), device=self.targets.device)
        return float(self._tables((), [self._numbers(subset)], rows).mean())

    @_guarded
    def fuse(self, subset: Sequence[str], outputs: Mapping[str, Any] | OutputsSplit) -> Tensor:
        """(B, C) class probabilities from the outputs of some experts, whatever they cost.

        Args:
            subset: Their names.
            outputs: (B, C) by expert, those of all experts.
        """
        self._ready()
        return self.fuser.predict(self._numbers(subset), self._known(outputs))

    def _numbers(self, subset: Sequence[str]) -> tuple[int, ...]:
        unknown = [name for name in subset if name not in self.names]
        if isinstance(subset, str) or unknown or not subset or len(set(subset)) < len(subset):
            raise InputError(
                f"subset: found {shorten(subset) or 'nobody'}; expected some of the experts {shorten(self.names)}, "
                "each once"
            )
        return tuple(self.names.index(name) for name in subset)

    def _warn_of_the_fuser(self) -> None:
        """Say where fusing all experts does worse than the best one alone."""
        if self.loss != "zero_one":
            return
        step = -(-len(self.targets) // 1000)  # some thousand rows tell
        rows = torch.arange(0, len(self.targets), step, device=self.targets.device)
        right = (self.outputs[:, rows].argmax(2) == self.targets[rows]).sum(1)
        wrong = int(self._tables((), [tuple(range(len(self.names)))], rows).sum())
        if len(rows) - wrong < int(right.max()):
            best = self.names[int(right.argmax())]
            warnings.warn(
                f"the fuser of all experts ({1 - wrong / len(rows):.3f} right) is below expert {best} alone "
                f"({int(right.max()) / len(rows):.3f}): too few validation rows, or outputs that do not tell "
                "classes apart",
                stacklevel=3,
            )

    def _affordable(self, budget: float) -> float:
        """The smallest trade-off, to 1 %, whose mean cost on the validation rows is within the budget."""
        if budget >= math.fsum(self.costs_):
            return 0.0
        rows = torch.arange(len(self.targets), device=self.targets.device)

        def cost(trade_off: float) -> float:
            return float(self._answer(self._replay(self.outputs), len(rows), trade_off, rows).cost.mean())

        mean = math.fsum(self.costs_) / len(self.costs_) or 1.0
        high = 1 / mean
        while cost(high) > budget:
            high *= 4
            if high * mean > 1e6:
                raise InputError(f"budget is {budget}, but the first expert alone costs {cost(high):.4g} on average")
        low = high / 4
        while low * mean > 1e-4 and cost(low) <= budget:
            high, low = low, low / 4
        while high / low > 1.01 and high * mean > 1e-4:
            middle = math.sqrt(high * low)
            high, low = (middle, low) if cost(middle) <= budget else (high, middle)
        return high

    # --------------------------------------------------------------- predicting

    @_guarded
    def predict(self, ask: Mapping[str, Any] | OutputsSplit | Ask, num_rows: int | None = None) -> FrugalPrediction:
        """Ask experts until further ones are not worth their price, and fuse what they said.

        Args:
            ask: Outputs that are known, (B, C) by expert or one split of stored outputs; or a function ``ask(expert
                name, rows)`` that runs the expert on just these rows, given as ascending (R,) int64, and gives (R, C).
                It is called once per expert and step, for up to 4,096 samples at a time.
            num_rows: B, required with a function.

        Returns:
            Answers, whom they are from, and what they cost.

        Raises:
            InputError: If experts, shapes or numbers do not fit; names the expert and rows.
        """
        self._ready()
        if isinstance(ask, Mapping | OutputsSplit):
            known = self._known(ask)
            if num_rows not in (None, known.shape[1]):
                raise InputError(f"num_rows is {num_rows}, but the outputs have {known.shape[1]} rows; leave it out")
            question, count = self._replay(known), known.shape[1]
        else:
            if not callable(ask):
                raise InputError(f"ask is a {type(ask).__name__}; expected outputs by expert, or a function")
            if num_rows is None or num_rows < 0:
                raise InputError("num_rows: say how many samples there are when experts are asked by a function")
            question, count = self._careful(ask), num_rows
        answer = self._answer(question, count, self.trade_off_)
        for message in self.signs(answer):
            warnings.warn(message, stacklevel=2)
        return answer

    def signs(self, answer: FrugalPrediction) -> list[str]:
        """What a batch of answers says about a policy that went wrong, for 100 samples or more."""
        found: list[str] = []
        count = len(answer.cost)
        if count < 100:
            return found
        everyone = float(answer.asked.all(1).float().mean())
        if everyone > 0.5 and len(self.names) > 2 and self.trade_off_ > 0:
            found.append(
                f"{everyone:.1%} of {count} samples asked every expert: the trade-off is too timid, or these samples "
                "are unlike the validation rows"
            )
        far = float(answer.far.float().mean())
        if far > FAR_SHARE:
            found.append(
                f"{far:.1%} of {count} samples lie far from all validation rows: estimated risks do not hold there; "
                "fit the policy on rows like these"
            )
        return found

    @_guarded
    def curve(
        self,
        outputs: Mapping[str, Any] | OutputsSplit,
        targets: Any = None,
        trade_offs: Iterable[float] = TRADE_OFFS,
        neighbors: int | None = None,
    ) -> FrugalCurve:
        """Accuracy and cost at several trade-offs from this one fit, all with one M.

        Args:
            outputs: (B, C) by expert, or one split of stored outputs.
            targets: (B,) classes; a split has its own.
            trade_offs: In any order; each >= 0.
            neighbors: M, where it is to be another than that of the fit.
        """
        self._ready()
        if neighbors is not None:
            if not 1 <= neighbors <= len(self.targets):
                raise InputError(f"neighbors is {neighbors}; expected 1 to {len(self.targets)}, the validation rows")
            kept, self.neighbors_ = self.neighbors_, neighbors
            self.risk.attach(self.search(), self.outputs, self._tables, neighbors)
            try:
                return self.curve(outputs, targets, trade_offs)
            finally:
                self.neighbors_ = kept
                self.risk.attach(self.search(), self.outputs, self._tables, kept)
        self._ready()
        goal = read_labelled(outputs, targets)[1].to(self.targets.device)
        known = self._known(outputs)
        prices = sorted({float(value) for value in trade_offs}, reverse=True)
        if not prices or not prices[-1] >= 0 or prices[0] == math.inf:
            raise InputError(f"trade_offs: found {shorten(prices) or 'none'}; expected numbers >= 0")
        answers = [self._answer(self._replay(known), known.shape[1], price) for price in prices]
        return FrugalCurve(
            prices,
            [float((answer.probabilities.argmax(1) == goal).double().mean()) for answer in answers],
            [float(answer.cost.mean()) for answer in answers],
            [float(answer.asked.sum(1).double().mean()) for answer in answers],
            answers,
        )

    def _known(self, outputs: Mapping[str, Any] | OutputsSplit) -> Tensor:
        """(K, B, C) outputs of the experts of this policy, in its order."""
        given, known = read_outputs(outputs)
        if isinstance(outputs, OutputsSplit) and self.experts and outputs.experts:
            check_same_experts(self.experts, outputs.experts)
            if self.classes and outputs.classes != self.classes:
                raise InputError(
                    f"the policy was fitted on the classes {shorten(self.classes)}; found {shorten(outputs.classes)}"
                )
        if set(given) != set(self.names):
            raise InputError(
                f"the policy was fitted with the experts {shorten(self.names)}; found {shorten(given)}; they differ in "
                f"{shorten(sorted(set(given) ^ set(self.names)))}"
            )
        if known.shape[2] != self.outputs.shape[2]:
            raise InputError(f"the policy was fitted on {self.outputs.shape[2]} classes; found {known.shape[2]}")
        return known[[given.index(name) for name in self.names]].to(self.outputs.device, self.outputs.dtype)

    def _replay(self, known: Tensor) -> Callable[[int, Tensor], Tensor]:
        return lambda expert, rows: known[expert, rows]

    def _careful(self, ask: Ask) -> Callable[[int, Tensor], Tensor]:
        """Run an expert; what goes wrong is named, or becomes NaN where failures are skipped."""
        classes = self.outputs.shape[2]

        def question(expert: int, rows: Tensor) -> Tensor:
            name = self.names[expert]
            try:
                answer = ask(name, rows.cpu())
            except Exception as error:
                if self.on_failure == "raise":
                    raise InputError(
                        f"expert {name} failed on {len(rows)} row(s) ({shorten(rows.tolist())}) with "
                        f"{type(error).__name__}: {error}; on_failure='skip' goes on without it"
                    ) from error
                warnings.warn(f"expert {name} failed with {type(error).__name__}: {error}", stacklevel=2)
                return self.outputs.new_full((len(rows), classes), math.nan)
            try:
                values = torch.as_tensor(answer)
            except (RuntimeError, TypeError, ValueError) as error:
                raise InputError(f"ask: expert {name} returned {type(answer).__name__}; expected numbers") from error
            if tuple(values.shape) != (len(rows), classes):
                raise InputError(
                    f"ask: expert {name} returned outputs of shape {tuple(values.shape)} for {len(rows)} row(s); "
                    f"expected {(len(rows), classes)}: one row for each that it was asked about, in their order"
                )
            return values.detach().to(self.outputs.device, self.outputs.dtype)

        return question

    @torch.no_grad()
    def _answer(
        self, question: Callable[[int, Tensor], Tensor], count: int, trade_off: float, own: Tensor | None = None
    ) -> FrugalPrediction:
        """Decide for all samples, some thousand at a time.

        Args:
            question: Gives the (R, C) outputs of an expert on some rows.
            count: B.
            trade_off: In use.
            own: (B,) the validation row that each sample is itself, for judging the policy on these rows.
        """
        self._ready()
        device = self.outputs.device
        experts, _, classes = self.outputs.shape
        asked = torch.zeros(count, experts, dtype=torch.bool, device=device)
        probabilities = torch.zeros(count, classes, device=device)
        risk = torch.zeros(count, dtype=torch.float64, device=device)
        far = torch.zeros(count, dtype=torch.bool, device=device)
        failures: dict[str, int] = {}
        for first in range(0, count, _CHUNK):
            rows = torch.arange(first, min(first + _CHUNK, count), device=device)
            state = Asking(self, question, rows, trade_off, None if own is None else own[rows], failures)
            state.run()
            asked[rows], probabilities[rows], risk[rows], far[rows] = (
                state.asked,
                state.probabilities,
                state.risk,
                state.far,
            )
        for name, number in failures.items():
            warnings.warn(f"expert {name} failed on {number} row(s): went on with the others", stacklevel=3)
        cost = asked.to(torch.float64) @ torch.tensor(self.costs_, dtype=torch.float64, device=device)
        above = math.inf if self.abstain_above is None else self.abstain_above
        doubt = risk if self.abstain_by == "risk" else 1 - probabilities.max(1).values
        return FrugalPrediction(probabilities, asked, cost, risk, (doubt > above) | ~asked.any(1), far)

    # -------------------------------------------------------------------- files

    def facts(self) -> dict[str, Any]:
        """Everything but the arrays, as plain data."""
        self._ready()
        return {
            "format": FORMAT,
            "names": self.names,
            "classes": self.classes,
            "experts": self.experts,
            "rows": len(self.targets),
            "num_classes": self.outputs.shape[2],
            "costs_": self.costs_,
            "trade_off_": self.trade_off_,
            "neighbors_": self.neighbors_,
            "arguments": {name: getattr(self, name) for name in ARGUMENTS},
            "fuser": describe_part(self.fuser),
            "risk": describe_part(self.risk),
            "digest": digest_of(self.state_dict()),
        }

    def save(self, folder: str | Path) -> None:
        """Write the policy as a store (see :mod:`lightning_fusion.store`), whole or not at all.

        Args:
            folder: Made where it is missing; a policy in it is replaced.
        """
        write_policy(folder, self.facts(), self.state_dict())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a policy that :meth:`save` wrote. Nothing in the files is executed.

        Raises:
            InputError: If there is none, or it is damaged.
        """
        return cls.from_state(*read_policy(folder), str(Path(folder)))

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str = "the policy") -> Self:
        """Rebuild a policy from :meth:`facts` and its ``state_dict``.

        Args:
            facts: Plain data.
            tensors: By name.
            where: They come from, for messages.

        Raises:
            InputError: If they do not belong together.
        """
        try:
            if facts["format"] != FORMAT:
                raise InputError(f"policy: {where} has format {facts['format']}; this version reads {FORMAT}")
            policy = cls(
                **facts["arguments"],
                fuser=build_part(facts["fuser"], SubsetFuser, where),
                risk=build_part(facts["risk"], RiskEstimator, where),
            )
            policy.names, policy.classes, policy.experts = facts["names"], facts["classes"], facts["experts"]
            policy.costs_ = read_costs(facts["costs_"], policy.names, None)
            policy.trade_off_, policy.neighbors_ = facts["trade_off_"], facts["neighbors_"]
            if (
                not (_is_number(policy.trade_off_) and 0 <= policy.trade_off_ < math.inf)
                or not (_is_number(policy.neighbors_, True) and 1 <= policy.neighbors_ <= facts["rows"])
                or len(set(policy.names)) < len(policy.names)
            ):
                raise InputError(f"policy: the facts of {where} are out of range")
            shape = len(policy.names), facts["rows"], facts["num_classes"]
            policy.outputs, policy.targets = tensors["outputs"], tensors["targets"]
            if tuple(policy.outputs.shape) != shape or digest_of(tensors) != facts["digest"]:
                raise InputError(f"policy: the arrays of {where} are not those that its facts were written with")
            policy.fuser.allocate(*shape)
            policy.risk.allocate(*shape)
            policy.load_state_dict(dict(tensors))
            policy._ready(fresh=True)
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"policy: {where} is damaged ({type(error).__name__}: {error})") from error
        return policy


def _is_number(value: Any, whole: bool = False) -> bool:
    return isinstance(value, Integral if whole else Real) and not isinstance(value, bool)


def _own(part: Any) -> Any:
    """A fuser or estimator that serves another policy already is copied."""
    return copy.deepcopy(part) if hasattr(part, "_search") else part
