"""FrugalML: a base expert, and an add-on expert for uncertain predictions (Chen et al., NeurIPS 2020)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_fusion.baselines.checks import as_costs, as_labeled, as_problem, check_costs, reject_missing
from lightning_fusion.baselines.cost_points import CostPoint, Costs, mean_cost
from lightning_fusion.errors import InputError

FRUGAL_ML_TRADE_OFFS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.0)
"""Default trade-offs of :func:`frugal_ml`, times the mean cost of an expert."""
_TIE = 1e-9  # gains, in samples, that differ by less than this are equal


@dataclass(frozen=True, eq=False)
class FrugalMLStrategy:
    """A base expert, and for each predicted label an add-on expert that replaces uncertain predictions.

    Attributes:
        base: Index of the expert that is always queried.
        add_ons: (C,) index of the add-on expert of each label, -1 for none.
        thresholds: (C,) the add-on is queried where the base's largest probability is *below* this; -inf for never.
        objective: Accuracy - trade_off * mean cost on the fitted samples.
    """

    base: int
    add_ons: np.ndarray
    thresholds: np.ndarray
    objective: float

    def decide(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (N,) predicted classes and (N, K) bool, the queried experts.

        Args:
            outputs: (N, K, C) probabilities.
        """
        rows = np.arange(len(outputs))
        labels = outputs[:, self.base].argmax(1)
        unsure = outputs[:, self.base].max(1) < self.thresholds[labels]
        answers = np.where(unsure, self.add_ons[labels], self.base)
        queried = np.zeros(outputs.shape[:2], bool)
        queried[:, self.base] = True
        queried[rows, answers] = True
        return outputs[rows, answers].argmax(1), queried


def frugal_ml_strategy(outputs: np.ndarray, targets: np.ndarray, costs: Costs, trade_off: float) -> FrugalMLStrategy:
    """Find the FrugalML strategy that maximizes accuracy - trade_off * cost on labeled samples, exactly.

    For each base and each label that it predicts, the samples are sorted by its confidence; cumulative sums of the
    add-on's corrected minus broken predictions and its cost give the objective of all thresholds at once. Labels are
    independent, so the best threshold of each label is optimal. A threshold is the confidence of the least confident
    sample that the base keeps, inf where it keeps none. Ties (our choice) go to the lower cost on these samples, then
    to fewer queries, then to the lower index. A label that the base never predicts has no add-on.

    Args:
        outputs: (N, K, C) probabilities.
        targets: (N,) classes.
        costs: (K,) cost of a query to each expert.
        trade_off: Cost weight: gain of accuracy required per unit of cost, >= 0.

    Returns:
        An optimal strategy.

    Raises:
        InputError: If shapes, labels, costs or the trade-off are inconsistent, or values are not finite.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.9, 0.1]], [[0.6, 0.4], [0.1, 0.9]]])
        >>> strategy = frugal_ml_strategy(outputs, np.array([0, 1]), [1, 5], trade_off=0.05)
        >>> strategy.base, strategy.add_ons.tolist(), strategy.thresholds.tolist()
        (0, [1, -1], [0.9, -inf])
    """
    reject_missing(outputs, "frugal_ml")
    (known, goal), prices = as_labeled(outputs, targets), as_costs(costs)
    check_costs(prices, known)
    if not 0 <= trade_off < math.inf:
        raise InputError(f"trade_off is {trade_off}; expected a number >= 0")
    rows, experts, classes = known.shape
    right = (known.argmax(2) == goal[:, None]).astype(np.int64)
    unit = float(prices.mean()) or 1.0
    found: list[tuple[tuple[float, float, int], FrugalMLStrategy]] = []
    for base in range(experts):
        labels, confidence = known[:, base].argmax(1), known[:, base].max(1)
        order = np.lexsort((confidence, labels))
        labels, confidence = labels[order], confidence[order]
        first = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])  # the first row of each predicted label
        segment = np.cumsum(np.r_[0, labels[1:] != labels[:-1]])
        # change[n, k]: correct predictions gained by querying k for the samples of this label up to and including n
        total = np.cumsum(right[order] - right[order, base][:, None], axis=0)
        change = total - np.r_[np.zeros((1, experts), np.int64), total][first][segment]
        count = np.arange(rows) - first[segment] + 1
        gain = change - trade_off * count[:, None] * prices
        # samples of one label and one confidence are treated alike
        whole = np.r_[(labels[1:] != labels[:-1]) | (confidence[1:] != confidence[:-1]), True]
        gain[~whole] = -np.inf  # the base itself gains nothing, so it is never an add-on
        most = np.maximum.reduceat(gain, first)  # (labels, K)
        top = most.max(1)
        # the fewest samples at which each add-on is optimal, `rows` for never; of these add-ons the least expensive
        good = (gain >= np.maximum(top, _TIE)[segment][:, None] - _TIE) & (top > _TIE)[segment][:, None]
        places = np.minimum.reduceat(np.where(good, np.arange(rows)[:, None], rows), first)
        counts = places - first[:, None] + 1
        spend = np.where(places < rows, counts * prices, np.inf)
        choice = np.where(spend == spend.min(1, keepdims=True), places, rows).argmin(1)
        label = np.flatnonzero(top > _TIE)  # labels with an add-on, by their position among those predicted
        place, choice = places[label, choice[label]], choice[label]
        after = np.minimum(place + 1, rows - 1)
        kept = (place + 1 < rows) & (segment[after] == label)
        add_ons, thresholds = np.full(classes, -1), np.full(classes, -np.inf)
        add_ons[labels[first[label]]] = choice
        thresholds[labels[first[label]]] = np.where(kept, confidence[after], np.inf)
        objective = float(right[:, base].sum() - trade_off * rows * prices[base] + top[label].sum())
        spent = float(rows * prices[base] + spend[label, choice].sum()) / unit
        strategy = FrugalMLStrategy(base, add_ons, thresholds, objective / rows)
        found.append(((-round(objective, 9), round(spent, 9), int(counts[label, choice].sum())), strategy))
    return min(found, key=lambda entry: entry[0])[1]  # the first of equals


