"""Outputs and targets of a FrugalFoE policy, in any form that users hold them."""

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.arrays import as_numbers, dense_numbers
from lightning_fusion.data.row_labels import check_row_labels
from lightning_fusion.data.targets import as_targets, check_meaning, names_classes, single_class_message
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import column_names, in_order
from lightning_fusion.experts.outputs.seen import describe_seen
from lightning_fusion.experts.outputs.split import OutputsSplit
from lightning_fusion.experts.pool import check_same_experts


class Outputs(NamedTuple):
    """Outputs of experts, as they were given.

    Attributes:
        names: Names of the K experts.
        values: (K, N, C) floating-point outputs, NaN if missing.
        missing: (K, N) missing answers. ``None`` if none is missing, or NaN is not declared to be a missing answer.
        classes: Names of the C classes. ``None`` if the outputs do not name them.
        one_order: Whether the named columns of all experts have the same order.
    """

    names: list[str]
    values: Tensor
    missing: Tensor | None
    classes: list[str] | None
    one_order: bool = True


def read_outputs(
    outputs: Mapping[str, Any] | OutputsSplit,
    missing: Any = None,
    classes: Sequence[str] | None = None,
    targets: Any = None,
) -> Outputs:
    """Return outputs of experts as one array; named columns are put in one order.

    Args:
        outputs: (N, C) by expert, or one split of stored outputs.
        missing: (N, K) bool, missing answers; a split has its own.
        classes: Names of the C classes, in order, if they are known. ``None`` means those of the first named columns.
        targets: Targets of the same samples, whose row labels are compared.

    Raises:
        InputError: If shapes, names of columns or row labels differ.
    """
    if isinstance(outputs, OutputsSplit):
        if missing is not None:
            raise InputError("missing: a split of stored outputs has its own; leave it out")
        stacked = torch.from_numpy(outputs.scattered()).transpose(0, 1)
        return Outputs(
            list(outputs.probabilities), stacked, _declared(stacked, outputs.missing), outputs.classes or None
        )
    if not isinstance(outputs, Mapping) or not outputs:
        raise InputError(
            f"outputs: found {type(outputs).__name__}; expected {{expert: (N, C)}}, or one split of a store"
        )
    given = {str(name): value for name, value in outputs.items()}
    if len(given) < len(outputs):
        raise InputError(f"outputs: two experts have one name, as text: {shorten(outputs)}")
    tables = {f"expert {name}": value for name, value in given.items()}
    check_row_labels({"targets": targets, "missing": missing, **tables}, "outputs")
    columns = {name: column_names(value) for name, value in given.items()}
    named = {name: labels for name, labels in columns.items() if labels is not None}
    if named and len(named) < len(columns):
        unnamed = [name for name in columns if name not in named]
        raise InputError(
            f"outputs: the columns of {shorten(named)} have names, those of {shorten(unnamed)} have none; give all of "
            "them with names, or none"
        )
    known = list(classes or next(iter(named.values()), [])) or None
    if known is not None and len(set(known)) < len(known):
        raise InputError(f"outputs: found duplicate names of classes in {shorten(known, 20)}")
    values = {name: _numbers(_by_name(name, value, known), f"outputs: expert {name}") for name, value in given.items()}
    first = next(iter(values.values()))
    for name, value in values.items():
        if value.ndim != 2 or value.shape != first.shape or not value.shape[1]:
            raise InputError(
                f"outputs: expert {name} has shape {tuple(value.shape)}, the first one {tuple(first.shape)}; expected "
                "(N, C) for all, C the task's classes"
            )
    kind = reduce(torch.promote_types, (value.dtype for value in values.values()), torch.float32)
    stacked = torch.stack([value.to(kind) for value in values.values()])
    if missing is not None and column_names(missing) is not None:
        missing = np.asarray(in_order(missing, list(values)))
    return Outputs(
        list(values),
        stacked,
        _declared(stacked, missing),
        known if named else None,
        len(set(map(tuple, named.values()))) <= 1,
    )


