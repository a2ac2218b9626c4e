"""Costs of queries to experts, in any form that users hold them."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from lightning_fusion.errors import InputError, shorten, suggestion


def as_cost(value: Any, whose: str | None = None) -> float:
    """Return a cost as a number.

    Args:
        value: A number, also a scalar of NumPy or torch; no text and no truth value.
        whose: Owner of the cost, for messages. ``None`` (default) means that of the argument ``cost``.

    Raises:
        InputError: If it is no finite number >= 0.

    Example:
        >>> as_cost(np.float32(0.5)), as_cost(2)
        (0.5, 2.0)
    """
    scalar = isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0
    found = value.item() if scalar else value
    if isinstance(found, bool) or not isinstance(found, Real) or not 0 <= float(found) < math.inf:
        shown = _on_one_line(found)
        what = f"cost is {shown}" if whose is None else f"costs: found {shown} for {whose}"
        raise InputError(f"{what}; expected a number >= 0")
    return float(found) + 0.0  # no negative zero


def read_costs(given: Any) -> dict[str, float] | list[float]:
    """Return costs by name, or in the order of the experts, as numbers.

    Args:
        given: A mapping or pandas Series, by name; or a list, array or tensor, in order.

    Raises:
        InputError: If it is none of them, or a cost is no finite number >= 0.

    Example:
        >>> read_costs({"a": 1}), read_costs(np.array([1, 0.5]))
        ({'a': 1.0}, [1.0, 0.5])
    """
    if isinstance(given, Mapping) or _is_labeled(given):
        names = [str(name) for name in (given if isinstance(given, Mapping) else given.index)]
        if len(set(names)) < len(names):
            raise InputError(f"costs: found two costs for one name, as text: {shorten(names)}")
        values = given.values() if isinstance(given, Mapping) else given.tolist()
        return {name: as_cost(cost, f"expert {name}") for name, cost in zip(names, values, strict=True)}
    if isinstance(given, str | bytes | Set) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
        raise InputError(f"costs: found {_on_one_line(given)}; expected one number per expert, by name or in order")
    return [as_cost(cost, f"expert number {number}") for number, cost in enumerate(given)]


def costs_in_order(given: Any, names: Sequence[str]) -> list[float]:
    """Return the costs in the order of the experts.

    Args:
        given: Costs in any form that :func:`read_costs` takes.
        names: Names of the experts.

    Raises:
        InputError: If there is not one for each expert.

    Example:
        >>> costs_in_order({"b": 2, "a": 1}, ["a", "b"])
        [1.0, 2.0]
    """
    found = read_costs(given)
    if isinstance(found, list):
        if len(found) != len(names):
            raise InputError(f"costs: found {len(found)} for {len(names)} experts ({shorten(names)})")
        return found
    if set(found) != set(names):
        missing, unknown = sorted(set(names) - set(found)), sorted(set(found) - set(names))
        parts = [f"none for {shorten(missing)}"] if missing else []
        parts += [f"one for {shorten(unknown)}, which is no expert"] if unknown else []
        hint = suggestion(unknown[0], missing) if unknown else ""
        raise InputError(f"costs: found {' and '.join(parts)}; the experts are {shorten(names)}{hint}")
    return [found[name] for name in names]


def _is_labeled(given: Any) -> bool:
    """Whether costs are a pandas Series with names; one that only numbers its rows has an order."""
    labels = list(given.index) if hasattr(given, "iloc") and getattr(given, "ndim", 0) == 1 else []
    return bool(labels) and labels != list(range(len(labels)))


def _on_one_line(value: Any) -> str:
    return " ".join(repr(value).split())[:100]
