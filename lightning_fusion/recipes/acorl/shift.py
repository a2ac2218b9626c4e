"""Study of ACoRL under a shift: second members of equal cost, evaluated where a shortcut of the first is broken."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lightning_fusion import plotting
from lightning_fusion.acorl.dissimilarity import StandardizedResidualMSE
from lightning_fusion.acorl.diversity import Diversity, ErrorDiversity, ErrorReweighting
from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.data.base import SPLITS, FusionDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.markdown import markdown_table
from lightning_fusion.recipes.report import Figures, Report, paired_gain
from lightning_fusion.recipes.runner import Recipe, Run, check_seeds, run_recipe
from lightning_fusion.recipes.seed_run import (
    SeedRun,
    data_notes,
    describe_arguments,
    describe_data,
    expert_data,
    source_of,
    stage_seed,
)
from lightning_fusion.schedules import Constant, DANNRamp, Schedule

FIRST, PLAIN = "first member", "plain"
SHIFTED = "shifted accuracy"


@dataclass(frozen=True)
class Arm:
    """One way to train the second member.

    Attributes:
        strength: Largest lambda; 0 turns the reversal off.
        diversity: Terms that compare answers.
        joint: Train the projections jointly, with the centered cosine: the paper as summarized.
        longer: Factor of the number of epochs.
    """

    strength: float = 0.0
    diversity: Sequence[Diversity] = ()
    joint: bool = False
    longer: float = 1.0


def study_arms(strengths: Sequence[float], reweighting: float, error_diversity: float, longer: float) -> dict[str, Arm]:
    """Return the arms of the study, by name: controls, the reversal at each strength, and both together."""
    weigh, differ = ErrorReweighting(reweighting), ErrorDiversity(error_diversity)
    arms = {PLAIN: Arm(), f"plain, {longer:g} x epochs": Arm(longer=longer)}
    arms |= {"error reweighting": Arm(diversity=[weigh]), "error diversity": Arm(diversity=[differ])}
    for strength in strengths:
        name = f"ACoRL {strength:g}"
        arms |= {
            f"{name}, joint": Arm(strength, joint=True),
            name: Arm(strength),
            f"{name} + error diversity": Arm(strength, [differ]),
            f"{name} + error reweighting": Arm(strength, [weigh]),
        }
    return arms


def acorl_shift(
    data: FusionDataModule,
    shifted: FusionDataModule,
    network: Callable[[int], nn.Module],
    features: str,
    output: str,
    seeds: list[int] | None = None,
    first_epochs: int = 6,
    epochs: int = 60,
    strengths: list[float] | None = None,
    reweighting: float = 20.0,
    error_diversity: float = 10.0,
    longer: float = 1.6,
    shifted_samples: list[int] | None = None,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    trainer: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Train second members in many ways beside one first member, and evaluate them where its shortcut is broken.

    For each seed a first member is trained for ``first_epochs``: it learns what is learned first. Then second members
    are trained for ``epochs`` each, with the same initial weights, order of data and number of epochs: plainly, with
    error reweighting, with error diversity, and with the reversal of :class:`~lightning_fusion.ACoRLModule` at each
    strength, alone (with inner steps, and jointly as the paper is summarized) and with either. Members and pairs, the
    mean of the probabilities of both members, are evaluated on the test split of ``data`` and on that of ``shifted``.

    Args:
        data: The data of the training.
        shifted: Data of the same classes whose validation and test splits are of the shifted kind, such as the same
            images with another agreement of the shortcut; nothing is trained on them.
        network: Factory of a member's network, called with the number of classes.
        features: Submodule of the network whose output is the representation.
        output: Folder of the run.
        seeds: Random seeds, one run each; [0] by default.
        first_epochs: Epochs of the first member.
        epochs: Epochs of each second member.
        strengths: Largest lambdas to compare; [1.0, 3.0] by default.
        reweighting: Weight of :class:`~lightning_fusion.acorl.diversity.ErrorReweighting`.
        error_diversity: Weight of :class:`~lightning_fusion.acorl.diversity.ErrorDiversity`.
        longer: Factor of the epochs of a plain member that is trained as long in time as those of ACoRL.
        shifted_samples: Numbers of shifted validation samples by which an arm is selected; 0 selects by the validation
            split of ``data``. [0, 20, 100] by default.
        optimizer: Optimizer of the members; AdamW, 1e-3, weight decay 1e-4 by default.
        scheduler: Schedule of the members, stepping each epoch; cosine annealing to 0 by default.
        trainer: Arguments of every stage's Trainer; :class:`~lightning_fusion.recipes.trainers.Trainers` lists them.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``.

    Raises:
        InputError: If ``output`` contains another run, an argument is invalid, or the data differ in their classes.
    """
    seeds = [0] if seeds is None else seeds
    strengths = [1.0, 3.0] if strengths is None else strengths
    shifted_samples = [0, 20, 100] if shifted_samples is None else shifted_samples
    recorded = describe_arguments(locals(), "shifted")
    check_seeds(seeds)
    if min(first_epochs, epochs, longer) < 1:
        raise InputError(f"first_epochs is {first_epochs}, epochs {epochs}, longer {longer:g}; expected at least 1")
    if not strengths or any(not 0 < strength < float("inf") for strength in strengths):
        raise InputError(f"strengths: found {strengths}; expected numbers above 0")
    if not shifted_samples or any(count < 0 for count in shifted_samples):
        raise InputError(f"shifted_samples: found {shifted_samples}; expected numbers of at least 0")
    data, shifted = expert_data(data), expert_data(shifted)
    for each in (data, shifted):
        each.prepare_data()
        each.setup("fit")
    if data.classes != shifted.classes:
        raise InputError(f"shifted: its classes are {shorten(shifted.classes)}; those of data {shorten(data.classes)}")
    study = _Shift(
        name="acorl_shift",
        main=f"pair, ACoRL {strengths[0]:g}",
        config=describe_data(data) | {"shifted": describe_data(shifted)} | recorded,
        metric=SHIFTED,
        title="test accuracy, shifted",
        beside=("accuracy",),
        data=data,
        shifted=shifted,
        network=network,
        first_epochs=first_epochs,
        epochs=epochs,
        arms=study_arms(strengths, reweighting, error_diversity, longer),
        shifted_samples=shifted_samples,
        arguments={"optimizer": optimizer, "scheduler": scheduler, "features": features},
    )
    return run_recipe(study, output, seeds, trainer, overwrite)


