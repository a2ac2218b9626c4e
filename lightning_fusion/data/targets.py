"""Targets in any form that users hold them, as class numbers or an error."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.names import canonical_label
from lightning_fusion.errors import InputError, shorten, suggestion

_MOST = 2.0**62  # larger numbers are no classes, and may overflow
_REGRESSION = ": continuous targets (regression) are not supported; cut them into classes"
_DETECTION = "; dicts, as of bounding boxes (detection), are not supported"
UNLABELED = -100
"""Target of a sample whose label is unknown, or none of the classes; the ``ignore_index`` of torch's losses."""


def as_targets(
    values: Any, classes: Sequence[str] | int | None, where: str = "targets", unlabeled: bool = False
) -> np.ndarray:
    """Targets as (N,) int64 numbers of classes.

    Numbers count the classes; texts are names of classes, compared in canonical form. Nothing is converted that could
    be meant otherwise: one-hot rows, columns, fractions, truth values and missing values raise an error that says how
    to convert them.

    Args:
        values: (N,) whole numbers or class names: a tensor, an array, a list, or a column of a table.
        classes: Names of the C classes, or C if they have no names, or ``None`` if their number is unknown.
        where: Name of the argument, for messages.
        unlabeled: Also accept :data:`UNLABELED` (-100).

    Returns:
        (N,) int64, a new array.

    Raises:
        InputError: If the shape is not (N,), a value is missing, no whole number, out of range, or no class's name.

    Example:
        >>> as_targets(["dog", "cat"], ["cat", "dog"]), as_targets([1.0, 0.0], 2)
        (array([1, 0]), array([1, 0]))
    """
    found = _array(values, where)
    names = None if classes is None or isinstance(classes, int) else [canonical_label(name) for name in classes]
    count = classes if classes is None or isinstance(classes, int) else len(classes)
    least = f"0 to {count - 1}" if count else "0 or more"
    if found.ndim != 1:
        raise InputError(f"{where}: found shape {found.shape}; expected (N,) class numbers{_flat(found, values)}")
    if found.dtype.kind == "b" and names is not None and {name.casefold() for name in names} == {"false", "true"}:
        return np.where(found, *([name.casefold() for name in names].index(text) for text in ("true", "false")))
    if found.dtype.kind in "OUST":
        return _numbers_of(found, names, where)
    if found.dtype.kind == "b":
        raise InputError(f"{where}: found truth values; expected class numbers{_meaning(names)}")
    if found.dtype.kind not in "iuf":
        raise InputError(f"{where}: found an array of {found.dtype}; expected class numbers or names")
    whole = found == np.floor(found) if found.dtype.kind == "f" else np.ones(len(found), bool)
    whole &= np.abs(found.astype(np.float64)) < _MOST
    if not whole.all():
        rows = np.flatnonzero(~whole)
        raise InputError(
            f"{where}: found {shorten(np.unique(found[rows]))} in row(s) {shorten(rows)}; expected whole numbers, "
            f"{least}{_REGRESSION if np.isfinite(found[rows]).any() else ''}"
        )
    outside = found < 0 if count is None else (found < 0) | (found >= count)
    if unlabeled:
        outside &= found != UNLABELED
    if outside.any():
        rows = np.flatnonzero(outside)
        raise InputError(
            f"{where}: {len(rows)} out of range, {shorten(np.unique(found[rows]))} in row(s) {shorten(rows)}; "
            + (f"expected {least}" if count is None else f"the task has {count} classes ({least})")
            + _as_texts(found, names)
        )
    return found.astype(np.int64)


def names_classes(values: Any) -> bool:
    """Return whether targets are names of classes, not numbers.

    Example:
        >>> names_classes(["cat", "dog"]), names_classes([0, 1])
        (True, False)
    """
    return not isinstance(values, Tensor) and any(isinstance(value, str) for value in values)


