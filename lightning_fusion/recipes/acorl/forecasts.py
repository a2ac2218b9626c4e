"""Forecast of ACoRL's gain for given experts, before a complementary model is trained."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lightning_fusion import plotting
from lightning_fusion.acorl.forecast import LEAST_R2, Forecast, build_probe, forecast, learned_from, verdict
from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.outputs.collect import collect, first_process
from lightning_fusion.experts.outputs.seen import seen_by_design
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.files import write_text
from lightning_fusion.recipes.acorl.selection import draw_rows
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

PROBE, EXPERTS, FEW = "probe", "experts", "network of few shifted samples"
SHIFTED = "shifted accuracy"
_SAID = {
    "pays": "is likely to pay",
    "does not pay": "is not likely to pay",
    "uncertain": f"may pay or not, as seeds are on both sides of an R2 of {LEAST_R2:g}, which alone speaks against it",
}


def acorl_forecast(
    data: FusionDataModule,
    experts: dict[str, Expert],
    network: Callable[[int], nn.Module],
    features: str,
    output: str,
    shifted: FusionDataModule | None = None,
    shifted_samples: int = 100,
    seeds: list[int] | None = None,
    epochs: int = 6,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    trainer: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Say whether a model that is complementary to frozen experts is likely to pay, and why, for a few epochs' cost.

    A plain network is trained for ``epochs``, and projections beside it, which predict what the experts know beyond the
    class. With a few samples of a shifted kind the report also says whether the experts live on a cue that breaks, and
    whether another one is at hand: :mod:`lightning_fusion.acorl.forecast`.

    Args:
        data: The data of the training.
        experts: Frozen experts by name; each must name its ``features``.
        network: Factory of the new model's network, called with the number of classes.
        features: Submodule of the network whose output is the representation.
        output: Folder of the run.
        shifted: Data of the same classes whose validation split is of the shifted kind; ``None`` without any.
        shifted_samples: Number of its validation samples that are used.
        seeds: Random seeds; [0] by default.
        epochs: Epochs of the probe, about a tenth of a training.
        optimizer: Optimizer of the training; AdamW, 1e-3, weight decay 1e-4 by default.
        scheduler: Its schedule, stepping each epoch; cosine annealing to 0 by default.
        trainer: Arguments of every stage's Trainer; :class:`~lightning_fusion.recipes.trainers.Trainers` lists them.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``.

    Raises:
        InputError: If ``output`` contains another run, an argument is invalid, or the data differ in their classes.
    """
    seeds = [0] if seeds is None else seeds
    recorded = describe_arguments(locals(), "shifted", "experts")
    check_seeds(seeds)
    if epochs < 1 or shifted_samples < 4:
        raise InputError(f"epochs is {epochs}, shifted_samples {shifted_samples}; expected at least 1 and 4")
    data = prepared(data)
    shifted = None if shifted is None else prepared(shifted, data.classes)
    pool = ExpertPool(experts, data.classes)
    config = describe_data(data) | {"shifted": None if shifted is None else describe_data(shifted)} | recorded
    study = _Forecasts(
        name="acorl_forecast",
        main=EXPERTS,
        config=config | {"experts": {name: known["fingerprint"] for name, known in pool.metadata().items()}},
        title="validation accuracy",
        beside=() if shifted is None else (SHIFTED,),
        data=data,
        shifted=shifted,
        experts=experts,
        shared={"network": network, "features": features, "optimizer": optimizer, "scheduler": scheduler},
        shifted_samples=shifted_samples,
        epochs=epochs,
    )
    return run_recipe(study, output, seeds, trainer, overwrite)


