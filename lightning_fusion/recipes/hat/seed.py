"""One seed of the recipe hat, and one target of it."""

import json
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer, seed_everything
from lightning.fabric.utilities import move_data_to_device

from lightning_fusion.baselines import LogisticStacking, oracle_selection
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.rows import sample_metadata
from lightning_fusion.data.views.source import SourceDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.files import digest, file_key, is_sealed, sealed, write_text
from lightning_fusion.hat.guard import guard
from lightning_fusion.hat.module import HaTJointModule
from lightning_fusion.hat.ranking import Selection
from lightning_fusion.hat.selection import select_sources
from lightning_fusion.recipes.hat.plan import CORRUPTED, OF_SELECTION, OF_TARGET, STUDENT, STUDENTS, Plan
from lightning_fusion.recipes.hat.report import LOCAL, MAIN, groups_of
from lightning_fusion.recipes.seed_run import SeedRun, barrier, save_weights, stage_seed
from lightning_fusion.registry.registry import ExpertRegistry


def draw_classes(present: Mapping[str, Sequence[str]], count: int, seed: int) -> dict[str, list[str]]:
    """Draw classes for each source, first those that the fewest previous sources were given.

    Ties are broken in favor of classes of few sources, then at random, by seed and name.

    Args:
        present: Names of the classes of which each source has samples.
        count: Number of classes of each source; all if it has fewer.
        seed: Random seed of the draw.

    Returns:
        Names of the classes that each source keeps, in their order.

    Example:
        >>> kept = draw_classes({"a": ["x", "y", "z"], "b": ["x", "y"]}, count=2, seed=0)
        >>> "z" in kept["a"], kept["b"]
        (True, ['x', 'y'])
    """
    could = Counter(label for labels in present.values() for label in labels)
    used: Counter[str] = Counter()
    kept = {}
    for name, labels in present.items():
        order = np.random.default_rng([seed, int(digest(name)[:8], 16)]).permutation(len(labels))
        chosen = sorted((labels[place] for place in order), key=lambda label: (used[label], could[label]))[:count]
        used.update(chosen)
        kept[name] = [label for label in labels if label in chosen]
    return kept


def class_means(weights: torch.Tensor, target: torch.Tensor) -> dict[int, list[float]]:
    """Return the mean weight of each source over the samples of each class.

    Args:
        weights: (N, S) weights of the sources.
        target: (N,) classes.

    Example:
        >>> class_means(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 0, 2]))
        {0: [0.75, 0.25], 2: [0.0, 1.0]}
    """
    return {int(number): weights[target == number].mean(0).tolist() for number in target.unique()}


def _present(data: FusionDataModule) -> list[str]:
    """Return the classes with both training and validation samples."""
    found = [set(sample_metadata(data.rows(split))[0].tolist()) for split in ("train", "val")]
    return [label for number, label in enumerate(data.classes) if number in found[0] & found[1]]


