"""FrugalFoE's protocol: a query policy, its accuracy-cost curve, and baselines at the same cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lightning_fusion.costs import costs_in_order
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.views.role import with_roles
from lightning_fusion.errors import InputError
from lightning_fusion.experts.costs import measure_costs
from lightning_fusion.experts.outputs.recorded import RecordedPredictions
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.recipes.frugal.inspecting import inspect_policy
from lightning_fusion.recipes.frugal.report import abstention_table, figures, sensitivity_table
from lightning_fusion.recipes.frugal.rows import COVERAGES, MAIN, MAJORITY, SIMPLICITY
from lightning_fusion.recipes.frugal.study import Study
from lightning_fusion.recipes.report import Figures, Report
from lightning_fusion.recipes.runner import Recipe, Run, check_seeds, run_recipe
from lightning_fusion.recipes.seed_run import (
    SeedRun,
    check_domains,
    check_no_domain,
    data_notes,
    describe_arguments,
    describe_data,
    source_of,
)
from lightning_fusion.recipes.stored import StoredOutputs, check_sources, seeds_of
from lightning_fusion.trackers.base import without_none

_TRAINING = ("expert_epochs", "optimizer", "scheduler", "label_smoothing", "mixup")


def frugal(
    output: str,
    data: FusionDataModule | None = None,
    network: Callable[[int], nn.Module] | None = None,
    stores: list[str] | None = None,
    predictions: RecordedPredictions | None = None,
    seeds: list[int] | None = None,
    expert_epochs: int = 10,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    costs: Literal["stored", "flops", "latency"] | list[float] | dict[str, float] = "stored",
    trade_off: float | None = 0.02,
    budget: float | None = None,
    neighbors: int | None = None,
    fuser_neighbors: int = 9,
    trade_offs: list[float] | None = None,
    variants: bool = True,
    exhaustive: bool = True,
    validation_rows: int | None = None,
    test_rows: int | None = None,
    unseen_domains: list[str] | None = None,
    trainer: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Fit FrugalFoE, draw its accuracy-cost curve, and compare it with baselines on the same samples.

    For each seed: experts are trained and their outputs cached, as in the recipe ``foe``, or an existing store is
    read. The policy is fitted on the training split; every baseline is fitted on the same samples; all are tested on
    the test split. Methods are compared at the mean cost of FrugalFoE: accuracies between two points of a curve are
    interpolated (a fraction of the samples is predicted as at either point), and a method that cannot spend as much is
    compared at its most expensive point.

    Args:
        output: Folder of the run.
        data: The data, in the ``fuser`` role; its domains are the experts'. Where the data module has no roles, the
            fuser is trained on the validation split (:class:`~lightning_fusion.data.views.role.RoleDataModule`).
        network: Factory of an expert's network, called with the number of classes.
        stores: Instead of data and network, folders of stored outputs, one for each seed.
        predictions: Instead, predictions that were recorded in CSV files.
        seeds: Random seeds, one run each; [0] by default, or 0, 1, ... for stores.
        expert_epochs: Epochs of each expert.
        optimizer: Optimizer of the experts; AdamW, 1e-3, weight decay 1e-4 by default.
        scheduler: Schedule of the experts, stepping each epoch; cosine annealing to 0 by default.
        label_smoothing: Label smoothing of the experts.
        mixup: Mixup alpha of the experts; 0 turns it off.
        costs: ``stored``: the experts' own costs, 1 by default; measured ``flops`` or ``latency``, relative to
            the mean expert, which need data; or one number per expert.
        trade_off: Trade-off of the policy in the table and in the files; ``None`` with a budget.
        budget: Instead of it, the maximum mean cost of the policy on its training samples.
        neighbors: M; ``None`` (default) means min(N - 1, 50) for N samples.
        fuser_neighbors: Voters of the kNN fuser.
        trade_offs: Trade-offs of the curves, in addition to ``trade_off``; ``None`` (default) means eight from 1 to
            0.01 per mean cost of an expert.
        variants: Compare other fusers, risk estimators and searches as well.
        exhaustive: For 10 experts at most, also compare the best of all static subsets of each cost: 2^K fusers, which
            takes minutes with thousands of samples.
        validation_rows: Number of samples of the training split to use, drawn at random. ``None`` (default) uses all.
        test_rows: Number of samples of the test split to use, drawn at random. ``None`` (default) uses all.
        unseen_domains: Out of distribution: the policy and every baseline are fitted on samples of the other domains
            only and tested on samples of these. Their experts may still be queried. The policy fitted on all domains is
            a row of the table, for comparison.
        trainer: Arguments of every stage's Trainer; :class:`~lightning_fusion.recipes.trainers.Trainers` lists
            them.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``: ``results.json``, ``report.md``, figures, and for each seed the
        fitted policy, and the experts and their outputs where experts are trained.

    Raises:
        InputError: If ``output`` contains another run, or arguments contradict one another.
    """
    check_sources(frugal, locals(), _TRAINING)
    recorded = describe_arguments(locals(), "stores", "predictions")
    seeds = seeds_of(seeds, stores)
    check_seeds(seeds)
    if data is None and costs in ("flops", "latency"):
        raise InputError(f"costs: {costs} is measured on experts and data, which stores do not contain; give numbers")
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
    expert = {"optimizer": optimizer, "scheduler": scheduler, "label_smoothing": label_smoothing, "mixup": mixup}
    stored: StoredOutputs | None = None
    if data is None:
        unused = ("network", *_TRAINING)
        recorded = {name: value for name, value in recorded.items() if name not in unused}
        stored = StoredOutputs.open(stores, predictions, seeds, needed=("train", "test"))
        source, pools = stored.source, [each.names for each in stored.outputs.values()]
    else:
        check_no_domain(data)
        data = with_roles(data)
        data.prepare_data()
        check_domains(data)
        recorded |= describe_data(data)
        source, pools = source_of(data), [data.domains]
    for names in pools:
        if costs is not None and not isinstance(costs, str):
            costs_in_order(costs, names)  # before experts are trained
    recipe = _Frugal(
        name="frugal",
        main=MAIN,
        config=recorded,
        title="test accuracy at the mean cost of FrugalFoE",
        beside=("cost", "area"),
        simplicity=SIMPLICITY,
        data=data,
        stored=stored,
        source=source,
        expert={"network": network, **expert},
        expert_epochs=expert_epochs,
        costs=costs,
        policy=policy_arguments,
        trade_offs=trade_offs,
        variants=variants,
        exhaustive=exhaustive,
        rows={"train": validation_rows, "test": test_rows},
        unseen=unseen_domains or [],
    )
    return run_recipe(recipe, output, seeds, trainer, overwrite)


