"""Checks of stored outputs when a store is opened: metadata, shapes and values."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lightning_fusion.errors import shorten

_CHUNK_ROWS = 65_536
_METADATA = {
    "classes": list,
    "domains": list,
    "experts": dict,
    "former": dict,
    "fingerprints": dict,
    "origins": dict,
    "versions": dict,
}


def check_stored_metadata(metadata: Mapping[str, Any]) -> None:
    """Check the metadata of a store of outputs.

    Raises:
        KeyError: If a key is lacking.
        ValueError: If a value has another type.
    """
    for key, kind in _METADATA.items():
        if not isinstance(metadata[key], kind):
            raise ValueError(f"{key} is {_kind(metadata[key])}; expected a {kind.__name__}")
    for key in ("classes", "domains"):
        _check_names(key, metadata[key])
    if not metadata["experts"]:
        raise ValueError("experts are empty")
    for name, entry in metadata["experts"].items():
        _check_expert(name, entry, metadata["classes"])
    for key, entry in metadata["former"].items():
        _check_expert(key, entry, None)
    for key in ("fingerprints", "versions"):
        _check_texts(key, metadata[key].values())
    for split, found in metadata["origins"].items():
        if not isinstance(found, dict):
            raise ValueError(f"origins of {split} are {_kind(found)}")


def _check_expert(name: str, entry: Any, classes: list[str] | None) -> None:
    """Check the metadata of an expert; ``None`` in place of the classes of the task permits any."""
    if not isinstance(entry, dict) or not {"classes", "domains", "cost", "fingerprint"} <= set(entry):
        raise ValueError(f"the entry of expert {name} lacks classes, domains, cost or fingerprint")
    _check_names(f"classes of expert {name}", entry["classes"])
    _check_names(f"domains of expert {name}", [] if entry["domains"] is None else entry["domains"])
    if classes is not None and (unknown := sorted(set(entry["classes"]) - set(classes))):
        raise ValueError(f"expert {name} has classes that the task lacks: {shorten(unknown)}")
    cost = entry["cost"]
    if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 <= cost < math.inf:
        raise ValueError(f"the cost of expert {name} is {cost!r}")
    _check_texts(f"fingerprint or checkpoint of expert {name}", (entry["fingerprint"], entry.get("checkpoint")))


def check_stored_split(name: str, part: Any, metadata: Mapping[str, Any], values: bool) -> None:
    """Check the arrays of a split of a store.

    Args:
        name: Name of the split.
        part: The split, an :class:`~.split.OutputsSplit`.
        metadata: Checked metadata of the store.
        values: Check the values as well, which reads all bytes.

    Raises:
        ValueError: If shapes or dtypes do not match the metadata, or with ``values`` a target is none of the classes,
            an index is repeated, or an answer that is not missing is no distribution.
    """
    rows, experts = len(part.target), metadata["experts"]
    domains = len(metadata["domains"]) or part.domain.shape[-1]  # loaders of others give columns without names
    expected: dict[str, tuple[Any, Any, tuple[int, ...]]] = {
        "target": (part.target, np.int64, (rows,)),
        "index": (part.index, np.int64, (rows,)),
        "domain": (part.domain, bool, (rows, domains)),
        "missing": (part.missing, bool, (rows, len(experts))),
    }
    if part.seen is not None:
        expected["seen"] = part.seen, bool, (rows, len(experts))
    for expert, entry in experts.items():
        answers = part.probabilities[expert]
        expected[f"probabilities of {expert}"] = answers, np.float32, (rows, len(entry["classes"]))
    for expert, found in part.representations.items():
        expected[f"representations of {expert}"] = found, np.float32, (rows, *found.shape[1:2])
    for what, (array, dtype, shape) in expected.items():
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{what} of {name} are {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}")
    if not values:
        return
    if rows and not 0 <= int(part.target.min()) <= int(part.target.max()) < len(metadata["classes"]):
        raise ValueError(f"targets of {name} are out of range; there are {len(metadata['classes'])} classes")
    if len(np.unique(part.index)) < rows:
        raise ValueError(f"indices of {name} are not unique")
    for number, expert in enumerate(experts):
        for start in range(0, rows, _CHUNK_ROWS):
            some = slice(start, start + _CHUNK_ROWS)
            answers, lost = part.probabilities[expert][some], part.missing[some, number]
            if not is_answer(answers[~lost], missing=False).all():
                raise ValueError(f"probabilities of {expert} in {name} are no distributions in some rows")
            if not np.isnan(answers[lost]).all():
                raise ValueError(f"missing answers of {expert} in {name} have values")
    for expert, found in part.representations.items():
        if not all(np.isfinite(found[at : at + _CHUNK_ROWS]).all() for at in range(0, rows, _CHUNK_ROWS)):
            raise ValueError(f"representations of {expert} in {name} are not finite")


def is_answer(values: np.ndarray, missing: bool = True) -> np.ndarray:
    """Return (B,) bool, which rows of stored (B, C) outputs are distributions, or, where that is permitted, missing.

    Args:
        values: The outputs.
        missing: Permit rows of NaN.

    Example:
        >>> is_answer(np.array([[0.9, 0.1], [np.nan, np.nan], [np.nan, 1.0], [1.0, 1.0]])).tolist()
        [True, True, False, False]
    """
    valid = (np.abs(values.sum(1) - 1) <= 1e-3) & (values >= 0).all(1)
    return np.asarray(valid | np.isnan(values).all(1) if missing else valid)


def _check_names(what: str, names: Any) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"{what} are {_kind(names)}; expected distinct names")


def _check_texts(what: str, values: Iterable[Any]) -> None:
    for value in values:
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{what} is {_kind(value)}; expected a text")


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
