"""Predictions of FrugalFoE, and its curve of accuracy against cost."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class FrugalPrediction(NamedTuple):
    """Result of :meth:`FrugalFoE.predict`.

    Attributes:
        probabilities: (B, C) class probabilities of the fuser of the queried experts.
        queried: (B, K) bool, the queried experts.
        cost: (B,) float64, the sum of their costs.
        risk: (B,) float64, the estimated loss of the prediction.
        abstained: (B,) bool: the uncertainty exceeds ``abstain_above``, or every expert failed; then probabilities are
            the class frequencies in the calibration set.
        ood: (B,) bool, out-of-distribution: the nearest calibration samples are much farther away than they are from
            one another.
    """

    probabilities: Tensor
    queried: Tensor
    cost: Tensor
    risk: Tensor
    abstained: Tensor
    ood: Tensor

    def __repr__(self) -> str:
        return (
            f"FrugalPrediction({len(self.cost)} samples, mean cost {float(self.cost.mean()):.3g}, queries "
            f"{float(self.num_queries.double().mean()):.3g}, risk {float(self.risk.mean()):.3g}; abstained "
            f"{int(self.abstained.sum())}, out-of-distribution {int(self.ood.sum())})"
        )

    @property
    def num_queries(self) -> Tensor:
        """(B,) number of queried experts."""
        return self.queried.sum(1)

    @property
    def predicted(self) -> Tensor:
        """(B,) class of the largest probability, the lowest of equal ones; also for abstained samples."""
        return self.probabilities.argmax(1)


@dataclass(repr=False)
class FrugalCurve:
    """Accuracy and cost of one fitted policy at several trade-offs.

    Attributes:
        trade_off: Trade-offs, in decreasing order.
        accuracy: Accuracy, including abstained samples.
        cost: Mean cost per sample.
        num_queries: Mean number of experts queried.
        predictions: Predictions at each trade-off.
    """

    trade_off: list[float]
    accuracy: list[float]
    cost: list[float]
    num_queries: list[float]
    predictions: list[FrugalPrediction]

    @classmethod
    def of(cls, trade_offs: list[float], predictions: list[FrugalPrediction], targets: Tensor) -> "FrugalCurve":
        """Create the curve of predictions at several trade-offs.

        Args:
            trade_offs: Trade-offs, in decreasing order.
            predictions: Predictions at each trade-off, of the same samples.
            targets: (B,) classes of the samples.
        """
        return cls(
            trade_offs,
            [float((found.predicted == targets).double().mean()) for found in predictions],
            [float(found.cost.mean()) for found in predictions],
            [float(found.num_queries.double().mean()) for found in predictions],
            predictions,
        )

    def __repr__(self) -> str:
        rows = zip(self.trade_off, self.accuracy, self.cost, strict=True)
        listed = [f"{price:g}: {value:.3f} at {cost:{'.2f' if cost >= 0.1 else '.3g'}}" for price, value, cost in rows]
        return f"FrugalCurve({', '.join(listed)})"
