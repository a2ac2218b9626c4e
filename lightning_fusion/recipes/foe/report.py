"""Figures of the recipe foe."""

from pathlib import Path

import numpy as np
import torch

from lightning_fusion import plotting
from lightning_fusion.experts.outputs.datamodule import OutputsDataModule
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.foe.module import FoEFuserModule
from lightning_fusion.recipes.inspection import Inspection, domain_names, draw, named, of_classes
from lightning_fusion.recipes.report import Figures, Report
from lightning_fusion.store import ArrayStore

FUSED = "fused predictions"
"""Kind of the store that a seed keeps of the main row: ``prediction``, (N,) classes of the test samples."""


def figures(report: Report, folder: Path, outputs: ExpertOutputs, seed: int, main: str) -> Figures:
    """Return the figures of the report: accuracy by domain, confusion matrix, and permutation importance."""
    shown = [main, "best single expert", "softmax average", "most confident", "logistic stacking"]
    domains = [name for name in outputs.domains if report.values(main, report.metric, domain=name)]
    means = {
        method: [float(np.mean(report.values(method, report.metric, domain=name))) for name in domains]
        for method in shown
    }
    lost = {name: report.values(name, "permutation importance") for name in outputs.names}
    fused = ArrayStore(folder / f"seed_{seed}" / "fused", FUSED)["prediction"]
    title = f"{main}:\nfractions of each true class, seed {seed}"
    by_domain: Figures = {}
    if domains:  # stored outputs may have none
        heading = f"{report.metric.capitalize()} on each domain"
        by_domain["domains"] = (
            plotting.grouped_bars(means, domains, label=report.title, title=heading, top=1),
            f"{report.title.capitalize()} on the samples of each domain, mean over seeds.",
        )
    return by_domain | {
        "confusion": (
            plotting.confusion(outputs["test"].target, fused, outputs.classes, title=title),
            f"Confusion matrix of {main} on the test split, one seed.",
        ),
        "importance": (
            plotting.permutation_importance(lost),
            "Accuracy lost when the outputs of one expert are permuted over the test samples; dots are seeds.",
        ),
    }


def inspect_fuser(module: FoEFuserModule, outputs: ExpertOutputs, title: str, seed: int) -> Inspection:
    """Return test samples with the outputs of the experts, their weights and the fused prediction.

    Args:
        module: The trained fuser.
        outputs: Cached outputs.
        title: The method and the seed.
        seed: Seed of the draw.
    """
    data = OutputsDataModule(outputs, representations=bool(module.representation_dims))
    part, rows = outputs["test"], data.rows("test")
    targets = np.asarray(part.target)
    with torch.no_grad():
        fused = module.fuse(rows[torch.arange(len(targets))].outputs).float().softmax(1).numpy()
    chosen, drawn = draw(fused.argmax(1) == targets, seed)
    weights = module.expert_weights(rows[torch.from_numpy(chosen)])
    weighting = (
        "The fuser also reads representations: it has no weights of experts."
        if weights is None
        else "Weight 1: the selected expert."
        if module.target == "expert"
        else "Weights: how much the fused probabilities change if the output of an expert is replaced by a uniform "
        "one, as fractions of all experts' changes."
    )
    return of_classes(
        title,
        drawn,
        outputs.scattered("test")[chosen],
        fused[chosen],
        targets[chosen],
        outputs.classes,
        outputs.names,
        names=named(data, np.asarray(part.index)[chosen]),
        domains=domain_names(np.asarray(part.domain, bool)[chosen], outputs.domains),
        weights=None if weights is None else weights.numpy(),
        weighting=weighting,
    )
