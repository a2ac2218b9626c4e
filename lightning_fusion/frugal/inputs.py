"""Validation of the inputs of a FrugalFoE policy: arguments, outputs, targets, costs and outputs of queries."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, reduce
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.targets import as_targets, single_class_message
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import OnFailure, describe_invalid, finite_rows, query_rows, valid_rows
from lightning_fusion.experts.outputs.seen import describe_seen
from lightning_fusion.experts.outputs.store import OutputsSplit
from lightning_fusion.experts.pool import check_same_experts
from lightning_fusion.frugal.search import Query

Ask = Callable[[str, Tensor], Any]
"""Function ``ask(expert name, rows)`` of (R,) ascending sample indices that returns the expert's (R, C) outputs."""

TRADE_OFFS = (0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.015, 0.01, 0.005, 0.002)
"""Default trade-offs of a curve, as loss per mean cost of an expert."""

_NUMBERS: dict[str, tuple[bool, bool, str]] = {  # integer, may be None, requirement
    "trade_off": (False, False, "a number >= 0"),
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
        if not fits or (name == "trade_off" and value == math.inf):
            raise InputError(f"{name} is {value}; expected {expected}")
        found[name] = int(value) if whole else float(value)
    for name, words in _WORDS.items():
        if given[name] not in words:
            raise InputError(f"{name} is {given[name]!r}; expected {' or '.join(words)}")
    costs = given["costs"]
    if isinstance(costs, str | bytes) or not (costs is None or hasattr(costs, "__len__")):
        raise InputError(f"costs: found {costs!r}; expected one number per expert, by name or in order")
    try:
        if isinstance(costs, Mapping):
            found["costs"] = {str(name): float(cost) for name, cost in costs.items()}
        elif costs is not None:
            found["costs"] = [float(cost) for cost in costs]
    except (TypeError, ValueError) as error:
        raise InputError(f"costs: found {costs!r}; expected numbers ({error})") from error
    if not isinstance(given["leave_one_out"], bool):
        raise InputError(f"leave_one_out is {given['leave_one_out']!r}; expected true or false")
    return found


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
    found = sorted({float(value) for value in given}, reverse=True)
    if not found or not found[-1] >= 0 or found[0] == math.inf:
        raise InputError(f"trade_offs: found {shorten(found) or 'none'}; expected numbers >= 0")
    return found


def is_number(value: Any, whole: bool = False) -> bool:
    """Return whether a value is a number (an integer with ``whole``); bools are not."""
    return isinstance(value, Integral if whole else Real) and not isinstance(value, bool)


def read_outputs(
    outputs: Mapping[str, Any] | OutputsSplit, missing: Any = None
) -> tuple[list[str], Tensor, Tensor | None]:
    """Return names of the experts, (K, N, C) floating-point outputs, NaN where missing, and (K, N) missing answers.

    The latter is ``None`` if no answer is missing, or NaN is not declared to be a missing answer.
    """
    if isinstance(outputs, OutputsSplit):
        if missing is not None:
            raise InputError("missing: a split of stored outputs has its own; leave it out")
        stacked = torch.from_numpy(outputs.scattered()).transpose(0, 1)
        return list(outputs.probabilities), stacked, _declared(stacked, outputs.missing)
    if not isinstance(outputs, Mapping) or not outputs:
        raise InputError(
            f"outputs: found {type(outputs).__name__}; expected {{expert: (N, C)}}, or one split of a store"
        )
    values = {str(name): _numbers(value, f"outputs: expert {name}") for name, value in outputs.items()}
    if len(values) < len(outputs):
        raise InputError(f"outputs: two experts have one name, as text: {shorten(outputs)}")
    first = next(iter(values.values()))
    for name, value in values.items():
        if value.ndim != 2 or value.shape != first.shape or not value.shape[1]:
            raise InputError(
                f"outputs: expert {name} has shape {tuple(value.shape)}, the first one {tuple(first.shape)}; expected "
                "(N, C) for all, C the task's classes"
            )
    kind = reduce(torch.promote_types, (value.dtype for value in values.values()), torch.float32)
    stacked = torch.stack([value.to(kind) for value in values.values()])
    return list(values), stacked, _declared(stacked, missing)


def _declared(stacked: Tensor, missing: Any) -> Tensor | None:
    """Set missing answers (N, K) of (K, N, C) outputs to NaN, in place; return them as (K, N), ``None`` if none is."""
    if missing is None:
        return None
    found = (missing if isinstance(missing, Tensor) else torch.from_numpy(np.array(missing))).to(stacked.device)
    if found.dtype != torch.bool or found.shape != (stacked.shape[1], len(stacked)):
        raise InputError(
            f"missing: found {found.dtype} of shape {tuple(found.shape)}; expected bool "
            f"{(stacked.shape[1], len(stacked))}: samples, experts"
        )
    if not found.any():
        return None
    stacked[found.T] = math.nan
    return found.T


def floating(outputs: Tensor) -> Tensor:
    """Convert outputs to float32, unless they are float64."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def read_labeled(
    outputs: Mapping[str, Any] | OutputsSplit, targets: Any, missing: Any = None
) -> tuple[list[str], Tensor, Any, dict[str, Any]]:
    """Return names of the experts, (K, N, C) outputs, targets, and what is known of stored outputs.

    The last contains ``missing`` (K, N), and classes, experts and costs of a store.
    """
    names, stacked, absent = read_outputs(outputs, missing)
    metadata: dict[str, Any] = {"missing": absent}
    if isinstance(outputs, OutputsSplit):
        targets = outputs.target if targets is None else targets
        seen = None if outputs.seen is None else describe_seen(outputs.seen, names, "the calibration set")
        if seen is not None:
            warnings.warn(f"{seen}: fit the policy on samples that no expert was trained on", stacklevel=5)
        if outputs.experts:
            costs = {name: entry["cost"] for name, entry in outputs.experts.items()}
            metadata |= {"classes": outputs.classes, "experts": outputs.experts, "costs": costs}
    return names, stacked, targets, metadata


def complete_rows(names: Sequence[str], missing: Tensor) -> Tensor:
    """Return the (N,) bool samples on which every expert answered.

    Risks are estimated from samples with known outputs of all experts, so the others are left out, with a warning.

    Args:
        names: Names of the K experts.
        missing: (K, N) missing answers.

    Raises:
        InputError: If there are fewer than two such samples.
    """
    complete = ~missing.any(0)
    counts = [f"{name} {int(lost.sum())}" for name, lost in zip(names, missing, strict=True) if lost.any()]
    lacking, count = int((~complete).sum()), len(complete)
    if count - lacking < 2:
        raise InputError(
            f"outputs: FrugalFoE needs calibration samples with an answer of every expert; found {count - lacking} of "
            f"{count} (missing: {shorten(counts)}); query these experts again, or leave one out"
        )
    warnings.warn(
        f"{lacking} of {count} calibration samples lack an answer (missing: {shorten(counts)}); they are left out",
        stacklevel=6,
    )
    return complete


def check_labeled(names: Sequence[str], outputs: Tensor, targets: Any) -> Tensor:
    """Validate targets, and convert them to (N,) int64 classes.

    Args:
        names: Names of the experts.
        outputs: (K, N, C) outputs.
        targets: (N,) integers from 0 to C - 1.

    Raises:
        InputError: If targets do not match the outputs, or outputs are not finite.
    """
    if targets is None:
        raise InputError("targets: found none; expected the (N,) classes of the samples")
    goal = torch.from_numpy(as_targets(targets, outputs.shape[2])).to(outputs.device)
    if len(goal) != outputs.shape[1]:
        raise InputError(f"targets: found {len(goal)} for {outputs.shape[1]} samples of outputs")
    numbers = [str(number) for number in range(outputs.shape[2])]
    if message := single_class_message(goal.cpu().numpy(), numbers, "the calibration samples"):
        warnings.warn(message, stacklevel=4)
    bad = ~(outputs.to(torch.float64).abs() <= 1e100).all(2)  # squares must be finite too
    if bad.any():
        expert = int(bad.any(1).to(torch.uint8).argmax())
        raise InputError(
            f"outputs: expert {names[expert]} has NaN, infinite or huge values in row(s) "
            f"{shorten(bad[expert].nonzero().flatten().tolist())}"
        )
    return goal


def read_costs(given: Any, names: Sequence[str], stored: Mapping[str, float] | None) -> list[float]:
    """Return the costs in the order of the experts."""
    if given is None:
        found = [1.0] * len(names) if stored is None else [stored[name] for name in names]
    elif isinstance(given, Mapping):
        if set(given) != set(names):
            missing, unknown = set(names) - set(given), set(given) - set(names)
            parts = [f"none for {shorten(sorted(missing))}"] if missing else []
            parts += [f"one for {shorten(sorted(unknown))}, which is no expert"] if unknown else []
            raise InputError(f"costs: found {' and '.join(parts)}; the experts are {shorten(names)}")
        found = [given[name] for name in names]
    else:
        if len(given) != len(names):
            raise InputError(f"costs: found {len(given)} for {len(names)} experts ({shorten(names)})")
        found = list(given)
    costs = [float(value) for value in found]
    for name, value in zip(names, costs, strict=True):
        if not 0 <= value < math.inf:
            raise InputError(f"costs: found {value} for expert {name}; expected a number >= 0")
    return costs


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


def read_known(
    outputs: Mapping[str, Any] | OutputsSplit | Tensor,
    names: Sequence[str],
    like: Tensor,
    classes: Sequence[str] | None,
    experts: Mapping[str, Any] | None,
    missing: Any = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the (K, B, C) outputs of a policy's experts, in its order, and the (K, B) missing answers, if any.

    Args:
        outputs: Outputs by expert, one split of stored outputs, or (K, B, C) in that order.
        names: Names of the K experts.
        like: (K, N, C) tensor with the dtype and device of the result.
        classes: Names of the classes, if known.
        experts: Metadata of the experts, if known.
        missing: (B, K) bool, missing answers in the order of ``outputs``; a split has its own.

    Raises:
        InputError: If they are outputs of other experts or classes.
    """
    if isinstance(outputs, Tensor):
        if outputs.ndim != 3 or (len(outputs), outputs.shape[2]) != (len(like), like.shape[2]):
            raise InputError(
                f"outputs: found shape {tuple(outputs.shape)}; expected ({len(like)}, B, {like.shape[2]}): experts, "
                "samples, classes"
            )
        known = outputs.to(like.device, like.dtype)
        known = known if missing is None else known.clone()
        return known, _declared(known, missing)
    given, known, absent = read_outputs(outputs, missing)
    if isinstance(outputs, OutputsSplit) and experts and outputs.experts:
        check_same_experts(experts, outputs.experts)
        if classes and outputs.classes != classes:
            raise InputError(
                f"the policy was fitted on the classes {shorten(classes)}; found {shorten(outputs.classes)}"
            )
    if set(given) != set(names):
        raise InputError(
            f"the policy was fitted with the experts {shorten(names)}; found {shorten(given)}; they differ in "
            f"{shorten(sorted(set(given) ^ set(names)))}"
        )
    if known.shape[2] != like.shape[2]:
        raise InputError(f"the policy was fitted on {like.shape[2]} classes; found {known.shape[2]}")
    if given != list(names):
        order = [given.index(name) for name in names]
        known, absent = known[order], None if absent is None else absent[order]
    return known.to(like.device, like.dtype), None if absent is None else absent.to(like.device)


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


def _numbers(value: Any, what: str) -> Tensor:
    """Convert numbers of a user to a tensor."""
    if isinstance(value, Tensor):
        found = value.detach()
    else:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{what}: found {type(value).__name__} that cannot be converted to an array ({error})"
            ) from error
        if array.dtype.kind not in "biuf":
            raise InputError(f"{what}: found an array of {array.dtype}; expected numbers")
        found = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if found.is_complex():
        raise InputError(f"{what}: found complex numbers; expected real ones")
    return found
