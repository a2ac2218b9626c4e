"""What FrugalFoE predicts, and its curve of accuracy against cost."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class FrugalPrediction(NamedTuple):
    """What :meth:`FrugalFoE.predict` returns.

    Attributes:
        probabilities: (B, C) of the fuser on the outputs of the experts that were queried.
        queried: (B, K) bool, which these are.
        cost: (B,) float64, the sum of their costs.
        risk: (B,) float64, the estimated loss of the answer.
        abstained: (B,) bool: the answer is in more doubt than ``abstain_above``, or every expert failed; then the
            frequencies of the classes in the calibration set are the answer.
        ood: (B,) bool, out-of-distribution: the nearest calibration samples are much farther than they are from one
            another.
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
        """(B,) number of experts that were queried."""
        return self.queried.sum(1)

    @property
    def predicted(self) -> Tensor:
        """(B,) the class of the largest probability, the lowest of equal ones; of abstained samples too."""
        return self.probabilities.argmax(1)


@dataclass(repr=False)
class FrugalCurve:
    """Accuracy and cost of one fitted policy at several trade-offs.

    Attributes:
        trade_off: The trade-offs, falling.
        accuracy: Fraction of right answers, those of abstained samples included.
        cost: Mean cost per sample.
        num_queries: Mean number of experts queried.
        predictions: What was predicted at each trade-off.
    """

    trade_off: list[float]
    accuracy: list[float]
    cost: list[float]
    num_queries: list[float]
    predictions: list[FrugalPrediction]

    @classmethod
    def of(cls, trade_offs: list[float], predictions: list[FrugalPrediction], targets: Tensor) -> "FrugalCurve":
        """The curve of some predictions.

        Args:
            trade_offs: Of each, falling.
            predictions: At each trade-off, all of the same samples.
            targets: (B,) classes of these.
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
        return "FrugalCurve(" + ", ".join(f"{price:g}: {value:.3f} at {cost:.2f}" for price, value, cost in rows) + ")"
