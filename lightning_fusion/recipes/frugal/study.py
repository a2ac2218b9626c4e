"""One seed of the recipe frugal."""

import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_fusion.baselines import (
    BestSingle,
    CostPoint,
    LogisticStacking,
    MostConfident,
    SoftmaxAverage,
    best_static_subsets,
    confidence_cascade,
    exhaustive_subsets,
    frugal_ml,
    least_expensive_correct,
    majority_class,
    random_subsets,
    subset_point,
)
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.frugal.arguments import costs_of, per_mean_cost
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.frugal.prediction import FrugalCurve
from lightning_fusion.frugal.risk import ParametricRisk
from lightning_fusion.frugal.subset_fusers import MaskedMLPFuser
from lightning_fusion.metrics.selective import RiskCoverage, area_under_cost_curve, risk_coverage
from lightning_fusion.recipes.advice import SampleScores
from lightning_fusion.recipes.frugal.rows import (
    AVERAGE,
    BEST,
    BY_PROBABILITY,
    CONFIDENT,
    COVERAGES,
    HALF_COVERAGE,
    IN_SCOPE,
    MAIN,
    MAJORITY,
    MOST_EXHAUSTIVE,
    NEIGHBORS,
    SCOPE_AUROC,
    SCOPE_COVERAGE,
    SEEN,
    SETTINGS,
    STACKING,
    TRADE_OFFS,
    VALUE,
)
from lightning_fusion.recipes.report import Report
from lightning_fusion.recipes.runner import Run
from lightning_fusion.recipes.serving import save_baseline


class _Fusion:
    """The policy's own fuser on any subset, for rules that query the same experts for every sample."""

    def __init__(self, policy: FrugalFoE, outputs: dict[str, Any]) -> None:
        self.policy, self.outputs = policy, outputs

    def error(self, subset: Sequence[int]) -> float:
        result: float = self.policy.error([self.policy.names[k] for k in subset])
        return result

    def predict(self, subset: Sequence[int]) -> np.ndarray:
        result: np.ndarray = (
            self.policy.fuse([self.policy.names[k] for k in subset], self.outputs).argmax(1).cpu().numpy()
        )
        return result


