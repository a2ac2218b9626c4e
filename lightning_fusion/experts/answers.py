"""Answers of experts that may fail, such as remote ones: checks per row, further attempts, and missing answers."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.arrays import as_numbers, dense_numbers
from lightning_fusion.data.batch import NamedSamples
from lightning_fusion.data.names import canonical_label
from lightning_fusion.errors import InputError, shorten

OnFailure = Literal["raise", "skip"]
_PAUSE_S = 0.1  # before the first further attempt; doubled before each later one
_LONGEST_PAUSE_S = 30.0


def valid_rows(outputs: Tensor) -> Tensor:
    """Return (B,) bool, which rows of (B, C) outputs are distributions: not negative, with a sum of 1 within 0.001.

    Example:
        >>> valid_rows(torch.tensor([[0.9, 0.1], [1.0, 1.0], [-3.0, 4.0], [math.nan, 1.0]])).tolist()
        [True, False, False, False]
    """
    return ((outputs.sum(-1) - 1).abs() <= 1e-3) & (outputs >= 0).all(-1)


def finite_rows(outputs: Tensor) -> Tensor:
    """Return (B,) bool, which rows of (B, C) outputs have finite values only."""
    return outputs.isfinite().all(-1)


def describe_invalid(outputs: Tensor, rows: Sequence[int] = (), where: str = "") -> str:
    """Say what is wrong with rows that are no distributions.

    Args:
        outputs: (R, C) outputs of these rows.
        rows: (R,) their numbers, which are listed.
        where: What the numbers count, such as `` of the batch``.
    """
    listed = f" for row(s) {shorten(rows)}{where}" if rows else ""
    logarithms = valid_rows(outputs.exp()).all() and (outputs <= 0).all()
    if outputs.isnan().all():
        return f"returned NaN or None{listed}"
    if not outputs.isfinite().all() and not logarithms:
        return f"returned NaN or infinite outputs{listed}"
    if logarithms:
        advice = "they are log-probabilities: exponentiate them"
    elif (outputs > -1e-3).all() and ((outputs.sum(-1) - 1).abs() <= 1e-3).all():
        advice = "some are negative by rounding: clip them at 0"
    elif (outputs >= 0).all() and (outputs.sum(-1) > 0).all():
        advice = "divide each row by its sum"
    elif (outputs >= 0).all():
        advice = "a row of zeros has no most probable class: leave it out, or return None for it"
    else:
        advice = "apply softmax to logits, or set its output to 'logits'"
    return (
        f"returned outputs that are not probabilities{listed} (sum {outputs[0].sum().item():.6g}; expected 1 within "
        f"0.001); {advice}"
    )


def column_names(values: Any) -> list[str] | None:
    """Return the names of the columns or keys of values, in canonical form; ``None`` if they have none.

    Columns of a data frame that are only numbered (0, 1, ... or p1, p2, ...) are no names.

    Args:
        values: A data frame, a dict of columns, a list of dicts, or anything else, which has no names.

    Example:
        >>> column_names({"dog": [0.9], "cat": [0.1]}), column_names([{"dog": 0.9, "cat": 0.1}]), column_names([[1.0]])
        (['dog', 'cat'], ['dog', 'cat'], None)
    """
    if isinstance(values, list | tuple):
        values = next((row for row in values if isinstance(row, Mapping)), None)
    if isinstance(values, Mapping):
        return [canonical_label(label) for label in values]
    labels = _labels(values)
    return None if labels is None or _are_numbers(labels, 0) else labels


def _labels(values: Any) -> list[str] | None:
    """Return the labels of the columns of a data frame; ``None`` for anything else."""
    if isinstance(values, Tensor) or not (hasattr(values, "columns") and hasattr(values, "to_numpy")):
        return None
    return [canonical_label(label) for label in values.columns]


def _are_numbers(labels: Sequence[str], least: int) -> bool:
    """Return whether labels count columns: from 0, from ``least``, or after a prefix from 0 or 1."""
    prefix = labels[0].rstrip("0123456789") if labels else ""
    starts = (0, 1) if prefix else (0, least)
    return labels in [[f"{prefix}{start + number}" for number in range(len(labels))] for start in starts]


def has_names(answer: Any, names: Sequence[str]) -> bool:
    """Return whether an answer names the class of each value.

    Columns that are only numbered, from 0 or 1, are no names, unless they are the given ones.

    Raises:
        InputError: If pandas numbered the columns by itself, and the names are these numbers in another order.
    """
    labels = _labels(answer)
    if labels is None:
        return column_names(answer) is not None
    if type(answer.columns).__name__ == "RangeIndex" and labels != [*names] and sorted(labels) == sorted(names):
        raise InputError(
            f"returned rows with the columns {shorten(labels, 20)}, which pandas numbers by itself, and the classes "
            f"are {shorten(names, 20)}; name the columns by the classes, or give values, as in table.to_numpy()"
        )
    return sorted(labels) == sorted(names) or not _are_numbers(labels, 1)


def in_order(answer: Any, names: Sequence[str]) -> Any:
    """Return an answer as rows without names: columns in the order of the names, and NaN for a row that is None.

    Args:
        answer: A data frame, a dict of columns or a list of dicts, whose columns or keys are matched with the names in
            canonical form; a list of rows; anything else is returned as it is.
        names: Names of the columns, in order.

    Raises:
        InputError: If the columns or keys are not these names.

    Example:
        >>> in_order([{"dog": 0.9, "cat": 0.1}, None], ["cat", "dog"])
        [[0.1, 0.9], [nan, nan]]
        >>> in_order({"dog": [0.9, 0.2], "cat": [0.1, 0.8]}, ["cat", "dog"]).tolist()
        [[0.1, 0.9], [0.8, 0.2]]
    """
    listed = isinstance(answer, list | tuple)
    if not has_names(answer, names):
        if not listed or all(row is not None for row in answer):
            return answer
        widths = [len(row) for row in answer if isinstance(row, Sequence | np.ndarray | Tensor)]
        return [[math.nan] * max(widths, default=len(names)) if row is None else row for row in answer]
    if isinstance(answer, Mapping):
        return _stacked(list(answer.values()), _columns(answer, names, "keys"))
    if not listed:
        return answer.to_numpy()[:, _columns(answer.columns, names, "columns")]
    rows = []
    for row in answer:
        if not isinstance(row, Mapping | None):
            raise InputError(f"returned a list of dicts and of {type(row).__name__}; expected one kind of rows")
        values = [math.nan] * len(names) if row is None else list(row.values())
        rows.append(values if row is None else [values[column] for column in _columns(row, names, "keys")])
    return rows


def _stacked(columns: Sequence[Any], order: Sequence[int]) -> np.ndarray:
    """Return columns of R numbers each, in an order, as an array (R, number of columns)."""
    try:
        found = [as_numbers(part) for part in columns]
    except InputError as error:
        raise InputError(f"returned a dict of columns that are no numbers: {error}") from error
    shapes = {part.shape for part in found}
    if len(shapes) > 1 or any(part.ndim != 1 for part in found):
        raise InputError(
            f"returned a dict of columns of shape {shorten(sorted(map(str, shapes)))}; expected a column of numbers "
            "for each class, all of one length"
        )
    return np.stack([found[number] for number in order], axis=1)


def _columns(found: Iterable[Any], names: Sequence[str], what: str) -> list[int]:
    """Return the position of each name among the names that were found."""
    labels = [canonical_label(label) for label in found]
    if sorted(labels) != sorted(names):
        raise InputError(
            f"returned rows with the {what} {shorten(labels, 20)}; expected {shorten(names, 20)}, in any order"
        )
    return [labels.index(name) for name in names]


def as_rows(answer: Any, names: Sequence[str]) -> Tensor:
    """Convert the answer of a callable to a tensor; None in a list of rows is a row of NaN, masked entries are NaN.

    Args:
        answer: Array-like numbers, or rows with names, see :func:`in_order`.
        names: Names of the columns, in order.

    Raises:
        InputError: If it is no array of numbers.

    Example:
        >>> as_rows([[0.9, 0.1], None], ["cat", "dog"])
        tensor([[0.9000, 0.1000],
                [   nan,    nan]], dtype=torch.float64)
    """
    answer = in_order(answer, names)
    try:
        return dense_numbers(answer) if isinstance(answer, Tensor) else torch.from_numpy(np.array(as_numbers(answer)))
    except InputError as error:
        raise InputError(f"returned {type(answer).__name__} that makes no array of numbers: {error}") from error


def take_rows(input: Any, rows: Tensor) -> Any:
    """Return some samples of a batch of inputs: a tensor, an array, a list, or a dict of these.

    Example:
        >>> take_rows({"ids": torch.arange(3), "text": ["a", "b", "c"]}, torch.tensor([2, 0]))
        {'ids': tensor([2, 0]), 'text': ['c', 'a']}
    """
    if isinstance(input, Mapping):
        taken = {key: take_rows(value, rows) for key, value in input.items()}
        return NamedSamples(taken) if isinstance(input, NamedSamples) else taken
    if isinstance(input, Tensor):
        return input[rows.to(input.device)]
    if isinstance(input, np.ndarray):
        return input[rows.cpu().numpy()]
    return [input[row] for row in rows.tolist()]


def query_rows(
    call: Callable[[Tensor], Any],
    rows: Tensor,
    num_classes: int,
    name: str,
    on_failure: OnFailure = "raise",
    retries: int = 0,
    failures: Counter[str] | None = None,
    valid: Callable[[Tensor], Tensor] = valid_rows,
    classes: Sequence[str] | None = None,
    answered: bool = True,
    received: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Query an expert, with a check of every row of its answer.

    An answer is invalid if the call raises, the shape is not (R, C), or a row is not ``valid``. If a call
    fails as a whole and ``on_failure`` is ``skip``, the rows are halved and each half is queried again, so that one
    row does not lose the others.

    Args:
        call: Function of (R,) ascending sample numbers that returns the expert's (R, C) outputs.
        rows: (R,) int64 sample numbers.
        num_classes: C.
        name: Name of the expert, for messages.
        on_failure: ``raise``, or ``skip``: rows without a valid answer are NaN.
        retries: Further attempts on rows without a valid answer, after pauses of 0.1 s, 0.2 s, 0.4 s and so on.
        failures: Receives the number of missing answers by reason.
        valid: Check of (R, C) outputs that returns the (R,) valid rows.
        classes: Names of the C classes, for answers with names; ``None``: such answers are invalid.
        answered: The expert has had a valid answer before. Without, only the last attempt halves a failed batch.
        received: Called with sample numbers and outputs of each valid part of an answer, before the next call.

    Returns:
        (R, C) floating-point outputs.

    Raises:
        InputError: If an answer is invalid and ``on_failure`` is ``raise``; the message names expert and rows.

    Example:
        >>> def ask(rows):
        ...     if 2 in rows:
        ...         raise OSError("row 2 is too long")
        ...     return torch.full((len(rows), 2), 0.5)
        >>> query_rows(ask, torch.arange(4), 2, "remote", on_failure="skip")[:, 0]
        tensor([0.5000, 0.5000,    nan, 0.5000])
    """
    skip, result = on_failure == "skip", None
    reasons: dict[int, str] = {}
    names = [str(number) for number in range(num_classes)] if classes is None else classes
    pending = torch.arange(len(rows))

    def ask(some: Tensor) -> Tensor:
        return _as_outputs(call(some), len(some), names)

    def keep(some: Tensor, values: Tensor) -> None:
        if received is not None and (sound := valid(values)).any():
            received(some[sound.cpu()], values[sound])

    for attempt in range(retries + 1):
        if attempt:
            time.sleep(min(_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S))
        try:
            halve = skip and (answered or result is not None or attempt == retries)
            values, reasons = _attempt(ask, keep, rows[pending], names, halve)
        except _FailedCall as failed:
            if attempt < retries:
                continue
            raise InputError(f"expert {name} {failed}; on_failure='skip' continues without it") from failed.__cause__
        if result is None:
            result = values.new_full((len(rows), num_classes), math.nan)
        result[pending] = values.to(result.device)
        pending = pending[~valid(values).cpu()]
        if not len(pending):
            return result
    assert result is not None
    wrong, numbers = result[pending], rows[pending].tolist()
    if not skip:
        raise InputError(f"expert {name} {describe_invalid(wrong, numbers)}; on_failure='skip' continues without it")
    if failures is not None:
        failures.update(
            reasons.get(row) or describe_invalid(values[None]) for row, values in zip(numbers, wrong, strict=True)
        )
    result[pending] = math.nan
    return result


