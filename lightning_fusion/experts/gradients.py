"""Gradients with respect to the input of a frozen expert."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError


def tensors_with_gradient(input: Any) -> list[Tensor]:
    """Return the tensors of an input, a tensor, a dict or a list, that require a gradient; none in ``no_grad``."""
    return [] if not torch.is_grad_enabled() else [value for value in _tensors(input) if value.requires_grad]


def detached(input: Any) -> Any:
    """Return an input, a tensor, a dict or a list, whose tensors require no gradient; any other as it is."""
    if isinstance(input, Tensor):
        return input.detach() if input.requires_grad else input
    if not any(value.requires_grad for value in _tensors(input)):
        return input
    if isinstance(input, Mapping):
        return {name: detached(value) for name, value in input.items()}
    return [detached(value) for value in input]


def gradients_of(network: Any, input: Any) -> AbstractContextManager[Any]:
    """Return the context in which a frozen network runs.

    Operations on frozen weights record no graph, unless the input, or the output of a layer that a hook replaces,
    requires a gradient. Weights that someone has unfrozen, and those inside a function, are not to record one.

    Args:
        network: The network, a module or a callable.
        input: A batch.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    if not isinstance(network, nn.Module):
        return torch.no_grad()
    if not torch.is_grad_enabled() or tensors_with_gradient(input):
        return nullcontext()
    return torch.no_grad() if any(weight.requires_grad for weight in network.parameters()) else nullcontext()


def refuse_gradients(outputs: Tensor, input: Any, message: str) -> Tensor:
    """Return outputs whose gradient with respect to an input raises; other gradients, of a layer, are computed.

    Args:
        outputs: (B, ...) outputs, which do not depend on the input in a way that torch knows.
        input: The input, some tensors of which require a gradient.
        message: Message of the :class:`~lightning_fusion.errors.InputError` of the backward pass.

    Example:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> refuse_gradients(torch.zeros(2, 2), x, "expert remote passes no gradient to its input").sum().backward()
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: expert remote passes no gradient to its input
    """
    refused: Tensor = _Refusal.apply(outputs.new_zeros(()), message, *tensors_with_gradient(input))
    return outputs + refused  # a branch of its own: gradients of a layer do not pass through it


class _Refusal(torch.autograd.Function):
    """A zero that depends on inputs, and whose backward pass raises."""

    @staticmethod
    def forward(ctx: Any, zero: Tensor, message: str, *inputs: Tensor) -> Tensor:
        """Return the zero."""
        ctx.message = message
        return zero.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Raise."""
        raise InputError(ctx.message)


def _tensors(input: Any) -> Iterator[Tensor]:
    if isinstance(input, Tensor):
        yield input
        return
    parts = input.values() if isinstance(input, Mapping) else input if isinstance(input, list | tuple) else ()
    yield from (part for part in parts if isinstance(part, Tensor))