@dataclass(kw_only=True)
class _Shift(Recipe):
    data: FusionDataModule
    shifted: FusionDataModule
    network: Callable[[int], nn.Module]
    first_epochs: int
    epochs: int
    arms: Mapping[str, Arm]
    shifted_samples: Sequence[int]
    arguments: dict[str, Any]
    validation: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    """Validation accuracy of the pair of each arm, by number of shifted samples, a value for each seed."""

    def run_seed(self, run: Run, seed: int) -> None:
        """Train the members of one seed, and evaluate them and their pairs."""
        one = SeedRun(run, self.data.variant(seed=seed), seed)
        members = {FIRST: self._train(one, FIRST, Arm(), None)}
        for name, arm in self.arms.items():
            members[name] = self._train(one, name, arm, members[FIRST])
        start = time.perf_counter()
        experts = {name: one.load_expert(path, self.network) for name, path in members.items()}
        known = {
            "accuracy": one.outputs_of("as_trained", experts, one.data, ("val", "test")),
            SHIFTED: one.outputs_of("shifted", experts, self.shifted.variant(seed=seed), ("val", "test")),
        }
        for metric, outputs in known.items():
            run.report.add(FIRST, metric, float(_right(outputs, "test", [FIRST]).mean()), seed)
            for name in self.arms:
                run.report.add(f"member, {name}", metric, float(_right(outputs, "test", [name]).mean()), seed)
                run.report.add(f"pair, {name}", metric, float(_right(outputs, "test", [FIRST, name]).mean()), seed)
        for name in self.arms:
            as_trained, moved = (_right(outputs, "val", [FIRST, name]) for outputs in known.values())
            for count in self.shifted_samples:
                drawn = np.random.default_rng(seed).permutation(len(moved))[:count]
                value = float(moved[drawn].mean() if count else as_trained.mean())
                self.validation.setdefault(name, {}).setdefault(count, []).append(value)
        run.report.took("predicting", start)

    def _train(self, one: SeedRun, name: str, arm: Arm, first: Any) -> Any:
        """Train a member, and return its checkpoint; second members share initial weights and the order of data."""
        shared = {
            "network": self.network,
            "classes": one.data.classes,
            "preprocessing": getattr(one.data, "preprocessing", None),
            **self.arguments,
        }
        build: Callable[[], ExpertModule] = partial(ExpertModule, **shared)
        if first is not None and (arm.strength or arm.diversity):
            how: dict[str, Any] = {"diversity": list(arm.diversity)}
            how["schedule"] = self._schedule(arm.strength)
            if not arm.joint:
                how |= {"adversary_steps": 5, "layer_norm": True, "dissimilarity": StandardizedResidualMSE}
            build = partial(ACoRLModule, experts={"first": one.load_expert(first, self.network)}, **how, **shared)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the frozen member
            return one.train(
                f"members/{_file_name(name)}",
                build,
                one.data,
                seed=stage_seed(one.seed, 1 if first is None else 2),
                epochs=self.first_epochs if first is None else round(self.epochs * arm.longer),
                label=f"seed {one.seed}  {name}",
            )

    @staticmethod
    def _schedule(strength: float) -> Schedule:
        return DANNRamp(strength) if strength else Constant(0.0)

    def conclude(self, run: Run) -> None:
        """Compare all arms with the plain one, and select arms by validation samples."""
        report = run.report
        self.data.setup("test")
        report.data = {
            "source": source_of(self.data),
            "shifted": source_of(self.shifted),
            "classes": len(self.data.classes),
            "rows": ", ".join(f"{split} {len(self.data.rows(split))}" for split in SPLITS),
            "epochs": f"first member {self.first_epochs}, second members {self.epochs}",
        }
        gains = self._gains(report)
        report.text = [
            "Gain over the plain second member, in points, paired by seed, with 95 % interval:",
            "",
            *gains,
            "",
            "The arm whose pair is best on validation, by the number of shifted samples there; its pair on test:",
            "",
            *self._selected(report),
        ]
        report.notes += [*data_notes(self.data), *self._power(report)]

    def _gains(self, report: Report) -> list[str]:
        rows = []
        for name in self.arms:
            cells = [name]
            for metric in ("accuracy", SHIFTED):
                for who in ("member", "pair"):
                    own, plain = (report.values(f"{who}, {each}", metric) for each in (name, PLAIN))
                    gain = "" if name == PLAIN else f" ({paired_gain(own, plain).points()})"
                    cells.append(f"{np.mean(own):.3f}{gain}")
            rows.append(cells)
        columns = [f"{who}, {how}" for how in ("as trained", "shifted") for who in ("member", "pair")]
        return markdown_table(["second member", *columns], rows)

    def _selected(self, report: Report) -> list[str]:
        rows = []
        for count in self.shifted_samples:
            means = {name: float(np.mean(values[count])) for name, values in self.validation.items()}
            best = max(means, key=lambda name: means[name])
            own, plain = (report.values(f"pair, {name}", SHIFTED) for name in (best, PLAIN))
            trained = np.mean(report.values(f"pair, {best}", "accuracy"))
            tested = f"{np.mean(own):.3f} ({paired_gain(own, plain).points()})"
            rows.append([str(count), best, f"{means[best]:.3f}", f"{trained:.3f}", tested])
        return markdown_table(
            ["shifted samples", "arm", "validation", "test, as trained", "test, shifted (gain)"], rows
        )

    def _power(self, report: Report) -> list[str]:
        """Say how small a gain the study can see."""
        plain = report.values(f"pair, {PLAIN}", SHIFTED)
        if len(plain) < 2:
            return ["One seed has no interval: set seeds."]
        widths = []
        for name in self.arms:
            if name != PLAIN:
                low, high = paired_gain(report.values(f"pair, {name}", SHIFTED), plain).interval or (0.0, 0.0)
                widths.append((high - low) / 2)
        return [f"A gain of a pair on shifted samples is seen from about {100 * float(np.median(widths)):.1f} points."]

    def figures(self, run: Run) -> Figures:
        """Plot the accuracies of all pairs, as trained and shifted."""
        report = run.report
        values = {
            how: [float(np.mean(report.values(f"pair, {name}", metric))) for name in self.arms]
            for how, metric in (("as trained", "accuracy"), ("shifted", SHIFTED))
        }
        figure = plotting.grouped_bars(values, list(self.arms), label="test accuracy", title="Pairs of members")
        return {"pairs": (figure, "Test accuracy of the first member with each second one, mean over seeds.")}


def _right(outputs: ExpertOutputs, split: str, names: Sequence[str]) -> np.ndarray:
    """Return whether the mean probabilities of members are right, (N,)."""
    places = [outputs.names.index(name) for name in names]
    right: np.ndarray = outputs.scattered(split)[:, places].mean(1).argmax(1) == np.asarray(outputs[split].target)
    return right


def _file_name(name: str) -> str:
    return name.replace(" ", "_").replace(",", "").replace("+", "and")
