"""Figures of the recipe foe."""

from pathlib import Path

import numpy as np

from lightning_fusion import plotting
from lightning_fusion.experts.outputs.store import ExpertOutputs
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
