"""Oracles, which know the label: upper bounds of what choosing among the experts can give."""

import numpy as np

from lightning_fusion.baselines.checks import as_costs, as_outputs, as_targets, check_sizes
from lightning_fusion.baselines.cost_points import CostPoint, Costs, mean_cost


def oracle_selection(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) bool: some expert is right. The ceiling of choosing one expert per row.

    Example:
        >>> oracle_selection(np.array([[[0.6, 0.4], [0.1, 0.9]]]), np.array([1]))
        array([ True])
    """
    return (outputs.argmax(2) == targets[:, None]).any(1)


def oracle_expert(outputs: np.ndarray, targets: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(N,) in [0, 1]: how often an expert that was trained on the row's domain is right, owners being equally likely.

    This is what knowing the domain would give. Rows without an owner count as wrong.

    Args:
        outputs: (N, K, C) probabilities.
        targets: (N,) classes.
        owners: (N, K) bool, which expert was trained on a domain of which row.

    Example:
        >>> oracle_expert(np.array([[[0.6, 0.4], [0.1, 0.9]]]), np.array([1]), np.array([[True, True]]))
        array([0.5])
    """
    right = (outputs.argmax(2) == targets[:, None]) & owners
    return right.sum(1) / np.maximum(owners.sum(1), 1)


def cheapest_right(outputs: np.ndarray, targets: np.ndarray, costs: Costs) -> CostPoint:
    """An oracle that knows the label asks the cheapest expert that is right, the cheapest of all where none is.

    Of the rules that ask somebody about every row and give an answer that they got, none is more accurate, and none
    that is as accurate is cheaper. Fusing several wrong answers to a right one is beyond it. Of equally cheap experts
    the first.

    Args:
        outputs: (N, K, C) probabilities.
        targets: (N,) classes.
        costs: (K,) price of a question to each expert.

    Raises:
        InputError: If shapes, labels or costs do not fit, or values are not finite.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]])
        >>> point = cheapest_right(outputs, np.array([0, 1]), [1, 5])
        >>> point.cost, point.predicted.tolist()
        (3.0, [0, 1])
    """
    given, goal, prices = as_outputs(outputs), as_targets(targets), as_costs(costs)
    check_sizes(given, goal, prices)
    predictions = given.argmax(2)
    # without a right expert all prices are raised alike, so the cheapest one wins there too
    right = predictions == goal[:, None]
    expert = np.where(right | ~right.any(1, keepdims=True), prices, np.inf).argmin(1)
    queried = expert[:, None] == np.arange(len(prices))
    return CostPoint(mean_cost(queried, prices), np.take_along_axis(predictions, expert[:, None], 1)[:, 0], queried)