class UnusableInputError(InputError):
    """The input is of a kind that the expert does not take: no part of it, and no further attempt, has an answer."""


class _FailedCall(Exception):
    """A call raised, or its answer has no row for each sample; the cause is what it raised, if anything."""


def _attempt(
    call: Callable[[Tensor], Tensor],
    keep: Callable[[Tensor, Tensor], None],
    rows: Tensor,
    names: Sequence[str],
    halve: bool,
) -> tuple[Tensor, dict[int, str]]:
    """Return (R, C) outputs, with NaN in rows of failed calls, and the reason for each of these rows."""
    try:
        values = call(rows)
    except _FailedCall as error:
        reason, cause, listed = str(error), error.__cause__, ""
    except UnusableInputError:
        raise
    except Exception as error:  # of any service
        reason, cause = f"failed with {type(error).__name__}: {error}", error
        listed = f"failed on {len(rows)} row(s) ({shorten(rows.tolist())}) with {type(error).__name__}: {error}"
    else:
        keep(rows, values)  # a full disk is no failure of the expert, which has answered
        return values, {}
    if not halve:
        raise _FailedCall(listed or reason) from cause
    if len(rows) == 1:
        return torch.full((1, len(names)), math.nan), {int(rows): reason}
    halves = [_attempt(call, keep, part, names, halve) for part in rows.chunk(2)]
    kind = next((values for values, failed in halves if len(failed) < len(values)), halves[0][0])
    return torch.cat([values.to(kind) for values, _ in halves]), halves[0][1] | halves[1][1]


def _as_outputs(answer: Any, count: int, names: Sequence[str]) -> Tensor:
    """Return an answer as a floating-point tensor (R, C)."""
    try:
        values = as_rows(answer, names)
    except InputError as error:
        raise _FailedCall(str(error)) from error
    if tuple(values.shape) != (count, len(names)):
        raise _FailedCall(
            f"returned outputs of shape {tuple(values.shape)} for {count} row(s); expected {(count, len(names))}: one "
            "row for each of the queried samples, in order"
        )
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return values if torch.is_grad_enabled() else values.detach()
