"""Rules without trained parameters."""

from collections.abc import Mapping
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
        result: np.ndarray = self.probabilities(outputs).argmax(1)
        return result

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the outputs of the selected expert."""
        result: np.ndarray = outputs[np.arange(len(outputs)), self.selected(answered(outputs))]
        return result

    def selected(self, outputs: np.ndarray) -> np.ndarray:
        """Return the selected expert, or the next best one that answered."""
        result: np.ndarray = self.order[(~is_missing(outputs))[:, self.order].argmax(1)]
        return result

    def experts(self) -> list[int]:
        """Return the number of the selected expert."""
        return [self.best]

    def state(self) -> dict[str, np.ndarray]:
        """Return the experts in decreasing order of accuracy."""
        return {"order": self.order}

    def restore(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take the order of a fitted rule."""
        self.order = np.array(state["order"])
        self.best = int(self.order[0])
        return self


class SoftmaxAverage(Baseline):
    """The class with the largest mean probability, of the experts that answered.

    Example:
        >>> SoftmaxAverage().predict(np.array([[[0.9, 0.1], [0.3, 0.7]]]))
        array([0])
    """

    fits = False

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the largest mean probability."""
        result: np.ndarray = self.probabilities(outputs).argmax(1)
        return result

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the mean of the experts' outputs."""
        return _mean(answered(outputs))


class MostConfident(Baseline):
    """The prediction of the expert with the largest probability.

    Example:
        >>> MostConfident().predict(np.array([[[0.6, 0.4], [0.3, 0.7]]]))
        array([1])
    """

    fits = False

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the largest probability of any expert."""
        outputs = answered(outputs)
        result: np.ndarray = np.where(np.isnan(outputs), -np.inf, outputs).max(1).argmax(1)
        return result

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the outputs of the expert with the largest probability."""
        result: np.ndarray = outputs[np.arange(len(outputs)), self.selected(outputs)]
        return result

    def selected(self, outputs: np.ndarray) -> np.ndarray:
        """Return the expert with the largest probability of the predicted class."""
        present = np.where(np.isnan(outputs), -np.inf, outputs)
        result: np.ndarray = present[np.arange(len(outputs)), :, self.predict(outputs)].argmax(1)
        return result


class MajorityVote(Baseline):
    """Majority vote of the experts that answered; the mean probability decides ties.

    Example:
        >>> MajorityVote().predict(np.array([[[0.6, 0.4], [0.1, 0.9]]]))
        array([1])
    """

    fits = False

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the class with the most votes."""
        result: np.ndarray = self.probabilities(outputs).argmax(1)
        return result

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the fractions of votes, with half a vote for the mean probability."""
        outputs = answered(outputs)
        voted = np.where(is_missing(outputs), -1, outputs.argmax(2))
        votes = (voted[:, :, None] == np.arange(outputs.shape[2])).sum(1)
        return as_fractions(votes + 0.5 * _mean(outputs))


def as_fractions(votes: np.ndarray) -> np.ndarray:
    """Divide (N, C) votes by their sum over classes."""
    votes = votes.astype(np.float64)
    result: np.ndarray = votes / votes.sum(1, keepdims=True)
    return result


def _mean(outputs: np.ndarray) -> np.ndarray:
    """Return the (N, C) mean of the experts that answered."""
    result: np.ndarray = np.nanmean(outputs, axis=1) if np.isnan(outputs).any() else outputs.mean(1)
    return result
