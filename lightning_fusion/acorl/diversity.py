"""Diversity of answers: what pushes a new model away from the errors of frozen ones, without their representations.

Each combines with the reversal of :class:`~lightning_fusion.ACoRLModule`, and is its rival where the strength is 0.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_fusion.acorl.dissimilarity import class_fractions
from lightning_fusion.errors import InputError


class Diversity:
    """Base class; subclasses are frozen dataclasses, so that they can be part of a checkpoint and of a YAML."""

    def penalty(self, probabilities: Tensor, pool: Tensor, target: Tensor) -> Tensor:
        """Return a term of the loss, a scalar; 0 unless overridden.

        Args:
            probabilities: (B, C) of the new model, with gradient.
            pool: (B, C) mean probabilities of the frozen experts.
            target: (B,) classes, -100 for samples without one, or (B, C) class fractions of mixed samples.
        """
        return probabilities.new_zeros(())

    def weights(self, pool: Tensor, target: Tensor) -> Tensor | None:
        """Return the weight (B,) of each sample in the task loss; ``None`` weighs all alike."""
        return None


@dataclass(frozen=True)
class ErrorDiversity(Diversity):
    """Penalty on the probability that the new model gives to the wrong classes that the pool favors.

        weight * mean over samples of sum over c of (1 - y_c) p_pool,c p_c

    y are the class fractions of the target; samples without one do not count. The penalty is the probability that two
    answers, one drawn from each model, agree on a wrong class.

    Args:
        weight: Weight of the penalty beside the task loss.

    Example:
        >>> pool, own = torch.tensor([[0.2, 0.8]]), torch.tensor([[0.5, 0.5]])
        >>> round(float(ErrorDiversity(10.0).penalty(own, pool, torch.tensor([0]))), 6)
        4.0
    """

    weight: float = 10.0

    def __post_init__(self) -> None:
        """Raise InputError for a negative weight."""
        _check("weight", self, self.weight, 0.0)

    def penalty(self, probabilities: Tensor, pool: Tensor, target: Tensor) -> Tensor:
        """Return the weighted mean over the samples with a label."""
        known = target >= 0 if target.ndim == 1 else torch.ones(len(target), dtype=torch.bool, device=target.device)
        wrong = 1 - class_fractions(target, probabilities.shape[1], torch.float32)
        shared = (wrong * pool * probabilities).sum(1)
        return self.weight * (shared * known).sum() / known.sum().clamp_min(1)


@dataclass(frozen=True)
class ErrorReweighting(Diversity):
    """Weight of the samples that the pool gets wrong in the task loss, a mean weighted over the batch.

    Source: Liu et al., Just Train Twice, ICML 2021, with the pool in place of the first training.

    Args:
        weight: Weight of a sample whose most probable class of the pool is not that of the target; others weigh 1.

    Example:
        >>> pool = torch.tensor([[0.2, 0.8], [0.2, 0.8]])
        >>> ErrorReweighting(20.0).weights(pool, torch.tensor([0, 1])).tolist()
        [20.0, 1.0]
    """

    weight: float = 20.0

    def __post_init__(self) -> None:
        """Raise InputError for a weight that is not above 0."""
        _check("weight", self, self.weight, 1e-9)

    def weights(self, pool: Tensor, target: Tensor) -> Tensor:
        """Return ``weight`` for the fraction of each target that the pool gets wrong, 1 for the rest."""
        right = class_fractions(target, pool.shape[1], torch.float32).gather(1, pool.argmax(1, keepdim=True))[:, 0]
        if target.ndim == 1:
            right = torch.where(target >= 0, right, 1.0)
        return self.weight + (1 - self.weight) * right


def checked_diversity(terms: Sequence[Diversity] | None, loss: nn.Module) -> list[Diversity]:
    """Return the terms of a module.

    Raises:
        InputError: If one is none, or weighs samples although the loss has no ``reduction``.
    """
    terms = list(terms or [])
    for term in terms:
        if not isinstance(term, Diversity):
            raise InputError(f"diversity: found {term!r}; expected terms such as acorl.diversity.ErrorDiversity()")
        weighs = type(term).weights is not Diversity.weights
        if weighs and not hasattr(loss, "reduction"):
            raise InputError(
                f"diversity: {type(term).__name__} weighs samples, and {type(loss).__name__} has no reduction: give a "
                "loss that returns (B,) where its attribute reduction is 'none'"
            )
    return terms


def diverse_loss(
    loss: nn.Module, terms: Sequence[Diversity], logits: Tensor, pool: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Compute the task loss with the weights of all terms, and the sum of their penalties.

    Args:
        loss: Task loss.
        terms: Kinds of diversity; their weights of a sample are multiplied.
        logits: (B, C) of the new model.
        pool: (B, C) mean probabilities of the experts; ``None`` without terms.
        target: (B,) classes, or (B, C) fractions of classes.

    Returns:
        Two scalars; the second is ``None`` without terms.
    """
    if not terms or pool is None:
        return loss(logits, target), None
    weights = [weight for term in terms if (weight := term.weights(pool, target)) is not None]
    probabilities = logits.float().softmax(-1)
    penalty = torch.stack([term.penalty(probabilities, pool, target) for term in terms]).sum()
    if not weights:
        return loss(logits, target), penalty
    each = copy.copy(loss)
    each.reduction = "none"  # type: ignore[assignment]  # of the losses of torch
    weight = torch.stack(weights).prod(0)
    if target.ndim == 1:
        weight = weight * (target >= 0)
    return (weight * each(logits, target)).sum() / weight.sum().clamp_min(1e-12), penalty


def _check(name: str, whose: Diversity, value: float, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
        raise InputError(f"{type(whose).__name__}: {name} is {value!r}; expected a number of at least {least:g}")
