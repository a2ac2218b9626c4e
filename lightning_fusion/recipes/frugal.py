"""FrugalFoE's protocol: one policy, its whole accuracy-cost curve, and what it must beat at the same cost."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from rich.console import Console
from torch import nn

from lightning_fusion.baselines import BestSingle, LogisticStacking
from lightning_fusion.baselines.frugal import (
    CostPoint,
    best_static_subsets,
    cheapest_right,
    confidence_cascade,
    exhaustive_subsets,
    frugal_ml,
    random_subsets,
    subset_point,
    zero_cost,
)
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.roles import with_roles
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.costs import measure_costs
from lightning_fusion.experts.outputs import ExpertOutputs
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.foe.frugal import FrugalCurve, FrugalFoE
from lightning_fusion.foe.reading import read_costs
from lightning_fusion.foe.risk import ParametricRisk
from lightning_fusion.foe.subset_fusers import MaskedMLPFuser
from lightning_fusion.metrics.drawing import plain_names
from lightning_fusion.metrics.selective import RiskCoverage, area_under_cost_curve, risk_coverage
from lightning_fusion.recipes.experts import (
    SeedRun,
    check_domains,
    check_seeds,
    describe,
    describe_data,
    quiet_lightning,
    source_of,
)
from lightning_fusion.recipes.report import Report, claim_folder

MAIN, SEEN = "FrugalFoE", "FrugalFoE (validation of all domains)"
CONFIDENT, AVERAGE = "all experts, most confident", "all experts, softmax average"
IN_SCOPE, TOLD_APART = "accuracy in scope", "AUROC of the risk, out of scope against in scope"
HALF_ANSWERED, SCOPE_ANSWERED = "error with half the samples answered", "error with as many answered as are in scope"
NOBODY = "nobody (most frequent class)"
ANSWERED = (1.0, 0.9, 0.8, 0.7, 0.5)
"""Shares of the samples, those of least risk, whose accuracy the report tells."""
TRADE_OFFS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
"""Trade-offs of the curves, unless others are given."""
_NEIGHBORS = (10, 20, 50, 100)  # of the sensitivity table
_MOST_EXHAUSTIVE = 10  # experts
_MARKERS = {
    "best single expert": "s",
    "all experts, kNN": "^",
    "all experts, masked MLP": "D",
    "all experts, logistic stacking": "v",
    NOBODY: "x",
    "oracle (cheapest right one)": "*",
}
"""Rules without a curve, as the picture marks them."""
BY_PROBABILITY = f"{MAIN}, by its probability"


def frugal(
    output: str,
    data: FusionDataModule | None = None,
    network: Callable[[int], nn.Module] | None = None,
    stores: list[str] | None = None,
    seeds: list[int] | None = None,
    expert_epochs: int = 10,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    costs: Literal["stored", "flops", "latency"] | list[float] | dict[str, float] = "stored",
    trade_off: float = 0.02,
    budget: float | None = None,
    neighbors: int | None = None,
    fuser_neighbors: int = 9,
    trade_offs: list[float] | None = None,
    variants: bool = True,
    exhaustive: bool = True,
    validation_rows: int | None = None,
    test_rows: int | None = None,
    unseen_domains: list[str] | None = None,
    accelerator: str = "auto",
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    overwrite: bool = False,
) -> Report:
    """Fit FrugalFoE, draw its accuracy-cost curve, and compare it with cheaper and dearer rules on the same rows.

    For each seed: experts are trained and asked once, as in the recipe ``foe``, or a store that is there already is
    read. The policy is fitted on the training split; every rule makes its choices on the same rows; all are tested on
    the test split. Rules are compared at the mean cost of FrugalFoE: accuracies between two points of a curve are
    interpolated (a share of the samples is answered as at either point), and a rule that cannot spend as much is taken
    at its dearest point.

    Args:
        output: Folder of the run.
        data: The data, in the ``fuser`` role; its domains are the experts'. Where the data module has no roles, the
            fuser has its validation split (:class:`~lightning_fusion.data.roles.RoleDataModule`).
        network: Called with a number of classes, gives an expert's network.
        stores: Instead of data and network, folders of stored outputs, one for each seed.
        seeds: One run each; [0] where None, or 0, 1, ... for stores.
        expert_epochs: Epochs of each expert.
        optimizer: Of the experts; AdamW, 1e-3, weight decay 1e-4 where None.
        scheduler: Of the experts, stepping each epoch; a cosine to 0 where None.
        label_smoothing: Of the experts.
        mixup: Of the experts, its alpha; 0 turns it off.
        costs: ``stored``: what each expert says of itself, 1 by default; measured ``flops`` or ``latency``, relative to
            the mean expert, which need data; or one number per expert.
        trade_off: Of the policy in the table and in the files.
        budget: Instead of it, the mean cost that the policy may have on its own rows.
        neighbors: M; as many as resolve the price where None.
        fuser_neighbors: Voters of the kNN fuser.
        trade_offs: Of the curves.
        variants: Compare other fusers, risk estimators and searches as well.
        exhaustive: For 10 experts at most, also compare the best of all static subsets of each cost: 2^K fusers, which
            takes minutes with thousands of rows.
        validation_rows: Rows of the training split to use, drawn at random; all where None.
        test_rows: Rows of the test split to use, drawn at random; all where None.
        unseen_domains: Out of distribution: the policy, and every rule, learns from rows of other domains alone, and is
            tested on rows of these. Their experts may still be asked. The policy of all domains' rows is a row of
            the table, for comparison.
        accelerator: Lightning's name of the device.
        precision: Lightning's name of the precision of the experts.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``: ``results.json``, ``report.md``, pictures, and for each seed the
        fitted policy, beside the experts and their outputs where they were made here.

    Raises:
        InputError: If ``output`` holds another run, or arguments contradict one another.
    """
    if (stores is None) == (data is None):
        raise InputError("give data and network to train experts, or stores of what experts said: one of both")
    if data is not None and network is None:
        raise InputError("network: experts need one; or give stores instead of data")
    if seeds is None:
        seeds = list(range(len(stores))) if stores else [0]
    check_seeds(seeds)
    if stores is not None and len(stores) != len(seeds):
        raise InputError(f"stores: found {len(stores)} for {len(seeds)} seeds; expected one for each")
    if stores is not None and costs in ("flops", "latency"):
        raise InputError(f"costs: {costs} is measured on experts and data; stores hold neither: give numbers")
    for name, value in (("validation_rows", validation_rows), ("test_rows", test_rows)):
        if value is not None and value < 2:
            raise InputError(f"{name} is {value}; expected at least 2")
    policy_arguments = {
        "trade_off": trade_off,
        "budget": budget,
        "neighbors": neighbors,
        "fuser_neighbors": fuser_neighbors,
    }
    FrugalFoE(**policy_arguments)  # type: ignore[arg-type]  # wrong numbers stop here, not after the training
    if any(not 0 <= price < math.inf for price in trade_offs or ()):
        raise InputError(f"trade_offs: found {trade_offs}; expected numbers >= 0")
    prices = sorted({*(trade_offs or TRADE_OFFS), trade_off}, reverse=True)
    config = {
        "seeds": seeds,
        "costs": costs,
        **policy_arguments,
        "trade_offs": prices,
        "variants": variants,
        "exhaustive": exhaustive,
        "validation_rows": validation_rows,
        "test_rows": test_rows,
        "unseen_domains": unseen_domains,
    }
    opened: list[ExpertOutputs] = []
    if stores is not None:
        opened = [ExpertOutputs.open(store) for store in stores]
        config["stores"] = [store.fingerprints | {"experts": store.experts} for store in opened]
    else:
        assert data is not None
        data = with_roles(data)
        data.prepare_data()
        check_domains(data)
        config |= describe_data(data, seeds[0]) | {
            "network": describe(network),
            "expert_epochs": expert_epochs,
            "optimizer": describe(optimizer),
            "scheduler": describe(scheduler),
            "label_smoothing": label_smoothing,
            "mixup": mixup,
            "precision": precision,
        }
    if isinstance(costs, list | dict):
        for names in [store.names for store in opened] if data is None else [data.domains]:
            if isinstance(costs, list):
                if len(costs) != len(names):
                    raise InputError(f"costs: found {len(costs)} for {len(names)} experts ({shorten(names)})")
            elif set(costs) != set(names):
                differ = shorten(sorted(set(costs) ^ set(names)))
                raise InputError(f"costs: expected one for each of {shorten(names)}; found {shorten(costs)}: {differ}")
    folder, resumed = claim_folder(output, "frugal", config, overwrite)
    console = Console(markup=False)
    if resumed:
        console.print(f"going on with the run in {folder}")
    report = Report("frugal", config, title="test accuracy at the mean cost of FrugalFoE", beside=("cost", "area"))
    last: _Study | None = None
    with quiet_lightning():
        for number, seed in enumerate(seeds):
            seed_folder = folder / f"seed_{seed}"
            seed_folder.mkdir(exist_ok=True)
            price = costs if isinstance(costs, list | dict) else None
            if data is None:
                outputs = opened[number]
            else:
                run = SeedRun(data.variant(seed=seed), seed, seed_folder, report, console, {"accelerator": accelerator})
                arguments = {
                    "network": network,
                    "optimizer": optimizer,
                    "scheduler": scheduler,
                    "label_smoothing": label_smoothing,
                    "mixup": mixup,
                }
                experts = run.train_experts(arguments, expert_epochs, precision)
                outputs = run.collect(experts)
                if costs in ("flops", "latency"):
                    price = measure_costs(ExpertPool(experts, outputs.classes), _example(run.data), costs)
            rows = {"train": validation_rows, "test": test_rows}
            last = _Study(outputs, price, rows, unseen_domains or [], seed, prices, report, console)
            last.study_policy(policy_arguments, seed_folder / "policy")
            if unseen_domains:
                last.study_seen(policy_arguments)
            if variants:
                last.study_variants(policy_arguments)
            last.study_baselines(exhaustive)
            last.compare()
            last.study_sensitivity()
    assert last is not None
    report.data = {
        "source": source_of(data) if data is not None else shorten(stores or []),
        "classes": len(last.outputs.classes),
        "experts": len(last.policy.names),
        "costs": ", ".join(
            f"{name} {cost:.3g}" for name, cost in zip(last.policy.names, last.policy.costs_, strict=True)
        ),
        "rows": f"{len(last.goal['train'])} to fit the policy, {len(last.goal['test'])} to test it",
        "trade-off and neighbours": f"{last.policy.trade_off_:.4g}, {last.policy.neighbors_}",
    }
    answered = {share: report.values(MAIN, f"accuracy with {share:.0%} answered") for share in ANSWERED}
    report.text = [
        "Rules with a curve are read off it at FrugalFoE's mean cost, or stand at their dearest point where that costs "
        "less; rules without one stand at their own cost. *Area* is the mean accuracy over all budgets from nothing to "
        "asking everybody. The best single expert answers by itself; random and static subsets, of one expert too, "
        "answer through the kNN fuser.",
        "",
        *_sensitivity_table(report),
        "",
        "With M neighbours errors move in steps of 1 / M: trade-offs below that are the same.",
        "",
        "Answering those of least risk alone (mean over seeds; abstain_above of a policy is the risk above which it "
        "leaves a sample to somebody else): "
        + ", ".join(f"{share:.0%} answered {np.mean(values):.3f}" for share, values in answered.items())
        + ".",
    ]
    own, nobody = (float(np.mean(report.values(method))) for method in (MAIN, NOBODY))
    if own < nobody:
        report.notes.append(
            f"{MAIN} ({own:.3f}) is below {NOBODY} ({nobody:.3f}), which asks no expert at all: the experts are too "
            "weak, the trade-off too high, or the policy has too few rows."
        )
    if last.abstaining:
        report.text += ["", *_abstention_table(report, last)]
    report.save(folder, MAIN, {})  # the figures are safe before anything is drawn
    report.save(folder, MAIN, _draw(report, folder, last) | (_draw_abstention(last, folder) if last.abstaining else {}))
    report.print(MAIN, folder, console)
    return report


def _example(data: FusionDataModule) -> Any:
    """A batch of test samples, as the experts are asked about them."""
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    return data.on_after_batch_transfer(batch, 0).input


class _Fusion:
    """The policy's own fuser on any subset, for the rules that ask the same experts about every sample."""

    def __init__(self, policy: FrugalFoE, outputs: dict[str, Any]) -> None:
        self.policy, self.outputs = policy, outputs

    def error(self, subset: Sequence[int]) -> float:
        return self.policy.error([self.policy.names[k] for k in subset])

    def predict(self, subset: Sequence[int]) -> np.ndarray:
        return self.policy.fuse([self.policy.names[k] for k in subset], self.outputs).argmax(1).cpu().numpy()


