"""What FrugalFoE predicts, and its curve of accuracy against cost."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class FrugalPrediction(NamedTuple):
    """What :meth:`FrugalFoE.predict` answers.

    Attributes:
        probabilities: (B, C) of the fuser on the outputs of the experts that were asked.
        asked: (B, K) bool, whom.
        cost: (B,) float64, the sum of their costs.
        risk: (B,) float64, the estimated loss of the answer.
        abstained: (B,) bool: the answer is in more doubt than ``abstain_above``, or every expert failed; then the
            shares of the classes among the validation rows are the answer.
        far: (B,) bool: the nearest validation rows are much farther than they are from one another.
    """

    probabilities: Tensor
    asked: Tensor
    cost: Tensor
    risk: Tensor
    abstained: Tensor
    far: Tensor

    def __repr__(self) -> str:
        return (
            f"FrugalPrediction({len(self.cost)} samples, mean cost {float(self.cost.mean()):.3g}, experts asked "
            f"{float(self.asked.sum(1).double().mean()):.3g}, risk {float(self.risk.mean()):.3g}; abstained "
            f"{int(self.abstained.sum())}, far {int(self.far.sum())})"
        )

    @property
    def predicted(self) -> Tensor:
        """(B,) the class of the largest probability, the lowest of equal ones; of abstained samples too."""
        return self.probabilities.argmax(1)


@dataclass(repr=False)
class FrugalCurve:
    """Accuracy and cost of one fitted policy at several trade-offs.

    Attributes:
        trade_off: The trade-offs, falling.
        accuracy: Share of right answers, those of abstained samples included.
        cost: Mean cost per sample.
        asked: Mean number of experts asked.
        predictions: What was predicted at each trade-off.
    """

    trade_off: list[float]
    accuracy: list[float]
    cost: list[float]
    asked: list[float]
    predictions: list[FrugalPrediction]

    def __repr__(self) -> str:
        rows = zip(self.trade_off, self.accuracy, self.cost, strict=True)
        return "FrugalCurve(" + ", ".join(f"{price:g}: {value:.3f} at {cost:.2f}" for price, value, cost in rows) + ")"