class Study:
    """One seed: the policy, its variants and the baselines on the same samples."""

    def __init__(
        self,
        outputs: ExpertOutputs,
        costs: list[float] | dict[str, float] | None,
        rows: dict[str, int | None],
        unseen: Sequence[str],
        seed: int,
        trade_offs: Sequence[float] | None,
        run: Run,
    ) -> None:
        self.outputs, self.seed = outputs, seed
        self.report, self.console, self.folder = run.report, run.console, run.folder / f"seed_{seed}"
        stored = {name: float(entry["cost"]) for name, entry in outputs.experts.items()}
        self.costs = dict(zip(outputs.names, costs_of(costs, outputs.names, stored), strict=True))
        self.trade_offs = per_mean_cost(TRADE_OFFS, self.costs.values()) if trade_offs is None else trade_offs
        self.arrays: dict[str, np.ndarray] = {}  # (N, K, C)
        self.goal: dict[str, np.ndarray] = {}
        self.limits, self.unseen = rows, unseen
        for split in rows:
            self.arrays[split], self.goal[split] = self._rows(split, not_of=split == "train")
        self.test_positions = self._chosen("test", not_of=False)
        self.known = {
            split: dict(zip(outputs.names, array.swapaxes(0, 1), strict=True)) for split, array in self.arrays.items()
        }
        self.points: list[tuple[str, float, float]] = []
        self.majority = majority_class(self.goal["train"], len(self.goal["test"]), len(outputs.names))

    def _rows(self, split: str, not_of: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return outputs (N, K, C) and targets (N,) of samples without the unseen domains, or of these only."""
        chosen = self._chosen(split, not_of)
        return self.outputs.scattered(split)[chosen], np.asarray(self.outputs[split].target)[chosen]

    def _chosen(self, split: str, not_of: bool) -> np.ndarray:
        """Return the (N,) positions of samples without the unseen domains, or of these only."""
        domains = self.outputs.domains
        chosen = np.arange(len(self.outputs[split]))
        if self.unseen:
            if unknown := [name for name in self.unseen if name not in domains]:
                raise InputError(f"unseen_domains: found {shorten(unknown)}; the domains are {shorten(domains, 20)}")
            columns = [domains.index(name) for name in self.unseen]
            of_them = np.asarray(self.outputs[split].domain, bool)[:, columns].any(1)
            chosen = np.flatnonzero(~of_them if not_of else of_them)
            if len(chosen) < 2:
                raise InputError(
                    f"unseen_domains: found {len(chosen)} {split} samples {'not ' if not_of else ''}of "
                    f"{shorten(self.unseen)}; expected at least two: name fewer domains"
                )
        if (limit := self.limits.get(split)) is not None and limit < len(chosen):
            chosen = np.sort(np.random.default_rng(self.seed).choice(chosen, limit, replace=False))
        return chosen

    # --------------------------------------------------------------- policies

    def study_seen(self, arguments: dict[str, Any]) -> None:
        """The policy fitted on all domains, unseen ones included, as a reference."""
        held, self.unseen = self.unseen, []
        array, goal = self._rows("train", not_of=True)
        self.unseen = held
        known, own = dict(zip(self.outputs.names, array.swapaxes(0, 1), strict=True)), (self.known, self.goal)
        self.known, self.goal = self.known | {"train": known}, self.goal | {"train": goal}
        self._fit(SEEN, arguments)
        self.known, self.goal = own

    def study_policy(self, arguments: dict[str, Any], folder: Path) -> None:
        """The policy of the table: its curve, its queries, and how its risks rank the samples."""
        self.policy, curve = self._fit(MAIN, arguments)
        self.policy.classes, self.policy.experts = self.outputs.classes, self.outputs.experts
        if first_process():
            self.policy.save(folder)
        trade_off = self.policy.trade_off_
        if trade_off in curve.trade_off:
            self.answer = curve.predictions[curve.trade_off.index(trade_off)]
        else:  # found from the budget
            self.answer = self.policy.curve(self.known["test"], self.goal["test"], [trade_off]).predictions[0]
        right = self.answer.probabilities.argmax(1).cpu().numpy() == self.goal["test"]
        self.cost = float(self.answer.cost.mean())
        self.report.add(
            MAIN,
            "accuracy",
            right.mean(),
            self.seed,
            cost=self.cost,
            num_queries=float(self.answer.num_queries.double().mean()),
        )
        self.report.add(MAIN, "cost", self.cost, self.seed)
        self.coverage = risk_coverage(self.answer.risk.cpu().numpy(), ~right)
        self.report.add(MAIN, "area under the risk-coverage curve", self.coverage.area, self.seed)
        for share in COVERAGES:
            value = 1 - np.interp(share, self.coverage.coverage, self.coverage.error)
            self.report.add(MAIN, f"accuracy at {share:.0%} coverage", value, self.seed)
        self._abstain()
        self.report.add(
            MAIN, "fraction of out-of-distribution samples", float(self.answer.ood.float().mean()), self.seed
        )
        for message in self.policy.diagnostics(self.answer):
            self.report.notes.append(f"Seed {self.seed}: {message}.")

    def _abstain(self) -> None:
        """Add the separation of in-scope and out-of-scope samples by risk, if no expert has some test classes."""
        known = {name for labels in self.outputs.expert_classes.values() for name in labels}
        truth = self.goal["test"]
        self.unknown = ~np.isin(truth, [self.outputs.classes.index(name) for name in known])
        self.abstaining: dict[str, RiskCoverage] = {}
        if not self.unknown.any() or self.unknown.all():
            return
        from sklearn.metrics import roc_auc_score

        outputs = self.arrays["test"]
        confident = outputs.max(2).argmax(1)
        average = outputs.mean(1)
        fused = self.answer.probabilities.cpu().numpy()
        answers = {
            MAIN: (fused, self.answer.risk.cpu().numpy()),
            BY_PROBABILITY: (fused, 1 - fused.max(1)),
            CONFIDENT: (outputs[np.arange(len(truth)), confident], 1 - outputs.max((1, 2))),
            AVERAGE: (average, 1 - average.max(1)),
        }
        for method, (probabilities, risk) in answers.items():
            right = probabilities.argmax(1) == truth
            curve = self.abstaining[method] = risk_coverage(risk, ~right)
            if method != MAIN:
                self.report.add(method, "area under the risk-coverage curve", curve.area, self.seed)
            for metric, value in (
                (IN_SCOPE, right[~self.unknown].mean()),
                (SCOPE_AUROC, roc_auc_score(self.unknown, risk)),
                (HALF_COVERAGE, np.interp(0.5, curve.coverage, curve.error)),
                (SCOPE_COVERAGE, np.interp((~self.unknown).mean(), curve.coverage, curve.error)),
            ):
                self.report.add(method, metric, value, self.seed)

    def study_variants(self, arguments: dict[str, Any]) -> None:
        """Fit policies with other fusers, risks and searches."""
        rows = len(self.goal["train"])
        variants: dict[str, dict[str, Any]] = {
            "FrugalFoE (M = 10, at least two queries)": {
                "neighbors": min(10, rows),
                "min_queries": min(2, len(self.outputs.names)),
                "leave_one_out": False,
            },
            "FrugalFoE (masked MLP)": {"fuser": MaskedMLPFuser(seed=self.seed)},
            "FrugalFoE (parametric risk)": {"risk": ParametricRisk(seed=self.seed)},
        }
        if len(self.outputs.names) <= MOST_EXHAUSTIVE:
            variants["FrugalFoE (exhaustive search)"] = {"look_ahead": len(self.outputs.names)}
        for method, changes in variants.items():
            try:
                policy = self._fit(method, arguments | changes)[0]
            except InputError as error:  # for example a budget below two queries; the other variants are still compared
                self.report.notes.append(f"Seed {self.seed}: {method} was skipped: {error}.")
                continue
            if method.endswith("(masked MLP)"):
                everyone = policy.fuse(policy.names, self.known["test"]).argmax(1).cpu().numpy()
                self._point(
                    "all experts, masked MLP", subset_cost(self.costs), float((everyone == self.goal["test"]).mean())
                )

    def _fit(self, method: str, arguments: dict[str, Any]) -> tuple[FrugalFoE, FrugalCurve]:
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            policy = FrugalFoE(self.costs, **arguments).fit(self.known["train"], self.goal["train"])
            own = policy.trade_off_ if arguments["trade_off"] is None else arguments["trade_off"]
            curve = policy.curve(self.known["test"], self.goal["test"], [*self.trade_offs, own])
        if method == MAIN:
            self.report.notes += [f"Seed {self.seed}: {warning.message}." for warning in caught]
        for price, accuracy, cost, queries in zip(
            curve.trade_off, curve.accuracy, curve.cost, curve.num_queries, strict=True
        ):
            self._curve_point(method, price, accuracy, cost, queries)
        seconds = time.perf_counter() - start
        self.report.took("policies", start)
        place = int(np.argmin(np.abs(np.array(curve.trade_off) - policy.trade_off_)))
        self.console.print(
            f"seed {self.seed}  {method}: accuracy {curve.accuracy[place]:.3f} at cost {curve.cost[place]:.2f}, "
            f"{seconds:.0f} s"
        )
        return policy, curve

    # -------------------------------------------------------------- baselines

    def study_baselines(self, exhaustive: bool) -> None:
        """Rules that query some experts, fitted on the calibration set of the policy."""
        start = time.perf_counter()
        train, test, costs = self.arrays["train"], self.arrays["test"], np.array(list(self.costs.values()))
        fusion = _Fusion(self.policy, self.known["test"])
        rules: dict[str, list[CostPoint]] = {
            "random subsets": random_subsets(fusion, costs, seed=self.seed),
            "static subset (greedy)": best_static_subsets(fusion, costs, empty_error=self._majority_error()),
        }
        if exhaustive and len(costs) <= MOST_EXHAUSTIVE:
            rules["static subset (exhaustive)"] = exhaustive_subsets(fusion, costs)
        rules |= {
            "confidence cascade": confidence_cascade(test, train, self.goal["train"], costs),
            "FrugalML-style": frugal_ml(test, train, self.goal["train"], costs),
        }
        for method, points in rules.items():
            if method == "random subsets":  # the mean of the draws of one size
                sizes: dict[int, list[CostPoint]] = {}
                for point in points:
                    sizes.setdefault(round(point.num_queries), []).append(point)
                for size, some in sizes.items():
                    accuracy = float(np.mean([point.accuracy(self.goal["test"]) for point in some]))
                    self._curve_point(method, size, accuracy, float(np.mean([point.cost for point in some])), size)
                continue
            for point in points:
                accuracy = point.accuracy(self.goal["test"])
                self._curve_point(method, point.setting, accuracy, point.cost, point.num_queries)
        self.single = single = BestSingle().fit(train, self.goal["train"])
        self._point(BEST, costs[single.best], float((single.predict(test) == self.goal["test"]).mean()))
        everyone = subset_point(fusion, range(len(costs)), costs, held_out=False)
        self._point("all experts, kNN", everyone.cost, everyone.accuracy(self.goal["test"]))
        self.stacking = LogisticStacking().fit(train, self.goal["train"])
        for name, rule in ((BEST, self.single), (STACKING, self.stacking)):
            save_baseline(self.folder, name, rule)
        stacked = float((self.stacking.predict(test) == self.goal["test"]).mean())
        self._point(STACKING, everyone.cost, stacked)
        self._point(MAJORITY, 0.0, self.majority.accuracy(self.goal["test"]))
        oracle = least_expensive_correct(test, self.goal["test"], costs)
        self._point("oracle (lowest-cost correct expert)", oracle.cost, oracle.accuracy(self.goal["test"]))
        self.report.took("baselines", start)

    def validate(self) -> None:
        """Add accuracy - trade_off * cost on the validation split, on which no method was fitted."""
        if "val" not in self.outputs.splits:
            return
        given, goal = self._rows("val", not_of=True)
        own = self.policy.predict(dict(zip(self.outputs.names, given.swapaxes(0, 1), strict=True)))
        prices = np.array(list(self.costs.values()))
        every: Any = (prices.sum(), len(prices))
        found = {
            AVERAGE: (SoftmaxAverage().predict(given), *every),
            BEST: (self.single.predict(given), prices[self.single.best], 1),
            CONFIDENT: (MostConfident().predict(given), *every),
            STACKING: (self.stacking.predict(given), *every),
            MAIN: (own.predicted.cpu().numpy(), own.cost.cpu().numpy(), float(own.num_queries.double().mean())),
        }
        self.report.validation.metric = VALUE
        for method, (predicted, cost, queries) in found.items():
            value = (predicted == goal) - self.policy.trade_off_ * cost
            scores = SampleScores(value, np.asarray(self.outputs["val"].index)[self._chosen("val", not_of=True)])
            self.report.validate(method, scores, self.seed, queries)

    def _majority_error(self) -> float:
        return float((self.goal["train"] != self.majority.predicted[0]).mean())

    def _point(self, method: str, cost: float, accuracy: float) -> None:
        """Add a rule with a single cost below the curves."""
        self.points.append((method, float(cost), accuracy))

    def _curve_point(
        self, method: str, setting: tuple[int, ...] | float | None, accuracy: float, cost: float, num_queries: float
    ) -> None:
        more: dict[str, Any] = {}
        if isinstance(setting, tuple):
            more = {"experts": [self.outputs.names[k] for k in setting]}
        elif setting is not None and math.isfinite(setting):
            more = {"setting": setting, "setting_name": SETTINGS.get(method, "trade-off")}
        self.report.add(
            method, "accuracy on the curve", accuracy, self.seed, cost=cost, num_queries=num_queries, **more
        )

    def compare(self) -> None:
        """Add every curve at the cost of the policy, the area under it, and the single points."""
        total = sum(self.costs.values())
        for method in self.report.methods("accuracy on the curve"):
            costs, accuracies = self._line(method)
            if not len(costs):
                continue
            if method != MAIN:
                value = float(np.interp(self.cost, costs, accuracies))
                self.report.add(method, "accuracy", value, self.seed, cost=min(self.cost, float(costs[-1])))
                self.report.add(method, "cost", min(self.cost, float(costs[-1])), self.seed)
            if total > 0:
                self.report.add(method, "area", area_under_cost_curve(costs, accuracies, total), self.seed)
        for method, cost, accuracy in self.points:
            self.report.add(method, "accuracy", accuracy, self.seed, cost=cost)
            self.report.add(method, "cost", cost, self.seed)

    def _line(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Return ascending costs and accuracies of a curve, from cost 0; points of equal cost are averaged."""
        return curve_of(self.report, method, self.seed, self.majority.accuracy(self.goal["test"]))

    def study_sensitivity(self) -> None:
        """Add accuracy and cost by number of neighbors and trade-off."""
        start = time.perf_counter()
        around = [(self.policy.trade_off_ or 0.02) * factor for factor in (0.5, 1.0, 2.5)]
        for count in sorted({min(count, len(self.goal["train"]) - 1) for count in NEIGHBORS}):
            curve = self.policy.curve(self.known["test"], self.goal["test"], around, neighbors=count)
            for price, accuracy, cost in zip(curve.trade_off, curve.accuracy, curve.cost, strict=True):
                more: dict[str, Any] = {"cost": cost, "neighbors": count, "trade_off": price}
                self.report.add(MAIN, "accuracy by setting", accuracy, self.seed, **more)
        self.report.took("sensitivity", start)


def subset_cost(costs: dict[str, float]) -> float:
    """Total cost of all experts."""
    return math.fsum(costs.values())


def curve_of(report: Report, method: str, seed: int, majority: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a rule's curve of one seed: ascending costs and accuracies, from the majority-class baseline at cost 0.

    Args:
        report: Report with the points.
        method: Name of the rule.
        seed: Seed of the run.
        majority: Accuracy at cost 0, that of the majority-class baseline.
    """
    rows = report.select(method=method, metric="accuracy on the curve", seed=seed)
    points = [(row["cost"], row["value"]) for row in rows]
    if not points:
        return np.zeros(0), np.zeros(0)
    points = [(0.0, majority), *[(cost, value) for cost, value in points if cost > 0]]
    costs = np.unique([cost for cost, _ in points])
    return costs, np.array([np.mean([value for other, value in points if other == cost]) for cost in costs])
