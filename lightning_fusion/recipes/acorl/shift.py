"""Study of ACoRL under a shift: further members of equal cost, evaluated where a shortcut of the first is broken."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lightning_fusion import plotting
from lightning_fusion.acorl.attribution import attribute
from lightning_fusion.acorl.forecast import Forecast
from lightning_fusion.acorl.fusion import right_answers
from lightning_fusion.data.base import SPLITS, FusionDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.extras import installed
from lightning_fusion.recipes.acorl import shift_tables as tables
from lightning_fusion.recipes.acorl.arms import PLAIN, Arm, by_strength, chosen_label, families, study_arms
from lightning_fusion.recipes.acorl.classification import spread
from lightning_fusion.recipes.acorl.forecasts import Probe, module_facts, prepared
from lightning_fusion.recipes.acorl.selection import Choice, Criterion, choose_strength, criteria
from lightning_fusion.recipes.acorl.shift_tables import FIRST, SHIFTED, Selected
from lightning_fusion.recipes.acorl.uncertainty import uncertainty
from lightning_fusion.recipes.report import Figures, Report
from lightning_fusion.recipes.runner import Recipe, Run, check_seeds, run_recipe
from lightning_fusion.recipes.seed_run import (
    SeedRun,
    data_notes,
    describe_arguments,
    describe_data,
    source_of,
    stage_seed,
)

_SHOWN = 4  # images whose maps are drawn


def acorl_shift(
    data: FusionDataModule,
    shifted: FusionDataModule,
    network: Callable[[int], nn.Module],
    features: str,
    output: str,
    seeds: list[int] | None = None,
    first_epochs: int = 6,
    epochs: int = 60,
    members: int = 2,
    strengths: list[float] | None = None,
    reweighting: float = 20.0,
    error_diversity: float = 10.0,
    longer: float = 1.6,
    shifted_samples: list[int] | None = None,
    arms: list[str] | None = None,
    projection: Callable[[int, int], nn.Module] | None = None,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    trainer: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Train second members in many ways beside one first member, and evaluate them where its shortcut is broken.

    For each seed a first member is trained for ``first_epochs``: it learns what is learned first. Then second members
    are trained for ``epochs`` each, with the same initial weights, order of data and number of epochs: plainly, with
    error reweighting, with error diversity, and with the reversal of :class:`~lightning_fusion.ACoRLModule`, with inner
    steps, at each strength, alone and with reweighting; at the first one also with error diversity, and jointly as the
    paper is summarized. With more than two ``members``, the third is trained in the same way beside both, and so on.
    The last member and the pool, the mean of the probabilities of all members, equal or with weights that are fitted on
    the validation split of ``data``, are evaluated on the test split of ``data`` and on that of ``shifted``, with the
    calibration error of each pool and how well it tells shifted samples from others. Before the second members are
    trained, a forecast says whether the reversal is likely to pay (:mod:`lightning_fusion.acorl.forecast`); the report
    compares it with the result. The rows ``ACoRL by N samples`` are those of the strength that N shifted validation
    samples choose, 0 among them (:func:`~lightning_fusion.recipes.acorl.selection.choose_strength`).

    Args:
        data: The data of the training.
        shifted: Data of the same classes whose validation and test splits are of the shifted kind, such as the same
            images with another agreement of the shortcut, or another ``domain``; nothing is trained on them.
        network: Factory of a member's network, called with the number of classes.
        features: Submodule of the network whose output is the representation.
        output: Folder of the run.
        seeds: Random seeds, one run each; [0] by default.
        first_epochs: Epochs of the first member, and of the probe of the forecast.
        epochs: Epochs of each later member.
        members: Number of members of each pool, 2 or more.
        strengths: Largest lambdas to compare; [1.0, 3.0] by default.
        reweighting: Weight of :class:`~lightning_fusion.acorl.diversity.ErrorReweighting`.
        error_diversity: Weight of :class:`~lightning_fusion.acorl.diversity.ErrorDiversity`.
        longer: Factor of the epochs of a plain member that is trained as long in time as those of ACoRL.
        shifted_samples: Numbers of shifted validation samples by which strengths, arms and weights of the pool are
            selected; 0 stands for criteria on the validation split of ``data``, and the strength 0. The forecast that
            is compared with the result sees the largest number. [0, 20, 100] by default.
        arms: Names of the second members to train beside the plain one, as in the report; all by default.
        projection: Argument of :class:`~lightning_fusion.ACoRLModule` in the arms with a reversal; the forecast keeps
            the default one, by which its conditions were found.
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
    if members < 2:
        raise InputError(f"members is {members}; expected at least 2")
    if min(first_epochs, epochs, longer) < 1:
        raise InputError(f"first_epochs is {first_epochs}, epochs {epochs}, longer {longer:g}; expected at least 1")
    if not strengths or any(not 0 < strength < float("inf") for strength in strengths):
        raise InputError(f"strengths: found {strengths}; expected numbers above 0")
    if not shifted_samples or any(count < 0 for count in shifted_samples):
        raise InputError(f"shifted_samples: found {shifted_samples}; expected numbers of at least 0")
    known = study_arms(strengths, reweighting, error_diversity, longer, projection)
    if unknown := [name for name in arms or [] if name not in known]:
        raise InputError(f"arms: found {shorten(unknown)}; expected some of {shorten(known, 20)}")
    data = prepared(data)
    shifted = prepared(shifted, data.classes)
    study = _Shift(
        name="acorl_shift",
        main=f"pool, {PLAIN}",
        config=describe_data(data) | {"shifted": describe_data(shifted)} | recorded,
        metric=SHIFTED,
        title="test accuracy, shifted",
        beside=("accuracy",),
        data=data,
        shifted=shifted,
        network=network,
        first_epochs=first_epochs,
        epochs=epochs,
        members=members,
        arms={name: arm for name, arm in known.items() if arms is None or name in (PLAIN, *arms)},
        shifted_samples=shifted_samples,
        reweighting=reweighting,
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
    members: int
    arms: Mapping[str, Arm]
    shifted_samples: Sequence[int]
    reweighting: float
    arguments: dict[str, Any]
    forecasts: list[Forecast] = field(default_factory=list)
    selected: dict[tuple[str, str], list[Selected]] = field(default_factory=dict)
    """Selected arms by family and criterion, one for each seed."""
    choices: dict[str, list[Choice]] = field(default_factory=dict)
    """Arms that were chosen for their strength, by the label of their row, one for each seed."""
    maps: tuple[Any, dict[str, Any]] | None = None

    def run_seed(self, run: Run, seed: int) -> None:
        """Train the members of one seed, and evaluate them and their pools."""
        one = SeedRun(run, self.data.variant(seed=seed), seed)
        shifted = self.shifted.variant(seed=seed)
        first = {FIRST: self._train(one, FIRST, Arm(), {})}
        probe = Probe(
            experts={"first": first[FIRST]},
            shared=self._shared(one.data),
            shifted=shifted,
            counts=self.shifted_samples,
            epochs=self.first_epochs,
            seed=stage_seed(seed, 2),
        )
        forecasts = probe.forecasts(one)
        self.forecasts.append(forecasts[max(forecasts)])
        pools = {}
        for name, arm in self.arms.items():
            pools[name] = dict(first)
            for label in _labels(name, self.members):
                pools[name][label] = self._train(one, label, arm, pools[name])
        start = time.perf_counter()
        experts = {label: expert for pool in pools.values() for label, expert in pool.items()}
        trained = one.outputs_of("as_trained", experts, one.data, ("val", "test"))
        moved = one.outputs_of("shifted", experts, shifted, ("val", "test"))
        for metric, outputs in (("accuracy", trained), (SHIFTED, moved)):
            run.report.add(FIRST, metric, float(right_answers(outputs, "test", [FIRST]).mean()), seed)
        rules = criteria(trained, moved, FIRST, self.shifted_samples, self.reweighting, seed)
        choices = self._choose(rules, forecasts)
        for label, choice in choices.items():
            self.choices.setdefault(label, []).append(choice)
        scores = {name: self._score(list(pool), trained, moved) for name, pool in pools.items()}
        chosen = {label: choice.arm for label, choice in choices.items()}
        for label, name in {**dict(zip(self.arms, self.arms, strict=True)), **chosen}.items():
            for (who, metric, split), value in scores[name].items():
                run.report.add(f"{who}, {label}", metric, value, seed, split)
        self._select(rules, trained, moved)
        self._look(one, experts, shifted)
        run.report.took("predicting", start)

    def _choose(self, rules: Mapping[str, Criterion], forecasts: Mapping[int, Forecast]) -> dict[str, Choice]:
        """Choose a strength by each number of shifted samples, alone and with reweighting."""
        found = {}
        for count, forecast in forecasts.items():
            for control, names in by_strength(self.arms).items() if count else ():
                samples = rules[f"{count} shifted samples"]
                pools = {name: self._pool(name) for name in names}
                found[chosen_label(count, control)] = choose_strength(pools, forecast, samples)
        return found

    def _score(
        self, pool: Sequence[str], trained: ExpertOutputs, shifted: ExpertOutputs
    ) -> dict[tuple[str, str, str], float]:
        """Evaluate the last member and the pool, on test samples also with weights fitted on validation as trained."""
        weights = Criterion(trained, np.arange(len(trained["val"].target))).weights(pool)
        found = {}
        for metric, outputs in (("accuracy", trained), (SHIFTED, shifted)):
            for split in ("val", "test"):
                for who, members in (("member", pool[-1:]), ("pool", pool)):
                    found[who, metric, split] = float(right_answers(outputs, split, members).mean())
            found["weighted pool", metric, "test"] = float(right_answers(outputs, "test", pool, weights).mean())
        return found | {("pool", name, "test"): value for name, value in uncertainty(trained, shifted, pool).items()}

    def _pool(self, name: str) -> list[str]:
        """Return the names of the members of an arm's pool."""
        return [FIRST, *_labels(name, self.members)]

    def _shared(self, data: Any) -> dict[str, Any]:
        """Arguments of all modules."""
        return {"network": self.network, **module_facts(data), **self.arguments}

    def _train(self, one: SeedRun, name: str, arm: Arm, pool: Mapping[str, Expert]) -> Expert:
        """Train a member beside a pool; members of the same place share initial weights and the order of data."""
        epochs = self.epochs * arm.longer if pool else self.first_epochs
        numbered = {f"member_{number}": expert for number, expert in enumerate(pool.values(), 1)}
        path = one.train(
            f"members/{_file_name(name)}",
            partial(arm.build, numbered, self._shared(one.data)),
            one.data,
            seed=stage_seed(one.seed, 1 + len(pool)),
            epochs=round(epochs),
            label=f"seed {one.seed}  {name}",
        )
        return one.load_expert(path, self.network)

    def _select(self, rules: Mapping[str, Criterion], trained: ExpertOutputs, shifted: ExpertOutputs) -> None:
        """Select an arm of each family by each criterion, and evaluate its pool, also with fitted weights."""
        for family, names in families(self.arms).items():
            for criterion, rule in rules.items():
                best = max(names, key=lambda name: rule.value(self._pool(name)))
                pool, weights = self._pool(best), rule.weights(self._pool(best))
                tested = [right_answers(each, "test", pool).mean() for each in (trained, shifted)]
                weighted = [right_answers(each, "test", pool, weights).mean() for each in (trained, shifted)]
                found = Selected(best, *map(float, (*tested, *weighted)))
                self.selected.setdefault((family, criterion), []).append(found)

    def _look(self, one: SeedRun, experts: Mapping[str, Expert], data: FusionDataModule) -> None:
        """Compute maps of what members look at in shifted test images."""
        if not installed("captum"):
            return
        rows: Any = data.rows("test")
        with torch.no_grad():
            batch = data.on_after_batch_transfer(rows[torch.arange(len(rows))], 0)
        if not isinstance(batch.input, torch.Tensor) or batch.input.ndim != 4:
            return
        some = spread(len(batch.target), _SHOWN)
        shown: dict[str, Any] = {name: experts[name].network for name in (FIRST, PLAIN, *self._main())}
        target = batch.target[some]
        found = {
            name.replace(" + ", "\n+ "): attribute(network, batch.input[some], target)
            for name, network in shown.items()
        }
        self.maps = batch.input[some], found

    def _main(self) -> list[str]:
        """Names of the arms of reweighting, the reversal, and both, that are looked at; those that are trained."""
        first = next((name for name, arm in self.arms.items() if arm.strength and not arm.joint), "")
        return [name for name in ("error reweighting", first, f"{first} + error reweighting") if name in self.arms]

    def conclude(self, run: Run) -> None:
        """Compare all arms with the plain one, select arms by validation samples, and check the forecast."""
        report = run.report
        self.data.setup("test")
        report.data = {
            "source": source_of(self.data),
            "shifted": source_of(self.shifted),
            "classes": len(self.data.classes),
            "rows": ", ".join(f"{split} {len(self.data.rows(split))}" for split in SPLITS),
            "epochs": f"first member {self.first_epochs}, later members {self.epochs}",
        }
        report.text = tables.shift_text(report, self.arms, self.selected, self.forecasts, self.choices)
        report.notes += [*data_notes(self.data), *tables.power(report, self.arms)]

    def figures(self, run: Run) -> Figures:
        """Plot the accuracies of all pools, as trained and shifted, and maps of images."""
        report = run.report
        values = {
            how: [float(np.mean(report.values(f"pool, {name}", metric))) for name in self.arms]
            for how, metric in (("as trained", "accuracy"), ("shifted", SHIFTED))
        }
        figure = plotting.grouped_bars(values, list(self.arms), label="test accuracy", title="Pools of members")
        found = {"pools": (figure, "Test accuracy of the first member with later ones of each kind, mean over seeds.")}
        if self.maps is not None:
            caption = f"Integrated gradients of the true class on {_SHOWN} shifted test images, last seed."
            found["attributions"] = (plotting.attribution_maps(*self.maps), caption)
        return found


def _labels(name: str, members: int) -> list[str]:
    """Return the names of the members of an arm, from the second on."""
    return [name, *(f"{name}, member {number}" for number in range(3, members + 1))]


def _file_name(name: str) -> str:
    return name.replace(" ", "_").replace(",", "").replace("+", "and")
