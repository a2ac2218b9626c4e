"""HaT's protocol: each domain in turn is a target with few labels that learns from selected other domains."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.hat.module import HaTJointModule
from lightning_fusion.hyperparameters import check_choices
from lightning_fusion.recipes.hat import report as hat_report
from lightning_fusion.recipes.hat.plan import (
    CORRUPTED,
    OF_RECIPE,
    OF_SELECTION,
    OF_TARGET,
    SIMPLICITY,
    STUDENT,
    STUDENTS,
    Plan,
)
from lightning_fusion.recipes.hat.report import LOCAL, MAIN, groups_of
from lightning_fusion.recipes.hat.seed import HaTSeed
from lightning_fusion.recipes.hat.students import check_students, read_settings
from lightning_fusion.recipes.report import Figures, Report
from lightning_fusion.recipes.runner import Recipe, Run, check_seeds, run_recipe
from lightning_fusion.recipes.seed_run import (
    check_domains,
    data_notes,
    describe_arguments,
    describe_data,
    expert_data,
    source_of,
)


def hat(
    data: FusionDataModule,
    networks: dict[str, Callable[[int], nn.Module]],
    features: str,
    output: str,
    seeds: list[int] | None = None,
    targets: list[str] | None = None,
    num_targets: int | None = None,
    labeled_fraction: float = 0.1,
    labeled_per_class: int | None = None,
    min_per_class: int = 1,
    keep_fraction: float = 0.5,
    num_sources: int = 5,
    source_epochs: int = 30,
    source_classes: int | None = None,
    corrupted_sources: int = 0,
    source_weights: Literal["float32", "int8"] = "float32",
    epochs: int = 60,
    publish_students: bool = False,
    guarded: bool = False,
    baselines: bool = True,
    student: dict[str, Any] | None = None,
    variants: dict[str, dict[str, Any]] | None = None,
    optimizer: OptimizerCallable | None = None,
    trainer: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Train a small model for each domain from few labels and selected models of other domains; compare with baselines.

    For each seed one source is trained per domain, with all labels of the domain, and published; architectures differ.
    Then each target domain keeps few labels, selects among the sources of *other groups* (people, sites: the data's
    ``groups``), and trains its small model. All methods are tested on the target's test split.

    Args:
        data: The data, with domains and, if several domains are of one group, ``groups``.
        networks: Architectures by name, each called with the number of classes. Domains take them in turn, as sources
            and as targets.
        features: Submodule of all networks whose output is the representation.
        output: Folder of the run.
        seeds: Random seeds, one run each; [0] by default.
        targets: Names of the target domains. ``None`` (default) means all.
        num_targets: Number of target domains, spaced evenly in their order. ``None`` (default) means all.
        labeled_fraction: Fraction of the target's training samples that keep their label.
        labeled_per_class: Number of labeled samples of each class, instead of ``labeled_fraction``.
        min_per_class: Minimum number of labeled samples of each class, with ``labeled_fraction``.
        keep_fraction: Fraction of the sources whose models are evaluated.
        num_sources: Number of sources to select.
        source_epochs: Epochs of each source.
        source_classes: Number of classes of each source, two or more; a source is trained on samples of its classes
            only. They are drawn with the seed and the source's name, classes of the fewest earlier sources first, so
            that the sources cover all classes where possible. The row "local model, all labels" is then of another
            model, which has all classes.
        corrupted_sources: Number of the sources that each target may choose from, drawn with the seed, that are
            replaced by models trained on permuted labels, each class under the name of another.
        source_weights: Type in which sources are published; ``int8`` transfers about a quarter of the bytes.
        epochs: Epochs of each model of a target.
        publish_students: Publish the student of each target as a source ``NAME_student``, with centroids of its few
            labeled samples, which later targets of other groups may select. It counts as a source in every row of the
            table.
        guarded: Also evaluate the guard, which returns the local model if it is better on folds of the labels; six more
            trainings for each target.
        baselines: Also train the students and fusers of the comparison.
        student: Arguments of :class:`~lightning_fusion.HaTJointModule` of the main student, by name.
        variants: Further students by name: the main student with other arguments of
            :func:`~lightning_fusion.select_sources`, :class:`~lightning_fusion.data.views.target.TargetDataModule`
            (labeled fraction) and :class:`~lightning_fusion.HaTJointModule`.
        optimizer: Optimizer of all models; AdamW, 1e-3, weight decay 1e-4 by default.
        trainer: Arguments of every stage's Trainer; :class:`~lightning_fusion.recipes.trainers.Trainers` lists them.
            Models of a target are validated only if a callback monitors its validation split, whose labels do not count
            as few labels.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``: ``results.json``, ``report.md``, figures, and for each seed the
        sources' registry and the targets' students, which are ordinary experts.

    Raises:
        InputError: If ``output`` contains another run, or an argument is invalid.
    """
    seeds, student, variants = [0] if seeds is None else seeds, student or {}, variants or {}
    recorded = describe_arguments(locals(), "num_targets")
    check_choices(hat, locals())
    check_seeds(seeds)
    _check(networks, student, variants, num_targets, epochs, source_epochs, source_classes)
    data = expert_data(data)
    data.prepare_data()
    data.setup("fit")
    check_domains(data)
    made = {CORRUPTED: corrupted_sources > 0, STUDENT: publish_students}
    _check_taken(data, [ending for ending, wanted in made.items() if wanted])
    domains, left_out = _usable(data, seeds)
    chosen = _targets(domains, left_out, targets, num_targets)
    _check_corrupted(groups_of(data), domains, chosen, corrupted_sources)
    target = {
        "labeled_fraction": labeled_fraction,
        "labeled_per_class": labeled_per_class,
        "min_per_class": min_per_class,
    }
    selection = {"keep_fraction": keep_fraction, "num_sources": num_sources}
    plan = Plan(
        domains=domains,
        networks=networks,
        source_epochs=source_epochs,
        source_classes=source_classes,
        corrupted_sources=corrupted_sources,
        source_weights=source_weights,
        epochs=epochs,
        target=target,
        selection=selection,
        student=read_settings(student, "student"),
        variants={name: read_settings(change, f"variants: {name}") for name, change in variants.items()},
        publish_students=publish_students,
        guarded=guarded,
        baselines=baselines,
        arguments={"optimizer": optimizer, "features": features},
    )
    check_students(plan, data, chosen, seeds)
    recipe = _HaT(
        name="hat",
        main=MAIN,
        config=describe_data(data) | recorded | {"domains": domains, "targets": chosen},
        title="test accuracy, mean over targets",
        simplicity=SIMPLICITY,
        data=data,
        plan=plan,
        targets=chosen,
        left_out=left_out,
    )
    return run_recipe(recipe, output, seeds, trainer, overwrite)


