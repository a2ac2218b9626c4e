"""Rules without trained parameters."""

from typing import Self

import numpy as np

from lightning_fusion.baselines.base import Baseline
from lightning_fusion.baselines.checks import answered, as_labeled, is_missing


class BestSingle(Baseline):
    """The expert with the highest accuracy on the fitted samples; of equals the first.

    A missing answer counts as a wrong one, and the next best expert replaces it.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]])
        >>> BestSingle().fit(outputs, np.array([1, 1])).predict(outputs)
        array([1, 1])
    """

    best: int

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Select the expert."""
        outputs, targets = as_labeled(outputs, targets, missing=True)
        accuracy = ((outputs.argmax(2) == targets[:, None]) & ~is_missing(outputs)).mean(0)
        self.order = np.argsort(-accuracy, kind="stable")
        self.best = int(self.order[0])
        return self

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the predictions of the selected expert."""
        outputs = answered(outputs)
        chosen = self.order[(~is_missing(outputs))[:, self.order].argmax(1)]
        result: np.ndarray = outputs[np.arange(len(outputs)), chosen].argmax(1)
        return result


class SoftmaxAverage(Baseline):
    """The class with the largest mean probability, of the experts that answered.

    Example:
        >>> SoftmaxAverage().predict(np.array([[[0.9, 0.1], [0.3, 0.7]]]))
        array([0])
    """

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the largest mean probability."""
        result: np.ndarray = _mean(answered(outputs)).argmax(1)
        return result


class MostConfident(Baseline):
    """The prediction of the expert with the largest probability.

    Example:
        >>> MostConfident().predict(np.array([[[0.6, 0.4], [0.3, 0.7]]]))
        array([1])
    """

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the largest probability of any expert."""
        outputs = answered(outputs)
        result: np.ndarray = np.where(np.isnan(outputs), -np.inf, outputs).max(1).argmax(1)
        return result


class MajorityVote(Baseline):
    """Majority vote of the experts that answered; the mean probability decides ties.

    Example:
        >>> MajorityVote().predict(np.array([[[0.6, 0.4], [0.1, 0.9]]]))
        array([1])
    """

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the most votes."""
        outputs = answered(outputs)
        voted = np.where(is_missing(outputs), -1, outputs.argmax(2))
        votes = (voted[:, :, None] == np.arange(outputs.shape[2])).sum(1)
        result: np.ndarray = (votes + 0.5 * _mean(outputs)).argmax(1)
        return result


def _mean(outputs: np.ndarray) -> np.ndarray:
    """Return the (N, C) mean of the experts that answered."""
    result: np.ndarray = np.nanmean(outputs, axis=1) if np.isnan(outputs).any() else outputs.mean(1)
    return result
