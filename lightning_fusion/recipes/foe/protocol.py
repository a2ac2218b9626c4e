"""FoE's classification protocol: experts of domains, cached outputs, fusers and baselines."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_fusion.baselines import BASELINES, Baseline, oracle_expert, oracle_selection
from lightning_fusion.baselines.checks import check_baselines
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.views.role import with_roles
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.experts.outputs.recorded import RecordedPredictions
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.foe.diagnostics import fuser_warnings
from lightning_fusion.foe.fusers import MLPFuser
from lightning_fusion.foe.module import FoEFuserModule
from lightning_fusion.recipes.advice import SampleScores, sample_scores
from lightning_fusion.recipes.foe.overlap import OverlapRun, check_overlaps, overlap_figure, overlap_table
from lightning_fusion.recipes.foe.report import FUSED, figures, inspect_fuser
from lightning_fusion.recipes.foe.rows import (
    CENTRALIZED,
    FUSERS,
    MAIN,
    ONE_EXPERT,
    ONE_TARGET,
    WITH_REPRESENTATIONS,
    by_simplicity,
    fuser_file,
)
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
    stage_seed,
)
from lightning_fusion.recipes.serving import save_baseline
from lightning_fusion.recipes.stored import StoredOutputs, check_sources, seeds_of
from lightning_fusion.store import StoreWriter

_CENTRALIZED_PART = 13622124  # of the seed; fixed, so that published results stay reproducible
_TRAINING = ("expert_epochs", "features", "optimizer", "scheduler", "label_smoothing", "mixup", "overlaps")


def foe(
    output: str,
    data: FusionDataModule | None = None,
    network: Callable[[int], nn.Module] | None = None,
    stores: list[str] | None = None,
    predictions: RecordedPredictions | None = None,
    seeds: list[int] | None = None,
    expert_epochs: int = 10,
    fuser_epochs: int = 50,
    fuser_batch_size: int | None = None,
    fuser: Callable[[int, int], nn.Module] | None = None,
    features: str | None = None,
    mean_weight: float = 0.5,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    metric: Literal["accuracy", "balanced_accuracy"] = "accuracy",
    centralized: bool = True,
    single_expert: bool = False,
    overlaps: list[float] | None = None,
    baselines: dict[str, Callable[[], Baseline]] | None = None,
    trainer: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Train one expert per domain, fuse them, and compare with every baseline on the same samples.

    For each seed: splits and domains are drawn, one expert is trained per domain and, as an upper reference, one
    model on all experts' data; the outputs of the pool are cached; FoE is trained with the three kinds of target;
    baselines are fitted on the same samples; all are tested on the test split. An interrupted run resumes. Stored
    outputs or recorded predictions take the place of data and network; no expert is then trained or queried.

    Args:
        output: Folder of the run.
        data: The data, in the ``fuser`` role; its domains are the experts'. Where the data module has no roles, the
            fuser is trained on the validation split (:class:`~lightning_fusion.data.views.role.RoleDataModule`).
        network: Factory of an expert's network, called with the number of classes.
        stores: Instead of data and network, folders of stored outputs, one for each seed.
        predictions: Instead, predictions that were recorded in CSV files.
        seeds: Random seeds, one run each; [0] by default, or 0, 1, ... for stores.
        expert_epochs: Epochs of each expert and of the centralized model.
        fuser_epochs: Epochs of each fuser; as in the paper, the last weights are kept.
        fuser_batch_size: Samples per batch of the fusers; the paper's 128 by default, reduced so that an epoch has at
            least 16 steps (our choice: on 135 samples, two large steps per epoch learn nothing).
        fuser: Called as ``fuser(num_inputs, num_outputs)``; ``None`` (default) uses the paper's MLP, and
            :class:`~lightning_fusion.foe.fusers.RepresentationFuser` for representations.
        features: Layer of the experts' networks that gives their representation. If set, the main row of the table is
            FoE that reads representations and outputs (our extension), followed by the paper's. Stores with
            representations give this row as well.
        mean_weight: Weight of the mean of the experts' outputs in the prediction of FoE that reads representations; 0
            is the fuser alone.
        optimizer: Optimizer of the experts; AdamW, 1e-3, weight decay 1e-4 by default.
        scheduler: Schedule of the experts, stepping each epoch; cosine annealing to 0 by default.
        label_smoothing: Label smoothing of the experts.
        mixup: Mixup alpha of the experts; 0 turns it off.
        metric: Metric of the table, gains and figures: ``accuracy``, or ``balanced_accuracy`` for imbalanced classes.
            ``results.json`` has both.
        centralized: Train the centralized model as well, where experts are trained.
        single_expert: Fuse the outputs of one expert as well, the paper's ablation: for each expert a fuser is trained
            on the outputs of that expert only, and the one that is best on the fuser's validation split is tested.
        overlaps: Fractions, from 0 to 1, of each expert's training samples that are drawn from all domains; experts and
            fusers are retrained for each, and a figure shows where fusion brings no gain. The test and fuser samples do
            not change.
        baselines: Additional baselines, by the name that the table prints; in YAML ``{name: {class_path:
            my_package.MyBaseline, init_args: {...}}}``, a subclass of :class:`~lightning_fusion.baselines.Baseline`.
        trainer: Arguments of every stage's Trainer; :class:`~lightning_fusion.recipes.trainers.Trainers` lists
            them.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``: ``results.json``, ``report.md``, figures, and for each seed the
        experts' checkpoints, their outputs, the fusers' checkpoints and ``pool.yaml``, which names the experts.

    Raises:
        InputError: If ``output`` contains another run, the data have fewer than two domains, a baseline has the name
            of another one, or arguments contradict one another.
    """
    check_sources(foe, locals(), _TRAINING)
    seeds, baselines = seeds_of(seeds, stores), baselines or {}
    recorded = describe_arguments(locals(), "stores", "predictions")
    check_seeds(seeds)
    if expert_epochs < 1 or fuser_epochs < 1 or (fuser_batch_size is not None and fuser_batch_size < 1):
        raise InputError("expert_epochs, fuser_epochs and fuser_batch_size must be at least 1")
    if not 0 <= mean_weight < 1:
        raise InputError(f"mean_weight is {mean_weight}; expected 0 to 1, without 1")
    if taken := sorted(set(baselines) & set(BASELINES)):
        raise InputError(f"baselines: found the names {shorten(taken)}, which are reserved; choose others")
    stored: StoredOutputs | None = None
    if data is None:
        unused = ("network", "centralized", *_TRAINING)
        recorded = {name: value for name, value in recorded.items() if name not in unused}
        stored = StoredOutputs.open(stores, predictions, seeds)
        source, reads = stored.source, stored.has_representations
        for whole in stored.outputs.values():
            check_baselines(baselines, len(whole.names), len(whole.classes))
    else:
        check_no_domain(data)
        data = with_roles(data)
        data.prepare_data()
        check_domains(data)
        recorded |= describe_data(data)
        source, reads = source_of(data), features is not None
        check_baselines(baselines, len(data.domains), len(data.classes))
    shares = check_overlaps(overlaps or [])
    measure = metric.replace("_", " ")
    expert = {"optimizer": optimizer, "scheduler": scheduler, "label_smoothing": label_smoothing, "mixup": mixup}
    recipe = _FoE(
        name="foe",
        main=WITH_REPRESENTATIONS if reads else MAIN,
        config=recorded,
        metric=measure,
        title=f"test {measure}",
        simplicity=by_simplicity([*BASELINES, *baselines]),
        data=data,
        stored=stored,
        source=source,
        expert={"network": network, "features": features, **expert},
        expert_epochs=expert_epochs,
        fuser={"network": fuser, "epochs": fuser_epochs, "batch_size": fuser_batch_size},
        mean_weight=mean_weight,
        centralized=centralized and data is not None,
        single_expert=single_expert,
        overlaps=shares,
        baselines={**BASELINES, **baselines},
    )
    return run_recipe(recipe, output, seeds, trainer, overwrite)