class _Study:
    """One seed: the policy, its variants and its rivals on the same rows."""

    def __init__(
        self,
        outputs: ExpertOutputs,
        costs: list[float] | dict[str, float] | None,
        rows: dict[str, int | None],
        unseen: Sequence[str],
        seed: int,
        trade_offs: Sequence[float],
        report: Report,
        console: Console,
    ) -> None:
        self.outputs, self.seed, self.trade_offs, self.report, self.console = outputs, seed, trade_offs, report, console
        stored = {name: float(fact["cost"]) for name, fact in outputs.experts.items()}
        self.costs = dict(zip(outputs.names, read_costs(costs, outputs.names, stored), strict=True))
        self.arrays: dict[str, np.ndarray] = {}  # (N, K, C)
        self.goal: dict[str, np.ndarray] = {}
        self.limits, self.unseen = rows, unseen
        for split in rows:
            self.arrays[split], self.goal[split] = self._rows(split, not_of=split == "train")
        self.known = {
            split: dict(zip(outputs.names, array.swapaxes(0, 1), strict=True)) for split, array in self.arrays.items()
        }
        self.points: list[tuple[str, float, float]] = []
        self.nobody = zero_cost(self.goal["train"], len(self.goal["test"]), len(outputs.names))

    def _rows(self, split: str, not_of: bool) -> tuple[np.ndarray, np.ndarray]:
        """Outputs (N, K, C) and targets (N,) of the rows in use: those not of the unseen domains, or of them alone."""
        target, domains = np.asarray(self.outputs[split].target), self.outputs.domains
        chosen = np.arange(len(target))
        if self.unseen:
            if unknown := [name for name in self.unseen if name not in domains]:
                raise InputError(f"unseen_domains: found {shorten(unknown)}; the domains are {shorten(domains, 20)}")
            columns = [domains.index(name) for name in self.unseen]
            of_them = np.asarray(self.outputs[split].domain, bool)[:, columns].any(1)
            chosen = np.flatnonzero(~of_them if not_of else of_them)
            if len(chosen) < 2:
                raise InputError(
                    f"unseen_domains: {len(chosen)} {split} rows are {'not ' if not_of else ''}of "
                    f"{shorten(self.unseen)}; two are needed at least: leave some domains to learn from"
                )
        if (limit := self.limits[split]) is not None and limit < len(chosen):
            chosen = np.sort(np.random.default_rng(self.seed).choice(chosen, limit, replace=False))
        return self.outputs.scattered(split)[chosen], target[chosen]

    # --------------------------------------------------------------- policies

    def study_seen(self, arguments: dict[str, Any]) -> None:
        """The policy that had rows of the unseen domains as well: what not knowing them costs."""
        held, self.unseen = self.unseen, []
        array, goal = self._rows("train", not_of=True)
        self.unseen = held
        known, own = dict(zip(self.outputs.names, array.swapaxes(0, 1), strict=True)), (self.known, self.goal)
        self.known, self.goal = self.known | {"train": known}, self.goal | {"train": goal}
        self._fit(SEEN, arguments)
        self.known, self.goal = own

    def study_policy(self, arguments: dict[str, Any], folder: Path) -> None:
        """The policy of the table: its curve, whom it asks, and how its risks order the samples."""
        self.policy, curve = self._fit(MAIN, arguments)
        self.policy.classes, self.policy.experts = self.outputs.classes, self.outputs.experts
        self.policy.save(folder)
        trade_off = self.policy.trade_off_
        if trade_off in curve.trade_off:
            self.answer = curve.predictions[curve.trade_off.index(trade_off)]
        else:  # a budget found it
            self.answer = self.policy.curve(self.known["test"], self.goal["test"], [trade_off]).predictions[0]
        right = self.answer.probabilities.argmax(1).cpu().numpy() == self.goal["test"]
        self.cost = float(self.answer.cost.mean())
        self.report.add(MAIN, "accuracy", right.mean(), self.seed, cost=self.cost, experts_asked=self._asked())
        self.report.add(MAIN, "cost", self.cost, self.seed)
        self.coverage = risk_coverage(self.answer.risk.cpu().numpy(), ~right)
        self.report.add(MAIN, "area under risk and coverage", self.coverage.area, self.seed)
        for share in ANSWERED:
            value = 1 - np.interp(share, self.coverage.coverage, self.coverage.error)
            self.report.add(MAIN, f"accuracy with {share:.0%} answered", value, self.seed)
        self._abstain()
        self.report.add(MAIN, "share of far samples", float(self.answer.far.float().mean()), self.seed)
        for sign in self.policy.signs(self.answer):
            self.report.notes.append(f"Seed {self.seed}: {sign}.")

    def _abstain(self) -> None:
        """Where some test rows have a class that no expert knows: do the risks tell them apart?"""
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
                self.report.add(method, "area under risk and coverage", curve.area, self.seed)
            for metric, value in (
                (IN_SCOPE, right[~self.unknown].mean()),
                (TOLD_APART, roc_auc_score(self.unknown, risk)),
                (HALF_ANSWERED, np.interp(0.5, curve.coverage, curve.error)),
                (SCOPE_ANSWERED, np.interp((~self.unknown).mean(), curve.coverage, curve.error)),
            ):
                self.report.add(method, metric, value, self.seed)

    def study_variants(self, arguments: dict[str, Any]) -> None:
        """Other fusers, risks and searches."""
        rows = len(self.goal["train"])
        variants: dict[str, dict[str, Any]] = {
            "FrugalFoE (M = 10, two at least)": {
                "neighbors": min(10, rows),
                "min_queries": min(2, len(self.outputs.names)),
                "leave_one_out": False,
            },
            "FrugalFoE (masked MLP)": {"fuser": MaskedMLPFuser(seed=self.seed)},
            "FrugalFoE (parametric risk)": {"risk": ParametricRisk(seed=self.seed)},
        }
        if len(self.outputs.names) <= _MOST_EXHAUSTIVE:
            variants["FrugalFoE (exhaustive search)"] = {"look_ahead": len(self.outputs.names)}
        for method, changes in variants.items():
            try:
                policy = self._fit(method, arguments | changes)[0]
            except InputError as error:  # a budget that two questions exceed, say: the others can be compared still
                self.report.notes.append(f"Seed {self.seed}: {method} left out: {error}.")
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
            curve = policy.curve(self.known["test"], self.goal["test"], self.trade_offs)
        if method == MAIN:
            self.report.notes += [f"Seed {self.seed}: {warning.message}." for warning in caught]
        for price, accuracy, cost, asked in zip(curve.trade_off, curve.accuracy, curve.cost, curve.asked, strict=True):
            self._curve_point(method, price, accuracy, cost, asked)
        seconds = time.perf_counter() - start
        self.report.seconds["policies"] = self.report.seconds.get("policies", 0.0) + seconds
        place = int(np.argmin(np.abs(np.array(curve.trade_off) - policy.trade_off_)))
        self.console.print(
            f"seed {self.seed}  {method}: accuracy {curve.accuracy[place]:.3f} at cost {curve.cost[place]:.2f}, "
            f"{seconds:.0f} s"
        )
        return policy, curve

    def _asked(self) -> float:
        return float(self.answer.asked.sum(1).double().mean())

    # -------------------------------------------------------------- baselines

    def study_baselines(self, exhaustive: bool) -> None:
        """Rules that ask some experts, with choices made on the policy's rows."""
        start = time.perf_counter()
        train, test, costs = self.arrays["train"], self.arrays["test"], np.array(list(self.costs.values()))
        fusion = _Fusion(self.policy, self.known["test"])
        rules: dict[str, list[CostPoint]] = {
            "random subsets": random_subsets(fusion, costs, seed=self.seed),
            "static subset (greedy)": best_static_subsets(fusion, costs, empty_error=self._nobody_error()),
        }
        if exhaustive and len(costs) <= _MOST_EXHAUSTIVE:
            rules["static subset (exhaustive)"] = exhaustive_subsets(fusion, costs)
        rules |= {
            "cascade by confidence": confidence_cascade(test, train, self.goal["train"], costs),
            "FrugalML-style": frugal_ml(test, train, self.goal["train"], costs),
        }
        for method, points in rules.items():
            if method == "random subsets":  # the mean of the draws of one size
                sizes: dict[int, list[CostPoint]] = {}
                for point in points:
                    sizes.setdefault(round(point.experts), []).append(point)
                for size, some in sizes.items():
                    accuracy = float(np.mean([point.accuracy(self.goal["test"]) for point in some]))
                    self._curve_point(method, size, accuracy, float(np.mean([point.cost for point in some])), size)
                continue
            for point in points:
                setting = point.setting if isinstance(point.setting, float) else math.nan
                self._curve_point(method, setting, point.accuracy(self.goal["test"]), point.cost, point.experts)
        single = BestSingle().fit(train, self.goal["train"])
        self._point("best single expert", costs[single.best], float((single.predict(test) == self.goal["test"]).mean()))
        everyone = subset_point(fusion, range(len(costs)), costs, held_out=False)
        self._point("all experts, kNN", everyone.cost, everyone.accuracy(self.goal["test"]))
        stacked = LogisticStacking().fit(train, self.goal["train"]).predict(test)
        self._point("all experts, logistic stacking", everyone.cost, float((stacked == self.goal["test"]).mean()))
        self._point(NOBODY, 0.0, self.nobody.accuracy(self.goal["test"]))
        oracle = cheapest_right(test, self.goal["test"], costs)
        self._point("oracle (cheapest right one)", oracle.cost, oracle.accuracy(self.goal["test"]))
        self.report.seconds["baselines"] = self.report.seconds.get("baselines", 0.0) + time.perf_counter() - start

    def _nobody_error(self) -> float:
        return float((self.goal["train"] != self.nobody.predicted[0]).mean())

    def _point(self, method: str, cost: float, accuracy: float) -> None:
        """A rule that has one cost; it stands below the curves."""
        self.points.append((method, float(cost), accuracy))

    def _curve_point(self, method: str, setting: float, accuracy: float, cost: float, asked: float) -> None:
        more: dict[str, Any] = {"setting": setting} if math.isfinite(setting) else {}
        self.report.add(method, "accuracy on the curve", accuracy, self.seed, cost=cost, experts_asked=asked, **more)

    def compare(self) -> None:
        """Every curve at the cost of the policy, the area under it, and the single points."""
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
        """Rising costs and accuracies of a curve, from nobody asked on; points of one cost as their mean."""
        return curve_of(self.report, method, self.seed, self.nobody.accuracy(self.goal["test"]))

    def study_sensitivity(self) -> None:
        """How accuracy and cost move with the number of neighbours and the trade-off."""
        start = time.perf_counter()
        around = [(self.policy.trade_off_ or 0.02) * factor for factor in (0.5, 1.0, 2.5)]
        for count in sorted({min(count, len(self.goal["train"]) - 1) for count in _NEIGHBORS}):
            curve = self.policy.curve(self.known["test"], self.goal["test"], around, neighbors=count)
            for price, accuracy, cost in zip(curve.trade_off, curve.accuracy, curve.cost, strict=True):
                more: dict[str, Any] = {"cost": cost, "neighbors": count, "trade_off": price}
                self.report.add(MAIN, "accuracy by setting", accuracy, self.seed, **more)
        self.report.seconds["sensitivity"] = self.report.seconds.get("sensitivity", 0.0) + time.perf_counter() - start


