"""What a rule that queries some experts predicts, and what that costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_fusion.errors import InputError

Costs = Sequence[float] | np.ndarray
"""(K,) finite costs >= 0 of one query to each expert."""


@dataclass(frozen=True, eq=False)
class CostPoint:
    """What a rule predicts, and what that costs.

    Attributes:
        cost: Mean cost per sample.
        predicted: (N,) predicted classes.
        queried: (N, K) bool, the experts that were queried for each sample; read-only where they are the same for all.
        setting: What tells the points of one rule apart: the subset, the threshold or the trade-off; None if single.
        held_out_error: Share of wrong answers on the validation rows, or what a fusion gives as its error; None where
            it was not computed. Choices were made on the same samples, so that it underestimates the error.
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
        """Share of right answers.

        Args:
            targets: (N,) classes.

        Raises:
            InputError: If the shapes differ.
        """
        if np.shape(targets) != self.predicted.shape:
            raise InputError(f"targets: found shape {np.shape(targets)} for {len(self.predicted)} predicted classes")
        return float((self.predicted == targets).mean())


def mean_cost(queried: np.ndarray, costs: np.ndarray) -> float:
    """Mean cost per sample.

    Args:
        queried: (N, K) bool.
        costs: (K,).
    """
    return math.fsum((queried.sum(0) * costs).tolist()) / len(queried)


def total_cost(costs: np.ndarray, subset: tuple[int, ...]) -> float:
    """Cost of a subset, summed exactly, so that equal costs in another order are equal.

    Args:
        costs: (K,).
        subset: Numbers of experts.
    """
    return math.fsum(costs[list(subset)].tolist())