def frugal_ml(
    outputs: np.ndarray,
    validation_outputs: np.ndarray,
    validation_targets: np.ndarray,
    costs: Costs,
    *,
    trade_offs: Sequence[float] | None = None,
) -> list[CostPoint]:
    """FrugalML: one base expert, and an add-on for each label where the base is uncertain; at most two queries.

    Source: Chen, Zaharia and Zou, FrugalML: How to Use ML Prediction APIs More Accurately and Cheaply, NeurIPS 2020.
    The paper meets a budget by randomizing between two base experts; here a trade-off replaces the budget, so that one
    base and deterministic thresholds are optimal (our choice), found by :func:`frugal_ml_strategy`. Many labels with
    few samples each lead to overfitting: compare the accuracy with 1 - ``held_out_error``.

    Args:
        outputs: (N, K, C) probabilities of the samples to predict.
        validation_outputs: (V, K, C) probabilities of the calibration set.
        validation_targets: (V,) classes of the calibration set.
        costs: (K,) cost of a query to each expert.
        trade_offs: Cost weights: gain of accuracy required per unit of cost. ``None`` (default) means
            :data:`FRUGAL_ML_TRADE_OFFS` divided by the mean cost, so that they do not depend on the unit of cost.

    Returns:
        One point per trade-off; ``setting`` is the trade-off.

    Raises:
        InputError: If shapes, labels, costs or trade-offs are inconsistent, or values are not finite.

    Example:
        >>> outputs = np.array([[[0.9, 0.1], [0.9, 0.1]], [[0.6, 0.4], [0.1, 0.9]]])
        >>> points = frugal_ml(outputs, outputs, np.array([0, 1]), [1, 5], trade_offs=[1.0, 0.05])
        >>> [(point.cost, point.predicted.tolist()) for point in points]
        [(1.0, [0, 0]), (3.5, [0, 1])]
    """
    for values in (outputs, validation_outputs):
        reject_missing(values, "frugal_ml")
    given, known, targets, prices = as_problem(outputs, validation_outputs, validation_targets, costs)
    if trade_offs is None:
        mean = float(prices.mean()) or 1.0
        trade_offs = [value / mean for value in FRUGAL_ML_TRADE_OFFS]
    points = []
    for trade_off in map(float, trade_offs):
        strategy = frugal_ml_strategy(known, targets, prices, trade_off)
        predicted, queried = strategy.decide(given)
        error = float((strategy.decide(known)[0] != targets).mean())
        points.append(CostPoint(mean_cost(queried, prices), predicted, queried, trade_off, error))
    return points