def subset_cost(costs: dict[str, float]) -> float:
    """What asking everybody costs."""
    return math.fsum(costs.values())


def curve_of(report: Report, method: str, seed: int, nobody: float) -> tuple[np.ndarray, np.ndarray]:
    """A rule's curve of one seed: rising costs and accuracies, from the answer that asks nobody on.

    Args:
        report: Holds the points.
        method: Name of the rule.
        seed: Of the run.
        nobody: Accuracy at cost 0.
    """
    points = [
        (row["cost"], row["value"])
        for row in report.rows
        if (row["method"], row["metric"], row["seed"]) == (method, "accuracy on the curve", seed)
    ]
    if not points:
        return np.zeros(0), np.zeros(0)
    points = [(0.0, nobody), *[(cost, value) for cost, value in points if cost > 0]]
    costs = np.unique([cost for cost, _ in points])
    return costs, np.array([np.mean([value for other, value in points if other == cost]) for cost in costs])


def _sensitivity_table(report: Report) -> list[str]:
    rows = [row for row in report.rows if row["metric"] == "accuracy by setting"]
    prices = sorted({row["trade_off"] for row in rows})
    lines = ["Accuracy of FrugalFoE at a mean cost, by neighbours M and trade-off (mean over seeds):", ""]
    lines += ["| M | " + " | ".join(f"{price:.4g}" for price in prices) + " |", "|---" * (len(prices) + 1) + "|"]
    for count in sorted({row["neighbors"] for row in rows}):
        cells = []
        for price in prices:
            some = [row for row in rows if (row["neighbors"], row["trade_off"]) == (count, price)]
            cells.append(f"{np.mean([r['value'] for r in some]):.3f} at {np.mean([r['cost'] for r in some]):.2f}")
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return lines


