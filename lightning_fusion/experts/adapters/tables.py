"""Estimators on rows of values, which data modules give as tensors of any shape."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import UnusableInputError


class TableEstimator:
    """Fitted classifier whose rows are flattened samples; it has what an expert reads of scikit-learn's classifiers.

    Args:
        estimator: Classifier with ``classes_`` and ``predict_proba``.
        num_values: Number of values of a row; ``None`` if it is not known.
        columns: Names of the columns that it was fitted with; ``None`` if they had none.
        texts: Whether its rows are texts.
    """

    def __init__(
        self, estimator: Any, num_values: int | None = None, columns: list[str] | None = None, texts: bool = False
    ) -> None:
        self.estimator, self.num_values, self.columns, self.texts = estimator, num_values, columns, texts

    @property
    def classes_(self) -> Any:
        """Labels of the outputs, in their order."""
        return self.estimator.classes_

    def predict_proba(self, samples: Any) -> np.ndarray:
        """Return the (B, C) probabilities of a batch."""
        return np.asarray(self.estimator.predict_proba(self._rows(samples)))

    def predict(self, samples: Any) -> np.ndarray:
        """Return the (B,) labels of a batch."""
        return np.asarray(self.estimator.predict(self._rows(samples)))

    def _rows(self, samples: Any) -> Any:
        kind = type(self.estimator).__name__
        if self.texts:
            return list(samples)
        if isinstance(samples, Mapping) or not isinstance(samples, Tensor | np.ndarray):
            raise UnusableInputError(
                f"input: the {kind} takes rows of values; found a {type(samples).__name__}: set preprocess of the "
                "expert, such as ImagePreprocessing for images"
            )
        values = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else samples
        rows = values.reshape(len(values), -1)
        if self.num_values is not None and rows.shape[1] != self.num_values:
            raise InputError(
                f"input: the {kind} takes {self.num_values} values of each sample; found {rows.shape[1]}, of samples "
                f"of shape {values.shape[1:]}: set preprocess of the expert, such as ImagePreprocessing for images"
            )
        if self.columns is None:
            return rows
        import pandas  # takes half a second, so it is imported only where tables are made

        return pandas.DataFrame(rows, columns=self.columns)


def table_estimator(estimator: Any, **how: Any) -> TableEstimator:
    """Return a :class:`TableEstimator` that messages call by the name of the estimator.

    Args:
        estimator: The classifier.
        **how: Arguments of :class:`TableEstimator`.
    """
    made: TableEstimator = type(type(estimator).__name__, (TableEstimator,), {})(estimator, **how)
    return made
