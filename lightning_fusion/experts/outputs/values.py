"""Values of stored outputs: existing predictions in any form that users hold them, and origins of samples."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch

from lightning_fusion.data.arrays import as_numbers
from lightning_fusion.data.duplicates import equal_rows
from lightning_fusion.data.row_labels import check_row_labels
from lightning_fusion.data.rows import Origins
from lightning_fusion.errors import InputError, shorten, suggestion
from lightning_fusion.experts.answers import in_order
from lightning_fusion.experts.pool import check_outputs, check_representations
from lightning_fusion.store import ArrayStore

_VARIED, _LEAST_COPIES = 0.9, 10
PARTS = ("probabilities", "target", "domain", "index", "representations", "missing")
"""Keys of a split of :meth:`~lightning_fusion.ExpertOutputs.from_arrays`."""


def origin_arrays(origins: Origins | None, notes: Sequence[str] | None) -> Iterator[tuple[str, np.ndarray]]:
    """Return the arrays of a store that hold the origins of samples and the codes of their notes, by name."""
    if origins is not None:
        yield "file", origins.file
        if origins.position is not None:
            yield "position", origins.position
    if notes is not None and any(notes):
        yield "note", np.unique(np.array(notes), return_inverse=True)[1]


def origin_names(origins: Origins | None, notes: Sequence[str] | None) -> dict[str, Any]:
    """Return the names of files and notes, which the arrays of :func:`origin_arrays` index."""
    found = {} if origins is None else {"files": origins.files, "unit": origins.unit}
    return found | ({"notes": sorted(set(notes))} if notes is not None and any(notes) else {})


def copies_message(answers: Mapping[str, Sequence[np.ndarray]]) -> str | None:
    """Return a warning about splits that share the answers of half of their samples or more; ``None`` without any.

    Splits in which answers are often equal, such as votes, prove nothing.

    Args:
        answers: For each split the (N, C_k) answers of each expert.

    Example:
        >>> answers = np.random.default_rng(0).dirichlet([1, 1], size=40)
        >>> copies_message({"train": [answers], "test": [answers[20:]]}).partition(";")[0]
        'splits: 20 of 20 samples of test have the same answers of all experts as samples of train'
    """
    rows = {split: np.concatenate([*parts], axis=1).astype(np.float32) for split, parts in answers.items()}
    found = []
    for one, other in combinations(sorted(rows, key=lambda split: -len(rows[split])), 2):
        first = equal_rows(np.concatenate([rows[one], rows[other]]))
        count, size = len(rows[one]), len(rows[other])
        distinct, shared = int((first[:count] == np.arange(count)).sum()), int((first[count:] < count).sum())
        if size >= _LEAST_COPIES and distinct > _VARIED * count and 2 * shared >= size:
            found.append(
                f"{shared} of {size} samples of {other} have the same answers of all experts as samples of {one}"
            )
    return f"splits: {shorten(found)}; are they the same samples? Remove the copies" if found else None


def read_origins(stored: ArrayStore, split: str, names: Mapping[str, Any]) -> tuple[Origins | None, list[str] | None]:
    """Return origins and notes of the samples of a split, if the store has them.

    Args:
        stored: Arrays of the store.
        split: Name of the split.
        names: Result of :func:`origin_names`.
    """
    origins, notes = None, None
    if "files" in names:
        origins = Origins(names["files"], stored[f"{split}/file"], stored.get(f"{split}/position"), names["unit"])
    if "notes" in names:
        notes = [names["notes"][code] for code in stored[f"{split}/note"].tolist()]
    return origins, notes


def check_parts(split: str, given: Mapping[str, Any]) -> None:
    """Check that a split has the required keys and no unknown one.

    Raises:
        InputError: Otherwise.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"split {split}: found a {type(given).__name__}; expected a dict with {', '.join(PARTS)}")
    if unknown := [key for key in given if key not in PARTS]:
        raise InputError(
            f"split {split}: found the key(s) {shorten(map(repr, unknown))}; expected {', '.join(PARTS)}"
            f"{suggestion(str(unknown[0]), PARTS)}"
        )
    if lacking := {"probabilities", "target"} - set(given):
        raise InputError(f"split {split}: found no {shorten(sorted(lacking))}; expected both of them")
    for key in ("probabilities", "representations"):
        if not isinstance(given.get(key) or {}, Mapping):
            raise InputError(
                f"split {split}: {key}: found a {type(given[key]).__name__}; expected {{expert: (N, ...)}}"
            )
    tables = {key: given.get(key) for key in ("target", "domain", "index", "missing")}
    for key in ("probabilities", "representations"):
        tables |= {f"{key} of {name}": values for name, values in (given.get(key) or {}).items()}
    check_row_labels(tables, f"split {split}")


