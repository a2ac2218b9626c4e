"""Detection of an expert whose classes are declared in another order than that of its outputs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

PERMUTATION_P = 1e-4
"""Maximum p-value of the gain of another order of classes."""
PERMUTATION_GAIN = 0.05
"""Minimum gain of accuracy of another order of classes."""


def better_order(predicted: np.ndarray, target: np.ndarray, classes: Sequence[str]) -> tuple[list[str], float] | None:
    """Find an order of an expert's classes that is significantly more accurate than the declared one.

    The order with the most correct predictions is an assignment problem. It is solved on half of the samples, and the
    gain is tested on the other half (one-sided sign test of the samples that it corrects and breaks).

    Args:
        predicted: (N,) column of the largest output.
        target: (N,) number of the true class among ``classes``.
        classes: Declared names of the C columns.

    Returns:
        Names of the columns in the order found on all samples, and the accuracy with it; ``None`` if the declared order
        is not significantly worse.

    Example:
        >>> target = np.arange(90) % 3
        >>> better_order(np.array([1, 0, 2])[target], target, ["cat", "dog", "owl"])
        (['dog', 'cat', 'owl'], 1.0)
        >>> better_order(target, target, ["cat", "dog", "owl"])
    """
    count = len(classes)
    if count < 2 or len(target) < 2:
        return None
    chosen = np.random.default_rng(0).permutation(len(target)) < len(target) // 2
    order = _assignment(predicted[chosen], target[chosen], count)
    seen, goal = predicted[~chosen], target[~chosen]
    before, after = seen == goal, order[seen] == goal
    corrected, broken = int((after & ~before).sum()), int((before & ~after).sum())
    if corrected - broken < PERMUTATION_GAIN * len(goal) or _sign_test(corrected, broken) > PERMUTATION_P:
        return None
    order = _assignment(predicted, target, count)
    return [classes[number] for number in order], float((order[predicted] == target).mean())


def common_order(
    orders: Mapping[str, tuple[Sequence[str], Sequence[str] | None]], classes: Sequence[str]
) -> list[str] | None:
    """Find an order of the classes of a task that explains the better orders of all its experts.

    Args:
        orders: For each expert its declared classes, and the names of its columns in a better order; ``None``: no such.
        classes: Classes of the task, which the targets count.

    Returns:
        Classes of the task in the order that agrees with the declared classes of every expert; ``None`` if there is
        one expert only, or no such order.

    Example:
        >>> found = {"a": (["cat", "dog", "owl"], ["dog", "cat", "owl"]), "b": (["dog", "cat"], ["cat", "dog"])}
        >>> common_order(found, ["cat", "dog", "owl"])
        ['dog', 'cat', 'owl']
        >>> common_order(found | {"c": (["cat", "owl"], None)}, ["cat", "dog", "owl"])
    """
    if len(orders) < 2:
        return None
    result: dict[str, str] = {}  # name of the task's target -> class by the experts
    for declared, better in orders.values():
        if better is None:
            return None
        for own, target in zip(declared, better, strict=True):
            if result.setdefault(target, own) != own:
                return None
    found = [result.get(name, name) for name in classes]
    return found if len(set(found)) == len(found) else None


def _assignment(predicted: np.ndarray, target: np.ndarray, count: int) -> np.ndarray:
    """Return the (C,) class of each column that makes most predictions correct; of equals the declared ones."""
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((count, count))
    np.add.at(confusion, (predicted, target), 1)
    result: np.ndarray = linear_sum_assignment(confusion + 0.5 / count * np.eye(count), maximize=True)[1]
    return result


def _sign_test(larger: int, smaller: int) -> float:
    """Return the one-sided p-value that the first of two counts is not the more frequent."""
    from scipy.stats import binomtest

    total = larger + smaller
    return float(binomtest(larger, total, alternative="greater").pvalue) if total else math.nan
