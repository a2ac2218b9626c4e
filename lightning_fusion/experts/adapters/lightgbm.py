"""Classifiers of LightGBM as experts."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lightning_fusion.experts.adapters.files import FileExpert, boosted_trees, check_objective
from lightning_fusion.experts.adapters.tables import table_estimator
from lightning_fusion.experts.formats import check_format
from lightning_fusion.extras import require
from lightning_fusion.files import hash_files

_OBJECTIVES = ("binary", "multiclass", "multiclassova")


class LightGBMExpert(FileExpert):
    """Classifier of LightGBM in its own text file, as ``Booster.save_model`` (``booster_`` of an estimator) writes it.

    The input are raw values, flattened to one row per sample.

    Args:
        path: Path of the file.
        classes: Names of the classes, in the order of their numbers.
        preprocess: Module that prepares raw samples, such as
            :class:`~lightning_fusion.data.samples.images.ImagePreprocessing`.
        raw_input: Whether the classifier takes raw values, not the input of the data module.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.

    Raises:
        InputError: If LightGBM is missing, cannot read the file, or its objective is none of a classifier.
    """

    def __init__(
        self,
        path: str,
        classes: list[str],
        preprocess: nn.Module | None = None,
        raw_input: bool = True,
        **shared: Any,
    ) -> None:
        lightgbm = require("lightgbm", "lightgbm")
        check_format(path, ("a model of LightGBM",))
        with boosted_trees("LightGBM", path):
            booster = lightgbm.Booster(model_file=path)
            objective = str(booster.dump_model(num_iteration=1)["objective"]).partition(" ")[0]
        check_objective(path, objective, _OBJECTIVES)
        table = table_estimator(LightGBMBooster(booster), num_values=booster.num_feature())
        super().__init__(
            network=table.predict_proba,
            digest=hash_files([Path(path)]),
            classes=classes,
            output="probabilities",
            preprocess=preprocess,
            raw_input=raw_input,
            **shared,
        )


class LightGBMBooster:
    """A booster with the methods of a classifier of scikit-learn.

    Args:
        booster: The booster.
    """

    def __init__(self, booster: Any) -> None:
        self.booster = booster
        self.classes_ = np.arange(max(booster.num_model_per_iteration(), 2))

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, C) probabilities."""
        found: np.ndarray = self.booster.predict(rows)
        found = np.stack([1 - found, found], axis=1) if found.ndim == 1 else found
        found /= found.sum(1, keepdims=True)  # those of one against the rest have another sum
        return found

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return (B,) numbers of classes."""
        found: np.ndarray = self.predict_proba(rows).argmax(1)
        return found