@dataclass(kw_only=True)
class _FoE(Recipe):
    data: FusionDataModule | None
    stored: StoredOutputs | None
    """Cached outputs by seed, in place of data."""
    source: str
    expert: dict[str, Any]
    """Arguments of the experts' modules."""
    expert_epochs: int
    fuser: dict[str, Any]
    """Network, epochs and batch size of the fusers."""
    mean_weight: float
    centralized: bool
    single_expert: bool
    overlaps: list[float]
    baselines: dict[str, Callable[[], Baseline]]

    def of_seeds(self, seeds: Sequence[int]) -> dict[int, Any]:
        """The stores; they contain the data of all seeds."""
        return super().of_seeds(seeds) if self.stored is None else self.stored.record(seeds)

    def run_seed(self, run: Run, seed: int) -> None:
        """Train the experts and cache their outputs, or read a store; train and test fusers and baselines."""
        self.last = one = _Seed(run, self.data and self.data.variant(seed=seed), seed)
        if self.stored is not None:
            run.report.notes += self.stored.notes[seed]
            self.outputs = one.keep(self.stored.outputs[seed])
        else:
            experts = one.train_experts(self.expert, self.expert_epochs)
            self.outputs = one.collect(experts, keep_representations=self.expert["features"] is not None)
        one.fit_fusers(self.outputs, self.fuser, self.mean_weight)
        if self.single_expert:
            one.fit_on_single_experts(self.outputs, self.fuser)
        one.score_rules(self.outputs, self.baselines)
        if self.centralized:
            one.score_centralized(self.expert, self.expert_epochs)
        for share in self.overlaps:
            among = OverlapRun(run, one.data, seed, f"overlap_{share:g}", overlap=share, main=MAIN)
            among.study(self.expert, self.expert_epochs, self.fuser)

    def conclude(self, run: Run) -> None:
        """Describe the data, and list methods that exceed FoE."""
        report, outputs = run.report, self.outputs
        report.data = {
            "source": self.source,
            "classes": len(outputs.classes),
            "class names": shorten(outputs.classes, 20),
            "experts": len(outputs.names),
            "expert names": shorten(outputs.names, 20),
            "rows": ", ".join(f"{name} {len(part)}" for name, part in outputs.splits.items()),
        }
        report.notes += data_notes(self.data)
        if self.stored is None:
            report.serving = {"experts": outputs.names, "classes": outputs.classes}
        best = max(self.baselines, key=lambda name: float(np.mean(report.values(name, self.metric))))
        behind = np.mean(report.values(best, self.metric)) - np.mean(report.values(self.main, self.metric))
        if behind > 0.02:
            report.notes.append(
                f"{self.main} is {100 * behind:.1f} points below {best}: use that baseline, or enlarge the fuser "
                f"training set ({len(outputs['train'])} samples)."
            )
        sizes = np.bincount(outputs["test"].target, minlength=len(outputs.classes)) / len(outputs["test"])
        if self.metric == "accuracy" and sizes.max() * len(outputs.classes) > 1.5:
            report.notes.append(
                f"{sizes.max():.0%} of the test samples are of class {outputs.classes[sizes.argmax()]}: accuracy "
                "favors this class; metric: balanced_accuracy weights all classes equally."
            )
        if self.overlaps:
            report.text = overlap_table(report, self.overlaps, MAIN)

    def figures(self, run: Run) -> Figures:
        """Accuracy by domain, confusion matrix, permutation importance, and accuracy by overlap."""
        drawn = figures(run.report, run.folder, self.outputs, run.seeds[-1], self.main)
        return drawn | (overlap_figure(run.report, self.overlaps, MAIN) if self.overlaps else {})

    def inspection(self, run: Run) -> dict[str, Any]:
        """Test samples of the main row, last seed."""
        one = self.last
        return inspect_fuser(one.fuser, self.outputs, f"{self.main}, seed {one.seed}", one.seed).record()


