"""Mixup of inputs: convex combinations of pairs of samples (Zhang et al., mixup, ICLR 2018, arXiv 1710.09412)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_fusion.errors import InputError


class Pairs(NamedTuple):
    """Pairs of samples of a batch.

    Attributes:
        share: Share of the first sample of each pair, in [0.5, 1].
        partner: (B,) rows of the second samples.
    """

    share: float
    partner: Tensor

    @classmethod
    def draw(cls, alpha: float, input: Any) -> "Pairs":
        """Draw pairs, and one share for the batch from Beta(alpha, alpha); torch's random state is used.

        Args:
            alpha: Parameter of the distribution, above 0.
            input: (B, ...) input.

        Raises:
            InputError: If the input cannot be mixed.
        """
        cls.check(input)
        parameter = torch.tensor(alpha, dtype=torch.float64)  # also where the default type is half precision
        share = float(torch.distributions.Beta(parameter, parameter).sample())
        return cls(max(share, 1 - share), torch.randperm(len(input)).to(input.device))

    @staticmethod
    def parameter(given: float | None, input: Any) -> float:
        """Return the parameter of mixup for a type of input; 0 for none.

        Args:
            given: Parameter; ``None`` for 1, or 0 where inputs cannot be mixed: tokens, for example.
            input: (B, ...) input.

        Raises:
            InputError: If inputs that cannot be mixed have a parameter above 0.

        Example:
            >>> Pairs.parameter(None, torch.rand(2, 3)), Pairs.parameter(None, {"input_ids": torch.ones(2, 3)})
            (1.0, 0.0)
        """
        if given is None:
            return float(Pairs.mixable(input))
        if given:
            Pairs.check(input)
        return given

    @staticmethod
    def mixable(input: Any) -> bool:
        """Return whether inputs can be mixed: they are one tensor of real numbers, and not tokens, for example."""
        return isinstance(input, Tensor) and input.is_floating_point()

    @staticmethod
    def check(input: Any) -> None:
        """Check that inputs can be mixed.

        Raises:
            InputError: If they are no tensor of real numbers.
        """
        if not Pairs.mixable(input):
            kind = f"data type {input.dtype}" if isinstance(input, Tensor) else f"type {type(input).__name__}"
            raise InputError(f"mixup: found inputs of {kind}; it needs one tensor of real numbers: set mixup: 0")

    def mix(self, values: Tensor) -> Tensor:
        """Return the (B, ...) combinations of values.

        Example:
            >>> Pairs(0.75, torch.tensor([1, 0])).mix(torch.tensor([0.0, 4.0]))
            tensor([1., 3.])
        """
        return self.share * values + (1 - self.share) * values[self.partner]


def paired_loss(pairs: Pairs | None, loss: Callable[..., Tensor], *of: Any) -> Tensor:
    """Return a loss of the samples of a batch; of mixed inputs the combination of those of both samples.

    Args:
        pairs: The pairs that were mixed; ``None`` if inputs are not mixed.
        loss: Called with ``of``, and with those of the partners.
        *of: Values of the samples: (B, ...) tensors, dicts of them, or what all samples share.

    Example:
        >>> pairs = Pairs(0.75, torch.tensor([1, 0]))
        >>> paired_loss(pairs, torch.square, torch.tensor([2.0, 4.0]))
        tensor([ 7., 13.])
    """
    found = loss(*of)
    if pairs is None:
        return found
    return pairs.share * found + (1 - pairs.share) * loss(*(_rows(value, pairs.partner) for value in of))


def _rows(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Mapping):
        return {name: part[rows] for name, part in value.items()}
    return value[rows] if isinstance(value, Tensor) else value
