"""Chains of classifiers, fused by outputs and representations and evaluated by accuracy."""

import itertools
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import seed_everything
from torch import Tensor

from lightning_fusion import plotting
from lightning_fusion.acorl.attribution import attribute, compare_pairs
from lightning_fusion.acorl.fusion import average_outputs, fit_output_weights, late_fusion
from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.outputs.collect import collect
from lightning_fusion.experts.outputs.seen import seen_by_design
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.metrics import PairwiseDiversity, heldout_linear_r2, linear_cka
from lightning_fusion.recipes.acorl.chains import COMPLEMENTARY, PLAIN, ChainRun, pairs_of
from lightning_fusion.recipes.advice import SampleScores, sample_scores
from lightning_fusion.recipes.inspection import Inspection, domain_names, draw, named, of_classes
from lightning_fusion.recipes.report import Figures
from lightning_fusion.recipes.seed_run import save_weights, source_of

DIVERSITY = ("disagreement", "double fault", "Q statistic", "error correlation", "linear CKA", "held-out linear R2")
LOOKS = ("attribution rank correlation", "attribution top-10 % overlap")
_LATE_STEPS, _LATE_RATE = 1000, 3e-3  # of the head on stored representations: a convex problem, solved in seconds


class ClassificationChains(ChainRun):
    """One seed of classifiers.

    Args:
        attribution_rows: Test samples whose integrated gradients are compared.
    """

    plain, complementary = ExpertModule, ACoRLModule
    metric, title, beside, sign = "accuracy", "test accuracy", ("error correlation",), 1
    fusions = ("output fusion", "weighted output fusion", "late fusion")
    fitted = frozenset({"weighted output fusion"})
    likeness = (*DIVERSITY, *LOOKS)
    outputs: ExpertOutputs
    maps: tuple[Tensor, dict[str, Tensor]] | None = None

    def __init__(self, *arguments: Any, attribution_rows: int) -> None:
        super().__init__(*arguments)
        self.attribution_rows = attribution_rows
        self.late: dict[str, dict[str, Tensor]] = {}

    def predict(self) -> None:
        """Run all members of all chains once."""
        start = time.perf_counter()
        pool = self._pool()
        self.experts = pool.members
        trainer = self.trainer("outputs", logged=False)
        with seen_by_design():
            self.outputs = collect(pool, self.data, self.folder / "outputs", keep_representations=True, trainer=trainer)
        self.report.took("querying members", start)
        self.log_store("outputs")
        truth = self.outputs["val"].target
        self.validation = {
            strength: float((self._average(chain, "val").argmax(1).numpy() == truth).mean())
            for strength, chain in self.chains.items()
        }

    def _known(self, chain: list[str], split: str) -> Tensor:
        places = [self.outputs.names.index(name) for name in chain]
        return torch.from_numpy(self.outputs.scattered(split)[:, places].copy())

    def _average(self, chain: list[str], split: str, weights: Tensor | None = None) -> Tensor:
        return average_outputs(self._known(chain, split), weights)

    def score(self, chosen: float) -> None:
        """Test all methods of the report, and compare attributions."""
        self.truth = np.array(self.outputs["test"].target)
        super().score(chosen)
        if self.attribution_rows:
            self._look(self._arms(chosen))

    def _alone(self, name: str, split: str) -> Tensor:
        return self._average([name], split)

    def _fused(self, chain: list[str], split: str) -> dict[str, Tensor]:
        held_out = torch.from_numpy(np.array(self.outputs["val"].target))
        weights = fit_output_weights(self._known(chain, "val"), held_out)
        answers = self._average(chain, split), self._average(chain, split, weights), self._late(chain)[split]
        return dict(zip(self.fusions, answers, strict=True))

    def _scores(self, answer: Tensor) -> SampleScores:
        part = self.outputs["val"]
        right = answer.argmax(1).numpy() == part.target
        return SampleScores(sample_scores(self.metric, right, np.asarray(part.target)), np.asarray(part.index))

    def data_description(self) -> dict[str, Any]:
        """Return source, classes and numbers of samples."""
        return {
            "source": source_of(self.data),
            "classes": len(self.data.classes),
            "rows": ", ".join(f"{name} {len(part)}" for name, part in self.outputs.splits.items()),
        }

    def inspect(self, chain: list[str], title: str) -> Inspection:
        """Return test samples with the outputs of the members and their mean."""
        part, outputs = self.outputs["test"], self._known(chain, "test").numpy()
        fused = self._average(chain, "test").numpy()
        rows, drawn = draw(fused.argmax(1) == self.truth, self.seed)
        return of_classes(
            title,
            drawn,
            outputs[rows],
            fused[rows],
            self.truth[rows],
            self.outputs.classes,
            chain,
            names=named(self.data, np.asarray(part.index)[rows]),
            domains=domain_names(np.asarray(part.domain, bool)[rows], self.outputs.domains),
            weighting="The fused output is the mean of the members' outputs: their weights are equal.",
        )

    def figures(self) -> Figures:
        """Plot the attributions of members, for images."""
        if self.maps is None:
            return {}
        caption = "Integrated gradients of the true class on four test samples, last seed."
        return {"attributions": (plotting.attribution_maps(*self.maps), caption)}

    def _look(self, arms: dict[str, list[str]]) -> None:
        """Plot integrated gradients of the first two members of both chains on some test samples."""
        start = time.perf_counter()
        self.data.setup("test")
        data = self.data.rows("test")
        count = len(data)
        drawn = np.random.default_rng(self.seed).choice(count, min(self.attribution_rows, count), replace=False)
        with torch.no_grad():
            batch = self.data.on_after_batch_transfer(data[torch.from_numpy(np.sort(drawn))], 0)
        networks: dict[str, Any] = {name: self.experts[name].network for chain in arms.values() for name in chain[:2]}
        ours, plain = ([networks[name] for name in arms[arm][:2]] for arm in (COMPLEMENTARY, PLAIN))
        found = compare_pairs((ours[0], ours[1]), (plain[0], plain[1]), batch, seed=self.seed)
        for arm, overlap in ((COMPLEMENTARY, found.pair), (PLAIN, found.plain_pair)):
            for name, values in zip(LOOKS, overlap, strict=True):
                self.report.add(self.method(arm), name, float(values.nanmean()), self.seed)
        if batch.input.ndim == 4:
            names = {"first member": plain[0], "second, plain": plain[1], "second, ACoRL": ours[1]}
            rows = spread(len(batch.target), 4)  # files are ordered by class
            some, target = batch.input[rows], batch.target[rows]
            self.maps = some, {name: attribute(network, some, target) for name, network in names.items()}
        self.report.took("attribution", start)

    def _value(self, answer: Tensor) -> float:
        return float((answer.argmax(1).numpy() == self.truth).mean())

    def _score(self, method: str, answer: Tensor) -> None:
        self.report.add(method, "accuracy", self._value(answer), self.seed)

    def _late(self, chain: list[str]) -> dict[str, Tensor]:
        """Train an ordinary expert on the members' stored representations, and return its logits by split."""
        name = late_file(chain)
        if name in self.late:
            return self.late[name]
        seed_everything(self.seed, verbose=False)
        head, data = late_fusion(self.outputs, chain, seed=self.seed)
        rows = data.rows("train")
        module = ExpertModule(lambda _: head, classes=data.classes, optimizer=partial(torch.optim.AdamW, lr=_LATE_RATE))
        epochs = math.ceil(_LATE_STEPS * min(1, data.batch_size / len(rows)))
        trainer = self.trainer(name, epochs, validates=False, bar=False)
        trainer.fit(module, data)
        save_weights(trainer, self.folder / "fusers" / f"{name}.ckpt")
        with torch.no_grad():
            self.late[name] = {split: module.eval()(data.rows(split).inputs) for split in ("val", "test")}
        return self.late[name]

    def _diversity(self, arm: str, chain: list[str]) -> None:
        answers = self._known(chain, "test").argmax(2)
        metric = PairwiseDiversity(len(chain))
        metric.update(answers, torch.from_numpy(self.truth))
        pairs = list(itertools.combinations(range(len(chain)), 2))
        found = {
            name.replace("_", " "): [float(values[i, j]) for i, j in pairs] for name, values in metric.compute().items()
        }
        representations = {
            name: torch.from_numpy(np.array(self.outputs["test"].representations[name])) for name in chain
        }
        both = pairs_of(chain, representations)
        found["linear CKA"] = [float(linear_cka(x, y)) for x, y in both]
        found["held-out linear R2"] = [heldout_linear_r2(y, x, seed=self.seed) for x, y in both]
        for name in DIVERSITY:
            values = found.get(name, found.get(name[0].lower() + name[1:]))
            assert values is not None
            self.report.add(self.method(arm), name, float(np.mean(values)), self.seed)


def late_file(chain: Sequence[str]) -> str:
    """Return the name of the checkpoint of a chain's late fusion, without its suffix."""
    return "late_" + "_".join(chain)


def spread(count: int, wanted: int) -> Tensor:
    """Select evenly spaced rows; all of them where there are at most as many.

    Example:
        >>> spread(64, 4), spread(2, 4)
        (tensor([ 0, 21, 42, 63]), tensor([0, 1]))
    """
    return torch.linspace(0, count - 1, min(wanted, count)).long()