def _abstention_table(report: Report, study: _Study) -> list[str]:
    metrics = (IN_SCOPE, TOLD_APART, "area under risk and coverage", HALF_ANSWERED, SCOPE_ANSWERED)
    lines = [
        f"Abstention: {int(study.unknown.sum())} of {len(study.unknown)} test samples are out of scope: no expert "
        "knows their class, so every answer to them is wrong and no accuracy above can reach 1. Samples are answered "
        "in the order of a rule's risk: FrugalFoE's estimate, or 1 - the largest probability (abstain_by: probability) "
        "(mean over seeds).",
        "",
        "| rule | " + " | ".join(metrics) + " |",
        "|---" * (len(metrics) + 1) + "|",
    ]
    for method in study.abstaining:
        cells = (f"{np.mean(report.values(method, metric)):.3f}" for metric in metrics)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


@plain_names
def _draw_abstention(study: _Study, folder: Path) -> dict[str, str]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.subplots()
    for method, curve in study.abstaining.items():
        main = method == MAIN
        style = "-" if main else "--"
        axes.plot(100 * curve.coverage, 100 * curve.error, style, label=method, color="black" if main else None)
    inside = 100 * float((~study.unknown).mean())
    axes.axvline(inside, color="grey", linewidth=0.8, label="as many as are in scope")
    axes.set(xlabel="share of samples answered (%), least risk first", ylabel="errors among them (%)", xlim=(0, 102))
    axes.set_ylim(bottom=0)
    axes.set_title("Abstaining on what no expert knows")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(folder / "abstention.png", dpi=130)
    return {"abstention.png": f"Risk and coverage over test samples in and out of scope, seed {study.seed}."}


