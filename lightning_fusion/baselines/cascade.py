"""Confidence cascade: sequential queries until a prediction is confident enough."""

import math
from collections.abc import Sequence

import numpy as np

from lightning_fusion.baselines.checks import as_problem, is_missing
from lightning_fusion.baselines.cost_points import CostPoint, Costs, mean_cost
from lightning_fusion.errors import InputError, shorten


def confidence_cascade(
    outputs: np.ndarray,
    validation_outputs: np.ndarray,
    validation_targets: np.ndarray,
    costs: Costs,
    *,
    thresholds: Sequence[float] | None = None,
    num_thresholds: int = 20,
) -> list[CostPoint]:
    """Query experts in a fixed order until a prediction is confident enough, and return the most confident one.

    The confidence of an expert is its largest probability. The order is the same for all samples: by decreasing
    validation accuracy per unit of cost, because all samples pay for the first experts and only undecided ones for the
    others. Experts of cost 0 come first, by accuracy; ties go to the lower cost, then to the lower index. Of equal
    confidences the expert that was queried first is used. Order, thresholds and prediction are our choice; the idea is
    that of classifier cascades (Viola and Jones, CVPR 2001). A missing answer is passed over, and costs nothing.

    Args:
        outputs: (N, K, C) probabilities of the samples to predict.
        validation_outputs: (V, K, C) probabilities of the calibration set.
        validation_targets: (V,) classes of the calibration set.
        costs: (K,) cost of a query to each expert.
        thresholds: Queries end at a confidence above the threshold. ``None`` (default) means -inf (the first expert
            alone), quantiles of the confidences of all experts on the calibration set, and inf (all experts). Saturated
            confidences leave few distinct quantiles.
        num_thresholds: Number of quantiles, evenly spaced from 0 to 1; duplicates are removed.

    Returns:
        One point per threshold, in increasing order where ``thresholds`` is None; ``setting`` is the threshold.

    Raises:
        InputError: If shapes, labels, costs or thresholds are inconsistent, or values are not finite.

    Example:
        >>> sure, torn = [0.9, 0.1], [0.4, 0.6]
        >>> outputs = np.array([[sure, sure], [torn, sure]])
        >>> points = confidence_cascade(outputs, outputs, np.array([0, 0]), [1, 1], thresholds=[0.5, 0.7, 2.0])
        >>> [(point.cost, point.predicted.tolist()) for point in points]
        [(1.0, [0, 0]), (1.0, [0, 0]), (2.0, [0, 0])]
    """
    given, known, targets, expert_costs = as_problem(outputs, validation_outputs, validation_targets, costs, True)
    confidence = known.max(2)[~is_missing(known)]
    if thresholds is None:
        if num_thresholds < 1:
            raise InputError(f"num_thresholds is {num_thresholds}; expected at least 1")
        middle = np.unique(np.quantile(confidence, np.linspace(0, 1, num_thresholds), method="lower"))
        thresholds = [-math.inf, *middle.tolist(), math.inf]
    elif not len(thresholds) or np.isnan(np.asarray(thresholds, float)).any():
        raise InputError(f"thresholds: found {shorten(thresholds) or 'none'}; expected numbers")
    hits = ((known.argmax(2) == targets[:, None]) & ~is_missing(known)).sum(0)
    unit = float(expert_costs.mean()) or 1.0
    with np.errstate(divide="ignore", invalid="ignore"):  # rounded: 12 hits for 2 and 9 for 1.5 are a tie
        rate = np.where(expert_costs > 0, np.round(hits / (expert_costs / unit), 9), np.inf)
    order = np.lexsort((np.arange(len(expert_costs)), expert_costs, -hits * (expert_costs == 0), -rate))

    def queries(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the (N, K) largest confidence after each query, and its class."""
        ordered = values[:, order]
        confidence = np.where(is_missing(ordered), -np.inf, ordered.max(2))
        largest = np.maximum.accumulate(confidence, axis=1)
        news = np.ones_like(confidence, bool)
        news[:, 1:] = confidence[:, 1:] > largest[:, :-1]
        holder = np.maximum.accumulate(np.where(news, np.arange(len(order)), 0), axis=1)
        return largest, np.take_along_axis(ordered.argmax(2), holder, axis=1)

    def stop(largest: np.ndarray, answers: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the (N,) position of the last query, and the prediction after it."""
        enough = largest > threshold
        enough[:, -1] = True
        last = enough.argmax(1)
        return last, np.take_along_axis(answers, last[:, None], axis=1)[:, 0]

    rows, held = queries(given), queries(known)
    points = []
    for threshold in map(float, thresholds):
        last, predicted = stop(*rows, threshold)
        queried = np.empty((len(given), len(order)), bool)
        queried[:, order] = np.arange(len(order)) <= last[:, None]
        queried &= ~is_missing(given)
        error = float((stop(*held, threshold)[1] != targets).mean())
        points.append(CostPoint(mean_cost(queried, expert_costs), predicted, queried, threshold, error))
    return points