class HaTSeed(SeedRun):
    """One seed: all sources, then every target."""

    # ---------------------------------------------------------------- sources

    def publish_sources(self, plan: Plan, targets: Sequence[str]) -> None:
        """Train one source per domain and publish it; existing ones are reused.

        A domain whose source is corrupted for some targets has both a clean and a corrupted source.
        """
        self.registry = ExpertRegistry(str(self.folder / "registry"))
        self.experts: dict[str, Expert] = {}
        names, kinds = plan.domains, list(plan.networks)
        self.architecture = {name: kinds[number % len(kinds)] for number, name in enumerate(names)}
        published = set(self.registry.names)
        data: dict[str, FusionDataModule] = {name: self.data.variant(domain=name) for name in names}
        if plan.source_classes is not None:
            kept = draw_classes({name: _present(data[name]) for name in names}, plan.source_classes, self.seed)
            data = {name: SourceDataModule(data[name], kept[name]) for name in names}
        wrong = {name for target in targets for name in self.corrupted(target, plan)}
        for name in (name for name in names if name in wrong):
            data[f"{name}{CORRUPTED}"] = SourceDataModule(data[name], permuted=True, seed=self.seed)
        for number, (name, own) in enumerate(data.items()):
            domain = name.removesuffix(CORRUPTED) if name not in names else name
            label = f"seed {self.seed}  source {number + 1}/{len(data)} {name} ({self.architecture[domain]})"
            self.experts[name] = self._source(f"sources/{file_key(name)}", domain, own, plan, label)
            if name not in published and first_process():
                network = plan.networks[self.architecture[domain]]
                self.registry.publish(self.experts[name], own, name, network=network)
        barrier()
        self.own = {name: self.experts[name] for name in targets}  # models with all labels and classes
        if plan.source_classes is not None:
            for name in targets:
                label = f"seed {self.seed}  {name} with all labels"
                self.own[name] = self._source(
                    f"own/{file_key(name)}", name, self.data.variant(domain=name), plan, label
                )

    def corrupted(self, target: str, plan: Plan) -> list[str]:
        """Return the domains of other groups whose sources are corrupted for a target, in one order per seed."""
        groups, names = groups_of(self.data), plan.domains
        order = [names[place] for place in np.random.default_rng(self.seed).permutation(len(names))]
        return [name for name in order if groups[name] != groups[target]][: plan.corrupted_sources]

    def _source(self, path: str, domain: str, data: FusionDataModule, plan: Plan, label: str) -> Expert:
        network = plan.networks[self.architecture[domain]]
        arguments = plan.arguments | {"network": network}
        return self.load_expert(self.train_expert(path, data, arguments, plan.source_epochs, label), network)

    # ---------------------------------------------------------------- targets

    def expand(self, name: str, earlier: Sequence[str], plan: Plan, label: str) -> None:
        """Train and test all methods of one target; the results are read from its file if it exists."""
        target = _Target(self, name, earlier, plan)
        path = self.folder / "targets" / f"{file_key(name)}.json"
        if path.is_file():
            self.console.print(f"{label}: found checkpoint, not retrained")
            rows = _read_rows(path)
        else:
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the sources
                rows = target.rows()
            if plan.publish_students:
                self.publish_student(target)
            if first_process():
                path.parent.mkdir(exist_ok=True)
                write_text(path, json.dumps(sealed({"rows": rows}), indent=1))
            self.report.took("targets", start)
            shown = {row["method"]: row["value"] for row in rows if row["metric"] == "accuracy"}
            self.console.print(
                f"{label}: {MAIN} {shown[MAIN]:.3f}, {LOCAL} {shown[LOCAL]:.3f}, {time.perf_counter() - start:.0f} s"
            )
        if plan.publish_students:
            self.experts[f"{name}{STUDENT}"] = self.load_expert(
                self.folder / f"students/{file_key(name)}.ckpt", target.network
            )
        self.report.rows += rows

    def publish_student(self, target: "_Target") -> None:
        """Publish the student of a finished target as a source; called before the file of the target is written."""
        expert = self.load_expert(self.folder / f"students/{file_key(target.name)}.ckpt", target.network)
        if first_process():
            name = f"{target.name}{STUDENT}"
            self.registry.publish(expert, target.data, name, overwrite=True, network=target.network)
        barrier()


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the results of a finished target.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not is_sealed(content):
            raise ValueError("it has another digest")
    except (ValueError, RecursionError) as error:
        raise InputError(f"output: {path} is damaged ({error}); delete it, and the target is trained again") from error
    rows: list[dict[str, Any]] = content["rows"]
    return rows