class _Seed(SeedRun):
    """One seed of the protocol."""

    # ---------------------------------------------------------------- fusers

    def fit_fusers(self, outputs: ExpertOutputs, fuser: dict[str, Any], mean_weight: float) -> None:
        """Train and test FoE with each kind of target, and with representations if the store has them."""
        owned = all(outputs.expert_targets(split).any() for split in ("train", "val"))
        mixed = FUSERS[MAIN] | {"mean_weight": mean_weight}
        with_representations = {WITH_REPRESENTATIONS: mixed} if outputs["train"].representations else {}
        single = all(outputs.expert_targets(split).sum(1).max() <= 1 for split in ("train", "val"))
        kinds = {MAIN: FUSERS[MAIN], ONE_TARGET: {"target": "expert"}} if single else FUSERS
        for method, arguments in (with_representations | kinds).items():
            if arguments["target"] == "expert" and not owned:
                self.report.notes.append(f"{method} was skipped: the experts declare no domains.")
                continue
            start = time.perf_counter()
            more = {**fuser, **arguments, "representations": method == WITH_REPRESENTATIONS}
            module, metrics = self.fit_fuser(fuser_file(method), outputs, keep=True, **more)
            for warning in fuser_warnings(metrics, module.target):
                self.report.notes.append(f"Seed {self.seed}, {method}: {warning}")
            self._score_fuser(module, outputs, method, main=method == next(iter(with_representations or kinds)))
            self._validate(method, _fused(module, outputs, "val").argmax(1).numpy(), outputs, len(outputs.names))
            self.report.took("training fusers", start)

    def fit_on_single_experts(self, outputs: ExpertOutputs, fuser: dict[str, Any]) -> None:
        """Train fusers that read one expert each, and test the best on the validation split."""
        truth = np.asarray(outputs["val"].target)
        for method, arguments in ONE_EXPERT.items():
            if arguments["target"] == "expert" and not all(
                outputs.expert_targets(part).any() for part in ("train", "val")
            ):
                continue
            start, best = time.perf_counter(), (-1.0, "")
            fitted: dict[str, FoEFuserModule] = {}
            first = 0
            for name, labels in outputs.expert_classes.items():
                network = fuser["network"] or MLPFuser
                reader = partial(_OneExpert, first=first, count=len(labels), network=network)
                first += len(labels)
                stage = f"{arguments['target']}_of_{name}"
                fitted[name], _ = self.fit_fuser(stage, outputs, **(fuser | {"network": reader}), **arguments)
                accuracy = float((_fused(fitted[name], outputs, "val").argmax(1).numpy() == truth).mean())
                self.report.add(method, f"accuracy, outputs of {name}", accuracy, self.seed, split="val")
                best = max(best, (accuracy, name), key=lambda found: found[0])  # the first of equals
            self.report.notes.append(
                f"Seed {self.seed}, {method}: uses the outputs of {best[1]}, the best on the validation split."
            )
            self._score_fuser(fitted[best[1]], outputs, method)
            self.report.took("training fusers", start)

    def _score_fuser(self, module: FoEFuserModule, outputs: ExpertOutputs, method: str, main: bool = False) -> None:
        part = outputs["test"]
        if module.target == "expert":
            with torch.no_grad():
                given = torch.from_numpy(outputs.concatenated("test", bool(module.representation_dims)))
                chosen = module.network(given).argmax(1).numpy()
            owns = outputs.expert_targets("test")[np.arange(len(part)), chosen]
            self.report.add(method, "choice accuracy", owns.mean(), self.seed)
        prediction = _fused(module, outputs, "test").argmax(1).numpy()
        self._score(method, prediction == part.target, outputs)
        if main:
            self.fuser = module
            if first_process():
                with StoreWriter(self.folder / "fused", FUSED, overwrite=True) as writer:
                    writer["prediction"] = prediction
                    writer.commit({"method": method})
            self._importance(module, outputs)

    def _importance(self, module: FoEFuserModule, outputs: ExpertOutputs) -> None:
        """Permutation importance: accuracy lost when one expert's outputs are permuted over the test samples."""
        generator = np.random.default_rng(self.seed)
        target = np.asarray(outputs["test"].target)
        given = outputs.concatenated("test", bool(module.representation_dims))
        widths = [len(labels) for labels in outputs.expert_classes.values()] + list(module.representation_dims.values())
        blocks = np.split(np.arange(given.shape[1]), np.cumsum(widths)[:-1])
        with torch.no_grad():
            base = (module.fuse(torch.from_numpy(given)).argmax(1).numpy() == target).mean()
        for number, name in enumerate(outputs.names):
            own = np.concatenate(blocks[number :: len(outputs.names)])
            mixed = given.copy()
            mixed[:, own] = mixed[generator.permutation(len(mixed))][:, own]
            with torch.no_grad():
                right = module.fuse(torch.from_numpy(mixed)).argmax(1).numpy() == target
            self.report.add(name, "permutation importance", base - right.mean(), self.seed)

    # ------------------------------------------------------------- baselines

    def score_rules(self, outputs: ExpertOutputs, baselines: dict[str, Callable[[], Baseline]]) -> None:
        """Fit every baseline on the fuser's samples and test it; add the oracles."""
        start = time.perf_counter()
        train, test = outputs.scattered("train"), outputs.scattered("test")
        target, truth = np.asarray(outputs["train"].target), np.asarray(outputs["test"].target)
        # means are linear: the mean over experts is the mean of the fraction of correct experts
        self.report.add_right("mean of single experts", (test.argmax(2) == truth[:, None]).mean(1), truth, self.seed)
        for name, rule in baselines.items():
            fitted = rule().fit(train, target)
            save_baseline(self.folder, name, fitted)
            self._score(name, fitted.predict(test) == truth, outputs)
            queries = len(fitted.experts() or outputs.names)
            self._validate(name, fitted.predict(outputs.scattered("val")), outputs, queries)
        expert_targets = outputs.expert_targets("test")
        if expert_targets.any():
            self._score("oracle expert (domain known)", oracle_expert(test, truth, expert_targets), outputs)
        self._score("oracle selection (any expert correct)", oracle_selection(test, truth), outputs)
        self.report.took("baselines", start)

    def score_centralized(self, arguments: dict[str, Any], epochs: int) -> None:
        """Train one model on the data of all experts: an upper reference that needs shared data."""
        data = self.data.variant(role="expert", domain=None)
        build, seed = partial(self._expert_module, data, arguments), stage_seed(self.seed, _CENTRALIZED_PART)
        path = self.train("centralized", build, data, seed, epochs, f"seed {self.seed}  centralized model")
        expert = {"centralized": self.load_expert(path, arguments["network"])}
        outputs = self.outputs_of("centralized", expert, self.data, ["val", "test"])
        val, test = (outputs.scattered(split)[:, 0].argmax(1) for split in ("val", "test"))
        self._score(CENTRALIZED, test == outputs["test"].target, outputs)
        self._validate(CENTRALIZED, val, outputs, 1, "it was trained on the data of all domains")

    # --------------------------------------------------------------- helpers

    def _validate(
        self, method: str, answer: np.ndarray, outputs: ExpertOutputs, queries: int, excluded: str = ""
    ) -> None:
        """Add the result of (N,) predicted classes on the fuser's validation split, which no method was fitted on."""
        part = outputs["val"]
        truth = np.asarray(part.target)
        scores = SampleScores(sample_scores(self.report.metric, answer == truth, truth), np.asarray(part.index))
        self.report.validate(method, scores, self.seed, queries, excluded)

    def _score(self, method: str, right: np.ndarray, outputs: ExpertOutputs) -> None:
        truth = np.asarray(outputs["test"].target)
        self.report.add_right(method, right, truth, self.seed)
        member = np.asarray(outputs["test"].domain, bool)
        for column, name in enumerate(outputs.domains):
            if (rows := member[:, column]).any():
                self.report.add_right(method, right[rows], truth[rows], self.seed, domain=name)


def _fused(module: FoEFuserModule, outputs: ExpertOutputs, split: str) -> Tensor:
    """Return the (N, C) fused logits of a split."""
    with torch.no_grad():
        return module.fuse(torch.from_numpy(outputs.concatenated(split, bool(module.representation_dims))))


class _OneExpert(nn.Module):
    """A fuser that reads a block of its inputs: those of one expert."""

    def __init__(
        self, num_inputs: int, num_outputs: int, first: int, count: int, network: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.block = slice(first, first + count)
        self.network = network(count, num_outputs)

    def forward(self, outputs: Tensor) -> Tensor:
        """Map (B, sum of C_k) to (B, C) logits."""
        result: Tensor = self.network(outputs[:, self.block])
        return result
