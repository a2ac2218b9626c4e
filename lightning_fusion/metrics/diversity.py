"""Diversity of the errors of a pool of models."""

import torch
from torch import Tensor
from torchmetrics import Metric


class PairwiseDiversity(Metric):
    """Pairwise diversity measures of K models, from their correct and wrong predictions.

    With n11, n00, n10, n01 the numbers of samples that both, none, only the first or only the second predict correctly,
    of N: ``disagreement`` = (n10 + n01) / N, ``double_fault`` = n00 / N, ``q_statistic`` = (n11 n00 - n01 n10) / (n11
    n00 + n01 n10), ``error_correlation`` = (n11 n00 - n01 n10) / sqrt of the product of the four margins. Undefined
    values (such as for a model without errors) are NaN. Source: Kuncheva and Whitaker, Measures of Diversity in
    Classifier Ensembles, Machine Learning 51, 2003, table 1.

    Args:
        num_models: K, number of models.

    Example:
        >>> metric = PairwiseDiversity(2)
        >>> metric.update(torch.tensor([[0, 1], [1, 1], [2, 0]]), torch.tensor([0, 1, 1]))
        >>> metric.compute()["double_fault"]
        tensor([[0.3333, 0.3333],
                [0.3333, 0.6667]])
    """

    full_state_update = False
    both: Tensor
    none: Tensor
    first: Tensor

    def __init__(self, num_models: int) -> None:
        super().__init__()
        for name in ("both", "none", "first"):
            self.add_state(name, torch.zeros(num_models, num_models, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Update the state with a batch.

        Args:
            predictions: (B, K) predicted classes; -1 where a model has none: its pairs do not count this sample.
            target: (B,) true classes.
        """
        known = (predictions >= 0).to(torch.float64)
        right = known * (predictions == target[:, None])
        wrong = known - right
        self.both = self.both + right.T @ right
        self.none = self.none + wrong.T @ wrong
        self.first = self.first + right.T @ wrong

    def compute(self) -> dict[str, Tensor]:
        """Return the four (K, K) matrices, float32."""
        second = self.first.T
        total = self.both + self.none + self.first + second
        cross = self.both * self.none - self.first * second
        rows, columns = self.both + self.first, self.both + second
        margins = rows * (total - rows) * columns * (total - columns)
        values = {
            "disagreement": (self.first + second) / total,
            "double_fault": self.none / total,
            "q_statistic": cross / (self.both * self.none + self.first * second),
            "error_correlation": cross / margins.sqrt(),
        }
        return {name: value.to(torch.float32) for name, value in values.items()}


class BestExpertAccuracy(Metric):
    """The accuracy of the best of K experts.

    Args:
        num_experts: K, number of experts.

    Example:
        >>> metric = BestExpertAccuracy(2)
        >>> metric.update(torch.tensor([[True, False], [True, True]]))
        >>> metric.compute()
        tensor(1.)
    """

    full_state_update = False
    right: Tensor
    rows: Tensor

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(num_experts), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, right: Tensor) -> None:
        """Update the state with a batch.

        Args:
            right: (B, K) bool, correct predictions of each expert.
        """
        self.right = self.right + right.sum(0)
        self.rows = self.rows + len(right)

    def compute(self) -> Tensor:
        """Return the highest accuracy, a scalar."""
        return self.right.max() / self.rows
