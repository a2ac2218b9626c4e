"""Query the experts one after another until one is confident enough."""

import math
from collections.abc import Sequence

import numpy as np

from lightning_fusion.baselines.checks import as_problem
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
    """Ask one expert after the other until an answer is confident enough; the most confident so far is given.

    An expert's confidence is its largest probability. The order is the same for every row: by falling validation
    accuracy per unit of cost, because every row pays for the first experts and only those that these leave open for the
    rest. Experts that cost nothing come first, by their accuracy; ties go to the cheaper, then to the lower number.
    Equal confidences go to the expert that was queried first. Order, thresholds and answer are our choice; cascades of
    classifiers are older (Viola and Jones, CVPR 2001).

    Args:
        outputs: (N, K, C) probabilities of the rows to answer.
        validation_outputs: (V, K, C) probabilities of labeled rows.
        validation_targets: (V,) their classes.
        costs: (K,) price of a question to each expert.
        thresholds: An answer that is more confident than this ends the questions. Where None: -inf (the first expert
            alone), quantiles of the confidences of all experts on the validation rows, and inf (everyone). Networks
            that are often sure to the last digit leave few different ones.
        num_thresholds: Quantiles, spread evenly from 0 to 1; equal ones count once.

    Returns:
        One point per threshold, in rising order where None were given; ``setting`` is the threshold.

    Raises:
        InputError: If shapes, labels, costs or thresholds do not fit, or values are not finite.

    Example:
        >>> sure, torn = [0.9, 0.1], [0.4, 0.6]
        >>> outputs = np.array([[sure, sure], [torn, sure]])
        >>> points = confidence_cascade(outputs, outputs, np.array([0, 0]), [1, 1], thresholds=[0.5, 0.7, 2.0])
        >>> [(point.cost, point.predicted.tolist()) for point in points]
        [(1.0, [0, 0]), (1.0, [0, 0]), (2.0, [0, 0])]
    """
    given, known, targets, prices = as_problem(outputs, validation_outputs, validation_targets, costs)
    confidence = known.max(2)
    if thresholds is None:
        if num_thresholds < 1:
            raise InputError(f"num_thresholds is {num_thresholds}; expected at least 1")
        middle = np.unique(np.quantile(confidence, np.linspace(0, 1, num_thresholds), method="lower"))
        thresholds = [-math.inf, *middle.tolist(), math.inf]
    elif not len(thresholds) or np.isnan(np.asarray(thresholds, float)).any():
        raise InputError(f"thresholds: found {shorten(thresholds) or 'none'}; expected numbers")
    hits = (known.argmax(2) == targets[:, None]).sum(0)
    unit = float(prices.mean()) or 1.0
    with np.errstate(divide="ignore", invalid="ignore"):  # rounded: 12 hits for 2 and 9 for 1.5 are a tie
        rate = np.where(prices > 0, np.round(hits / (prices / unit), 9), np.inf)
    order = np.lexsort((np.arange(len(prices)), prices, -hits * (prices == 0), -rate))

    def questions(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, K) the largest confidence after each question, and the class that has it."""
        ordered = values[:, order]
        confidence = ordered.max(2)
        largest = np.maximum.accumulate(confidence, axis=1)
        news = np.ones_like(confidence, bool)
        news[:, 1:] = confidence[:, 1:] > largest[:, :-1]
        holder = np.maximum.accumulate(np.where(news, np.arange(len(order)), 0), axis=1)
        return largest, np.take_along_axis(ordered.argmax(2), holder, axis=1)

    def stop(largest: np.ndarray, answers: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the place of the last question, and the answer then."""
        enough = largest > threshold
        enough[:, -1] = True
        last = enough.argmax(1)
        return last, np.take_along_axis(answers, last[:, None], axis=1)[:, 0]

    rows, held = questions(given), questions(known)
    points = []
    for threshold in map(float, thresholds):
        last, predicted = stop(*rows, threshold)
        queried = np.empty((len(given), len(order)), bool)
        queried[:, order] = np.arange(len(order)) <= last[:, None]
        error = float((stop(*held, threshold)[1] != targets).mean())
        points.append(CostPoint(mean_cost(queried, prices), predicted, queried, threshold, error))
    return points
