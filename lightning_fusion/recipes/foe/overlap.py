"""FoE's protocol with overlapping domains: the gain of fusion as a function of the overlap."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lightning_fusion import plotting
from lightning_fusion.baselines import BestSingle, LogisticStacking, SoftmaxAverage, oracle_selection
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.views.overlap import OverlapDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.markdown import markdown_table
from lightning_fusion.recipes.report import MEANS, Figures, Report, paired_gain
from lightning_fusion.recipes.seed_run import SeedRun

RULES = {"best single expert": BestSingle, "softmax average": SoftmaxAverage, "logistic stacking": LogisticStacking}
CEILING = "oracle selection (any expert correct)"


def check_overlaps(overlaps: Sequence[float]) -> list[float]:
    """Return the distinct overlaps in increasing order.

    Raises:
        InputError: If one is not in [0, 1].
    """
    if wrong := [share for share in overlaps if not 0 <= share <= 1]:
        raise InputError(f"overlaps: found {wrong}; expected shares from 0, domains as they are, to 1, identical")
    return sorted(set(overlaps))


class OverlapRun(SeedRun):
    """One seed with experts whose domains overlap.

    Args:
        *arguments: Arguments of :class:`~lightning_fusion.recipes.seed_run.SeedRun`.
        overlap: Fraction of each expert's samples that is drawn from all domains.
        main: The row of the table.
    """

    def __init__(self, *arguments: Any, overlap: float, main: str) -> None:
        super().__init__(*arguments)
        self.overlap, self.main = overlap, main

    def expert_rows(self, name: str) -> FusionDataModule:
        """Return the training data of the expert of a domain."""
        return OverlapDataModule(self.data.variant(role="expert", domain=None), name, self.overlap)

    def study(self, expert: dict[str, Any], epochs: int, fuser: dict[str, Any]) -> None:
        """Train the experts, cache their outputs, fuse them, and add a row for each rule."""
        outputs = self.collect(self.train_experts(expert, epochs))
        start = time.perf_counter()
        module, _ = self.fit_fuser("label", outputs, fuser["network"], fuser["epochs"])
        with torch.no_grad():
            fused = module.fuse(torch.from_numpy(outputs.concatenated("test"))).argmax(1).numpy()
        train, test = outputs.scattered("train"), outputs.scattered("test")
        target, truth = np.asarray(outputs["train"].target), np.asarray(outputs["test"].target)
        self._add(self.main, fused == truth, outputs)
        for method, rule in RULES.items():
            self._add(method, rule().fit(train, target).predict(test) == truth, outputs)
        self._add(CEILING, oracle_selection(test, truth), outputs)
        self.report.took("overlap", start)

    def _add(self, method: str, right: np.ndarray, outputs: ExpertOutputs) -> None:
        value = MEANS[self.report.metric](right, np.asarray(outputs["test"].target))
        self.report.add(method, f"{self.report.metric} by overlap", value, self.seed, overlap=self.overlap)


def _of(report: Report, method: str, overlap: float) -> list[float]:
    return report.values(method, f"{report.metric} by overlap", overlap=overlap)


def overlap_table(report: Report, overlaps: Sequence[float], main: str) -> list[str]:
    """Return the table of every rule at every overlap, and the gain over the best single expert."""
    methods = [main, *RULES, CEILING]
    head = ["overlap", *methods, "gain over the best single expert"]
    rows = []
    for overlap in overlaps:
        gain = paired_gain(_of(report, main, overlap), _of(report, "best single expert", overlap)).points()
        values = [f"{np.mean(_of(report, method, overlap)):.3f}" for method in methods]
        rows.append([f"{overlap:g}", *values, gain])
    note = (
        "Overlap: the fraction of each expert's training samples that is drawn from all domains. The number of "
        "training samples of each expert, the fuser training set and the test split do not change."
    )
    return [*markdown_table(head, rows), "", note]


def overlap_figure(report: Report, overlaps: Sequence[float], main: str) -> Figures:
    """Return the figure of fusion by overlap."""
    values = {method: [_of(report, method, overlap) for overlap in overlaps] for method in (main, *RULES, CEILING)}
    figure = plotting.overlap_curves(overlaps, values, main=main, ceiling=CEILING, label=report.title)
    return {
        "overlap": (
            figure,
            "Fusion against the overlap of domains, from disjoint (0) to identical (1); dots are seeds.",
        )
    }
