"""Stored outputs of experts on one split."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.data.rows import Origins
from lightning_fusion.data.targets import as_targets, single_class_message
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.values import (
    check_answers,
    named_values,
    origin_arrays,
    read_missing,
    read_origins,
    read_representations,
    shaped,
)
from lightning_fusion.experts.pool import scatter_columns
from lightning_fusion.store import ArrayStore


@dataclass
class OutputsSplit:
    """Outputs of the experts on one split.

    Attributes:
        probabilities: (N, C_k) float32 by expert; NaN where an answer is missing.
        target: (N,) int64.
        domain: (N, D) bool.
        index: (N,) int64, unique; ascending if ``collect`` made it.
        representations: (N, D_k) float32 by expert, if they were collected.
        missing: (N, K) bool, missing outputs. ``None`` means none.
        origins: File and place in it of each sample, if ``collect`` knew them.
        notes: (N,) what a prediction should be read with, if ``collect`` knew it.
        seen: (N, K) bool, which samples each expert was trained on, as far as checkpoints record it. ``None`` means
            that nothing is recorded.
        former: Probabilities, and representations or None, of experts that have left the pool, by fingerprint.
        classes: Names of the C classes of the task, set by the store.
        experts: Metadata of the experts, set by the store.
    """

    probabilities: dict[str, np.ndarray]
    target: np.ndarray
    domain: np.ndarray
    index: np.ndarray
    representations: dict[str, np.ndarray] = field(default_factory=dict)
    missing: np.ndarray = None  # type: ignore[assignment]  # set below
    origins: Origins | None = None
    notes: list[str] | None = None
    seen: np.ndarray | None = None
    former: dict[str, tuple[np.ndarray, np.ndarray | None]] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    experts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.missing is None:
            self.missing = np.zeros((len(self.index), len(self.probabilities)), bool)

    def scattered(self) -> np.ndarray:
        """Return (N, K, C) float32 outputs in the classes of the task, zero for classes an expert does not have.

        Missing answers are NaN in all classes.
        """
        columns = scatter_columns({name: metadata["classes"] for name, metadata in self.experts.items()}, self.classes)
        result = np.zeros((len(self), len(self.experts), len(self.classes)), np.float32)
        for expert, values in enumerate(self.probabilities.values()):
            result[:, expert, columns[expert]] = values
        result[np.asarray(self.missing)] = np.nan
        return result

    def __len__(self) -> int:
        return len(self.index)

    def read(self, representations: bool) -> list[np.ndarray]:
        """Return the input of a fuser: the probabilities of each expert, then optionally the representations.

        Raises:
            InputError: If there are no representations.
        """
        if not representations:
            return list(self.probabilities.values())
        if lacking := [name for name in self.probabilities if name not in self.representations]:
            raise InputError(
                f"representations: the store has none of {shorten(lacking)}; set the experts' features, and collect "
                "with keep_representations: true"
            )
        return [*self.probabilities.values(), *(self.representations[name] for name in self.probabilities)]

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Return all arrays by their names in the store."""
        yield from (("target", self.target), ("domain", self.domain), ("index", self.index))
        yield from ((f"probabilities/{name}", values) for name, values in self.probabilities.items())
        yield from ((f"representations/{name}", values) for name, values in self.representations.items())
        if self.missing.any():
            yield "missing", self.missing
        yield from origin_arrays(self.origins, self.notes)
        if self.seen is not None:
            yield "seen", self.seen
        for key, (values, representations) in self.former.items():
            yield f"former/{key}/probabilities", values
            if representations is not None:
                yield f"former/{key}/representations", representations


def read_split(
    split: str,
    given: Mapping[str, Any],
    expert_classes: Mapping[str, Sequence[str]],
    classes: Sequence[str],
    domains: Sequence[str],
    missing: Any = None,
) -> OutputsSplit:
    """Return existing predictions as the outputs of a split.

    Args:
        split: Name of the split, for messages.
        given: Arrays by name, as in :meth:`~lightning_fusion.ExpertOutputs.from_arrays`.
        expert_classes: Classes of each expert, in the order of its columns.
        classes: Names of the classes of the task.
        domains: Names of the D domains.
        missing: Missing answers, unless ``given`` has them.

    Raises:
        InputError: If shapes, labels or probabilities are wrong.
    """
    differ = set(expert_classes) ^ set(given["probabilities"])
    if differ:
        raise InputError(f"split {split}: probabilities and expert_classes differ in {shorten(sorted(differ))}")
    target = as_targets(given["target"], classes, f"split {split}: target")
    if message := single_class_message(target, classes, f"the {split} split"):
        rank_zero_warn(message)
    rows = len(target)
    probabilities = {
        name: named_values(given["probabilities"][name], np.float32, rows, own, f"split {split}: expert {name}")
        for name, own in expert_classes.items()
    }
    absent = read_missing(given.get("missing", missing), probabilities, rows, f"split {split}: missing")
    for expert, (name, values) in enumerate(probabilities.items()):
        lost = absent[:, expert, None]
        check_answers(name, np.where(lost, 1 / max(1, values.shape[1]), values))
        probabilities[name] = np.where(lost, np.float32(np.nan), values)
    domain = given.get("domain", np.zeros((rows, len(domains))))
    index = shaped(given.get("index", np.arange(rows)), np.int64, (rows,), f"split {split}: index")
    if len(np.unique(index)) < rows:
        raise InputError(f"split {split}: index has duplicates; indices must be unique")
    return OutputsSplit(
        probabilities,
        target,
        named_values(domain, bool, rows, domains, f"split {split}: domain"),
        index,
        read_representations(given.get("representations"), list(expert_classes), rows, f"split {split}"),
        absent,
    )


def open_split(stored: ArrayStore, split: str) -> OutputsSplit:
    """Return the outputs of a split from the arrays of a store.

    Args:
        stored: The store.
        split: Name of the split.
    """
    metadata = stored.metadata
    probabilities, representations = (stored.group(f"{split}/{kind}") for kind in ("probabilities", "representations"))
    return OutputsSplit(
        {name: probabilities[name] for name in metadata["experts"]},
        stored[f"{split}/target"],
        stored[f"{split}/domain"],
        stored[f"{split}/index"],
        {name: representations[name] for name in metadata["experts"] if name in representations},
        stored.get(f"{split}/missing"),  # type: ignore[arg-type]  # None: no answer is missing
        *read_origins(stored, split, metadata["origins"].get(split, {})),
        stored.get(f"{split}/seen"),
        _former(stored, split, metadata["former"]),
    )


def _former(stored: ArrayStore, split: str, keys: Iterable[str]) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Return the outputs of experts that have left the pool, where a split has them."""
    found = {key: stored.group(f"{split}/former/{key}") for key in keys}
    return {key: (part["probabilities"], part.get("representations")) for key, part in found.items() if part}