@dataclass(kw_only=True)
class _Frugal(Recipe):
    data: FusionDataModule | None
    stored: StoredOutputs | None
    """Cached outputs by seed, in place of data."""
    source: str
    expert: dict[str, Any]
    """Arguments of the experts' modules."""
    expert_epochs: int
    costs: Any
    policy: dict[str, Any]
    trade_offs: list[float] | None
    variants: bool
    exhaustive: bool
    rows: dict[str, int | None]
    unseen: list[str]

    def of_seeds(self, seeds: Sequence[int]) -> dict[int, Any]:
        """The stores; they contain the data of all seeds."""
        return super().of_seeds(seeds) if self.stored is None else self.stored.record(seeds)

    def run_seed(self, run: Run, seed: int) -> None:
        """Train the experts and cache their outputs, or read a store; fit the policy and compare it."""
        price = self.costs if isinstance(self.costs, list | dict) else None
        folder = run.folder / f"seed_{seed}"
        one = SeedRun(run, self.data and self.data.variant(seed=seed), seed)
        if self.stored is not None:
            run.report.notes += self.stored.notes[seed]
            outputs = one.keep(self.stored.outputs[seed])
        else:
            experts = one.train_experts(self.expert, self.expert_epochs)
            outputs = one.collect(experts)
            if self.costs in ("flops", "latency"):
                price = measure_costs(ExpertPool(experts, outputs.classes), _example(one.data), self.costs)
        self.last = study = Study(outputs, price, self.rows, self.unseen, seed, self.trade_offs, run)
        study.study_policy(self.policy, folder / "policy")
        with run.trainers.tracking.recording(f"seed_{seed}/policy") as trackers:
            for tracker in trackers:
                tracker.log_hyperparameters({"recipe": self.name, **without_none(self.policy)})
                tracker.logger.log_metrics({"test_cost": study.cost})
                tracker.log_file("policy", folder / "policy", "policy")
        if self.unseen:
            study.study_seen(self.policy)
        if self.variants:
            study.study_variants(self.policy)
        study.study_baselines(self.exhaustive)
        study.compare()
        study.validate()
        study.study_sensitivity()

    def conclude(self, run: Run) -> None:
        """Describe the policy, its abstention, and its comparison with the majority-class baseline."""
        report, last = run.report, self.last
        if self.stored is None:
            report.serving = {"experts": last.outputs.names, "classes": last.outputs.classes}
        report.notes += data_notes(self.data)
        report.data = {
            "source": self.source,
            "classes": len(last.outputs.classes),
            "experts": len(last.policy.names),
            "costs": ", ".join(
                f"{name} {cost:.3g}" for name, cost in zip(last.policy.names, last.policy.costs_, strict=True)
            ),
            "rows": f"{len(last.goal['train'])} in the calibration set, {len(last.goal['test'])} test samples",
            "trade-off and neighbors": f"{last.policy.trade_off_:.4g}, {last.policy.neighbors_}",
        }
        answered = {share: report.values(MAIN, f"accuracy at {share:.0%} coverage") for share in COVERAGES}
        report.text = [
            "Rules with an accuracy-cost curve are compared at FrugalFoE's mean cost, or at their most expensive point "
            "where that costs less; rules without a curve are listed at their own cost. *Area* is the mean accuracy "
            "over all budgets from 0 to the cost of all experts. The best single expert predicts directly; random and "
            "static subsets, including subsets of one expert, use the kNN fuser.",
            "",
            *sensitivity_table(report),
            "",
            "With M neighbors the estimated error changes in steps of 1 / M; smaller trade-offs are equivalent.",
            "",
            "Accuracy by coverage, samples of lowest risk first, mean over seeds (a policy with abstain_above abstains "
            "on samples above that risk): "
            + ", ".join(f"{share:.0%} coverage {np.mean(values):.3f}" for share, values in answered.items())
            + ".",
        ]
        own, majority = (float(np.mean(report.values(method))) for method in (MAIN, MAJORITY))
        if own < majority:
            report.notes.append(
                f"{MAIN} ({own:.3f}) is below the {MAJORITY} ({majority:.3f}): the experts are too weak, the trade-off "
                "is too high, or the calibration set is too small."
            )
        if last.abstaining:
            report.text += ["", *abstention_table(report, last)]

    def figures(self, run: Run) -> Figures:
        """The accuracy-cost curve, the queries of the policy, and its abstention."""
        return figures(run.report, self.last)

    def inspection(self, run: Run) -> dict[str, Any]:
        """Test samples of the policy of the table, last seed."""
        return inspect_policy(self.last).record()


def _example(data: FusionDataModule) -> Any:
    """A batch of test samples on the device, as the experts receive it."""
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    return data.on_after_batch_transfer(batch, 0).input
