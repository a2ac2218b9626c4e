"""Rules without trained parameters, and the oracles above them."""

from abc import ABC, abstractmethod
from typing import Self

import numpy as np


class Baseline(ABC):
    """A rule that turns the outputs of K experts into one class per row."""

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Learn from labelled rows; most rules have nothing to learn.

        Args:
            outputs: (N, K, C) probabilities, zeros where an expert does not know a class.
            targets: (N,) classes.
        """
        return self

    @abstractmethod
    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """(N,) predicted classes of (N, K, C) outputs."""


class BestSingle(Baseline):
    """The expert that is right most often on the fitted rows answers everything; the first of equals.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]])
        >>> BestSingle().fit(outputs, np.array([1, 1])).predict(outputs)
        array([1, 1])
    """

    best: int

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Choose the expert."""
        self.best = int((outputs.argmax(2) == targets[:, None]).mean(0).argmax())
        return self

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """What the chosen expert says."""
        return outputs[:, self.best].argmax(1)


class SoftmaxAverage(Baseline):
    """The class with the largest mean probability.

    Example:
        >>> SoftmaxAverage().predict(np.array([[[0.9, 0.1], [0.3, 0.7]]]))
        array([0])
    """

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The class with the largest mean probability."""
        return outputs.mean(1).argmax(1)


class MostConfident(Baseline):
    """The expert with the largest single probability answers.

    Example:
        >>> MostConfident().predict(np.array([[[0.6, 0.4], [0.3, 0.7]]]))
        array([1])
    """

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The class with the largest probability of any expert."""
        return outputs.max(1).argmax(1)


class MajorityVote(Baseline):
    """Each expert votes for its best class; the mean probability decides ties.

    Example:
        >>> MajorityVote().predict(np.array([[[0.6, 0.4], [0.1, 0.9]]]))
        array([1])
    """

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The class with most votes."""
        votes = (outputs.argmax(2)[:, :, None] == np.arange(outputs.shape[2])).sum(1)
        return (votes + 0.5 * outputs.mean(1)).argmax(1)


def oracle_selection(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) bool: some expert is right. The ceiling of choosing one expert per row.

    Example:
        >>> oracle_selection(np.array([[[0.6, 0.4], [0.1, 0.9]]]), np.array([1]))
        array([ True])
    """
    return (outputs.argmax(2) == targets[:, None]).any(1)


def oracle_expert(outputs: np.ndarray, targets: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(N,) in [0, 1]: how often an expert that was trained on the row's domain is right, owners being equally likely.

    This is what knowing the domain would give. Rows without an owner count as wrong.

    Args:
        outputs: (N, K, C) probabilities.
        targets: (N,) classes.
        owners: (N, K) bool, which expert was trained on a domain of which row.

    Example:
        >>> oracle_expert(np.array([[[0.6, 0.4], [0.1, 0.9]]]), np.array([1]), np.array([[True, True]]))
        array([0.5])
    """
    right = (outputs.argmax(2) == targets[:, None]) & owners
    return right.sum(1) / np.maximum(owners.sum(1), 1)
