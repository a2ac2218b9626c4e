"""Predictions of a rule that queries some experts, with their cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_fusion.errors import InputError

Costs = Sequence[float] | np.ndarray
"""(K,) finite costs >= 0 of one query to each expert."""


@dataclass(frozen=True, eq=False)
class CostPoint:
    """Predictions of a rule, with their cost.

    Attributes:
        cost: Mean cost per sample.
        predicted: (N,) predicted classes.
        queried: (N, K) bool, the experts that were queried for each sample; read-only where they are the same for all.
        setting: Parameter of the rule at this point: the subset, the threshold or the trade-off; ``None`` if single.
        held_out_error: Error rate on the calibration set; ``None`` if it was not computed. Choices were made on the
            same samples, so it underestimates the error.
    """

    cost: float
    predicted: np.ndarray
    queried: np.ndarray
    setting: tuple[int, ...] | float | None = None
    held_out_error: float | None = None

    @property
    def num_queries(self) -> float:
        """Mean number of experts queried per sample."""
        return float(self.queried.sum(1).mean())

    def accuracy(self, targets: np.ndarray) -> float:
        """Return the fraction of correct predictions.

        Args:
            targets: (N,) classes.

        Raises:
            InputError: If the shapes differ.
        """
        if np.shape(targets) != self.predicted.shape:
            raise InputError(f"targets: found shape {np.shape(targets)} for {len(self.predicted)} predicted classes")
        return float((self.predicted == targets).mean())


def mean_cost(queried: np.ndarray, costs: np.ndarray) -> float:
    """Return the mean cost per sample.

    Args:
        queried: (N, K) bool.
        costs: (K,).
    """
    return math.fsum((queried.sum(0) * costs).tolist()) / len(queried)


def total_cost(costs: np.ndarray, subset: tuple[int, ...]) -> float:
    """Return the cost of a subset, summed exactly, so that it does not depend on the order.

    Args:
        costs: (K,).
        subset: Indices of the experts.
    """
    return math.fsum(costs[list(subset)].tolist())
