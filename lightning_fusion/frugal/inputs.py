"""What a FrugalFoE policy is given: outputs, targets and costs, checked."""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.store import OutputsSplit


def read_outputs(outputs: Mapping[str, Any] | OutputsSplit) -> tuple[list[str], Tensor]:
    """Names of the experts, and (K, N, C) floating-point outputs."""
    if isinstance(outputs, OutputsSplit):
        return list(outputs.probabilities), torch.from_numpy(outputs.scattered()).transpose(0, 1)
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
    return list(values), torch.stack([value.to(kind) for value in values.values()])


def read_labelled(
    outputs: Mapping[str, Any] | OutputsSplit, targets: Any
) -> tuple[tuple[list[str], Tensor], Tensor, dict[str, Any]]:
    """Stacked outputs and targets, checked, with the facts that stored outputs have."""
    facts: dict[str, Any] = {"classes": None, "experts": None, "costs": None}
    names, stacked = read_outputs(outputs)
    if isinstance(outputs, OutputsSplit):
        targets = outputs.target if targets is None else targets
        if outputs.experts:
            facts["classes"], facts["experts"] = outputs.classes, outputs.experts
            facts["costs"] = {name: fact["cost"] for name, fact in outputs.experts.items()}
    if targets is None:
        raise InputError("targets: found none; give the (N,) classes of the rows")
    goal = _numbers(targets, "targets").clone()  # the caller's own may change
    if goal.shape != stacked.shape[1:2]:
        raise InputError(f"targets: found shape {tuple(goal.shape)} for {stacked.shape[1]} rows of outputs")
    if goal.is_floating_point() or goal.dtype == torch.bool:
        raise InputError(f"targets: found {goal.dtype}; expected integer classes")
    goal = goal.to(torch.int64)
    classes = stacked.shape[2]
    wrong = (goal < 0) | (goal >= classes)
    if wrong.any():
        raise InputError(
            f"targets: found {shorten(goal[wrong].unique().tolist())} in row(s) "
            f"{shorten(wrong.nonzero().flatten().tolist())}; the outputs have the classes 0 to {classes - 1}"
        )
    bad = ~(stacked.to(torch.float64).abs() <= 1e100).all(2)  # squares must be numbers too
    if bad.any():
        expert = int(bad.any(1).to(torch.uint8).argmax())
        raise InputError(
            f"outputs: expert {names[expert]} has NaN, infinite or huge values in row(s) "
            f"{shorten(bad[expert].nonzero().flatten().tolist())}"
        )
    return (names, stacked), goal, facts


def read_costs(given: Any, names: Sequence[str], stored: Mapping[str, float] | None) -> list[float]:
    """Costs in the order of the experts."""
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


def _numbers(value: Any, what: str) -> Tensor:
    """A tensor of what a user gave as numbers."""
    if isinstance(value, Tensor):
        found = value.detach()
    else:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise InputError(f"{what}: found {type(value).__name__} that makes no array ({error})") from error
        if array.dtype.kind not in "biuf":
            raise InputError(f"{what}: found an array of {array.dtype}; expected numbers")
        found = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if found.is_complex():
        raise InputError(f"{what}: found complex numbers; expected real ones")
    return found
