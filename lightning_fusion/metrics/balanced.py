"""Accuracy where classes are of unlike size."""

import numpy as np


def balanced_accuracy(right: np.ndarray, targets: np.ndarray) -> float:
    """The mean over classes of the fraction of a class's rows that are right; guessing one class always gives 1 / C.

    Args:
        right: (N,) bool, or numbers in [0, 1] where a row is right with a probability.
        targets: (N,) true classes. Those without a row do not count.

    Example:
        >>> balanced_accuracy(np.array([True, True, True, False]), np.array([0, 0, 0, 1]))
        0.5
    """
    _, classes, sizes = np.unique(targets, return_inverse=True, return_counts=True)
    return float(np.mean(np.bincount(classes, weights=np.asarray(right, float)) / sizes))