@dataclass(kw_only=True)
class _Forecasts(Recipe):
    data: FusionDataModule
    shifted: FusionDataModule | None
    experts: dict[str, Expert]
    shared: dict[str, Any]
    shifted_samples: int
    epochs: int
    found: list[Forecast] = field(default_factory=list)

    def run_seed(self, run: Run, seed: int) -> None:
        """Train the probe of one seed."""
        one = SeedRun(run, self.data.variant(seed=seed), seed)
        shifted = None if self.shifted is None else self.shifted.variant(seed=seed)
        found = Probe(
            experts=self.experts,
            shared=self.shared | module_facts(one.data),
            shifted=shifted,
            counts=[self.shifted_samples],
            epochs=self.epochs,
            seed=stage_seed(seed, 2),
        ).forecasts(one)[self.shifted_samples]
        self.found.append(found)
        run.report.add(EXPERTS, "accuracy", found.accuracy, seed, "val")
        if shifted is not None:
            run.report.add(EXPERTS, SHIFTED, found.shifted, seed, "val")
            run.report.add(FEW, SHIFTED, found.other, seed, "val")

    def conclude(self, run: Run) -> None:
        """Say what each seed forecasts, and why."""
        report = run.report
        report.data = {"source": source_of(self.data), "classes": len(self.data.classes)}
        report.text = [
            line for seed, found in zip(run.seeds, self.found, strict=True) for line in (_said(seed, found), "")
        ]
        if len(self.found) > 1:
            report.text += [f"All seeds: the reversal {_SAID[verdict(self.found)]}.", ""]
        report.notes += data_notes(self.data)

    def figures(self, run: Run) -> Figures:
        """Plot the R2 of each seed."""
        values = {"R2": [found.r2 for found in self.found]}
        names = [f"seed {seed}" for seed in run.seeds]
        figure = plotting.grouped_bars(values, names, label="R2", title="What projections predict beyond the class")
        return {
            "r2": (figure, "Variance of the experts' residuals that the projections explain on validation samples.")
        }


def prepared(data: FusionDataModule, classes: Sequence[str] | None = None) -> FusionDataModule:
    """Return data in the role of an expert's, of the domain that they select if any, ready for training.

    Args:
        data: Data module.
        classes: Classes that data of the shifted kind must have.

    Raises:
        InputError: If they have others.
    """
    data = data.variant(role="expert") if data.has_roles else data
    data.prepare_data()
    data.setup("fit")
    if classes is not None and data.classes != classes:
        raise InputError(f"shifted: its classes are {shorten(data.classes)}; those of data {shorten(classes)}")
    return data


def module_facts(data: Any) -> dict[str, Any]:
    """Return the arguments of a module that its data know."""
    return {"classes": data.classes, "preprocessing": getattr(data, "preprocessing", None)}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How the probe of a seed is trained.

    Attributes:
        experts: Frozen experts.
        shared: Arguments of the module, ``network`` and ``optimizer`` among them.
        shifted: Data of the shifted kind.
        counts: Numbers of its validation samples by which forecasts are made; 0 uses none.
        epochs: Epochs of the probe.
        seed: Random seed of its training.
    """

    experts: Mapping[str, Expert]
    shared: Mapping[str, Any]
    shifted: FusionDataModule | None
    counts: Sequence[int]
    epochs: int
    seed: int

    def forecasts(self, one: SeedRun) -> dict[int, Forecast]:
        """Train the probe unless its forecasts are stored, and print what the one by most samples says.

        Args:
            one: The seed.

        Returns:
            The forecast by each number of shifted samples.
        """
        file = one.folder / "forecasts.json"
        if not file.is_file():
            found = self._train(one)
            if first_process():
                write_text(file, json.dumps({count: asdict(each) for count, each in found.items()}))
        else:
            found = {int(count): Forecast(**each) for count, each in json.loads(file.read_text()).items()}
        one.console.print(_said(one.seed, found[max(found)]))
        return found

    def _train(self, one: SeedRun) -> dict[int, Forecast]:
        made: list[ACoRLModule] = []

        def build() -> ACoRLModule:
            made.append(build_probe(experts=dict(self.experts), **self.shared))
            return made[-1]

        (one.folder / f"{PROBE}.ckpt").unlink(missing_ok=True)  # it has no projections
        path = one.train(PROBE, build, one.data, self.seed, self.epochs, f"seed {one.seed}  {PROBE}")
        members = {**self.experts, PROBE: one.load_expert(path, self.shared["network"])}
        with seen_by_design():
            how: dict[str, Any] = {"splits": ("val",), "trainer": one.trainer("forecast", logged=False)}
            outputs = collect(ExpertPool(members, one.data.classes), one.data, keep_representations=True, **how)
        adversary = made[0].adversary
        assert adversary is not None
        without = forecast(adversary, PROBE, outputs)
        if self.shifted is None:
            return dict.fromkeys(self.counts, without)
        moved = one.outputs_of("forecast_shifted", dict(self.experts), self.shifted, ("val",))
        found = {}
        for count in self.counts:
            rows = draw_rows(len(moved["val"].target), count, one.seed)
            few = torch.from_numpy(rows), one.data, self.shared["optimizer"], one.seed
            other = learned_from(self.shared["network"], self.shifted, *few)
            found[count] = forecast(adversary, PROBE, outputs, moved, rows, other) if count else without
        return found


def _said(seed: int, found: Forecast) -> str:
    return f"seed {seed}  forecast: the reversal {_SAID[verdict([found])]}: {'; '.join(found.reasons)}"
