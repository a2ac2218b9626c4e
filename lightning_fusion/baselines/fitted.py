"""Rules that learn from labelled outputs: stacking and dynamic selection."""

from typing import Self

import numpy as np

from lightning_fusion.baselines.fixed import Baseline


class LogisticStacking(Baseline):
    """Logistic regression on the experts' outputs side by side (scikit-learn; Wolpert, Stacked Generalization, 1992).

    Args:
        inverse_penalty: scikit-learn's C: the inverse of the L2 penalty.

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
        flat = outputs.reshape(len(outputs), -1)
        self.columns = np.ptp(flat, axis=0) > 0  # classes that an expert does not know
        self.constant = targets[0] if len(np.unique(targets)) == 1 else None
        if self.constant is None:
            self.model.fit(flat[:, self.columns], targets)
        return self

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The regression's class."""
        if self.constant is not None:
            return np.full(len(outputs), self.constant)
        return self.model.predict(outputs.reshape(len(outputs), -1)[:, self.columns])


class NearestNeighbours(Baseline):
    """Uniform vote of the fitted rows whose outputs are nearest in Euclidean distance (scikit-learn).

    Args:
        neighbours: Voters; 9 as in the FoE paper.

    Example:
        >>> outputs = np.array([[[0.9, 0.1]], [[0.2, 0.8]]])
        >>> NearestNeighbours(1).fit(outputs, np.array([1, 0])).predict(outputs)
        array([1, 0])
    """

    def __init__(self, neighbours: int = 9) -> None:
        self.neighbours = neighbours

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Keep the rows."""
        from sklearn.neighbors import KNeighborsClassifier

        self.model = KNeighborsClassifier(min(self.neighbours, len(outputs)), algorithm="brute")
        self.model.fit(outputs.reshape(len(outputs), -1), targets)
        return self

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The neighbours' vote."""
        return self.model.predict(outputs.reshape(len(outputs), -1))


class KNORAE(Baseline):
    """Dynamic selection: the experts that are right on *all* nearest fitted rows vote.

    K-nearest oracles, eliminate (Ko, Sabourin and Britto, Pattern Recognition 41, 2008). The neighbourhood shrinks
    until some expert is right on all of it; if none is right on the nearest row, all experts vote. The neighbourhood is
    taken in the space of outputs (our choice: experts of any framework have no common input space).

    Args:
        neighbours: Size of the largest neighbourhood.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.1, 0.9]], [[0.2, 0.8], [0.8, 0.2]]])
        >>> KNORAE(1).fit(outputs, np.array([1, 0])).predict(outputs)
        array([1, 0])
    """

    def __init__(self, neighbours: int = 7) -> None:
        self.neighbours = neighbours

    def fit(self, outputs: np.ndarray, targets: np.ndarray) -> Self:
        """Keep the rows and who is right on them."""
        from sklearn.neighbors import NearestNeighbors

        self.model = NearestNeighbors(n_neighbors=min(self.neighbours, len(outputs)), algorithm="brute")
        self.model.fit(outputs.reshape(len(outputs), -1))
        self.right = outputs.argmax(2) == targets[:, None]
        return self

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """The vote of the selected experts; the mean of their probabilities decides ties."""
        nearest = self.model.kneighbors(outputs.reshape(len(outputs), -1), return_distance=False)
        # run[n, k]: on how many of the nearest rows, from the first on, expert k is right without a miss
        run = np.cumprod(self.right[nearest], axis=1).sum(1)
        chosen = (run == run.max(1, keepdims=True)).astype(outputs.dtype)[:, :, None]
        votes = ((outputs.argmax(2)[:, :, None] == np.arange(outputs.shape[2])) * chosen).sum(1)
        mean = (outputs * chosen).sum(1) / chosen.sum(1)
        return (votes + 0.5 * mean).argmax(1)