@plain_names
def _draw(report: Report, folder: Path, study: _Study) -> dict[str, str]:
    """The three pictures of the report."""
    from matplotlib.figure import Figure

    seeds = sorted({row["seed"] for row in report.rows})
    total = subset_cost(study.costs)
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    whole, close = figure.subplots(1, 2)
    grid = np.linspace(0, total, 400)
    nobody = {
        row["seed"]: row["value"]
        for row in report.rows
        if row["method"].startswith("nobody") and row["metric"] == "accuracy"
    }
    for number, method in enumerate(report.methods("accuracy on the curve")):
        lines = [curve_of(report, method, seed, nobody[seed]) for seed in seeds]
        end = max(line[0][-1] for line in lines)
        place = grid[grid <= end + 1e-9]
        mean = np.mean([np.interp(place, *line) for line in lines], axis=0)
        main = method == MAIN
        style = "-" if main else (":" if method.startswith(MAIN) else "--")
        color = "black" if main else f"C{number}"
        for axes in (whole, close):
            axes.plot(place, mean, style, label=method, linewidth=2.6 if main else 1.6, color=color)
    single = {method: marker for method, marker in _MARKERS.items() if report.values(method)}
    for method, marker in single.items():
        cost, value = np.mean(report.values(method, "cost")), np.mean(report.values(method))
        for axes in (whole, close):
            axes.plot(cost, value, marker, label=method, color="tab:red", markersize=8)
    own = np.mean(report.values(MAIN, "cost")), np.mean(report.values(MAIN))
    for axes in (whole, close):
        axes.plot(*own, "o", color="black", label=f"{MAIN} in the table")
        axes.set(xlabel="mean cost per sample", ylabel="test accuracy")
        axes.grid(alpha=0.3)
    top = max(np.mean(report.values(method)) for method in report.methods() if not method.startswith("oracle"))
    close.set(ylim=(own[1] - 0.25 * (own[1] - 0.9 * min(nobody.values())), top + 0.02), title="The upper part")
    whole.set_title("What a sample costs, and what that buys")
    handles, labels = whole.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(folder / "curve.png", dpi=130)

    asked = study.answer.asked.cpu().numpy()
    names = study.policy.names
    figure = Figure(figsize=(9, 1.6 + 0.24 * max(8, len(names))), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = np.bincount(asked.sum(1), minlength=len(names) + 1)[1:] / len(asked)
    left.bar(range(1, len(names) + 1), 100 * counts, color="tab:blue")
    left.set(xlabel="experts asked", ylabel="share of samples (%)", title="How many")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.barh(range(len(names)), 100 * asked.mean(0), color="tab:green")
    right.set_yticks(range(len(names)), names, fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="share of samples (%)", title="Whom")
    figure.savefig(folder / "asked.png", dpi=130)

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(100 * study.coverage.coverage, 100 * study.coverage.error, ".-", color="tab:red")
    axes.set(
        xlabel="share of samples answered (%), least risk first",
        ylabel="errors among them (%)",
        xlim=(0, 102),
        title="Abstaining where the estimated risk is high",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.savefig(folder / "coverage.png", dpi=130)
    return {
        "curve.png": "Accuracy against mean cost, mean over seeds; lines join the points of a rule.",
        "asked.png": f"How many experts a sample asks, and whom: FrugalFoE on the test split, seed {study.seed}.",
        "coverage.png": f"Error among the answered samples when those of high risk are left out, seed {study.seed}.",
    }
