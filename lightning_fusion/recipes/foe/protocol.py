"""FoE's classification protocol: experts on domains, outputs once, fusers, and everything they must beat."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from rich.console import Console
from torch import Tensor, nn

from lightning_fusion import plotting
from lightning_fusion.baselines import BASELINES, oracle_expert, oracle_selection
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.views.role import with_roles
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.collect import collect
from lightning_fusion.experts.outputs.datamodule import OutputsDataModule
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.foe.fusers import MLPFuser
from lightning_fusion.foe.module import FoEFuserModule, failure_signs
from lightning_fusion.hyperparameters import read_checkpoint
from lightning_fusion.recipes.foe.overlap import OverlapRun, check_overlaps, overlap_figure, overlap_table
from lightning_fusion.recipes.report import Figures, Report, claim_folder
from lightning_fusion.recipes.seed_run import (
    SeedRun,
    check_domains,
    check_seeds,
    describe,
    describe_data,
    quiet_lightning,
    save_weights,
    source_of,
)

MAIN = "FoE (label)"
FUSERS: dict[str, dict[str, Any]] = {
    MAIN: {"target": "label"},
    "FoE (expert, random owner)": {"target": "expert", "owner": "random"},
    "FoE (expert, best owner)": {"target": "expert", "owner": "best"},
}
ONE_OWNER = "FoE (expert)"
"""Stands for both of the latter where no row has two owners: they are the same."""
WITH_FEATURES = "FoE (label, with features)"
"""Our extension: FoE that reads the experts' representations beside their outputs."""
ONE_EXPERT: dict[str, dict[str, Any]] = {
    "FoE (label, outputs of one expert)": FUSERS[MAIN],
    "FoE (expert, outputs of one expert)": FUSERS["FoE (expert, best owner)"],
}
"""The paper's ablation: FoE that reads one expert, and answers, or chooses among all experts."""


