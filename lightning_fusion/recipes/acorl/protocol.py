"""ACoRL's protocol: a chain of members, each trained against the previous ones, and a plain control chain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_fusion import plotting
from lightning_fusion.acorl.dissimilarity import Dissimilarity
from lightning_fusion.acorl.projection import check_projection_arguments
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.factories import network_for
from lightning_fusion.experts.layers import check_layer
from lightning_fusion.extras import installed, require
from lightning_fusion.files import digest
from lightning_fusion.markdown import markdown_table
from lightning_fusion.recipes.acorl.chains import COMPLEMENTARY, PLAIN, ChainRun, Plan
from lightning_fusion.recipes.acorl.classification import ClassificationChains
from lightning_fusion.recipes.acorl.forecasts import prepared
from lightning_fusion.recipes.acorl.verification import SpeakerChains
from lightning_fusion.recipes.report import Figures, Report, paired_gain
from lightning_fusion.recipes.runner import Recipe, Run, check_seeds, quiet_lightning, run_recipe
from lightning_fusion.recipes.seed_run import data_notes, describe_arguments, describe_data
from lightning_fusion.recipes.trainers import Trainers
from lightning_fusion.schedules import DANNRamp, Schedule

_ATTRIBUTION_ROWS = 64


def acorl(
    data: FusionDataModule,
    network: Callable[[int], nn.Module],
    features: str,
    output: str,
    seeds: list[int] | None = None,
    members: int = 2,
    epochs: int = 10,
    strengths: list[float] | None = None,
    schedule: Callable[[float], Schedule] | None = None,
    dissimilarity: Callable[[int, int], Dissimilarity] | None = None,
    projection: Callable[[int, int], nn.Module] | None = None,
    adversary_steps: int = 5,
    layer_norm: bool = True,
    larger: Callable[[int], nn.Module] | None = None,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    attribution_rows: int | None = None,
    trainer: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Train a chain of complementary experts and a plain one, fuse both, and compare them pair by pair.

    For each seed a first member is trained plainly. Each further member is trained once plainly, the control arm, and
    once for each strength of the reversal against the members before it in its own chain: with the same seed,
    initialization, order of data and epochs. Their outputs are cached. Where several strengths are given, the one whose
    fusion is best on *validation*, on average over the seeds, is the one of the table; 0 is the plain chain.

    Classifiers are fused by their outputs and representations and evaluated by accuracy. If the data module has trials
    of unseen speakers, as :class:`~lightning_fusion.SpeakerDataModule` does, the members are speaker networks trained
    with an angular margin (0.2, reached linearly over the first 30 % of training; our choice), fused by their scores
    and evaluated by EER.

    Args:
        data: The data; all members train on the samples of the ``expert`` role, if the data have roles.
        network: Factory of a member's network, called with the number of classes.
        features: Submodule of the network whose output is the representation.
        output: Folder of the run.
        seeds: Random seeds, one run each; [0] by default.
        members: N, the length of the chain.
        epochs: Epochs of each member.
        strengths: Maximum lambdas to compare; [1.0] by default.
        schedule: Factory of the schedule of lambda, called with a strength. ``None`` (default) uses
            :class:`~lightning_fusion.schedules.DANNRamp`.
        dissimilarity: Argument of :class:`~lightning_fusion.ACoRLModule`.
        projection: Argument of :class:`~lightning_fusion.ACoRLModule`.
        adversary_steps: Argument of :class:`~lightning_fusion.ACoRLModule`.
        layer_norm: Argument of :class:`~lightning_fusion.ACoRLModule`.
        larger: Factory of one larger network of the chain's training and inference cost, called with the number of
            classes. ``None`` (default) leaves it out.
        optimizer: Optimizer of the members; AdamW, 1e-3, weight decay 1e-4 by default.
        scheduler: Schedule of the members, stepping each epoch; cosine annealing to 0 by default.
        label_smoothing: Label smoothing of the members; not for speakers.
        mixup: Mixup alpha of the members; 0 turns it off; not for speakers.
        attribution_rows: Number of test samples whose integrated gradients are compared; 0 compares none. ``None``
            (default) means 64 if the extra ``explain`` is installed, else 0. Not for speakers: unseen ones have no
            class logit.
        trainer: Arguments of every stage's Trainer; :class:`~lightning_fusion.recipes.trainers.Trainers` lists
            them.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``: ``results.json``, ``report.md``, figures, and for each seed the
        members' checkpoints, which are ordinary experts, and their outputs.

    Raises:
        InputError: If ``output`` contains another run, an argument is invalid, or a network fails on the data.
    """
    seeds, strengths = [0] if seeds is None else seeds, [1.0] if strengths is None else strengths
    recorded = describe_arguments(locals())
    check_seeds(seeds)
    check_projection_arguments(adversary_steps, layer_norm)
    if members < 2 or epochs < 1 or (attribution_rows or 0) < 0:
        raise InputError(
            f"members is {members}, epochs {epochs}, attribution_rows {attribution_rows}; expected at least 2, 1 and 0"
        )
    tried = [strength for strength in dict.fromkeys(strengths) if strength != 0]
    if not tried or any(not 0 < strength < float("inf") for strength in tried):
        raise InputError(f"strengths: found {strengths}; expected numbers >= 0, one above 0 at least")
    data = prepared(data)  # once: all seeds share the data in memory
    arguments: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler, "features": features}
    own: dict[str, Any] = {"label_smoothing": label_smoothing, "mixup": mixup, "attribution_rows": attribution_rows}
    kind: type[ChainRun]
    if _names_trials(data):
        if given := [name for name, value in own.items() if value]:
            raise InputError(
                f"{given[0]} is {own[given[0]]}: speakers are trained with an angular margin and judged by trials; "
                f"remove {' and '.join(given)}"
            )
        recorded = {name: value for name, value in recorded.items() if name not in own}
        kind, own, more = SpeakerChains, {}, {}
        first: Any = data.variant(seed=0)
        recorded["trials"] = digest(*(part for split in ("val", "test") for part in first.trials(split)))
    else:
        own.pop("attribution_rows")
        kind = ClassificationChains
        if attribution_rows:
            require("captum", "explain")
        elif attribution_rows is None and not installed("captum"):
            rank_zero_warn(
                "attribution_rows: found no package captum, so that attributions are not compared: "
                "pip install 'lightning-fusion[explain]'"
            )
            attribution_rows = 0
        more = {"attribution_rows": _ATTRIBUTION_ROWS if attribution_rows is None else attribution_rows}
    config = describe_data(data) | recorded | more
    with quiet_lightning():
        tried_by = Trainers(trainer, output).trainer("check", logged=False, bar=False)
        _check_network(network, features, data, tried_by, "network")
        if larger is not None:
            _check_network(larger, features, data, tried_by, "larger (null leaves it out)")
    plan = Plan(
        network=network,
        larger=larger,
        members=members,
        epochs=epochs,
        strengths=tried,
        schedule=schedule or DANNRamp,
        arguments=arguments | own,
        branch={
            "dissimilarity": dissimilarity,
            "projection": projection,
            "adversary_steps": adversary_steps,
            "layer_norm": layer_norm,
        },
    )
    recipe = _ACoRL(
        name="acorl",
        main=kind.method(COMPLEMENTARY),
        config=config,
        metric=kind.metric,
        title=kind.title,
        beside=kind.beside,
        simplicity=kind.by_simplicity(members),
        data=data,
        kind=kind,
        more=more,
        plan=plan,
        strengths=strengths,
    )
    return run_recipe(recipe, output, seeds, trainer, overwrite)