@dataclass(kw_only=True)
class _HaT(Recipe):
    data: FusionDataModule
    plan: Plan
    targets: list[str]
    left_out: dict[str, str]
    """Reason why a domain is neither source nor target, by its name."""

    def run_seed(self, run: Run, seed: int) -> None:
        """Publish a source of each domain, then train the models of each target."""
        if seed == run.seeds[0]:
            for name, reason in self.left_out.items():
                run.console.print(f"{name} is skipped: {reason}")
        self.last = one = HaTSeed(run, self.data.variant(seed=seed), seed)
        one.publish_sources(self.plan, self.targets)
        for number, name in enumerate(self.targets):
            label = f"seed {seed}  target {number + 1}/{len(self.targets)} {name}"
            one.expand(name, self.targets[:number], self.plan, label)
        one.validate()

    def conclude(self, run: Run) -> None:
        """Average over the targets, and describe the selected sources."""
        report, plan = run.report, self.plan
        further = STUDENTS if plan.baselines else {}
        report.serving = {"targets": self.targets, "classes": self.data.classes}
        few = plan.target["labeled_per_class"]
        share = plan.target["labeled_fraction"]
        report.data = {
            "source": source_of(self.data),
            "classes": len(self.data.classes),
            "domains": len(plan.domains),
            "targets": len(self.targets),
            "labels of a target": f"{few} per class" if few else f"{share:.3g} of its training samples",
            "selected sources": f"{plan.selection['num_sources']}, or all eligible ones where there are fewer",
            "epochs": f"{plan.epochs}; {plan.source_epochs} for sources and for the local model with all labels",
        }
        hat_report.average(report)
        left_out = (f"Domain {name} was skipped as source and target: {why}." for name, why in self.left_out.items())
        report.notes = [
            *left_out,
            *report.notes,
            *hat_report.verdicts(report, further | plan.variants, plan.source_classes is None),
            *data_notes(self.data),
        ]
        report.notes.append(hat_report.rows_of_students(plan.student, further))
        report.notes.append(
            "The advice uses labels of each target's validation split, beyond its few labels; no method was fitted "
            "on them."
        )
        if watched := run.trainers.watched():
            report.notes.append(
                f"A callback monitors {shorten(watched)}: models of a target were validated on labels of its "
                "validation split, which are not counted among the few labels."
            )
        parts = [
            hat_report.over_groups(report, self.data),
            hat_report.ranks(report),
            hat_report.teachers(report),
            hat_report.guards(report),
            hat_report.costs(report),
            hat_report.coverage(report),
            hat_report.corruption(report),
            hat_report.traffic(report),
        ]
        report.text = [line for part in parts if part for line in ("", *part)][1:]

    def figures(self, run: Run) -> Figures:
        """Return the figures: student against local model, bytes of the selection, and weights of the sources."""
        return hat_report.figures(run.report)

    def inspection(self, run: Run) -> dict[str, Any] | None:
        """Test samples of the last target's student, last seed."""
        return self.last.answers[self.targets[-1]].get("samples")