class _Target:
    """One target of one seed.

    Args:
        run: Run of the seed.
        name: Name of the domain.
        earlier: Targets that are finished.
        plan: Settings of the training.
    """

    def __init__(self, run: HaTSeed, name: str, earlier: Sequence[str], plan: Plan) -> None:
        self.run, self.name, self.plan = run, name, plan
        groups = groups_of(run.data)
        wrong = run.corrupted(name, plan)
        self.others = [
            f"{other}{CORRUPTED}" if other in wrong else other
            for other in plan.domains
            if groups[other] != groups[name]
        ]
        if plan.publish_students:
            self.others += [f"{other}{STUDENT}" for other in earlier if groups[other] != groups[name]]
        self.excluded = [other for other in run.registry.names if other not in self.others]
        self.wrong = {f"{other}{CORRUPTED}" for other in wrong}
        if len(self.others) < 2:
            raise InputError(
                f"data: {name} has {len(self.others)} domain(s) of other groups as sources; expected at least two"
            )
        self.network = plan.networks[run.architecture[name]]
        self.data = TargetDataModule(run.data, name, seed=run.seed, **plan.target)
        self.found: list[dict[str, Any]] = []
        self.weights: dict[str, float] = {}
        self.of_class: dict[int, list[float]] = {}

    def rows(self) -> list[dict[str, Any]]:
        """Return all results as rows of the report."""
        few = self.data.variant(unlabeled=False)
        others = {name: self.run.experts[name] for name in self.others}
        outputs = self._query("all", others | {self.name: self.run.own[self.name]}, few)
        known, test = outputs.scattered("train"), outputs.scattered("test")
        label, truth = np.asarray(outputs["train"].target), np.asarray(outputs["test"].target)
        self._add("labeled samples", "rows", len(label))
        own = test[:, -1].argmax(1) == truth
        known, test = known[:, :-1], test[:, :-1]
        accuracy = dict(zip(self.others, (test.argmax(2) == truth[:, None]).mean(0), strict=True))

        def average(chosen: Sequence[str]) -> float:
            columns = [self.others.index(name) for name in chosen]
            return float((test[:, columns].mean(1).argmax(1) == truth).mean())

        selection = self._select(self.data)
        sources, count = list(selection.experts), len(selection.experts)
        student, local = self._student(self.data, selection.experts, {}, MAIN), self._local(few)
        self._score(MAIN, student)
        self._score(LOCAL, local)
        if self.plan.guarded:
            self._guard(student, local)
        if self.plan.baselines:
            for method, arguments in STUDENTS.items():
                if method != MAIN:
                    self._score(method, self._student(self.data, selection.experts, arguments, method))
            self._fusers(few, selection.experts)
        by_labels = self.others[int((known.argmax(2) == label[:, None]).mean(0).argmax())]
        self._add("best source by labeled accuracy", "accuracy", accuracy[by_labels])
        self._add("mean of single sources", "accuracy", np.mean(list(accuracy.values())))
        self._add("average of all sources", "accuracy", average(self.others))
        for rank_by in ("random", "statistics", "accuracy", "centroid"):
            other = self._select(self.data, rank_by=rank_by)
            self._add(f"average of {count}, by {rank_by}", "accuracy", average(list(other.experts)))
        self._add(f"average of {count}, selected", "accuracy", average(sources))
        best = sorted(self.others, key=lambda name: -accuracy[name])[:count]
        self._add(f"average of {count}, oracle", "accuracy", average(best))
        columns = [self.others.index(name) for name in sources]
        self._add(f"oracle selection among the {count}", "accuracy", oracle_selection(test[:, columns], truth).mean())
        self._add("local model, all labels", "accuracy", own.mean())
        for name, change in self.plan.variants.items():
            self._variant(name, change)
        self._selection_figures(selection, accuracy)
        return self.found

    # ---------------------------------------------------------------- trained

    def _select(self, data: TargetDataModule, **change: Any) -> Selection:
        return select_sources(
            self.run.registry, data, exclude=self.excluded, seed=self.run.seed, **(self.plan.selection | change)
        )

    def _module(
        self, data: TargetDataModule, experts: Mapping[str, Expert] | None = None, **arguments: Any
    ) -> ExpertModule:
        seed_everything(stage_seed(self.run.seed, self.name), verbose=False)
        settings: dict[str, Any] = {
            "classes": data.classes,
            "trained_on": data.own_domains,
            "preprocessing": data.preprocessing,
        }
        settings |= {"network": self.network, **self.plan.arguments, **arguments}
        if experts is None:
            return ExpertModule(**settings)
        return HaTJointModule(experts=dict(experts), **settings)

    def _query(self, name: str, experts: Mapping[str, Expert], few: TargetDataModule) -> ExpertOutputs:
        splits = ["train", *(["val"] if self.run.run.trainers.watched() else []), "test"]
        return self.run.outputs_of(f"targets/{file_key(self.name)}/{name}", dict(experts), few, splits, bar=False)

    def _trainer(self, stage: str, epochs: int) -> Trainer:
        return self.run.trainer(f"targets/{file_key(self.name)}/{stage}", epochs, validates=False, bar=False)

    def _student(
        self, data: TargetDataModule, experts: Mapping[str, Expert], arguments: dict[str, Any], method: str
    ) -> dict[str, float]:
        module: Any = self._module(data, experts, **arguments)
        trainer = self._trainer(method, self.plan.epochs)
        trainer.fit(module, datamodule=data)
        if method == MAIN:
            save_weights(trainer, self.run.folder / "students" / f"{file_key(self.name)}.ckpt")
            self.weights = module.source_weights
            rows = data.rows("test")
            batch = data.on_after_batch_transfer(rows[torch.arange(len(rows))], 0)
            self.of_class = class_means(
                module.sample_weights(move_data_to_device(batch.input, module.device)).cpu(), batch.target
            )
        found = {name: float(value) for name, value in trainer.test(module, data, verbose=False)[0].items()}
        return found | {"train_mixer_accuracy": float(module.teacher.knowledge.accuracy)}

    def _local(self, few: TargetDataModule) -> dict[str, float]:
        module, trainer = self._module(few), self._local_trainer("local")
        trainer.fit(module, datamodule=few)
        return {name: float(value) for name, value in trainer.test(module, few, verbose=False)[0].items()}

    def _local_trainer(self, stage: str) -> Trainer:
        """Return the number of epochs with the student's number of steps, as an epoch of labeled samples has fewer."""
        steps = len(self.data.train_dataloader())
        few = len(self.data.variant(unlabeled=False).train_dataloader())
        return self._trainer(stage, max(1, round(self.plan.epochs * steps / few)))

    def _guard(self, student: Mapping[str, float], local: Mapping[str, float]) -> None:
        """Compare on folds of the labels; sources are selected for each fold without the held-out labels."""
        result = guard(
            lambda fold: self._module(fold, self._select(fold).experts),
            self._module,
            self.data,
            partial(self._trainer, "guard/student", self.plan.epochs),
            partial(self._local_trainer, "guard/local"),
        )
        self._add("guard", "folds, student", result.student)
        self._add("guard", "folds, local", result.local)
        self._add("guard", "returns the local model", result.choice == "local")
        kept = local if result.choice == "local" else student
        self._add(f"{MAIN}, guarded", "accuracy", kept["test_accuracy"])

    def _fusers(self, few: TargetDataModule, experts: Mapping[str, Expert]) -> None:
        """Evaluate methods that query all selected sources: FoE and logistic regression on their outputs."""
        store = self._query("chosen", experts, few)
        rule = LogisticStacking().fit(store.scattered("train"), np.asarray(store["train"].target))
        truth = np.asarray(store["test"].target)
        self._add("logistic stacking of sources", "accuracy", (rule.predict(store.scattered("test")) == truth).mean())
        module, _ = self.run.fit_fuser(f"of_{self.name}", store, validates=False, bar=False)
        with torch.no_grad():
            answer = module.fuse(torch.from_numpy(store.concatenated("test"))).argmax(1).numpy()
        self._add("FoE on selected sources", "accuracy", (answer == truth).mean())

    def _variant(self, name: str, change: Mapping[str, Any]) -> None:
        data = self.data.variant(**{key: value for key, value in change.items() if key in OF_TARGET})
        selection = self._select(data, **{key: value for key, value in change.items() if key in OF_SELECTION})
        arguments = {key: value for key, value in change.items() if key not in OF_SELECTION | OF_TARGET}
        self._score(name, self._student(data, selection.experts, arguments, name))
        if set(change) & OF_TARGET:
            self._score(f"{name}, local", self._local(data.variant(unlabeled=False)))

    # ---------------------------------------------------------------- figures

    def _score(self, method: str, metrics: Mapping[str, float]) -> None:
        self._add(method, "accuracy", metrics["test_accuracy"])
        if "test_mixer_accuracy" in metrics:
            self._add(f"{method} (mixer)", "accuracy", metrics["test_mixer_accuracy"])
            self._add(method, "mixer accuracy", metrics["train_mixer_accuracy"])

    def _add(self, method: str, metric: str, value: Any, **more: Any) -> None:
        self.found.append(
            {
                "method": method,
                "metric": metric,
                "split": "test",
                "seed": self.run.seed,
                "value": float(value),
                "domain": self.name,
                **more,
            }
        )

    def _selection_figures(self, selection: Selection, accuracy: Mapping[str, float]) -> None:
        """Add bytes of the selection, classes, and how well each criterion ranks the sources by true accuracy."""
        from scipy.stats import spearmanr

        ledger = selection.ledger
        chosen = list(selection.experts)
        self._add("selection", "bytes", ledger.total, sources=chosen, weights=[self.weights[name] for name in chosen])
        for number, weights in self.of_class.items():
            label = self.data.classes[number]
            self._add("mixer", "largest weight of a class", max(weights), among=chosen, weights=weights, label=label)
        sound = set(self.others) - self.wrong
        for kind, names in (("label-corrupted sources", self.wrong), ("other sources", sound)) if self.wrong else ():
            weights = [self.weights[name] for name in chosen if name in names]
            self._add(kind, "sources", len(names))
            self._add(kind, "chosen", len(weights))
            if weights:
                self._add(kind, "mixer weight", np.mean(weights))
        self._add("all models", "bytes", ledger.send_all)
        for stage, count in ledger.stages.items():
            self._add(f"selection, {stage}", "bytes", count["down"])
        coverage = np.mean([row.coverage for row in selection.table if row.chosen])
        self._add("selection", "coverage", coverage, uncovered=selection.uncovered)
        for criterion in ("similarity", "centroid_score", "accuracy", "score"):
            pairs = [(getattr(row, criterion), accuracy[row.name]) for row in selection.table if row.name in accuracy]
            ranked = np.array([pair for pair in pairs if pair[0] is not None])
            if len(ranked) > 2 and np.ptp(ranked, axis=0).all():
                self._add(criterion, "rank correlation", spearmanr(*ranked.T).statistic)
