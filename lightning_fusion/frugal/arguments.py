"""Arguments of a FrugalFoE policy: validation, and trade-offs in units of cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from lightning_fusion.costs import costs_in_order, read_costs
from lightning_fusion.errors import InputError, shorten

TRADE_OFF = 0.02
"""Default trade-off, as loss per unit of cost."""

TRADE_OFFS = (0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.015, 0.01, 0.005, 0.002)
"""Default trade-offs of a curve, as loss per mean cost of an expert."""

_NUMBERS: dict[str, tuple[bool, bool, str]] = {  # integer, may be None, requirement
    "trade_off": (False, True, "a number >= 0"),
    "budget": (False, True, "a number > 0"),
    "neighbors": (True, True, "at least 1"),
    "fuser_neighbors": (True, False, "at least 1"),
    "min_queries": (True, False, "at least 1"),
    "abstain_above": (False, True, "a number >= 0"),
    "look_ahead": (True, False, "at least 1"),
}
_WORDS = {"loss": ("zero_one", "log"), "abstain_by": ("risk", "probability"), "on_failure": ("raise", "skip")}


def read_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Validate the plain-data arguments of a policy, and convert them to Python types.

    Args:
        given: Arguments by name.

    Raises:
        InputError: If one is out of range.
    """
    found = dict(given)
    for name, (whole, optional, expected) in _NUMBERS.items():
        value = given[name]
        if optional and value is None:
            continue
        if not is_number(value, whole):
            raise InputError(f"{name} is {value!r}; expected a {'whole ' * whole}number")
        fits = value >= 1 if whole else value > 0 if name == "budget" else value >= 0
        if not fits or (name == "trade_off" and math.isinf(value)):
            raise InputError(f"{name} is {value}; expected {expected}")
        found[name] = int(value) if whole else float(value)
    for name, words in _WORDS.items():
        if given[name] not in words:
            raise InputError(f"{name} is {given[name]!r}; expected {' or '.join(words)}")
    found["costs"] = None if given["costs"] is None else read_costs(given["costs"])
    check_trade_off(found["trade_off"], found["budget"])
    if not isinstance(given["leave_one_out"], bool):
        raise InputError(f"leave_one_out is {given['leave_one_out']!r}; expected true or false")
    return found


def check_trade_off(trade_off: float | None, budget: float | None) -> None:
    """Check that one of trade-off and budget is set; the default trade-off does not count beside a budget.

    Raises:
        InputError: If both are set, or none is.
    """
    if trade_off is None and budget is None:
        raise InputError("trade_off and budget are both null; expected one of them")
    if budget is not None and trade_off not in (None, TRADE_OFF):
        raise InputError(
            f"trade_off is {trade_off:g} and budget {budget:g}; expected one of them: a budget determines the "
            "trade-off, so set trade_off to null"
        )


def per_mean_cost(trade_offs: Iterable[float], costs: Iterable[float]) -> list[float]:
    """Convert trade-offs from loss per mean cost of an expert to loss per unit of cost.

    Args:
        trade_offs: Loss per mean cost.
        costs: Costs of all experts.

    Example:
        >>> per_mean_cost([0.5, 0.1], [10.0, 30.0])
        [0.025, 0.005]
    """
    found = list(costs)
    mean = math.fsum(found) / len(found) or 1.0
    return [trade_off / mean for trade_off in trade_offs]


def read_trade_offs(given: Iterable[float]) -> list[float]:
    """Return the distinct trade-offs of a curve, in decreasing order.

    Raises:
        InputError: If there are none, or one is not a finite number >= 0.
    """
    listed = list(given) if isinstance(given, Iterable) else [given]
    if not listed or not all(is_number(value) and 0 <= value < math.inf for value in listed):
        raise InputError(f"trade_offs: found {shorten(listed) or 'none'}; expected numbers >= 0")
    return sorted({float(value) for value in listed}, reverse=True)


def is_number(value: Any, whole: bool = False) -> bool:
    """Return whether a value is a number (an integer with ``whole``); bools are not."""
    return isinstance(value, Integral if whole else Real) and not isinstance(value, bool)


def costs_of(given: Any, names: Sequence[str], stored: Mapping[str, float] | None) -> list[float]:
    """Return the costs in the order of the experts: the given ones, else the stored ones, else 1.

    Args:
        given: Costs in any form that :func:`~lightning_fusion.costs.read_costs` takes, or ``None``.
        names: Names of the experts.
        stored: Costs of the experts by name, if they are known.

    Example:
        >>> costs_of(None, ["a", "b"], {"b": 2.0, "a": 1.0, "c": 3.0}), costs_of(None, ["a"], None)
        ([1.0, 2.0], [1.0])
    """
    if given is not None:
        return costs_in_order(given, names)
    return [1.0] * len(names) if stored is None else costs_in_order({name: stored[name] for name in names}, names)


def check_size(
    rows: int, costs: Sequence[float], neighbors: int | None, budget: float | None, min_queries: int
) -> None:
    """Check the size of a calibration set of ``rows`` samples, and that a budget covers ``min_queries``.

    Raises:
        InputError: If the set is too small, the budget too low, or ``min_queries`` larger than the number of experts.
    """
    if min_queries > len(costs):
        raise InputError(f"min_queries is {min_queries}, but there are {len(costs)} experts; lower it")
    if rows < 2:
        raise InputError(f"targets: found {rows} calibration sample(s); expected two at least")
    most = rows if budget is None else rows - 1  # with a budget, a sample is not its own neighbor
    if neighbors is not None and neighbors > most:
        raise InputError(
            f"neighbors is {neighbors}, but there are {most} calibration samples; add samples, or lower neighbors"
        )
    if budget is not None and budget < (least := math.fsum(sorted(costs)[:min_queries])):
        raise InputError(f"budget is {budget}, but {min_queries} expert(s) cost {least} at least")


def expert_numbers(subset: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of some experts.

    Args:
        subset: Names of the experts, at least one, without duplicates.
        names: Names of all experts.

    Raises:
        InputError: If the subset is invalid.
    """
    unknown = [name for name in subset if name not in names]
    if isinstance(subset, str) or unknown or not subset or len(set(subset)) < len(subset):
        raise InputError(
            f"subset: found {shorten(subset) or 'none'}; expected some of the experts {shorten(names)}, each once"
        )
    return tuple(names.index(name) for name in subset)
