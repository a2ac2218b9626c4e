"""Dissimilarity D(z_k, v_k) of a projected representation and the representation of a frozen model in ACoRL.

The paper does not specify D; all of these are our choice. Each needs its own strength of the reversal, since their
gradients differ by orders of magnitude. They are computed in float32, also under autocast.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dissimilarity(nn.Module, ABC):
    """Base class of mean dissimilarities over a batch.

    Args:
        num_features: D, the size of the frozen model's representation.
        num_classes: C, number of classes, for dissimilarities that depend on the class.
    """

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
        """Compute the mean over the batch from float32 tensors."""


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


class CenteredCosine(Dissimilarity):
    """1 - cos(z, v - mean of v): the default.

    The mean over samples is subtracted from v, so a constant prediction scores 1 and only differences between samples
    can be predicted. The mean is that of all training batches so far, including the current one.

    Args:
        num_features: D.
        num_classes: Not used.

    Example:
        >>> measure = CenteredCosine(2, 2)
        >>> v = torch.tensor([[3.0, 1.0], [5.0, 1.0]])
        >>> round(float(measure(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), v, torch.tensor([0, 1]))), 3)
        0.0
    """

    total: Tensor
    count: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.register_buffer("total", torch.zeros(self._groups(), num_features, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(self._groups(), 1, dtype=torch.float64))

    def _groups(self) -> int:
        return 1

    def _shares(self, representation: Tensor, target: Tensor) -> Tensor:
        """(B, G) weight of each of the G means for each sample."""
        return representation.new_ones(len(representation), 1)

    def measure(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        """Between 0 and 2."""
        shares = self._shares(representation, target)
        if self.training:
            self._count(representation.to(torch.float64), shares.to(torch.float64))
        mean = (self.total / self.count.clamp_min(1e-12)).float()
        return 1 - F.cosine_similarity(projected, representation - shares @ mean, dim=1).mean()

    @torch.no_grad()
    def _count(self, representation: Tensor, shares: Tensor) -> None:
        new = torch.cat([shares.T @ representation, shares.sum(0)[:, None]], dim=1)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(new)
        if self.total.dtype != torch.float64:  # cast by a run in true half precision, which cannot count to 1000
            self.total, self.count = self.total.to(torch.float64), self.count.to(torch.float64)
        self.total += new[:, :-1]
        self.count += new[:, -1:]


class ClassCenteredCosine(CenteredCosine):
    """1 - cos(z, v - mean of v in the sample's class): compares v beyond the class, which both models predict.

    Args:
        num_features: D.
        num_classes: C, number of classes.
    """

    def _groups(self) -> int:
        return self.num_classes

    def _shares(self, representation: Tensor, target: Tensor) -> Tensor:
        shares = F.one_hot(target, self.num_classes) if target.ndim == 1 else target
        return shares.to(representation.dtype)
