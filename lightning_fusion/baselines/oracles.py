"""Oracles that use the label: upper bounds of expert selection."""

import numpy as np

from lightning_fusion.baselines.checks import as_costs, as_labeled, check_costs, is_missing
from lightning_fusion.baselines.cost_points import CostPoint, Costs, mean_cost


def oracle_selection(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return (N,) bool, whether some expert is correct: an upper bound of selecting one expert per sample.

    Example:
        >>> oracle_selection(np.array([[[0.6, 0.4], [0.1, 0.9]]]), np.array([1]))
        array([ True])
    """
    outputs, targets = as_labeled(outputs, targets, missing=True)
    result: np.ndarray = np.any(_right(outputs, targets), axis=1)
    return result


def oracle_expert(outputs: np.ndarray, targets: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Return (N,) in [0, 1], the fraction of correct experts among those trained on the sample's domain that answered.

    This is the expected accuracy with known domains. Samples of which no expert has the domain count as wrong.

    Args:
        outputs: (N, K, C) probabilities.
        targets: (N,) classes.
        trained: (N, K) bool, which experts were trained on a domain of each sample.

    Example:
        >>> oracle_expert(np.array([[[0.6, 0.4], [0.1, 0.9]]]), np.array([1]), np.array([[True, True]]))
        array([0.5])
    """
    outputs, targets = as_labeled(outputs, targets, missing=True)
    trained = trained & ~is_missing(outputs)
    right = _right(outputs, targets) & trained
    result: np.ndarray = right.sum(1) / np.maximum(trained.sum(1), 1)
    return result


def least_expensive_correct(outputs: np.ndarray, targets: np.ndarray, costs: Costs) -> CostPoint:
    """Query the least expensive correct expert, or the least expensive of all where none is correct.

    Among rules that query at least one expert per sample and return one of the queried predictions, none is more
    accurate, and none of equal accuracy is less expensive. Fusion of several wrong predictions to a correct one is not
    covered. Of experts of equal cost the first is queried.

    Args:
        outputs: (N, K, C) probabilities.
        targets: (N,) classes.
        costs: (K,) cost of a query to each expert.

    Raises:
        InputError: If shapes, labels or costs are inconsistent, or values are not finite.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]])
        >>> point = least_expensive_correct(outputs, np.array([0, 1]), [1, 5])
        >>> point.cost, point.predicted.tolist()
        (3.0, [0, 1])
    """
    (given, goal), prices = as_labeled(outputs, targets, missing=True), as_costs(costs)
    check_costs(prices, given)
    predictions = given.argmax(2)
    # without a correct expert all costs are raised alike, so the least expensive one is selected as well
    right, answered = _right(given, goal), ~is_missing(given)
    expert = np.where(right | (answered & ~right.any(1, keepdims=True)), prices, np.inf).argmin(1)
    queried = expert[:, None] == np.arange(len(prices))
    return CostPoint(mean_cost(queried, prices), np.take_along_axis(predictions, expert[:, None], 1)[:, 0], queried)


def _right(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return (N, K) bool, correct predictions; a missing answer is none."""
    result: np.ndarray = (outputs.argmax(2) == targets[:, None]) & ~is_missing(outputs)
    return result
