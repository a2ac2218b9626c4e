"""What every baseline is: a rule on arrays of outputs."""

from abc import ABC, abstractmethod
from typing import Self

import numpy as np


class Baseline(ABC):
    """A rule that turns the outputs of K experts into one class per row."""

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Learn from labeled rows; most rules have nothing to learn.

        Args:
            outputs: (N, K, C) probabilities, zeros where an expert does not know a class.
            targets: (N,) classes.
        """
        return self

    @abstractmethod
    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """(N,) predicted classes of (N, K, C) outputs."""
