"""Dissimilarity D(z_k, v_k) of a projected representation and the representation of a frozen model in ACoRL.

The paper does not specify D; all of these are our choice. Each needs its own strength of the reversal, since their
gradients differ by orders of magnitude. They are computed in float32, also under autocast.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.experts.layers import movement


class Dissimilarity(nn.Module, ABC):
    """Base class of mean dissimilarities over a batch.

    Args:
        num_features: D, the size of the frozen model's representation.
        num_classes: C, number of classes, for dissimilarities that depend on the class.

    Attributes:
        conditional: Whether the projection gets the class of each sample as a further input.
        bounded: Whether :meth:`bound` limits what the new model gains by each sample.
    """

    conditional = False
    bounded = False

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_features, self.num_classes = num_features, num_classes

    def forward(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """The mean dissimilarity of a batch.

        Args:
            projected: (B, D) projection of the new model's representation.
            representation: (B, D) the frozen model's, without gradient.
            target: (B,) classes, or (B, C) fractions of classes where samples are mixed.
        """
        with torch.autocast(projected.device.type, enabled=False):
            return self.measure(projected.float(), representation.float(), target)

    @abstractmethod
    def measure(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """Compute the mean over the batch from float32 tensors; projections are trained to minimize it."""

    def bound(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """Compute what the new model maximizes where projections are trained apart: the same, unless ``bounded``."""
        return self(projected, representation, target)  # type: ignore[no-any-return]  # nn.Module

    def r2(self, value: Tensor, representation: Tensor, target: Tensor) -> Tensor | None:
        """Return the fraction of the variance in a batch that a projection explains, where D is an error.

        Args:
            value: The mean dissimilarity of the batch.
            representation: (B, D) the frozen model's.
            target: (B,) classes, or (B, C) fractions of classes.

        Returns:
            A scalar, NaN for a batch in which nothing varies; ``None`` for other kinds of dissimilarity.
        """
        return None

    def compares(self) -> bool:
        """Return whether the training batches so far have left anything to predict."""
        return True

    @torch.no_grad()
    def update(self, representation: Tensor, target: Tensor) -> None:
        """Count a training batch, for those that use statistics of v.

        Args:
            representation: (B, D).
            target: (B,) classes, or (B, C) fractions of classes.
        """


class Cosine(Dissimilarity):
    """1 - cos(z, v). Representations after a ReLU share a direction, so a constant prediction scores well."""

    def measure(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """Between 0 and 2."""
        return 1 - F.cosine_similarity(projected, representation, dim=1).mean()


class SquaredCosine(Dissimilarity):
    """1 - cos(z, v)^2: opposite directions count as similar."""

    def measure(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """Between 0 and 1."""
        return 1 - F.cosine_similarity(projected, representation, dim=1).square().mean()


class MeanSquaredError(Dissimilarity):
    """Mean of (z - v)^2. It has no upper bound: with reversal it can drive the new model to chance."""

    def measure(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """At least 0."""
        return F.mse_loss(projected, representation)


class SmoothL1(Dissimilarity):
    """Mean of |z - v|, quadratic below 1 (Huber); no upper bound either."""

    def measure(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """At least 0."""
        return F.smooth_l1_loss(projected, representation)


class RunningMeans(Dissimilarity):
    """Base class of those that compare v with its mean over all training batches so far, the current one included."""

    total: Tensor
    count: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        groups = num_classes if self.conditional else 1
        self.register_buffer("total", torch.zeros(groups, num_features, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(groups, 1, dtype=torch.float64))

    def _fractions(self, representation: Tensor, target: Tensor) -> Tensor:
        """(B, G) weight of each of the G means for each sample; samples without a label get the mean of all."""
        if not self.conditional:
            return representation.new_ones(len(representation), 1)
        return class_fractions(target, self.num_classes, representation.dtype)

    def residual(self, representation: Tensor, target: Tensor) -> Tensor:
        """Return v minus its mean, (B, D), in float32: the mean of the sample's class where ``conditional``."""
        fractions = self._fractions(representation, target)
        mean = (self.total / self.count.clamp_min(1e-12)).float()
        centered = representation - fractions @ mean
        if self.conditional and target.ndim == 1 and bool((unlabeled := target < 0).any()):
            whole = (self.total.sum(0) / self.count.sum().clamp_min(1e-12)).float()
            centered = torch.where(unlabeled[:, None], representation - whole, centered)
        return centered

    @torch.no_grad()
    def update(self, representation: Tensor, target: Tensor) -> None:
        """Count a training batch; the processes of a run count each other's."""
        representation = representation.to(torch.float64)
        self._add(representation, self._fractions(representation, target))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move, but do not cast: half precision cannot count to 1000."""
        apply: Callable[..., Any] = super()._apply  # untyped in torch
        return apply(movement(fn), recurse)

    def _add(self, representation: Tensor, fractions: Tensor) -> None:
        new = _over_processes(torch.cat([fractions.T @ representation, fractions.sum(0)[:, None]], dim=1))
        self.total += new[:, :-1]
        self.count += new[:, -1:]


class CenteredCosine(RunningMeans):
    """1 - cos(z, v - mean of v).

    The mean over samples is subtracted from v, so a constant prediction scores 1 and only differences between samples
    can be predicted.

    Args:
        num_features: D.
        num_classes: Not used.

    Example:
        >>> measure = CenteredCosine(2, 2)
        >>> v = torch.tensor([[3.0, 1.0], [5.0, 1.0]])
        >>> measure.update(v, torch.tensor([0, 1]))
        >>> round(float(measure(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), v, torch.tensor([0, 1]))), 3)
        0.0
    """

    def measure(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """Between 0 and 2."""
        return 1 - F.cosine_similarity(projected, self.residual(representation, target), dim=1).mean()


class ClassCenteredCosine(CenteredCosine):
    """1 - cos(z, v - mean of v in the sample's class): compares v beyond the class, which both models predict.

    Args:
        num_features: D.
        num_classes: C, number of classes.
    """

    conditional = True


class StandardizedResidualMSE(RunningMeans):
    """Mean of (z - r)^2, r = (v - mean of v in the sample's class) / standard deviation within classes: the default.

    Each component of r has variance 1 over the labeled samples, so predicting the mean of the class scores 1 on average
    over batches. Few samples in which two cues disagree have large residuals, which a squared error counts and a cosine
    does not. Components of v that do not vary are left out; where none does, as with a single sample of each class,
    there is nothing to predict.

    Args:
        num_features: D.
        num_classes: C, number of classes.
        conditional: Use means by class, and give the projection the class. Any model that solves the task predicts
            those means: an unconditional projection fights the task.
        bounded: The new model maximizes the mean of min(|z - r|^2, |r|^2): nothing is gained by samples whose r is
            already predicted worse than by the mean of their class. Without a bound a strong reversal destroys the
            new model's representation.

    Example:
        >>> measure = StandardizedResidualMSE(1, 2)
        >>> v, target = torch.tensor([[3.0], [5.0], [0.0], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> measure.update(v, target)
        >>> measure.standardized(v, target).flatten().tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """

    squares: Tensor

    def __init__(self, num_features: int, num_classes: int, conditional: bool = True, bounded: bool = True) -> None:
        self.conditional, self.bounded = conditional, bounded
        super().__init__(num_features, num_classes)
        self.register_buffer("squares", torch.zeros(num_features, dtype=torch.float64))
        self._compared: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # of one batch, for several steps

    def _add(self, representation: Tensor, fractions: Tensor) -> None:
        super()._add(representation, fractions)
        self._compared = None
        counted = fractions.sum(1) > 0  # samples with a label
        self.squares += _over_processes(representation[counted].square().sum(0))

    def deviation(self) -> Tensor:
        """Return the standard deviation of v around its means, (D,), in float32.

        It is 0 for components that do not vary, and 1 while none does.
        """
        found = self._spread()
        return torch.where((found == 0).all(), torch.ones_like(found), found)

    def compares(self) -> bool:
        """Return whether a component varies within the classes."""
        return bool(self._spread().any())

    def _spread(self) -> Tensor:
        """(D,) standard deviation of v around its means, 0 for components that do not vary."""
        explained = (self.total.square() / self.count.clamp_min(1e-12)).sum(0)
        variance = ((self.squares - explained) / self.count.sum().clamp_min(1e-12)).clamp_min(0)
        least = 1e-10 * self.squares / self.count.sum().clamp_min(1e-12)  # rounding of float32 representations
        return torch.where(variance > least, variance, 0).sqrt().float()

    def standardized(self, representation: Tensor, target: Tensor) -> Tensor:
        """Return r, (B, D); 0 in components that do not vary."""
        deviation = self.deviation()
        r = self.residual(representation, target) / torch.where(deviation > 0, deviation, 1)
        return r * (deviation > 0)

    def _errors(self, projected: Tensor, representation: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) squared errors of the projection, and of the mean: r itself."""
        if self._compared is None or self._compared[0] is not representation or self._compared[1] is not target:
            varies = (self.deviation() > 0).float()
            r = self.standardized(representation, target)
            self._compared = representation, target, r, varies / varies.sum().clamp_min(1)
        _, _, r, mean = self._compared
        return (projected - r).square() @ mean, r.square() @ mean

    def measure(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """At least 0; 1 for the mean of the class."""
        return self._errors(projected, representation, target)[0].mean()

    def r2(self, value: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """Return 1 minus the error divided by that of the mean of the class."""
        if not self.compares():
            return value * math.nan
        v = representation.float()
        return 1 - value / self._errors(torch.zeros_like(v), v, target)[1].mean()

    def bound(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """Compute the mean of the smaller error of each sample, where ``bounded``."""
        if not self.bounded:
            return super().bound(projected, representation, target)
        with torch.autocast(projected.device.type, enabled=False):
            return torch.minimum(*self._errors(projected.float(), representation.float(), target)).mean()


def class_fractions(target: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Return (B, C) fractions of classes: 1 for the class of each sample, 0 everywhere for one without a label.

    Args:
        target: (B,) classes, or (B, C) fractions of mixed samples, which are returned.
        num_classes: C.
        dtype: Type of the result.
    """
    if target.ndim > 1:
        return target.to(dtype)
    return F.one_hot(target.clamp_min(0), num_classes).to(dtype) * (target >= 0)[:, None]


def _over_processes(value: Tensor) -> Tensor:
    """Sum a tensor over the processes of a run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value
