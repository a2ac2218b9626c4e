"""One target of one seed of the recipe hat: its models, its baselines, and their results."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import Trainer, seed_everything
from lightning.fabric.utilities import move_data_to_device
from torch import nn

from lightning_fusion.baselines import LogisticStacking, oracle_selection
from lightning_fusion.data.base import SPLITS
from lightning_fusion.data.batch import num_samples
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import take_rows
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.layers import state_tensors
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.files import file_key
from lightning_fusion.hat.guard import guard
from lightning_fusion.hat.mixer import shared_columns
from lightning_fusion.hat.module import HaTJointModule
from lightning_fusion.hat.ranking import Selection
from lightning_fusion.hat.selection import select_sources
from lightning_fusion.hat.start import source_weights
from lightning_fusion.recipes.hat.ensembles import Ensemble, kept_members
from lightning_fusion.recipes.hat.plan import AVERAGE, BEST, CORRUPTED, OF_SELECTION, OF_TARGET, STUDENT, STUDENTS, Plan
from lightning_fusion.recipes.hat.report import CONSTANT, ENSEMBLE, LOCAL, MAIN, OWN, TUNED, groups_of
from lightning_fusion.recipes.inspection import draw, named, of_classes
from lightning_fusion.recipes.seed_run import save_weights, stage_seed

_VALIDATED_ROWS = 256


class Target:
    """One target of one seed.

    Args:
        run: Run of the seed, a :class:`~lightning_fusion.recipes.hat.seed.HaTSeed`.
        name: Name of the domain.
        earlier: Targets that are finished.
        plan: Settings of the training.
    """

    def __init__(self, run: Any, name: str, earlier: Sequence[str], plan: Plan) -> None:
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
        self.tested: tuple[Any, torch.Tensor]  # test samples, and the student's probabilities
        self.right: dict[str, list[int]] = {}

    def answers(self) -> dict[str, Any]:
        """Return the results.

        Returns:
            ``rows`` of the report; ``validation``, with the ``sample`` numbers of the validation split, and which ones
            each method predicts correctly (``right``, 0 or 1); the selected ``sources``, and the ``best_source`` by
            accuracy on the few labels; ``samples`` for inspection.
        """
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
        student, local = self._student(self.data, selection.experts, self.plan.student, MAIN), self._local(few)
        self._score(MAIN, student)
        self._score(LOCAL, local)
        by_labels = self.others[int((known.argmax(2) == label[:, None]).mean(0).argmax())]
        self._score(TUNED, self._fine_tuned(by_labels, few))
        kept = self._ensemble(selection.experts, few)
        if self.plan.guarded:
            self._guard(student["test_accuracy"], local["test_accuracy"], kept)
        if self.plan.baselines:
            for method, arguments in STUDENTS.items():
                self._score(method, self._student(self.data, selection.experts, arguments, method))
            self._fusers(few, selection.experts)
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
        held, wanted = outputs.scattered("val"), np.asarray(outputs["val"].target)
        self.right[AVERAGE] = (held[:, columns].mean(1).argmax(1) == wanted).astype(int).tolist()
        self.right[BEST] = (held[:, self.others.index(by_labels)].argmax(1) == wanted).astype(int).tolist()
        self._add(f"oracle selection among the {count}", "accuracy", oracle_selection(test[:, columns], truth).mean())
        self._add(OWN, "accuracy", own.mean())
        self._add(CONSTANT, "accuracy", np.bincount(truth).max() / len(truth))
        for name, change in self.plan.variants.items():
            self._variant(name, change)
        self._selection_figures(selection, accuracy)
        for number in np.unique(truth).tolist():
            of_class = (test[truth == number][:, columns].argmax(2) == number).mean(0).tolist()
            name = self.data.classes[number]
            self._add("sources", "accuracy of a class", max(of_class), among=sources, accuracies=of_class, label=name)
        validation = {"sample": np.asarray(outputs["val"].index).tolist(), "right": self.right}
        samples = self._samples(sources, test[:, columns], np.asarray(outputs["test"].index))
        return {
            "rows": self.found,
            "validation": validation,
            "sources": sources,
            "best_source": by_labels,
            "samples": samples,
        }

    def _samples(self, sources: Sequence[str], outputs: np.ndarray, index: np.ndarray) -> dict[str, Any]:
        """Return test samples with the outputs of the selected sources and of the student.

        Args:
            sources: Names of the S selected sources.
            outputs: (N, S, C) their outputs.
            index: (N,) sample numbers of the outputs.
        """
        batch, probabilities = self.tested
        rows = np.argsort(batch.index.numpy())[np.argsort(np.argsort(index))]  # the same samples, in another order
        target, student = batch.target.numpy()[rows], probabilities.numpy()[rows]
        chosen, drawn = draw(student.argmax(1) == target, self.run.seed)
        return of_classes(
            f"{MAIN}, target {self.name}, seed {self.run.seed}",
            drawn,
            outputs[chosen],
            student[chosen],
            target[chosen],
            self.data.classes,
            sources,
            names=named(self.data, index[chosen]),
            domains=[self.name] * len(chosen),
            weighting="The fused answer is that of the student, which runs alone; the sources have taught it.",
        ).record()

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
        stage = f"targets/{file_key(self.name)}/{name}"
        found: ExpertOutputs = self.run.outputs_of(stage, dict(experts), few, SPLITS, bar=False)
        return found

    def _trainer(self, stage: str, epochs: int) -> Trainer:
        name = f"targets/{file_key(self.name)}/{stage}"
        trainer: Trainer = self.run.trainer(name, epochs, validates=False, bar=False)
        return trainer

    def _student(
        self, data: TargetDataModule, experts: Mapping[str, Expert], arguments: dict[str, Any], method: str
    ) -> dict[str, float]:
        module: Any = self._module(data, experts, **arguments)
        trainer = self._trainer(method, self.plan.epochs)
        trainer.fit(module, datamodule=data)
        if method == MAIN:
            save_weights(trainer, self.run.folder / "students" / f"{file_key(self.name)}.ckpt")
            self._validate(MAIN, module.eval(), data)
            rows = data.rows("test")
            batch = data.on_after_batch_transfer(rows[torch.arange(len(rows))], 0)
            given = move_data_to_device(batch.input, module.device)

            def answers(input: Any) -> torch.Tensor:
                rows = torch.arange(num_samples(input) or 0)
                return torch.cat([module(take_rows(input, part)) for part in rows.split(_VALIDATED_ROWS)])

            with torch.no_grad():
                self.tested = batch, answers(given).float().softmax(1).cpu()
            self._cost(MAIN, answers, module, given)
        found = {name: float(value) for name, value in trainer.test(module, data, verbose=False)[0].items()}
        return found | {
            "train_teacher_accuracy": float(module.teacher.knowledge.accuracy),
            "mixes": float(not module.fitted),
        }

    def _cost(self, method: str, answer: Callable[[Any], Any], model: nn.Module, input: Any) -> None:
        """Add the bytes of a model's weights and the time that it takes for a sample."""
        network = getattr(model, "network", model)
        self._add(method, "model bytes", sum(weight.nbytes for weight in state_tensors(network).values()))
        start = time.perf_counter()
        with torch.no_grad():
            answer(input)
        self._add(method, "seconds per sample", (time.perf_counter() - start) / (num_samples(input) or 1))

    def _fine_tuned(self, source: str, few: TargetDataModule) -> dict[str, float]:
        """Fine-tune a source on the labels with the steps of the local model: the simplest transfer."""
        kind = self.run.architecture[source.removesuffix(CORRUPTED).removesuffix(STUDENT)]
        module = self._module(few, network=self.plan.networks[kind])
        expert = self.run.experts[source]
        columns, _ = shared_columns({source: expert.classes}, few.classes)
        input = few.on_after_batch_transfer(few.rows("train")[torch.arange(2)], 0).input
        module.network.load_state_dict(source_weights(module.network, expert, columns[source], input))
        trainer = self._local_trainer("fine_tuned")
        trainer.fit(module, datamodule=few)
        save_weights(trainer, self.run.folder / "fine_tuned" / f"{file_key(self.name)}.ckpt")
        self._validate(TUNED, module.eval(), few)
        return {name: float(value) for name, value in trainer.test(module, few, verbose=False)[0].items()}

    def _ensemble(self, experts: Mapping[str, Expert], few: TargetDataModule) -> float:
        """Fit and evaluate the sources with a teacher, kept; return the test accuracy."""
        self.ensemble = Ensemble.fit(experts, few, self.run.seed)
        self.ensemble.save(self.run.folder / "ensembles" / f"{file_key(self.name)}.pt")
        rows = few.rows("test")
        batch = few.on_after_batch_transfer(rows[torch.arange(len(rows))], 0)

        def answers(input: Any) -> torch.Tensor:
            return self.ensemble.answer(input)["probabilities"]

        right = (answers(batch.input).argmax(1) == batch.target).double().mean()
        self._add(ENSEMBLE, "accuracy", right)
        self._validate(ENSEMBLE, answers, few)
        self._cost(ENSEMBLE, answers, self.ensemble, batch.input)
        return float(right)

    def _local(self, few: TargetDataModule) -> dict[str, float]:
        module, trainer = self._module(few), self._local_trainer("local")
        trainer.fit(module, datamodule=few)
        if LOCAL not in self.right:  # variants have local models of their own
            save_weights(trainer, self.run.folder / "local" / f"{file_key(self.name)}.ckpt")
            self._validate(LOCAL, module.eval(), few)
        return {name: float(value) for name, value in trainer.test(module, few, verbose=False)[0].items()}

    def _validate(self, method: str, answers: Callable[[Any], torch.Tensor], data: TargetDataModule) -> None:
        """Store which samples of the validation split a model predicts correctly, in the order of their numbers."""
        rows = data.rows("val")
        right, index = [], []
        for part in torch.arange(len(rows)).split(_VALIDATED_ROWS):
            batch = data.on_after_batch_transfer(rows[part], 0)
            with torch.no_grad():
                answer = answers(batch.input).argmax(1).cpu()
            right.append(answer == batch.target)
            index.append(batch.index)
        self.right[method] = torch.cat(right)[torch.cat(index).argsort()].int().tolist()

    def _local_trainer(self, stage: str) -> Trainer:
        """Return the number of epochs with the student's number of steps, as an epoch of labeled samples has fewer."""
        steps = len(self.data.train_dataloader())
        few = len(self.data.variant(unlabeled=False).train_dataloader())
        return self._trainer(stage, max(1, round(self.plan.epochs * steps / few)))

    def _guard(self, student: float, local: float, ensemble: float) -> None:
        """Compare on folds of the labels; sources are selected for each fold without the held-out labels."""
        result = guard(
            lambda fold: self._module(fold, self._select(fold).experts, **self.plan.student),
            self._module,
            lambda fold: Ensemble.fit(self._select(fold).experts, fold, self.run.seed),
            self.data,
            partial(self._trainer, "guard/student", self.plan.epochs),
            partial(self._local_trainer, "guard/local"),
        )
        for name, value in result.accuracy.items():
            self._add("guard", f"folds, {name}", value)
        tested = {"student": student, "local": local, "ensemble": ensemble}
        chosen = tested[result.choice]
        self._add("guard", "choice", chosen >= max(tested.values()) - 0.01, choice=result.choice)
        self._add(f"{MAIN}, guarded", "accuracy", chosen)

    def _fusers(self, few: TargetDataModule, experts: Mapping[str, Expert]) -> None:
        """Evaluate methods that query all selected sources: the teachers, kept; FoE and logistic regression."""
        for name, value in kept_members(self.ensemble, few).items():
            self._add(f"teacher {name}, kept", "accuracy", value)
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
        arguments = self.plan.student | {
            key: value for key, value in change.items() if key not in OF_SELECTION | OF_TARGET
        }
        self._score(name, self._student(data, selection.experts, arguments, name))
        if set(change) & OF_TARGET:
            self._score(f"{name}, local", self._local(data.variant(unlabeled=False)))

    # ---------------------------------------------------------------- figures

    def _score(self, method: str, metrics: Mapping[str, float]) -> None:
        self._add(method, "accuracy", metrics["test_accuracy"])
        if "test_teacher_accuracy" in metrics:
            self._add(method, "teacher accuracy", metrics["train_teacher_accuracy"])
            self._add(method, "teacher test accuracy", metrics["test_teacher_accuracy"])
            if metrics["mixes"]:  # a fitted teacher has a row of its own
                self._add(f"{method} (teacher kept)", "accuracy", metrics["test_teacher_accuracy"])

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
        self._add("selection", "bytes", ledger.total, sources=chosen)
        sound = set(self.others) - self.wrong
        for kind, names in (("label-corrupted sources", self.wrong), ("other sources", sound)) if self.wrong else ():
            self._add(kind, "sources", len(names))
            self._add(kind, "chosen", sum(name in names for name in chosen))
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