def _by_name(expert: str, values: Any, classes: Sequence[str] | None) -> Any:
    """Return outputs with columns in the order of the classes, if the outputs name them."""
    if classes is None:
        return values
    try:
        return in_order(values, classes)
    except InputError as error:
        raise InputError(f"outputs: expert {expert} {error}".replace(" returned rows with", " has", 1)) from error


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
    given = read_outputs(outputs, missing, targets=targets)
    names, stacked = given.names, given.values
    metadata: dict[str, Any] = {"missing": given.missing, "classes": given.classes}
    if isinstance(outputs, OutputsSplit):
        targets = outputs.target if targets is None else targets
        seen = None if outputs.seen is None else describe_seen(outputs.seen, names, "the calibration set")
        if seen is not None:
            warnings.warn(f"{seen}: fit the policy on samples that no expert was trained on", stacklevel=5)
        if outputs.experts:
            costs = {name: entry["cost"] for name, entry in outputs.experts.items()}
            metadata |= {"experts": outputs.experts, "costs": costs}
    elif not given.one_order and targets is not None and not names_classes(targets):
        raise InputError(
            "outputs: the experts' columns name the same classes in different orders, so that numbers in targets do "
            "not say which class they count; give the names of the classes as targets"
        )
    _check_numbers(targets, outputs, given.classes)
    return names, stacked, targets, metadata


def _check_numbers(targets: Any, outputs: Any, classes: Sequence[str] | None) -> None:
    """Check that numbers in targets of a user are no names of other classes."""
    own = isinstance(outputs, OutputsSplit) and targets is outputs.target
    if targets is not None and classes is not None and not own:
        check_meaning({"targets": targets}, classes)


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


def check_labeled(names: Sequence[str], outputs: Tensor, targets: Any, classes: Sequence[str] | None = None) -> Tensor:
    """Validate targets, and convert them to (N,) int64 classes.

    Args:
        names: Names of the experts.
        outputs: (K, N, C) outputs.
        targets: (N,) integers from 0 to C - 1, or names of the classes.
        classes: Names of the C classes, if they are known.

    Raises:
        InputError: If targets do not match the outputs, or outputs are not finite.
    """
    if targets is None:
        raise InputError("targets: found none; expected the (N,) classes of the samples")
    goal = torch.from_numpy(as_targets(targets, classes or outputs.shape[2])).to(outputs.device)
    if len(goal) != outputs.shape[1]:
        raise InputError(f"targets: found {len(goal)} for {outputs.shape[1]} samples of outputs")
    known = classes or [str(number) for number in range(outputs.shape[2])]
    if message := single_class_message(goal.cpu().numpy(), known, "the calibration samples"):
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
    targets: Any = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the (K, B, C) outputs of a policy's experts, in its order, and the (K, B) missing answers, if any.

    Args:
        outputs: Outputs by expert, one split of stored outputs, or (K, B, C) in that order.
        names: Names of the K experts.
        like: (K, N, C) tensor with the dtype and device of the result.
        classes: Names of the classes, if known.
        experts: Metadata of the experts, if known.
        missing: (B, K) bool, missing answers in the order of ``outputs``; a split has its own.
        targets: Targets of the same samples, whose row labels are compared.

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
    given, known, absent, found, _ = read_outputs(outputs, missing, classes, targets)
    if found is not None and classes is None:
        raise InputError(
            f"outputs: the columns have the names {shorten(found, 20)}, and the policy was fitted on columns without "
            "names; give values, as in table.to_numpy(), or fit it on columns with names"
        )
    _check_numbers(targets, outputs, classes)
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
    try:
        if isinstance(value, Tensor):
            return dense_numbers(value).detach()
        return torch.from_numpy(np.require(as_numbers(value), requirements=["C", "W"]))
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
