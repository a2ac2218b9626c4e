"""Classifiers of XGBoost as experts."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.tables import table_estimator
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.formats import check_format
from lightning_fusion.extras import require
from lightning_fusion.files import hash_files

_OBJECTIVES = ("binary:logistic", "multi:softprob", "multi:softmax")


class XGBoostExpert(Expert):
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
        try:
            model.load_model(path)
            settings = json.loads(model.get_booster().save_config())
        except Exception as error:  # XGBoostError, and what numpy raises for damaged files
            what = str(error).strip().partition("\n")[0][:200]
            raise InputError(f"path: XGBoost cannot read {path} ({what})") from error
        objective = settings["learner"]["objective"]["name"]
        if objective not in _OBJECTIVES:
            raise InputError(f"path: {path} has the objective {objective}; expected one of {', '.join(_OBJECTIVES)}")
        table = table_estimator(model, num_values=model.n_features_in_)
        shared.setdefault("version", hash_files([Path(path)]))
        super().__init__(
            network=table.predict_proba,
            checkpoint=None,
            classes=classes,
            output="probabilities",
            features=None,
            preprocess=preprocess,
            raw_input=raw_input,
            **shared,
        )
