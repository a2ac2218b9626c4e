"""Queries of a FrugalFoE policy: functions that run experts, and known outputs that replace them."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import OnFailure, describe_invalid, finite_rows, query_rows, valid_rows
from lightning_fusion.frugal.search import Query

Ask = Callable[[str, Tensor], Any]
"""Function ``ask(expert name, rows)`` of (R,) ascending sample indices that returns the expert's (R, C) outputs."""


def row_check(outputs: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the check of further outputs: distributions if the (K, N, C) outputs are, else finite values."""
    return valid_rows if bool(valid_rows(outputs).all()) else finite_rows


def checked_query(
    ask: Ask,
    names: Sequence[str],
    like: Tensor,
    skip: bool,
    valid: Callable[[Tensor], Tensor],
    classes: Sequence[str] | None = None,
) -> Query:
    """Return a function ``query(expert, rows)`` that runs an expert and checks every row of its outputs.

    Args:
        ask: Function that runs an expert by name.
        names: Names of the experts.
        like: (K, N, C) tensor with the dtype and device of the outputs.
        skip: Return NaN for rows without a valid answer, and warn, instead of an InputError.
        valid: Check of the rows.
        classes: Names of the C classes, if they are known.
    """

    def query(expert: int, rows: Tensor) -> Tensor:
        name, failures = names[expert], Counter[str]()
        on_failure: OnFailure = "skip" if skip else "raise"
        call = partial(ask, name)
        values = query_rows(
            call, rows.cpu(), like.shape[2], name, on_failure, failures=failures, valid=valid, classes=classes
        )
        for reason in list(failures)[:3]:
            warnings.warn(f"expert {name} {reason}", stacklevel=2)
        return values.to(like.device, like.dtype)

    return query


def replay_query(
    known: Tensor,
    names: Sequence[str],
    missing: Tensor | None = None,
    skip: bool = False,
    valid: Callable[[Tensor], Tensor] = finite_rows,
) -> Query:
    """Return a function ``query(expert, rows)`` that reads known outputs, and checks every row of them.

    Args:
        known: (K, B, C) outputs; those that are not queried are not checked.
        names: Names of the experts.
        missing: (K, B) missing answers, which are NaN; ``None`` if every answer is there.
        skip: Return NaN for other invalid rows as well, instead of an InputError.
        valid: Check of the rows.
    """

    def query(expert: int, rows: Tensor) -> Tensor:
        values = known[expert, rows]
        wrong = ~valid(values)
        if missing is not None and not skip:
            wrong &= ~missing[expert, rows]
        if wrong.any():
            if not skip:
                described = describe_invalid(values[wrong], rows[wrong].tolist())
                raise InputError(f"expert {names[expert]} {described}; on_failure='skip' continues without it")
            values = values.masked_fill(wrong[:, None], math.nan)
        return values

    return query
