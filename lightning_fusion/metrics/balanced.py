"""Balanced accuracy for classes of different sizes."""

import numpy as np


def balanced_accuracy(right: np.ndarray, targets: np.ndarray) -> float:
    """Compute the mean over classes of the accuracy within each class; a constant prediction scores 1 / C.

    Args:
        right: (N,) bool, or numbers in [0, 1] for the probability of a correct prediction.
        targets: (N,) true classes; classes without samples do not count.

    Example:
        >>> balanced_accuracy(np.array([True, True, True, False]), np.array([0, 0, 0, 1]))
        0.5
    """
    _, classes, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    return float(np.mean(np.bincount(classes, weights=np.asarray(right, float)) / sizes))
