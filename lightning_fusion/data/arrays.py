"""Numbers in any form that users hold them, as arrays."""

from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.errors import InputError

_LARGEST_ITEM = 8  # bytes; torch has no longer numbers


def as_numbers(values: Any) -> np.ndarray:
    """Return numbers as an array; masked entries, None and pandas.NA are NaN.

    Args:
        values: A tensor, an array, a table, or lists of numbers.

    Raises:
        InputError: If they are no real numbers, or of several lengths; the message begins with ``found``.

    Example:
        >>> as_numbers(np.ma.masked_array([0.9, 0.1], [True, False])), as_numbers([[1, None]])
        (array([nan, 0.1]), array([[ 1., nan]]))
    """
    if isinstance(values, Tensor):
        dense = dense_numbers(values).detach().cpu().resolve_neg()
        return (dense.float() if dense.dtype is torch.bfloat16 else dense).numpy()
    try:
        if np.ma.is_masked(values):
            values = np.ma.filled(np.ma.asarray(values, np.float64), np.nan)
        found = np.asarray(values)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        shown = " ".join(str(error).split())
        raise InputError(f"found a {type(values).__name__} that makes no array of numbers ({shown})") from error
    if found.dtype.hasobject and found.ndim and all(_is_number(value) for value in found.flat):
        return np.array([np.nan if is_lost(value) else float(value) for value in found.flat]).reshape(found.shape)
    if found.dtype.kind not in "biuf":
        raise InputError(f"found an array of {found.dtype}; expected numbers")
    if found.dtype.itemsize > _LARGEST_ITEM:
        return found.astype(np.float64)
    return found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("="))


def dense_numbers(values: Tensor) -> Tensor:
    """Return a tensor of real numbers as it is.

    Raises:
        InputError: If it is sparse, quantized or complex; the message begins with ``found``.
    """
    if values.layout is not torch.strided or values.is_quantized or values.is_complex():
        what = "complex numbers" if values.is_complex() else "a sparse or quantized tensor"
        raise InputError(f"found {what}; expected real numbers in a dense tensor")
    return values


def _is_number(value: Any) -> bool:
    return is_lost(value) or (isinstance(value, Real) and not isinstance(value, bool))


def is_lost(value: Any) -> bool:
    """Return whether a value stands for a missing one: None, NaN or pandas.NA.

    Example:
        >>> is_lost(None), is_lost(float("nan")), is_lost(0)
        (True, True, False)
    """
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, Real) and value != value)
