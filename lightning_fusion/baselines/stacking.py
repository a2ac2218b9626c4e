"""Stacking: a model of the outputs of all experts."""

from collections.abc import Mapping
from typing import Self

import numpy as np

from lightning_fusion.baselines.base import Baseline
from lightning_fusion.baselines.checks import answered, as_labeled


class LogisticStacking(Baseline):
    """Logistic regression on the concatenated outputs of the experts (Wolpert, Stacked Generalization, 1992).

    A missing answer is zero in all classes, which no distribution is, so that it contributes nothing.

    Args:
        inverse_penalty: Inverse of the L2 penalty, ``C`` of scikit-learn.

    Example:
        >>> outputs = np.array([[[0.9, 0.1]], [[0.2, 0.8]]])
        >>> LogisticStacking().fit(outputs, np.array([1, 0])).predict(outputs)
        array([1, 0])
    """

    def __init__(self, inverse_penalty: float = 1.0) -> None:
        from sklearn.linear_model import LogisticRegression

        self.model = LogisticRegression(C=inverse_penalty, max_iter=1000)

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Fit the regression."""
        outputs, targets = as_labeled(outputs, targets, missing=True)
        flat = _flat(outputs)
        self.columns = np.ptp(flat, axis=0) > 0  # classes that an expert does not have
        self.constant = targets[0] if len(np.unique(targets)) == 1 else None
        if self.constant is None:
            self.model.fit(flat[:, self.columns], targets)
        return self

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class that the regression predicts."""
        if self.constant is not None:
            return np.full(len(outputs), self.constant)
        result: np.ndarray = self.model.predict(_flat(answered(outputs))[:, self.columns])
        return result

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities of the regression."""
        if self.constant is not None:
            return super().probabilities(outputs)
        result = np.zeros((len(outputs), outputs.shape[2]))
        result[:, self.model.classes_] = self.model.predict_proba(_flat(answered(outputs))[:, self.columns])
        return result

    def state(self) -> dict[str, np.ndarray]:
        """Return the weights of the regression, the classes that they are of, and the columns that they read."""
        if self.constant is not None:
            return {"columns": self.columns, "classes": np.array([self.constant])}
        weights = {"weights": self.model.coef_, "intercept": self.model.intercept_}
        return weights | {"columns": self.columns, "classes": self.model.classes_}

    def restore(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take the weights of a fitted regression."""
        self.columns, classes = np.array(state["columns"]), np.array(state["classes"])
        self.constant = classes[0] if len(classes) == 1 else None
        if self.constant is None:
            self.model.coef_, self.model.intercept_ = np.array(state["weights"]), np.array(state["intercept"])
            self.model.classes_ = classes
        return self


def _flat(outputs: np.ndarray) -> np.ndarray:
    """Return the (N, K C) input of the regression."""
    return np.where(np.isnan(outputs), outputs.dtype.type(0), outputs).reshape(len(outputs), -1)
