"""Classifiers of XGBoost as experts."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from lightning_fusion.experts.adapters.files import FileExpert, boosted_trees, check_objective
from lightning_fusion.experts.adapters.tables import table_estimator
from lightning_fusion.experts.formats import check_format
from lightning_fusion.extras import require
from lightning_fusion.files import hash_files

_OBJECTIVES = ("binary:logistic", "multi:softprob", "multi:softmax")


class XGBoostExpert(FileExpert):
    """Classifier of XGBoost in its own JSON or UBJSON file, as ``save_model`` writes it.

    The input are raw values, flattened to one row per sample.

    Args:
        path: Path of the file.
        classes: Names of the classes, in the order of their numbers.
        preprocess: Module that prepares raw samples, such as
            :class:`~lightning_fusion.data.samples.images.ImagePreprocessing`.
        raw_input: Whether the classifier takes raw values, not the input of the data module.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.

    Raises:
        InputError: If XGBoost is missing, cannot read the file, or its objective is none of a classifier.
    """

    def __init__(
        self,
        path: str,
        classes: list[str],
        preprocess: nn.Module | None = None,
        raw_input: bool = True,
        **shared: Any,
    ) -> None:
        xgboost = require("xgboost", "xgboost")
        check_format(path, ("a model of XGBoost",))
        model = xgboost.XGBClassifier()
        with boosted_trees("XGBoost", path):
            model.load_model(path)
            settings = json.loads(model.get_booster().save_config())
        check_objective(path, settings["learner"]["objective"]["name"], _OBJECTIVES)
        table = table_estimator(model, num_values=model.n_features_in_)
        super().__init__(
            network=table.predict_proba,
            digest=hash_files([Path(path)]),
            classes=classes,
            output="probabilities",
            preprocess=preprocess,
            raw_input=raw_input,
            **shared,
        )