@dataclass(kw_only=True)
class _ACoRL(Recipe):
    data: FusionDataModule
    kind: type[ChainRun]
    more: dict[str, Any]
    """Further arguments of the kind of task."""
    plan: Plan
    strengths: list[float]
    """Strengths as given; 0 allows the selection of the plain chain."""
    chains: list[ChainRun] = field(default_factory=list)

    def run_seed(self, run: Run, seed: int) -> None:
        """Train both chains and cache their outputs; they are scored after the strength is selected over all seeds."""
        one = self.kind(run, self.data.variant(seed=seed), seed, **self.more)
        one.grow(self.plan)
        one.predict()
        self.chains.append(one)

    def conclude(self, run: Run) -> None:
        """Select the strength, score all seeds with it, and describe the results."""
        report, kind, tried, last = run.report, self.kind, self.plan.strengths, self.chains[-1]
        report.validation.lower_is_better = kind.sign < 0
        report.validation.unit = "trials" if kind is SpeakerChains else "samples"
        self.chosen = chosen = _choose(self.chains, self.strengths, tried)
        for one in self.chains:
            one.score(chosen)
        report.serving = {
            "verification": kind is SpeakerChains,
            "members": last.members(chosen),
            "classes": last.data.classes,
            "parameters": {str(one.seed): one.fitted_parameters(chosen) for one in self.chains},
        }
        report.data = {
            **last.data_description(),
            "members": self.plan.members,
            "strength of the table": f"{chosen:g}" + (", selected on validation" if len(self.strengths) > 1 else ""),
        }
        parts = _comparison(report, kind), _strength_table(report, kind, tried), _likeness(report, kind)
        report.text = [line for part in (*parts, last.text(run.seeds)) if part for line in ("", *part)][1:]
        report.notes += [*data_notes(last.data), *last.notes(), *_signs(report, kind, chosen)]

    def figures(self, run: Run) -> Figures:
        """Return the figure of the strengths, and further figures of the kind of task."""
        return _figures(run.report, self.kind, self.plan.strengths) | self.chains[-1].figures()

    def inspection(self, run: Run) -> dict[str, Any]:
        """Test samples, or trials, of ACoRL's chain with the first fusion, last seed."""
        last = self.chains[-1]
        return last.inspect(last.chains[self.chosen], f"{self.main}, seed {last.seed}").record()