def _check(
    networks: Mapping[str, Any],
    student: Mapping[str, Any],
    variants: Mapping[str, Any],
    num_targets: int | None,
    epochs: int,
    source_epochs: int,
    source_classes: int | None,
) -> None:
    if not networks:
        raise InputError("networks: name at least one architecture")
    if epochs < 1 or source_epochs < 1 or (num_targets is not None and num_targets < 1):
        raise InputError("epochs, source_epochs and num_targets must be at least 1")
    if source_classes is not None and source_classes < 2:
        raise InputError(f"source_classes is {source_classes}; a source needs two classes, or null for all")
    if taken := set(variants) & {MAIN, *STUDENTS, LOCAL}:
        raise InputError(f"variants: {shorten(sorted(taken))} is a row of the table already; rename it")
    own = set(inspect.signature(HaTJointModule).parameters) - OF_RECIPE
    known = own | OF_SELECTION | OF_TARGET
    settings = {"student:": (student, own)} | {
        f"variants: {name}": (change, known) for name, change in variants.items()
    }
    for name, (change, allowed) in settings.items():
        if unknown := set(change) - allowed:
            raise InputError(f"{name} sets {shorten(sorted(unknown))}; known are {shorten(sorted(allowed), 40)}")


def _usable(data: FusionDataModule, seeds: Sequence[int]) -> tuple[list[str], dict[str, str]]:
    """Return the domains of which a classifier can be trained with every seed, and why others are left out."""
    left_out: dict[str, str] = {}
    for seed in seeds:
        of_seed = data.variant(seed=seed)
        for name in data.domains:
            try:
                of_seed.variant(domain=name).rows("train")
            except InputError as error:
                left_out.setdefault(name, str(error))
    usable = [name for name in data.domains if name not in left_out]
    if len(usable) < 2:
        raise InputError(f"data: of {shorten(data.domains)} {len(usable)} can be used; {next(iter(left_out.values()))}")
    return usable, left_out


def _targets(
    domains: Sequence[str], left_out: Mapping[str, str], names: Sequence[str] | None, count: int | None
) -> list[str]:
    for name in names or []:
        if name not in domains:
            reason = left_out.get(name, f"the data's domains are {shorten(domains, 20)}")
            raise InputError(f"targets: found {name}; {reason}")
    chosen = list(names or domains)
    if count is not None and count < len(chosen):
        places = np.linspace(0, len(chosen) - 1, count).round().astype(int)
        chosen = [chosen[place] for place in places]
    return chosen


def _check_corrupted(groups: Mapping[str, str], domains: Sequence[str], targets: Sequence[str], corrupted: int) -> None:
    for target in targets:
        others = [name for name in domains if groups[name] != groups[target]]
        if not 0 <= corrupted < max(1, len(others)):
            raise InputError(
                f"corrupted_sources is {corrupted}; expected 0 to {max(0, len(others) - 1)}, fewer than the sources of "
                f"other groups that {target} may choose from"
            )


def _check_taken(data: FusionDataModule, endings: Sequence[str]) -> None:
    """Raise InputError for domains with the name of a source that the run derives from another."""
    if taken := {f"{name}{ending}" for name in data.domains for ending in endings} & set(data.domains):
        raise InputError(
            f"data: a source that the run makes would have the name of the domain {shorten(sorted(taken))}; rename it"
        )
