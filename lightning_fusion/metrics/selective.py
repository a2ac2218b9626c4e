"""Accuracy-cost and risk-coverage curves."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lightning_fusion.errors import InputError

Values = np.ndarray | Tensor | Sequence[float]
"""One-dimensional array of numbers."""


class RiskCoverage(NamedTuple):
    """Risk-coverage curve with one entry per distinct risk, in increasing order.

    Attributes:
        threshold: (T,) samples up to this risk are answered.
        coverage: (T,) fraction of answered samples, up to 1.
        error: (T,) error rate of the answered samples.
        area: Mean over all samples of the error at their own risk (AURC).
    """

    threshold: np.ndarray
    coverage: np.ndarray
    error: np.ndarray
    area: float


def area_under_cost_curve(costs: Values, accuracies: Values, total_cost: float) -> float:
    """Compute the mean accuracy over all budgets from 0 to a total cost.

    Between points the accuracy is linear in the cost: a fraction of the samples is answered as at one point, the
    rest as at the other. Beyond the most expensive point the accuracy is constant. Points of equal cost are averaged,
    to avoid selection on the test set (our choice); points beyond the total cost determine the line up to it. A point
    at cost 0 is required, such as the majority-class baseline.

    Args:
        costs: (P,) mean cost per sample, >= 0, in any order, one of them 0.
        accuracies: (P,) accuracy at each point.
        total_cost: Largest budget, such as the cost of all experts.

    Returns:
        The area divided by the total cost, in [0, 1].

    Raises:
        InputError: If there is no point, none at cost 0, shapes differ or values are NaN or out of range.

    Example:
        >>> area_under_cost_curve([0, 2], [0.2, 0.6], total_cost=4)
        0.5
    """
    spent, right = _line(costs, "costs"), _line(accuracies, "accuracies")
    if spent.shape != right.shape:
        raise InputError(f"found {len(spent)} costs and {len(right)} accuracies; expected equal numbers")
    if not 0 < total_cost < np.inf:
        raise InputError(f"total_cost is {total_cost}; expected a number > 0")
    if not (np.isfinite(spent).all() and spent.min() >= 0):
        raise InputError("costs: expected finite numbers >= 0")
    if not (right.min() >= 0 and right.max() <= 1):
        raise InputError(f"accuracies: found {right.min()} to {right.max()}; expected fractions in [0, 1]")
    if spent.min() > 0:
        raise InputError(
            f"costs: the least expensive point costs {spent.min()}; add one of cost 0, that of the most frequent class"
        )
    knots, group = np.unique(spent, return_inverse=True)
    means = np.bincount(group, right) / np.bincount(group)
    inside = knots < total_cost
    budgets = np.append(knots[inside], total_cost)
    values = np.append(means[inside], np.interp(total_cost, knots, means))
    fractions = np.diff(budgets / total_cost)
    return float(np.clip((fractions * (values[1:] + values[:-1]) / 2).sum(), 0, 1))


def risk_coverage(risk: Values, wrong: Values) -> RiskCoverage:
    """Compute the error rate of the answered samples for every coverage.

    Samples are answered in order of increasing risk; samples of equal risk enter together, because no threshold
    separates them. The area is the mean over samples of the error at their risk, without ties the AURC of Geifman,
    Uziel and
    El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, ICLR 2019.

    Args:
        risk: (N,) estimated risks, in any unit; infinite values are permitted.
        wrong: (N,) bool, or 0 and 1: wrong predictions.

    Raises:
        InputError: If there is no sample, shapes differ, risks are NaN or ``wrong`` is not 0 or 1.

    Example:
        >>> curve = risk_coverage([0.1, 0.2, 0.2, 0.9], [False, True, False, True])
        >>> curve.coverage.tolist(), curve.error.round(2).tolist(), round(curve.area, 3)
        ([0.25, 0.75, 1.0], [0.0, 0.33, 0.5], 0.292)
    """
    values, errors = _line(risk, "risk"), _line(wrong, "wrong")
    if values.shape != errors.shape:
        raise InputError(f"found {len(values)} risks and {len(errors)} entries of wrong; expected equal numbers")
    if not np.isin(errors, (0, 1)).all():
        raise InputError("wrong: expected True and False, or 0 and 1")
    threshold, group = np.unique(values, return_inverse=True)
    entering = np.bincount(group)
    answered = np.cumsum(entering)
    error = np.cumsum(np.bincount(group, errors)) / answered
    return RiskCoverage(threshold, answered / len(values), error, float((entering * error).sum() / len(values)))


def _line(values: Values, where: str) -> np.ndarray:
    """Convert to (N,) float64, not empty, without NaN."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or not len(array):
        raise InputError(f"{where}: found shape {array.shape}; expected one dimension with one value at least")
    array = array.astype(np.float64)
    if np.isnan(array).any():
        raise InputError(f"{where}: found {int(np.isnan(array).sum())} NaN")
    return array
