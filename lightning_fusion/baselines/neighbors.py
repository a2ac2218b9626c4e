"""Nearest-neighbor vote and dynamic selection in the space of outputs."""

from typing import Self

import numpy as np

from lightning_fusion.baselines.base import Baseline
from lightning_fusion.baselines.checks import as_labeled, reject_missing
from lightning_fusion.baselines.fixed import as_fractions


class NearestNeighbors(Baseline):
    """Uniform vote of the fitted samples with the nearest outputs in Euclidean distance (scikit-learn).

    Args:
        neighbors: Number of neighbors; 9 as in the FoE paper.

    Example:
        >>> outputs = np.array([[[0.9, 0.1]], [[0.2, 0.8]]])
        >>> NearestNeighbors(1).fit(outputs, np.array([1, 0])).predict(outputs)
        array([1, 0])
    """

    def __init__(self, neighbors: int = 9) -> None:
        self.neighbors = neighbors

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Store the samples."""
        from sklearn.neighbors import KNeighborsClassifier

        reject_missing(outputs, type(self).__name__)
        outputs, targets = as_labeled(outputs, targets)
        self.model = KNeighborsClassifier(min(self.neighbors, len(outputs)), algorithm="brute")
        self.model.fit(outputs.reshape(len(outputs), -1), targets)
        return self

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the vote of the neighbors."""
        reject_missing(outputs, type(self).__name__)
        result: np.ndarray = self.model.predict(outputs.reshape(len(outputs), -1))
        return result

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the fractions of the votes of the neighbors."""
        reject_missing(outputs, type(self).__name__)
        result = np.zeros((len(outputs), outputs.shape[2]))
        result[:, self.model.classes_] = self.model.predict_proba(outputs.reshape(len(outputs), -1))
        return result


class KNORAE(Baseline):
    """KNORA-E dynamic selection: vote of the experts that are correct on *all* nearest fitted samples.

    K-nearest oracles, eliminate (Ko, Sabourin and Britto, Pattern Recognition 41, 2008). The neighborhood shrinks
    until some expert is correct on all of it; if none is correct on the nearest sample, all experts vote. Neighbors are
    found in the space of outputs (our choice, because experts may have no common input space).

    Args:
        neighbors: Size of the largest neighborhood.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.1, 0.9]], [[0.2, 0.8], [0.8, 0.2]]])
        >>> KNORAE(1).fit(outputs, np.array([1, 0])).predict(outputs)
        array([1, 0])
    """

    def __init__(self, neighbors: int = 7) -> None:
        self.neighbors = neighbors

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Store the samples, and the experts that are correct on each."""
        from sklearn import neighbors

        reject_missing(outputs, type(self).__name__)
        outputs, targets = as_labeled(outputs, targets)
        self.model = neighbors.NearestNeighbors(n_neighbors=min(self.neighbors, len(outputs)), algorithm="brute")
        self.model.fit(outputs.reshape(len(outputs), -1))
        self.right = outputs.argmax(2) == targets[:, None]
        return self

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Return the vote of the selected experts; the mean of their probabilities decides ties."""
        result: np.ndarray = self.probabilities(outputs).argmax(1)
        return result

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the fractions of the votes of the selected experts, with half a vote for their mean probability."""
        reject_missing(outputs, type(self).__name__)
        nearest = self.model.kneighbors(outputs.reshape(len(outputs), -1), return_distance=False)
        # run[n, k]: number of nearest samples, from the first on, on which expert k is correct without interruption
        run = np.cumprod(self.right[nearest], axis=1).sum(1)
        chosen = (run == run.max(1, keepdims=True)).astype(outputs.dtype)[:, :, None]
        votes = ((outputs.argmax(2)[:, :, None] == np.arange(outputs.shape[2])) * chosen).sum(1)
        mean = (outputs * chosen).sum(1) / chosen.sum(1)
        return as_fractions(votes + 0.5 * mean)
