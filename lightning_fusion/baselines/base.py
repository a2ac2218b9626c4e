"""Base class of the baselines."""

from abc import ABC, abstractmethod
from typing import Self

import numpy as np


class Baseline(ABC):
    """Rule that maps the outputs of K experts to one class per sample.

    A missing answer is NaN in all classes of an expert. A rule that cannot take it raises InputError.
    """

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Fit the rule on labeled samples; most rules have no parameters.

        Args:
            outputs: (N, K, C) probabilities, zero for classes that an expert does not have.
            targets: (N,) classes.
        """
        return self

    @abstractmethod
    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Predict the (N,) classes of (N, K, C) outputs."""
