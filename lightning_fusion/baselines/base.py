"""Base class of the baselines."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np


class Baseline(ABC):
    """Rule that maps the outputs of K experts to one class per sample.

    A missing answer is NaN in all classes of an expert. A rule that cannot take it raises InputError.
    """

    fits: ClassVar[bool] = True
    """Whether :meth:`fit` determines parameters."""

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

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return (N, C) probabilities of (N, K, C) outputs; by default 1 for the predicted class.

        The largest one is that of :meth:`predict`.
        """
        result: np.ndarray = np.eye(outputs.shape[2])[self.predict(outputs)]
        return result

    def selected(self, outputs: np.ndarray) -> np.ndarray | None:
        """Return the (N,) numbers of the experts whose answers are the predictions; ``None`` if several are fused.

        Args:
            outputs: (N, K, C) probabilities.
        """
        return None

    def experts(self) -> list[int] | None:
        """Return the numbers of the experts that are queried for every sample; ``None`` (default) means all."""
        return None

    def state(self) -> dict[str, np.ndarray]:
        """Return the fitted parameters as arrays; empty (default) if they are as many as the samples: fit again."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take the parameters of :meth:`state` in place of :meth:`fit`."""
        raise NotImplementedError(f"{type(self).__name__} has no state to restore; call fit")
