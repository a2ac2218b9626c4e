"""Arrays of existing predictions in any form that users hold them: tensors, masked arrays, labeled tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.errors import InputError, shorten, suggestion

PARTS = ("probabilities", "target", "domain", "index", "representations", "missing")
"""Keys of a split of :meth:`~lightning_fusion.ExpertOutputs.from_arrays`."""


def check_parts(split: str, given: Mapping[str, Any]) -> None:
    """Check that a split has the required keys and no unknown one.

    Raises:
        InputError: Otherwise.
    """
    if unknown := [key for key in given if key not in PARTS]:
        raise InputError(
            f"split {split}: found the key(s) {shorten(map(repr, unknown))}; expected {', '.join(PARTS)}"
            f"{suggestion(str(unknown[0]), PARTS)}"
        )
    if lacking := {"probabilities", "target"} - set(given):
        raise InputError(f"split {split}: found no {shorten(sorted(lacking))}; expected both of them")
    rows = {f"probabilities of {name}": values for name, values in given["probabilities"].items()}
    check_row_labels({"target": given["target"], **rows}, f"split {split}")


def check_row_labels(tables: Mapping[str, Any], where: str) -> None:
    """Check that tables of pandas list their rows in one order.

    Args:
        tables: Series, frames and any other values by name; only the former two have row labels.
        where: What they are of, for messages.

    Raises:
        InputError: If two have the same row labels in another order.

    Example:
        >>> import pandas
        >>> one, other = pandas.Series([0, 1], index=["a", "b"]), pandas.Series([0, 1], index=["b", "a"])
        >>> check_row_labels({"one": one, "other": other}, "train")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: train: the rows of one and of other have the same labels in another order; \
sort them alike, or give values, as in table.to_numpy()
    """
    labeled = {name: list(table.index) for name, table in tables.items() if hasattr(table, "iloc")}
    first = next(iter(labeled), "")
    for name, labels in labeled.items():
        if labels != labeled[first] and len(labels) == len(labeled[first]) and set(labels) == set(labeled[first]):
            raise InputError(
                f"{where}: the rows of {first} and of {name} have the same labels in another order; sort them alike, "
                "or give values, as in table.to_numpy()"
            )


def as_array(values: Any) -> Any:
    """Return tensors of any kind and masked arrays as what NumPy reads, with NaN for masked entries.

    Example:
        >>> as_array(np.ma.masked_array([0.9, 0.1], [True, False])).tolist()
        [nan, 0.1]
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return values.float() if values.dtype is torch.bfloat16 else values
    if np.ma.is_masked(values):
        return np.ma.filled(np.ma.asarray(values, np.float64), np.nan)
    return values
