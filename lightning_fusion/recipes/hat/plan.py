"""Methods that the recipe hat compares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from lightning_fusion.hat.arguments import PAPER
from lightning_fusion.recipes.hat.report import ENSEMBLE, LOCAL, MAIN, TUNED

UNIFORM = "uniform distillation"
PAPER_ROW = "HaT, the paper's setting"
STUDENTS: dict[str, dict[str, Any]] = {
    PAPER_ROW: PAPER,
    "HaT from scratch": {"init": "scratch"},
    "HaT, teacher uniform": {"teacher": "uniform"},
    UNIFORM: PAPER | {"teacher": "uniform", "sharpness": 1.0, "alpha": "fixed"},
    "static weights": PAPER | {"teacher": "static"},
}
"""Arguments of :class:`~lightning_fusion.HaTJointModule` of each further student of the main table."""
BEST, AVERAGE = "best source by labeled accuracy", "average of the selected sources"
SIMPLICITY = (LOCAL, BEST, TUNED, AVERAGE, MAIN, ENSEMBLE)
"""Methods that can answer new samples, the simplest first (our choice): a model of the few labels, one source as it is
and fine-tuned, several sources for each sample, a model that several sources have trained, and those with a fuser."""
CORRUPTED, STUDENT = "_permuted", "_student"
OF_SELECTION = {"keep_fraction", "num_sources", "encoder_first", "similarity", "rank_by"}
OF_TARGET = {"labeled_fraction", "labeled_per_class"}
OF_RECIPE = {"network", "experts", "features", "classes", "trained_on", "preprocessing", "vocab_size", "optimizer"}
"""Arguments of :class:`~lightning_fusion.HaTJointModule` that the recipe sets for all students."""


@dataclass(frozen=True)
class Plan:
    """Settings of the training for every seed; attributes that are not listed are the recipe's arguments of this name.

    Attributes:
        domains: Names of the domains that are sources, and may be targets.
        target: Arguments of :class:`~lightning_fusion.data.views.target.TargetDataModule`.
        selection: Of :func:`~lightning_fusion.select_sources`.
        arguments: Arguments of all modules.
    """

    domains: list[str]
    networks: dict[str, Callable[[int], nn.Module]]
    source_epochs: int
    source_classes: int | None
    corrupted_sources: int
    source_weights: Literal["float32", "int8"]
    epochs: int
    target: dict[str, Any]
    selection: dict[str, Any]
    student: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    publish_students: bool
    guarded: bool
    baselines: bool
    arguments: dict[str, Any]