def single_class_message(targets: np.ndarray, classes: Sequence[str], where: str) -> str | None:
    """Return a warning about two or more targets of one class only; None if there are several.

    Args:
        targets: (N,) class numbers; negative ones are unlabeled.
        classes: Names of the classes.
        where: What the targets are of, for the message.

    Example:
        >>> single_class_message(np.array([1, 1, -100]), ["wrong", "right"], "the test split")
        "all 2 targets of the test split are 'right': a constant answer has accuracy 1 on them"
    """
    known = targets[targets >= 0]
    if len(classes) < 2 or len(known) < 2 or (known != known[0]).any():
        return None
    name = classes[int(known[0])]
    return f"all {len(known)} targets of {where} are {name!r}: a constant answer has accuracy 1 on them"


def untested_message(label: np.ndarray, split: np.ndarray, classes: Sequence[str], what: str) -> str | None:
    """Return a warning about classes that have samples, but none to test on; None if there are none.

    Args:
        label: (N,) class numbers; negative ones are unlabeled.
        split: (N,) split of each sample: 2 for test.
        classes: Names of the classes.
        what: Meaning of the samples, for the message.

    Example:
        >>> untested_message(np.array([0, 0, 1]), np.array([0, 2, 0]), ["good", "Total: 2"], "texts")
        "1 of 2 classes have no samples among the test texts: 'Total: 2' (1 in all)"
    """
    counts = np.bincount(label[label >= 0], minlength=len(classes))
    tested = np.bincount(label[(label >= 0) & (split == 2)], minlength=len(classes))
    lacking = [
        f"{classes[number]!r} ({counts[number]} in all)"
        for number in np.flatnonzero((counts > 0) & (tested == 0)).tolist()
    ]
    if not lacking or not tested.any():
        return None
    return f"{len(lacking)} of {len(classes)} classes have no samples among the test {what}: {shorten(lacking)}"


