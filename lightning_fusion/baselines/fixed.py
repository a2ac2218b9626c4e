"""Rules without trained parameters."""

from typing import Self

import numpy as np

from lightning_fusion.baselines.base import Baseline
from lightning_fusion.baselines.checks import as_labeled


class BestSingle(Baseline):
    """The expert with the highest accuracy on the fitted samples; of equals the first.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]])
        >>> BestSingle().fit(outputs, np.array([1, 1])).predict(outputs)
        array([1, 1])
    """

    best: int

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Select the expert."""
        outputs, targets = as_labeled(outputs, targets)
        self.best = int((outputs.argmax(2) == targets[:, None]).mean(0).argmax())
        return self

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the predictions of the selected expert."""
        result: np.ndarray = outputs[:, self.best].argmax(1)
        return result


class SoftmaxAverage(Baseline):
    """The class with the largest mean probability.

    Example:
        >>> SoftmaxAverage().predict(np.array([[[0.9, 0.1], [0.3, 0.7]]]))
        array([0])
    """

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the largest mean probability."""
        result: np.ndarray = outputs.mean(1).argmax(1)
        return result


class MostConfident(Baseline):
    """The prediction of the expert with the largest probability.

    Example:
        >>> MostConfident().predict(np.array([[[0.6, 0.4], [0.3, 0.7]]]))
        array([1])
    """

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the largest probability of any expert."""
        result: np.ndarray = outputs.max(1).argmax(1)
        return result


class MajorityVote(Baseline):
    """Majority vote of the experts; the mean probability decides ties.

    Example:
        >>> MajorityVote().predict(np.array([[[0.6, 0.4], [0.1, 0.9]]]))
        array([1])
    """

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the most votes."""
        votes = (outputs.argmax(2)[:, :, None] == np.arange(outputs.shape[2])).sum(1)
        result: np.ndarray = (votes + 0.5 * outputs.mean(1)).argmax(1)
        return result
