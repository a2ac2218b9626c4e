"""Splits of a fuser, drawn from the splits of stored outputs where these lack one."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from lightning_fusion.data.rows import Origins
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.seen import MAJORITY
from lightning_fusion.experts.outputs.split import OutputsSplit
from lightning_fusion.experts.outputs.store import ExpertOutputs

_HELD = 0.2  # fraction of a divided split that validates, as in OutputsDataModule


def select_rows(part: OutputsSplit, rows: np.ndarray) -> OutputsSplit:
    """Return some samples of a split.

    Args:
        part: The split.
        rows: (M,) positions of the samples.
    """
    where = part.origins
    if where is not None:
        position = None if where.position is None else where.position[rows]
        where = Origins(where.files, where.file[rows], position, where.unit)
    return replace(
        part,
        probabilities={name: values[rows] for name, values in part.probabilities.items()},
        target=part.target[rows],
        domain=part.domain[rows],
        index=part.index[rows],
        representations={name: values[rows] for name, values in part.representations.items()},
        missing=part.missing[rows],
        origins=where,
        notes=None if part.notes is None else [part.notes[row] for row in rows],
        seen=None if part.seen is None else part.seen[rows],
        former={},
    )


def complete_samples(outputs: ExpertOutputs) -> tuple[ExpertOutputs, list[str]]:
    """Return the samples that every expert answered, so that all methods are compared on the same samples.

    Args:
        outputs: Outputs, of which answers may be missing.

    Returns:
        The outputs, and what was left out, as sentences.

    Raises:
        InputError: If a split has no such sample.

    Example:
        >>> nothing = [float("nan")] * 2
        >>> values = {"probabilities": {"a": [nothing, [0.6, 0.4]], "b": [[0.5, 0.5]] * 2}, "target": [0, 1]}
        >>> outputs = ExpertOutputs.from_arrays({"test": values}, dict.fromkeys("ab", ["no", "yes"]), missing="nan")
        >>> complete_samples(outputs)
        (ExpertOutputs(2 experts, 2 classes; rows: test 1), ['1 of 2 samples of test lack an answer (missing: a 1); \
they are left out'])
    """
    parts, notes = {}, []
    for split, part in outputs.splits.items():
        missing = np.asarray(part.missing)
        rows = np.flatnonzero(~missing.any(1))
        lost = [f"{name} {int(own.sum())}" for name, own in zip(outputs.names, missing.T, strict=True) if own.any()]
        if len(rows) == 0 and lost:
            raise InputError(
                f"{_place(outputs)}: no sample of {split} has an answer of every expert (missing: {shorten(lost)} of "
                f"{len(part)}); query these experts again, or leave one out"
            )
        if lost:
            count = f"{len(part) - len(rows)} of {len(part)} samples of {split}"
            notes.append(f"{count} lack an answer (missing: {shorten(lost)}); they are left out")
        parts[split] = select_rows(part, rows) if lost else part
    if not notes:
        return outputs, []
    return ExpertOutputs(outputs.classes, outputs.domains, outputs.experts, parts, outputs.fingerprints), notes


def with_fuser_splits(
    outputs: ExpertOutputs, seed: int, needed: Iterable[str] = ("train", "val", "test")
) -> tuple[ExpertOutputs, list[str]]:
    """Return outputs whose train split trains a fuser: no expert was trained on most of its samples.

    Where there is no such train split, the validation split is divided into both; where there is no validation split,
    the train split is. A fifth of each class validates.

    Args:
        outputs: The outputs.
        seed: Seed of the draw.
        needed: Splits that the outputs must have in the end.

    Returns:
        The outputs, and what was done, as sentences.

    Raises:
        InputError: If a split is lacking, and cannot be drawn.

    Example:
        >>> values = {"probabilities": {"a": [[0.6, 0.4]] * 10}, "target": [0, 1] * 5}
        >>> outputs = ExpertOutputs.from_arrays({"val": values, "test": values}, {"a": ["no", "yes"]})
        >>> divided, notes = with_fuser_splits(outputs, seed=0)
        >>> divided, notes
        (ExpertOutputs(1 experts, 2 classes; rows: train 8, val 2, test 10), ['the store has no train split: 8 of \
10 samples of val train the fusers, and 2 validate'])
    """
    parts, notes = dict(outputs.splits), []
    reason = ""
    if (train := parts.get("train")) is None:
        reason = "the store has no train split"
    elif train.seen is not None and train.seen.any(1).mean() > MAJORITY:
        count = int(train.seen.any(1).sum())
        reason = f"an expert was trained on {count} of {len(train)} samples of the train split"
    divided = "val" if reason else "train" if "val" not in parts and "val" in needed else ""
    if divided and divided in parts:
        whole = parts[divided]
        kept, held = stratified_split(np.asarray(whole.target), _HELD, seed)
        parts["train"], parts["val"] = select_rows(whole, kept), select_rows(whole, held)
        notes = [
            f"{reason or 'the store has no val split'}: {len(kept)} of {len(whole)} samples of {divided} train the "
            f"fusers, and {len(held)} validate"
        ]
    elif reason and train is not None:
        raise InputError(
            f"stores: {reason} of {_place(outputs)}, on which its outputs are more accurate than on new samples, and "
            "there is no val split; collect the splits val and test"
        )
    if lacking := [split for split in needed if split not in parts or not len(parts[split])]:
        raise InputError(
            f"stores: {_place(outputs)} has the splits {shorten(outputs.splits)}, no sample for {shorten(lacking)}; "
            "expected test, and train or val"
        )
    order = [split for split in ("train", "val", "test") if split in parts]
    prints: dict[str, str] = {split: outputs.fingerprints.get(split, "") for split in order}
    result = ExpertOutputs(
        outputs.classes, outputs.domains, outputs.experts, {split: parts[split] for split in order}, prints
    )
    return (result if notes else outputs), notes


def _place(outputs: ExpertOutputs) -> str:
    return str(outputs.path or "the outputs")
