"""Batches of the size that a model was exported with."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def in_batches(call: Callable[[Any], Tensor], input: Any, size: int | None) -> Tensor:
    """Run a model that takes batches of one size on a batch of any size; the last row fills the last part.

    Args:
        call: Function of a batch, a tensor or a dict of tensors, that returns outputs (B, C).
        input: The batch.
        size: Number of samples that it takes; ``None`` means any.

    Example:
        >>> in_batches(lambda x: x.sum(0, keepdim=True).expand(2, -1) / 2, torch.tensor([[1.0], [3.0], [5.0]]), 2)
        tensor([[2.],
                [2.],
                [5.]])
    """
    if size is None:
        return call(input)
    count = len(next(iter(input.values()))) if isinstance(input, Mapping) else len(input)
    outputs = []
    for start in range(0, count, size):
        rows = torch.arange(start, start + size).clamp(max=count - 1)
        outputs.append(call(_rows(input, rows))[: count - start])
    return torch.cat(outputs)


def _rows(input: Any, rows: Tensor) -> Any:
    if isinstance(input, Mapping):
        return {name: value[rows.to(value.device)] for name, value in input.items()}
    return input[rows.to(input.device)]