def foe(
    data: FusionDataModule,
    network: Callable[[int], nn.Module],
    output: str,
    seeds: list[int] | None = None,
    expert_epochs: int = 10,
    fuser_epochs: int = 50,
    fuser_batch_size: int | None = None,
    fuser: Callable[[int, int], nn.Module] | None = None,
    features: str | None = None,
    average_share: float = 0.5,
    optimizer: OptimizerCallable | None = None,
    scheduler: LRSchedulerCallable | None = None,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    metric: Literal["accuracy", "balanced_accuracy"] = "accuracy",
    centralised: bool = True,
    single_expert: bool = False,
    overlaps: list[float] | None = None,
    accelerator: str = "auto",
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    overwrite: bool = False,
) -> Report:
    """Train one expert per domain, fuse them, and compare with every baseline on the same rows.

    For each seed: splits and domains are drawn, one expert is trained per domain and, as an upper line, one model on
    all experts' data; the pool is asked once; FoE is trained with the three kinds of target; baselines are fitted on
    the same rows; all are tested on the test split. A run that was interrupted goes on with what it has.

    Args:
        data: The data, in the ``fuser`` role; its domains are the experts'. Where the data module has no roles, the
            fuser has its validation split (:class:`~lightning_fusion.data.views.role.RoleDataModule`).
        network: Called with a number of classes, gives an expert's network.
        output: Folder of the run.
        seeds: One run each; [0] where None.
        expert_epochs: Epochs of each expert and of the centralised model.
        fuser_epochs: Epochs of each fuser; as in the paper, the last weights are kept.
        fuser_batch_size: Rows per batch of the fusers; the paper's 128 where None, or as many fewer as give an epoch 16
            steps (our choice: on 135 rows two large steps per epoch learn nothing).
        fuser: Called as ``fuser(num_inputs, num_outputs)``; the paper's MLP where None, and
            :class:`~lightning_fusion.foe.fusers.FeatureFuser` where it reads features.
        features: Layer of the experts' networks that gives their representation. Where named, the main row is FoE that
            reads representations beside outputs (our extension), and the paper's stands below it.
        average_share: Share of the experts' plain average in the answer of FoE that reads representations; 0 is the
            fuser alone.
        optimizer: Of the experts; AdamW, 1e-3, weight decay 1e-4 where None.
        scheduler: Of the experts, stepping each epoch; a cosine to 0 where None.
        label_smoothing: Of the experts.
        mixup: Of the experts, its alpha; 0 turns it off.
        metric: Of the table, its gains and pictures: the share of test rows that are right, or, where classes are of
            unlike size, ``balanced_accuracy``, the mean over classes of that share. ``results.json`` has both.
        centralised: Train the centralised model as well.
        single_expert: Fuse the outputs of one expert as well, the paper's ablation: for each expert a fuser is trained
            that reads it alone, and the one that is best on the fuser's validation rows is tested.
        overlaps: Shares of each expert's training rows, from 0 to 1, that are drawn from all domains: for each, experts
            are trained and fused anew, and a picture shows where fusing stops to pay. The test and fuser rows stay.
        accelerator: Lightning's name of the device.
        precision: Lightning's name of the precision of the experts.
        overwrite: Replace another run in ``output``.

    Returns:
        The report, which is also in ``output``: ``results.json``, ``report.md``, pictures, and for each seed the
        experts' checkpoints, their outputs, the fusers' checkpoints and ``pool.yaml``, which names the experts.

    Raises:
        InputError: If ``output`` holds another run, or the data have fewer than two domains.
    """
    seeds = [0] if seeds is None else seeds
    check_seeds(seeds)
    if expert_epochs < 1 or fuser_epochs < 1 or (fuser_batch_size is not None and fuser_batch_size < 1):
        raise InputError("expert_epochs, fuser_epochs and fuser_batch_size must be at least 1")
    if not 0 <= average_share < 1:
        raise InputError(f"average_share is {average_share}; expected 0 to 1, without 1")
    data = with_roles(data)
    data.prepare_data()
    check_domains(data)
    config = {
        **describe_data(data, seeds[0]),
        "network": describe(network),
        "seeds": seeds,
        "expert_epochs": expert_epochs,
        "fuser_epochs": fuser_epochs,
        "fuser_batch_size": fuser_batch_size,
        "fuser": describe(fuser),
        "features": features,
        "average_share": average_share,
        "optimizer": describe(optimizer),
        "scheduler": describe(scheduler),
        "label_smoothing": label_smoothing,
        "mixup": mixup,
        "metric": metric,
        "centralised": centralised,
        "single_expert": single_expert,
        "overlaps": overlaps,
        "precision": precision,
    }
    folder, resumed = claim_folder(output, "foe", config, overwrite)
    console = Console(markup=False)
    if resumed:
        console.print(f"going on with the run in {folder}")
    measure = metric.replace("_", " ")
    report = Report("foe", config, metric=measure, title=f"test {measure}")
    shares = check_overlaps(overlaps or [])
    main = MAIN if features is None else WITH_FEATURES
    with quiet_lightning():
        for seed in seeds:
            run = _Seed(
                data.variant(seed=seed), seed, folder / f"seed_{seed}", report, console, {"accelerator": accelerator}
            )
            expert_arguments = {
                "network": network,
                "features": features,
                "optimizer": optimizer,
                "scheduler": scheduler,
                "label_smoothing": label_smoothing,
                "mixup": mixup,
            }
            experts = run.train_experts(expert_arguments, expert_epochs, precision)
            outputs = run.collect(experts, features=features is not None)
            run.fit_fusers(outputs, fuser, fuser_epochs, fuser_batch_size, average_share)
            if single_expert:
                run.fit_on_single_experts(outputs, fuser, fuser_epochs, fuser_batch_size)
            run.score_rules(outputs)
            if centralised:
                run.score_centralised(expert_arguments, expert_epochs, precision)
            for share in shares:
                part = folder / f"seed_{seed}" / f"overlap_{share:g}"
                among = OverlapRun(
                    run.data, seed, part, report, console, run.trainer_arguments, overlap=share, main=MAIN
                )
                among.study(expert_arguments, expert_epochs, precision, fuser, fuser_epochs)
    report.data = {
        "source": source_of(data),
        "classes": len(outputs.classes),
        "class names": shorten(outputs.classes, 20),
        "experts": len(outputs.names),
        "expert names": shorten(outputs.names, 20),
        "rows": ", ".join(f"{name} {len(part)}" for name, part in outputs.splits.items()),
    }
    best = max(BASELINES, key=lambda name: float(np.mean(report.values(name, measure))))
    behind = np.mean(report.values(best, measure)) - np.mean(report.values(main, measure))
    if behind > 0.02:
        report.notes.append(
            f"{main} is {100 * behind:.1f} points below {best}: take that, or give the fuser more rows (it had "
            f"{len(outputs['train'])})."
        )
    sizes = np.bincount(outputs["test"].target, minlength=len(outputs.classes)) / len(outputs["test"])
    if metric == "accuracy" and sizes.max() * len(outputs.classes) > 1.5:
        report.notes.append(
            f"{sizes.max():.0%} of the test rows are {outputs.classes[sizes.argmax()]}: accuracy "
            "rewards guessing it; metric: balanced_accuracy counts all classes alike."
        )
    if shares:
        report.text = overlap_table(report, shares, MAIN)
    report.save(folder, main)  # the results are safe before anything is drawn
    figures = _figures(report, folder, outputs, seeds[-1], main)
    report.save(folder, main, figures | (overlap_figure(report, shares, MAIN) if shares else {}))
    report.print(main, folder, console)
    return report