def _check_network(
    network: Callable[[int], nn.Module], features: str, data: FusionDataModule, trainer: Trainer, who: str
) -> None:
    """Check a network on a training sample, as the trainer would, before other networks are trained.

    Raises:
        InputError: If it lacks the layer, or fails on the samples.
    """
    with torch.random.fork_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
        tried = network_for(network, len(data.classes)).to(trainer.strategy.root_device)
        check_layer(tried, features, who)
        batch = trainer.strategy.batch_to_device(data.rows("train")[torch.arange(1)])
        batch = data.on_after_batch_transfer(batch, 0)
        try:
            tried.eval()(batch.input)
        except (RuntimeError, ValueError, TypeError) as error:
            shape, reason = tuple(batch.input.shape[1:]), str(error).partition("\n")[0]
            raise InputError(f"{who}: fails on the samples of the data, of shape {shape}: {reason}") from error


def _names_trials(data: Any) -> bool:
    """Return whether the task is verification.

    Raises:
        InputError: If they are, and the data module has no speakers.
    """
    if not hasattr(data, "trials") or data.trials("test") is None:
        return False
    if not hasattr(data, "speaker_of"):
        raise InputError(
            f"data: {type(data).__name__} names trials, but not who speaks in them: give it speaker_of(index), as "
            "SpeakerDataModule has it, for intervals over speakers"
        )
    return True


def _choose(runs: Sequence[ChainRun], strengths: Sequence[float], tried: Sequence[float]) -> float:
    """Return the strength whose fusion is best on validation over all seeds; 0 only if it was given."""
    allowed = [*tried, *([0.0] if 0 in strengths else [])]
    means = {strength: float(np.mean([run.validation[strength] for run in runs])) for strength in allowed}
    return max(allowed, key=lambda strength: (runs[0].sign * means[strength], -strength))


def _comparison(report: Report, kind: type[ChainRun]) -> list[str]:
    """Compare ACoRL's chain with the plain one, by fusion."""
    rows = []
    for fusion in kind.fusions:
        ours, theirs = _both_arms(report, kind, fusion)
        rows.append([fusion, f"{np.mean(theirs):.3f}", f"{np.mean(ours):.3f}", paired_gain(ours, theirs).points()])
    return markdown_table(["fusion", "plain", "ACoRL", "gain"], rows)