def check_meaning(several: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Check that whole numbers in targets are not names of classes with other numbers.

    Where every number is also a name, as 1 and 2 are of the classes "1", "2" and "3", either may be meant.

    Args:
        several: Targets of all splits, by their names for messages.
        classes: Names of the C classes.

    Raises:
        InputError: If either may be meant.

    Example:
        >>> check_meaning({"train": [0, 1, 2], "test": [1, 2]}, ["1", "2", "3"])
        >>> check_meaning({"test": [1, 2]}, ["1", "2", "3"])
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: test: found 1, 2, which are numbers of classes and names of others \
('2' is class number 1); give names of classes, as in [str(value) for value in targets], or [classes[value] for value \
in targets]
    """
    names = [canonical_label(name) for name in classes]
    if names == [str(number) for number in range(len(names))] or not any(name.isdecimal() for name in names):
        return
    found: dict[int, None] = {}
    for where, values in several.items():
        array = _array(values, where)
        if array.ndim != 1 or array.dtype.kind not in "iuf":
            return  # names, or an error of its own
        found |= dict.fromkeys(np.unique(array).tolist())
    numbers = [int(value) for value in found if value >= 0 and value == value // 1]
    other = [number for number in numbers if 0 <= number < len(names) and names[number] != str(number)]
    if other and all(str(number) in names for number in numbers):
        raise InputError(
            f"{next(iter(several))}: found {shorten(numbers)}, which are numbers of classes and names of others "
            f"({names[other[0]]!r} is class number {other[0]}); give names of classes, as in [str(value) for value in "
            "targets], or [classes[value] for value in targets]"
        )


def _array(values: Any, where: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        if values.layout is not torch.strided or values.is_quantized:
            raise InputError(f"{where}: found a sparse or quantized tensor; expected a dense one of class numbers")
        values = (values.float() if values.dtype is torch.bfloat16 else values).numpy()
    if np.ma.is_masked(values):
        raise InputError(
            f"{where}: found masked values in row(s) {shorten(np.flatnonzero(np.ma.getmaskarray(values)))}; expected a "
            "label for each sample: leave these rows out"
        )
    if isinstance(values, str | bytes | Mapping | Set) or not hasattr(values, "__len__"):
        shown, limit = " ".join(repr(values).split()), _DETECTION if isinstance(values, Mapping) else ""
        raise InputError(f"{where}: found {shown:.100}; expected (N,) class numbers or names{limit}")
    if isinstance(values, list | tuple) and any(isinstance(value, bool) for value in values):
        values = np.array(values, bool if all(isinstance(value, bool | np.bool_) for value in values) else object)
    try:
        found = np.asarray(values)
        if found.dtype.hasobject and found.ndim == 1 and all(_is_whole(value) for value in found):
            return np.array([int(value) for value in found], np.int64)
        return found
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: found {type(values).__name__} that makes no array ({error})") from error


def _is_whole(value: Any) -> bool:
    """Whether an entry of an array of objects is a whole number, such as in a column of a table."""
    whole = isinstance(value, int | np.integer) or (isinstance(value, float | np.floating) and value == value // 1)
    return whole and not isinstance(value, bool)


def _meaning(names: Sequence[str] | None) -> str:
    """How to say which class True is."""
    if names is None or len(names) != 2:
        return "; convert them, as in targets.astype(int)"
    return (
        f" or names: whether True is {names[0]} or {names[1]} is not known; convert them, as in "
        f"np.where(targets, {names[1]!r}, {names[0]!r})"
    )


def _as_texts(found: np.ndarray, names: Sequence[str] | None) -> str:
    """How to give numbers that are names of classes."""
    if names is None or not all(canonical_label(value) in names for value in np.unique(found).tolist()):
        return ""
    return "; these are names of classes: give texts, as in [str(value) for value in targets]"


def _flat(found: np.ndarray, values: Any) -> str:
    """How to make one dimension of an array, if that is plain."""
    if found.ndim == 2 and found.shape[1] == 1:
        return f"; take the column, as in targets{'.iloc' if hasattr(values, 'iloc') else ''}[:, 0]"
    if found.ndim == 2 and found.dtype.kind in "biuf" and (np.count_nonzero(found, axis=1) == 1).all():
        return "; take the class of one-hot rows, as in targets.argmax(1)"
    if found.ndim > 2:
        return ": a target per pixel or time step (segmentation) is not supported; give each sample one class"
    if found.ndim == 2 and found.dtype.kind in "biuf" and np.isin(found, (0, 1)).all():
        return ": several labels per sample (multi-label) are not supported; give each sample one class"
    if found.ndim == 2:
        return ": several values per sample (soft labels, regression) are not supported; give each sample one class"
    return ""


def _numbers_of(found: np.ndarray, names: Sequence[str] | None, where: str) -> np.ndarray:
    """Numbers of the classes that texts name."""
    other = [row for row, value in enumerate(found) if not isinstance(value, str)]
    if other:
        limit = _DETECTION if any(isinstance(found[row], Mapping) for row in other) else ""
        shown = shorten([f"{' '.join(repr(found[row]).split()):.100}" for row in other])
        raise InputError(
            f"{where}: found {shown} in row(s) {shorten(other)}"
            f"{' beside texts' if len(other) < len(found) else ''}; expected class numbers or class names{limit}"
        )
    if names is None:
        raise InputError(f"{where}: found texts ({shorten(dict.fromkeys(found))}); expected class numbers, 0 to C - 1")
    number = {name: place for place, name in enumerate(names)}
    form = {value: canonical_label(value) for value in set(found.tolist())}
    unknown = [str(value) for value in dict.fromkeys(found.tolist()) if form[value] not in number]
    if unknown:
        raise InputError(
            f"{where}: found {shorten(unknown)}, which is none of the classes {shorten(names, 20)}"
            f"{suggestion(unknown[0], names)}"
        )
    return np.array([number[form[value]] for value in found.tolist()], np.int64)
