"""One seed of the recipe hat: its sources, then every target."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.rows import sample_metadata
from lightning_fusion.data.views.source import SourceDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.files import digest, file_key, is_sealed, sealed, write_text
from lightning_fusion.recipes.advice import SampleScores
from lightning_fusion.recipes.hat.plan import AVERAGE, CORRUPTED, SIMPLICITY, STUDENT, Plan
from lightning_fusion.recipes.hat.report import ENSEMBLE, LOCAL, MAIN, groups_of
from lightning_fusion.recipes.hat.target import Target
from lightning_fusion.recipes.seed_run import SeedRun, barrier
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
        self.answers: dict[str, dict[str, Any]] = {}
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
                self.registry.publish(self.experts[name], own, name, network=network, weights=plan.source_weights)
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
        target = Target(self, name, earlier, plan)
        path = self.folder / "targets" / f"{file_key(name)}.json"
        if path.is_file():
            self.console.print(f"{label}: found checkpoint, not retrained")
            answers = read_answers(path)
        else:
            start = time.perf_counter()
            answers = target.answers()
            if plan.publish_students:
                self.publish_student(target)
            if first_process():
                path.parent.mkdir(exist_ok=True)
                write_text(path, json.dumps(sealed(answers), indent=1))
            self.report.took("targets", start)
            shown = {row["method"]: row["value"] for row in answers["rows"] if row["metric"] == "accuracy"}
            self.console.print(
                f"{label}: {MAIN} {shown[MAIN]:.3f}, {LOCAL} {shown[LOCAL]:.3f}, {time.perf_counter() - start:.0f} s"
            )
        if plan.publish_students:
            self.experts[f"{name}{STUDENT}"] = self.load_expert(
                self.folder / f"students/{file_key(name)}.ckpt", target.network
            )
        self.report.rows += answers["rows"]
        self.answers[name] = answers

    def validate(self) -> None:
        """Add the mean over targets of the accuracy on their validation splits."""
        parts = {name: answers["validation"] for name, answers in self.answers.items()}
        sizes = [len(part["sample"]) for part in parts.values()]
        sample = np.concatenate([part["sample"] for part in parts.values()])
        of_target = np.repeat(np.arange(len(parts)), sizes)
        groups = groups_of(self.data)
        known = list(dict.fromkeys(groups.values()))
        group = np.array([known.index(groups[name]) for name in parts])[of_target]
        for method in SIMPLICITY:
            right = np.concatenate([np.array(part["right"][method], float) for part in parts.values()])
            scores = right * len(sample) / (len(parts) * np.array(sizes)[of_target])  # targets have equal weights
            queries = (
                np.mean([len(each["sources"]) for each in self.answers.values()])
                if method in (AVERAGE, ENSEMBLE)
                else 1
            )
            self.report.validate(method, SampleScores(scores, sample, group), self.seed, float(queries))

    def publish_student(self, target: Target) -> None:
        """Publish the student of a finished target as a source; called before the file of the target is written."""
        expert = self.load_expert(self.folder / f"students/{file_key(target.name)}.ckpt", target.network)
        if first_process():
            name = f"{target.name}{STUDENT}"
            self.registry.publish(
                expert, target.data, name, overwrite=True, network=target.network, weights=target.plan.source_weights
            )
        barrier()


def read_answers(path: Path) -> dict[str, Any]:
    """Read the results of a finished target.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not is_sealed(content):
            raise ValueError("it has another digest")
        if not {"rows", "validation", "sources", "best_source"} <= set(content):
            raise ValueError("it is of another version")
    except (ValueError, RecursionError) as error:
        raise InputError(f"output: {path} is damaged ({error}); delete it, and the target is trained again") from error
    return content