def _both_arms(
    report: Report, kind: type[ChainRun], fusion: str | None = None, metric: str | None = None
) -> list[list[float]]:
    """Return the values of ACoRL's chain and of the plain one, by seed."""
    return [report.values(kind.method(arm, fusion), metric or kind.metric) for arm in (COMPLEMENTARY, PLAIN)]


def _by_strength(
    report: Report, kind: type[ChainRun], strength: float, split: str, fusion: str | None = None
) -> list[float]:
    return report.values(fusion or kind.fusions[0], f"{kind.metric} by strength", split, strength=strength)


def _strength_table(report: Report, kind: type[ChainRun], strengths: Sequence[float]) -> list[str]:
    tested = [f"test, {fusion} (gain)" for fusion in kind.fusions]
    rows = []
    for strength in sorted({0.0, *strengths}):
        cells = [f"{strength:g}", f"{np.mean(_by_strength(report, kind, strength, 'val')):.3f}"]
        for fusion in kind.fusions:
            plain, test = (_by_strength(report, kind, value, "test", fusion) for value in (0.0, strength))
            cells.append(f"{np.mean(test):.3f}" + (f" ({paired_gain(test, plain).points()})" if strength else ""))
        rows.append(cells)
    return markdown_table(["largest lambda", f"validation, {kind.fusions[0]}", *tested], rows)


def _likeness(report: Report, kind: type[ChainRun]) -> list[str]:
    rows = []
    for name in kind.likeness:
        ours, theirs = _both_arms(report, kind, metric=name)
        if not ours:
            continue
        mean, low, high = paired_gain(ours, theirs)
        text = f"{mean:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")
        rows.append([name, f"{np.mean(theirs):.3f}", f"{np.mean(ours):.3f}", text])
    return markdown_table(["mean over pairs, test", "plain", "ACoRL", "difference"], rows)


def _signs(report: Report, kind: type[ChainRun], chosen: float) -> list[str]:
    """Return warnings about a chain without complementary members."""
    if not chosen:
        return [
            "Validation selected the strength 0: the rows of ACoRL are those of the plain chain; no reversal helped."
        ]
    found = []
    ours, theirs = _both_arms(report, kind, metric="held-out linear R2")
    if ours and np.mean(ours) > np.mean(theirs) - 0.02:
        found.append(
            "The representations of the members predict each other as well as in the plain chain (held-out linear R2 "
            f"{np.mean(ours):.2f} against {np.mean(theirs):.2f}): the reversal did not make them dissimilar."
        )
    mean, low, high = paired_gain(*_both_arms(report, kind))
    what = f"{100 * mean:+.1f} points of {kind.metric}"
    if low is None:
        found.append("One seed gives no confidence interval for the gain of ACoRL; use five seeds.")
    elif low <= 0 <= (high or 0):
        found.append(f"The gain over the plain chain ({what}) is not significantly different from zero.")
    elif kind.sign * mean < 0:
        found.append(f"ACoRL's chain is worse than the plain one ({what}).")
    return found


def _figures(report: Report, kind: type[ChainRun], strengths: Sequence[float]) -> Figures:
    """Return the figure of all kinds of tasks."""
    grid = sorted({0.0, *strengths})
    values = {split: [_by_strength(report, kind, strength, split) for strength in grid] for split in ("val", "test")}
    gains: dict[float, dict[str, Any]] = {strength: {} for strength in sorted(set(strengths))}
    for strength, of_fusions in gains.items():
        for fusion in kind.fusions:
            ours, theirs = (_by_strength(report, kind, value, "test", fusion) for value in (strength, 0.0))
            of_fusions[fusion] = np.subtract(ours, theirs), paired_gain(ours, theirs).interval
    figure = plotting.reversal_strengths(
        grid,
        values,
        gains,
        metric=kind.metric.upper() if kind.metric == "eer" else kind.metric,
        fusion=kind.fusions[0],
        higher_is_better=kind.sign > 0,
    )
    return {
        "strengths": (
            figure,
            f"Left: {kind.fusions[0]} by strength. Right: paired gain of each strength over the plain chain.",
        )
    }
