"""Majority-class baseline, which queries no expert."""

import numpy as np

from lightning_fusion.baselines.cost_points import CostPoint
from lightning_fusion.data.targets import as_targets
from lightning_fusion.errors import InputError


def majority_class(train_targets: np.ndarray, num_rows: int, num_experts: int = 0) -> CostPoint:
    """Majority-class baseline (zero cost): the most frequent class; the lowest of equally frequent ones.

    Args:
        train_targets: (N,) classes of labeled samples.
        num_rows: Number of samples to predict.
        num_experts: K, number of columns of ``queried``.

    Returns:
        A point of cost 0; its held-out error is that on the labeled samples.

    Raises:
        InputError: If there is no sample, or the targets are not (N,) classes.

    Example:
        >>> majority_class(np.array([2, 0, 2]), num_rows=2).predicted
        array([2, 2])
    """
    targets = as_targets(train_targets, None, "train_targets")
    if not len(targets):
        raise InputError("train_targets: found none; expected (N,) classes of one sample at least")
    if num_rows < 1:
        raise InputError(f"num_rows is {num_rows}; expected at least 1")
    counts = np.bincount(targets)
    error = 1 - float(counts.max()) / len(targets)
    queried = np.zeros((num_rows, num_experts), bool)
    return CostPoint(0.0, np.full(num_rows, counts.argmax()), queried, None, error)
