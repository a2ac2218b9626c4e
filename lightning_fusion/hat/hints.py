"""Distillation of representations: the student's is mapped linearly to those of the sources."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RepresentationHints(nn.Module):
    """Error of a linear map from the student's representation to those of all sources.

    A linear regressor compares representations of different widths, as in FitNets (Romero et al., ICLR 2015, arXiv
    1412.6550). Each source's representation is standardized over its entries, so that no source outweighs the others
    by its scale (our choice).

    Args:
        width: D, width of the student's representation.
        widths: D_i, width of the representation of each source.

    Example:
        >>> hints = RepresentationHints(4, {"a": 3, "b": 5})
        >>> hints(torch.rand(2, 4), {"a": torch.rand(2, 3), "b": torch.rand(2, 5)}).shape
        torch.Size([2])
    """

    def __init__(self, width: int, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.regressors = nn.ModuleList(nn.Linear(width, other) for other in widths.values())
        self.names = list(widths)

    def forward(self, z: Tensor, representations: Mapping[str, Tensor]) -> Tensor:
        """Return the (B,) squared errors, each the mean over the sources and their entries.

        Args:
            z: (B, D) representation of the student, with its gradient.
            representations: (B, D_i) representations of each source.
        """
        errors = []
        for name, regressor in zip(self.names, self.regressors, strict=True):
            wanted = representations[name].float()
            wanted = F.layer_norm(wanted, wanted.shape[1:])
            errors.append((regressor(z).float() - wanted).square().mean(1))
        return torch.stack(errors).mean(0)
