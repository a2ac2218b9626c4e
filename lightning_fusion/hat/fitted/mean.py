"""Means of sources and of teachers."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from lightning_fusion.hat.fitted.base import Evidence, FittedTeacher, likelihood_of

_MIXTURE_STEPS = 200


class Average(FittedTeacher):
    """Mean of the sources' probabilities: nothing is fitted.

    Example:
        >>> evidence = Evidence(None, torch.tensor([[[0.8, 0.2], [0.4, 0.6]]]).log(), torch.zeros(1, 0))
        >>> Average()(evidence)
        tensor([[0.6000, 0.4000]])
    """

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Return itself."""
        return self

    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) mean probabilities."""
        return evidence.log_probabilities.exp().mean(1)


class Committee(FittedTeacher):
    """Weighted mean of several teachers.

    Args:
        members: The K teachers.

    Attributes:
        weights: (K,) weights, equal until they are set.
    """

    weights: Tensor

    def __init__(self, members: Sequence[FittedTeacher]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", torch.full((len(members),), 1 / len(members)))

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Fit every member."""
        for member in self.members:
            member.fit(evidence, target, seed)  # type: ignore[operator]
        return self

    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) mean probabilities."""
        return weighted([member(evidence) for member in self.members], self.weights)


def weighted(answers: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the (N, C) mean of K members' probabilities with weights (K,)."""
    mean: Tensor = torch.tensordot(weights.to(answers[0]), torch.stack(list(answers)), 1)
    return mean


def likelihood_weights(answers: Sequence[Tensor], target: Tensor) -> Tensor:
    """Weigh members so that their mixture predicts labels best that they were not fitted on.

    Stacking of predictive distributions (Yao et al., *Using Stacking to Average Bayesian Predictive Distributions*,
    Bayesian Analysis 2018), by expectation maximization; a prior that counts as one sample draws the weights towards
    equal ones (our choice), so that few labels exclude no member.

    Args:
        answers: (N, C) probabilities of each of the K members.
        target: (N,) classes.

    Returns:
        (K,) float32 weights.

    Example:
        >>> answers = [torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([[0.3, 0.7], [0.3, 0.7]])]
        >>> likelihood_weights(answers, torch.tensor([0, 0]))
        tensor([0.7743, 0.2257])
    """
    likelihood = torch.stack([likelihood_of(answer, target) for answer in answers], 1)
    weights = likelihood.new_full((len(answers),), 1 / len(answers))
    for _ in range(_MIXTURE_STEPS):
        shares = weights * likelihood
        shares = shares / shares.sum(1, keepdim=True)
        weights = (shares.sum(0) + 1 / len(answers)) / (len(target) + 1)
    return weights.float()
