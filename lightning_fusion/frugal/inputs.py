"""Outputs and targets of a FrugalFoE policy, in any form that users hold them."""

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.targets import as_targets, single_class_message
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.seen import describe_seen
from lightning_fusion.experts.outputs.store import OutputsSplit
from lightning_fusion.experts.pool import check_same_experts


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