def shaped(values: Any, dtype: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Return values as an array of a data type and shape.

    Args:
        values: Array-like numbers.
        dtype: Data type.
        shape: Expected shape.
        what: Name of the values, for messages.

    Raises:
        InputError: If they are no numbers, have another shape, or cannot be converted without loss.
    """
    try:
        given = as_numbers(values)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    if given.shape != shape:
        raise InputError(f"{what} has shape {given.shape}; expected {shape}")
    with np.errstate(invalid="ignore"):  # NaN is not an integer
        array = given.astype(dtype, copy=False)
    if dtype is not np.float32 and not (given == array).all():
        raise InputError(f"{what} has values that are no {'truth values' if dtype is bool else 'whole numbers'}")
    return array


def named_values(values: Any, dtype: Any, rows: int, names: Sequence[str], what: str) -> np.ndarray:
    """Return values with a column per name as an array; data frames and lists of dicts are read by these names.

    Args:
        values: (N, number of names) array-like numbers.
        dtype: Data type.
        rows: N.
        names: Names of the columns, in order.
        what: Name of the values, for messages.

    Raises:
        InputError: If columns have other names, or the values are wrong, see :func:`shaped`.
    """
    try:
        ordered = in_order(values, names)
    except InputError as error:
        raise InputError(f"{what} {error}".replace(" returned rows with", ": found", 1)) from error
    return shaped(ordered, dtype, (rows, len(names)), what)


def check_answers(name: str, values: np.ndarray) -> None:
    """Check the answers of an expert that are not declared to be missing.

    Raises:
        InputError: If a row is no distribution.
    """
    try:
        check_outputs({name: torch.from_numpy(values)})
    except InputError as error:
        if not np.isnan(values).any():
            raise
        raise InputError(f"{error}; declare missing answers: missing='nan', or a mask (samples, experts)") from None


def read_missing(given: Any, probabilities: Mapping[str, np.ndarray], rows: int, what: str) -> np.ndarray:
    """Return the (N, K) missing answers of a split.

    Args:
        given: A mask (N, K); ``nan``: rows of NaN are missing; ``None``: none is missing.
        probabilities: (N, C_k) by expert.
        rows: N.
        what: Name of the argument, for messages.
    """
    if given is None:
        return np.zeros((rows, len(probabilities)), bool)
    if isinstance(given, str):
        if given != "nan":
            raise InputError(f"{what} is {given!r}; expected 'nan', or a mask (samples, experts)")
        return np.stack([np.isnan(values).all(1) for values in probabilities.values()], 1)
    return named_values(given, bool, rows, list(probabilities), what)


def read_representations(
    given: Mapping[str, Any] | None, names: Sequence[str], rows: int, where: str
) -> dict[str, np.ndarray]:
    """Return the (N, D_k) float32 representations of each expert that has some.

    Args:
        given: Representations by expert.
        names: Names of the experts.
        rows: N.
        where: Split, for messages.

    Raises:
        InputError: If an expert is unknown, a shape is another, or a value is not finite.
    """
    found = {}
    for name, values in (given or {}).items():
        what = f"{where}: representations of {name}"
        if name not in names:
            raise InputError(f"{where}: representations of an expert that expert_classes lacks: {name}")
        try:
            numbers = as_numbers(values)
        except InputError as error:
            raise InputError(f"{what}: {error}") from error
        if numbers.ndim != 2 or len(numbers) != rows:
            raise InputError(f"{what} have shape {numbers.shape} for {rows} rows")
        with np.errstate(over="ignore"):  # reported as infinite
            found[name] = numbers.astype(np.float32)
    check_representations({name: torch.from_numpy(values) for name, values in found.items()})
    return found
