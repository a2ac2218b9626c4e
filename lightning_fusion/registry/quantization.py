"""Weights of published networks as 8-bit integers with a scale for each row."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_fusion.errors import InputError

SCALE = "|int8_scale"
"""Suffix of the entry with the scales of a quantized weight."""
_LARGEST = 127


def quantize(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with all floating-point tensors of two or more dimensions as int8, and their scales as float32.

    The scale of a row (an output channel) is its largest absolute value / 127: symmetric quantization by channel
    (Nagel et al., arXiv 2106.08295). Other tensors, such as biases and statistics of batch normalization, stay.

    Args:
        weights: Weights by name.

    Raises:
        InputError: If a weight is NaN or infinite.

    Example:
        >>> quantize({"weight": torch.tensor([[1.27, 0.1], [0.0, 0.0]])})["weight"]
        tensor([[127,  10],
                [  0,   0]], dtype=torch.int8)
    """
    result = {}
    for name, value in weights.items():
        if not value.is_floating_point() or value.ndim < 2:
            result[name] = value
            continue
        rows = value.detach().float().flatten(1)
        if not bool(rows.isfinite().all()):
            raise InputError(f"weights: {name} is NaN or infinite and cannot be stored as int8")
        scale = rows.abs().amax(1).div(_LARGEST)
        result[name] = (rows / scale.where(scale > 0, 1)[:, None]).round().to(torch.int8).reshape(value.shape)
        result[f"{name}{SCALE}"] = scale
    return result


def dequantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of :func:`quantize` as float32; others stay.

    Args:
        tensors: Weights by name, with the scales of quantized ones.

    Raises:
        InputError: If a scale does not fit its weight.

    Example:
        >>> weight = torch.tensor([[1.27, 0.1], [0.5, -1.0]])
        >>> bool((dequantize(quantize({"weight": weight}))["weight"] - weight).abs().max() <= 0.005)
        True
    """
    result = {}
    for name, value in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(f"{name}{SCALE}")
        if scale is not None:
            if value.dtype != torch.int8 or scale.shape != value.shape[:1]:
                raise InputError(
                    f"{name} has {scale.numel()} scale(s), and shape {tuple(value.shape)} of {value.dtype}; expected "
                    "int8 with a scale for each row"
                )
            value = value.float() * scale.reshape(-1, *[1] * (value.ndim - 1))
        result[name] = value
    return result