class _Seed(SeedRun):
    """One seed of the protocol."""

    # ---------------------------------------------------------------- fusers

    def fit_fusers(
        self, outputs: ExpertOutputs, network: Any, epochs: int, batch_size: int | None, average_share: float
    ) -> None:
        """Train and test FoE with each kind of target, and with features where the store holds them."""
        owned = all(outputs.owners(split).any() for split in ("train", "val"))
        mixed = FUSERS[MAIN] | {"average_share": average_share}
        with_features = {WITH_FEATURES: mixed} if outputs["train"].features else {}
        single = all(outputs.owners(split).sum(1).max() <= 1 for split in ("train", "val"))
        kinds = {MAIN: FUSERS[MAIN], ONE_OWNER: {"target": "expert"}} if single else FUSERS
        for method, arguments in (with_features | kinds).items():
            if arguments["target"] == "expert" and not owned:
                self.report.notes.append(f"{method} left out: no expert's domains are known.")
                continue
            start = time.perf_counter()
            name = method.replace("FoE (", "").replace(")", "").replace(", ", "_").replace(" ", "_")
            path = self.folder / "fusers" / f"{name}.ckpt"
            module, trainer = self._fit_fuser(
                outputs, network, epochs, batch_size, arguments, features=method == WITH_FEATURES, path=path
            )
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            for sign in failure_signs(metrics, module.target):
                self.report.notes.append(f"Seed {self.seed}, {method}: {sign}")
            self._score_fuser(module, outputs, method, main=method == next(iter(with_features or kinds)))
            self.took("training fusers", start)

    def fit_on_single_experts(self, outputs: ExpertOutputs, network: Any, epochs: int, batch_size: int | None) -> None:
        """Train fusers that read one expert each, and test the best on the validation rows."""
        truth = np.asarray(outputs["val"].target)
        for method, arguments in ONE_EXPERT.items():
            if arguments["target"] == "expert" and not all(outputs.owners(part).any() for part in ("train", "val")):
                continue
            start, best = time.perf_counter(), (-1.0, "")
            fitted: dict[str, FoEFuserModule] = {}
            first = 0
            for name, labels in outputs.expert_classes.items():
                reader = partial(_OneExpert, first=first, count=len(labels), network=network or MLPFuser)
                first += len(labels)
                fitted[name] = self._fit_fuser(outputs, reader, epochs, batch_size, arguments)[0].eval()
                with torch.no_grad():
                    answer = fitted[name].fuse(torch.from_numpy(outputs.concatenated("val"))).argmax(1).numpy()
                accuracy = float((answer == truth).mean())
                self.report.add(method, f"accuracy, reading {name}", accuracy, self.seed, split="val")
                best = max(best, (accuracy, name), key=lambda found: found[0])  # the first of several
            self.report.notes.append(f"Seed {self.seed}, {method}: reads {best[1]}, the best on validation rows.")
            self._score_fuser(fitted[best[1]], outputs, method)
            self.took("training fusers", start)

    def _fit_fuser(
        self,
        outputs: ExpertOutputs,
        network: Any,
        epochs: int,
        batch_size: int | None,
        arguments: dict[str, Any],
        features: bool = False,
        path: Path | None = None,
    ) -> tuple[FoEFuserModule, Trainer]:
        """A trained fuser, and the Trainer that validated it; a run that goes on takes it from ``path``."""
        seed_everything(self.seed, verbose=False)
        rows = batch_size or min(128, max(8, len(outputs["train"]) // 16))
        data = OutputsDataModule(outputs, batch_size=rows, seed=self.seed, features=features)
        dims = data.feature_dims
        module = FoEFuserModule(**outputs.facts(), feature_dims=dims, network=network, seed=self.seed, **arguments)
        trainer = self.trainer(epochs, accelerator="cpu")
        kept = read_checkpoint(str(path)) if path is not None and path.is_file() else {}
        if kept.get("experts") == outputs.experts:
            module.load_state_dict(kept["state_dict"])
            trainer.validate(module, datamodule=data, verbose=False)
            return module, trainer
        trainer.fit(module, datamodule=data)
        if path is not None:
            save_weights(trainer, path)
        return module, trainer

    def _score_fuser(self, module: FoEFuserModule, outputs: ExpertOutputs, method: str, main: bool = False) -> None:
        part = outputs["test"]
        module.eval()
        with torch.no_grad():
            given = torch.from_numpy(outputs.concatenated("test", bool(module.feature_dims)))
            logits = module.fuse(given)
            if module.target == "expert":
                chosen = module.network(given).argmax(1).numpy()
                owns = outputs.owners("test")[np.arange(len(part)), chosen]
                self.report.add(method, "choice accuracy", owns.mean(), self.seed)
        prediction = logits.argmax(1).numpy()
        self._score(method, prediction == part.target, outputs)
        if main:
            np.save(self.folder / "fused.npy", prediction)
            self._listen(module, outputs)

    def _listen(self, module: FoEFuserModule, outputs: ExpertOutputs) -> None:
        """Which experts the fuser listens to: accuracy lost when one expert's outputs are shuffled over test rows."""
        generator = np.random.default_rng(self.seed)
        target = np.asarray(outputs["test"].target)
        given = outputs.concatenated("test", bool(module.feature_dims))
        widths = [len(labels) for labels in outputs.expert_classes.values()] + list(module.feature_dims.values())
        blocks = np.split(np.arange(given.shape[1]), np.cumsum(widths)[:-1])
        with torch.no_grad():
            base = (module.fuse(torch.from_numpy(given)).argmax(1).numpy() == target).mean()
        for number, name in enumerate(outputs.names):
            own = np.concatenate(blocks[number :: len(outputs.names)])
            mixed = given.copy()
            mixed[:, own] = mixed[generator.permutation(len(mixed))][:, own]
            with torch.no_grad():
                right = module.fuse(torch.from_numpy(mixed)).argmax(1).numpy() == target
            self.report.add(f"without {name}", "accuracy lost by shuffling", base - right.mean(), self.seed)

    # ------------------------------------------------------------- baselines

    def score_rules(self, outputs: ExpertOutputs) -> None:
        """Fit every baseline on the fuser's rows and test it; add the oracles."""
        start = time.perf_counter()
        train, test = outputs.scattered("train"), outputs.scattered("test")
        target, truth = np.asarray(outputs["train"].target), np.asarray(outputs["test"].target)
        # means are linear in who is right: that of all experts is that of their share
        self.report.add_right("mean single expert", (test.argmax(2) == truth[:, None]).mean(1), truth, self.seed)
        for name, rule in BASELINES.items():
            self._score(name, rule().fit(train, target).predict(test) == truth, outputs)
        owners = outputs.owners("test")
        if owners.any():
            self._score("oracle expert (domain known)", oracle_expert(test, truth, owners), outputs)
        self._score("oracle selection (some expert right)", oracle_selection(test, truth), outputs)
        self.took("baselines", start)

    def score_centralised(self, arguments: dict[str, Any], epochs: int, precision: str) -> None:
        """One model on the data of all experts: what sharing the data would give."""
        data = self.data.variant(role="expert", domain=None)
        path = self.train_expert(
            "centralised", data, arguments, epochs, precision, f"seed {self.seed}  centralised model"
        )
        pool = ExpertPool({"centralised": self.load_expert(path, arguments["network"])}, self.data.classes)
        outputs = collect(pool, self.data, splits=["test"], trainer=self.trainer(1))
        right = outputs.scattered("test")[:, 0].argmax(1) == outputs["test"].target
        self._score("centralised model (shares data)", right, outputs)

    # --------------------------------------------------------------- helpers

    def _score(self, method: str, right: np.ndarray, outputs: ExpertOutputs) -> None:
        truth = np.asarray(outputs["test"].target)
        self.report.add_right(method, right, truth, self.seed)
        member = np.asarray(outputs["test"].domain, bool)
        for column, name in enumerate(outputs.domains):
            if (rows := member[:, column]).any():
                self.report.add_right(method, right[rows], truth[rows], self.seed, domain=name)


class _OneExpert(nn.Module):
    """A fuser that reads a block of its inputs: those of one expert."""

    def __init__(
        self, num_inputs: int, num_outputs: int, first: int, count: int, network: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.block = slice(first, first + count)
        self.network = network(count, num_outputs)

    def forward(self, outputs: Tensor) -> Tensor:
        """Map (B, sum of C_k) to (B, C)."""
        return self.network(outputs[:, self.block])


def _figures(report: Report, folder: Path, outputs: ExpertOutputs, seed: int, main: str) -> Figures:
    """The three figures of the report."""
    shown = [main, "best single expert", "softmax average", "most confident", "logistic stacking"]
    rows = [row for row in report.rows if "domain" in row and row["method"] in shown and row["metric"] == report.metric]
    domains = [name for name in outputs.domains if any(row["domain"] == name for row in rows)]
    means = {
        method: [
            np.mean([row["value"] for row in rows if (row["method"], row["domain"]) == (method, d)]) for d in domains
        ]
        for method in shown
    }
    lost = {name: report.values(f"without {name}", "accuracy lost by shuffling") for name in outputs.names}
    fused = np.load(folder / f"seed_{seed}" / "fused.npy")
    title = f"{main}:\nfractions of each true class, seed {seed}"
    return {
        "domains": (
            plotting.grouped_bars(
                means, domains, label=report.title, title=f"{report.metric.capitalize()} on each domain", top=1
            ),
            f"{report.title.capitalize()} on the samples of each domain, mean over seeds.",
        ),
        "confusion": (
            plotting.confusion(outputs["test"].target, fused, outputs.classes, title=title),
            f"Confusion matrix of {main} on the test split, one seed.",
        ),
        "importance": (
            plotting.permutation_importance(lost),
            "Accuracy lost when the outputs of one expert are permuted over the test samples; dots are seeds.",
        ),
    }
