"""Assembly of a split of a store from answers in journals and in an earlier store, sorted by sample index."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.targets import as_targets
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.earlier import Earlier
from lightning_fusion.experts.outputs.journal import Journal
from lightning_fusion.experts.outputs.loaders import check_whole, expected_rows
from lightning_fusion.experts.outputs.seen import seen_samples
from lightning_fusion.experts.outputs.split import OutputsSplit
from lightning_fusion.experts.outputs.values import origin_arrays, origin_names
from lightning_fusion.store import StoreWriter, release

_RELEASED_BYTES = 1 << 25


def write_split(
    split: str,
    writer: StoreWriter,
    earlier: Earlier,
    written: Sequence[Journal],
    data: LightningDataModule,
    keep_representations: bool,
) -> dict[str, Any]:
    """Write the arrays of a split whose samples a run has read.

    Args:
        split: Name of the split.
        writer: Writer of the store.
        earlier: The pool, and what was stored before.
        written: Journals of the run, which have the samples.
        data: Data module.
        keep_representations: Store representations.

    Returns:
        Names of files and notes (:func:`~lightning_fusion.experts.outputs.values.origin_names`).

    Raises:
        InputError: If samples are lacking or repeated, or a target is none of the classes.
    """
    index, ascending = _write_samples(split, writer, earlier.pool.classes, written)
    check_whole(split, len(index), expected_rows(data, split))
    members = earlier.pool.members
    missing = np.zeros((len(index), len(members)), bool)
    for number, (name, expert) in enumerate(members.items()):
        if ascending and _adopt(split, name, writer, earlier, written):
            continue
        missing[:, number] = _write_expert(
            split, name, len(expert.classes), index, writer, earlier, written, keep_representations
        )
    if missing.any():
        writer[f"{split}/missing"] = missing
    if (seen := seen_samples(members, data, split)) is not None:
        writer[f"{split}/seen"] = seen
    if not isinstance(data, FusionDataModule):
        return {}
    rows = torch.from_numpy(index)
    known = data.origins(rows), data.notes(rows)
    for name, values in origin_arrays(*known):
        writer[f"{split}/{name}"] = values
    return origin_names(*known)


def _write_samples(
    split: str, writer: StoreWriter, classes: list[str], written: Sequence[Journal]
) -> tuple[np.ndarray, bool]:
    """Write index, target and domain of the samples; return the (N,) sorted indices, and whether they came sorted."""
    parts = [part for journal in written for part in journal.read_samples(split)]
    index = np.concatenate([part[0] for part in parts]) if parts else np.empty(0, np.int64)
    unique, first = np.unique(index, return_index=True)
    if len(written) == 1 and len(unique) < len(index):
        raise InputError(
            f"the {split} loader gave {len(index)} rows with {len(unique)} indices; Batch.index must be unique"
        )
    if len(unique):
        target = np.concatenate([part[1] for part in parts])[first]
        writer[f"{split}/target"] = as_targets(target, classes, f"the {split} loader: target")
        writer[f"{split}/domain"] = np.concatenate([part[2] for part in parts])[first]
        writer[f"{split}/index"] = unique
    return unique, len(unique) == len(index) and bool(np.array_equal(unique, index))


def _adopt(split: str, name: str, writer: StoreWriter, earlier: Earlier, written: Sequence[Journal]) -> bool:
    """Take the files of an uninterrupted run as the arrays of an expert, if they have all answers in order."""
    journal = written[0]
    known = earlier.stored(split, name) is not None
    known |= any((split, earlier.name_in(each, name)) in each.answers for each in earlier.journals)
    if known or len(written) > 1 or (shapes := journal.whole(split, name)) is None:
        return False
    for kind, shape in zip(("probabilities", "representations"), shapes, strict=False):
        path = journal.values_path(split, name, kind == "representations")
        digest = journal.digests.get(path)
        if digest is None or not writer.adopt(f"{split}/{kind}/{name}", path, shape, np.float32, digest):
            writer.discard(f"{split}/probabilities/{name}")
            return False
    return True


def _write_expert(
    split: str,
    name: str,
    classes: int,
    index: np.ndarray,
    writer: StoreWriter,
    earlier: Earlier,
    written: Sequence[Journal],
    keep_representations: bool,
) -> np.ndarray:
    """Write the outputs of an expert; return (N,) bool, which are missing."""
    stored = earlier.stored(split, name)
    keep = keep_representations or (stored is not None and stored[1] is not None)
    array = writer.create(f"{split}/probabilities/{name}", (len(index), classes), np.float32)
    also: np.ndarray | None = None
    filled, missing, kept = (np.zeros(len(index), bool) for _ in range(3))
    since = 0
    for own, values, representations in earlier.blocks(split, name, [*earlier.journals, *written]):
        place = np.searchsorted(index, own).clip(max=len(index) - 1)
        lost = np.asarray(np.isnan(values).any(1))
        use = (index[place] == own) & ~(lost & filled[place])
        into = place[use]
        array[into], filled[into], missing[into] = values[use], True, lost[use]
        if keep and representations is not None:
            if also is None:
                shape = len(index), representations.shape[1]
                also = writer.create(f"{split}/representations/{name}", shape, np.float32)
            also[into], kept[into] = representations[use], True
        since += values.nbytes + (0 if representations is None else representations.nbytes)
        if since > _RELEASED_BYTES:
            since = 0
            release(array, *([] if also is None else [also]))
    release(array, *([] if also is None else [also]))
    if not filled.all():
        raise InputError(
            f"{writer.folder}: {int((~filled).sum())} answers of expert {name} for {split} were lost while the run "
            "went on (journals changed or damaged); collect again: only these are queried"
        )
    if also is not None and not kept.all():
        writer.discard(f"{split}/representations/{name}")
    return missing


def copy_split(split: str, writer: StoreWriter, earlier: Earlier, data: LightningDataModule | None) -> dict[str, Any]:
    """Write a split that is in the earlier store, with the outputs of the experts of the pool.

    Args:
        split: Name of the split.
        writer: Writer of the store.
        earlier: The pool, and what was stored before.
        data: Data module, where the split is one of those that were requested.

    Returns:
        Names of files and notes.
    """
    assert earlier.store is not None
    part, names = earlier.store.splits[split], earlier.pool.names
    found = {name: earlier.stored(split, name) for name in names}
    known = {name: pair for name, pair in found.items() if pair is not None}
    seen = part.seen
    if data is not None:
        seen = seen_samples(earlier.pool.members, data, split)
    elif seen is not None:
        seen = seen[:, [earlier.store.names.index(earlier.names[name]) for name in names]]
    copied = OutputsSplit(
        {name: pair[0] for name, pair in known.items()},
        as_targets(part.target, earlier.pool.classes, f"the {split} split of {earlier.store.path}: target"),
        part.domain,
        part.index,
        {name: pair[1] for name, pair in known.items() if pair[1] is not None},
        np.stack([np.isnan(values).any(1) for values, _ in known.values()], 1),
        part.origins,
        part.notes,
        seen,
    )
    for name, values in copied.arrays():
        writer[f"{split}/{name}"] = values
        release(values)
    return origin_names(part.origins, part.notes)


def write_former(writer: StoreWriter, earlier: Earlier) -> dict[str, dict[str, Any]]:
    """Write the outputs of experts that have left the pool, so that they are not queried if they join it again.

    Args:
        writer: Writer of the store.
        earlier: The pool, and what was stored before.

    Returns:
        Metadata of these experts by fingerprint.
    """
    store = earlier.store
    if store is None:
        return {}
    back = set(earlier.former.values())
    kept = {key: entry for key, entry in store.former.items() if key not in back}
    left = [name for name in store.names if name not in earlier.names.values()]
    leaving = {str(print): name for name in left if (print := store.experts[name]["fingerprint"]) is not None}
    for split, part in store.splits.items():
        pairs = {key: pair for key, pair in part.former.items() if key in kept}
        pairs |= {key: (part.probabilities[name], part.representations.get(name)) for key, name in leaving.items()}
        for key, (values, representations) in pairs.items():
            writer[f"{split}/former/{key}/probabilities"] = values
            if representations is not None:
                writer[f"{split}/former/{key}/representations"] = representations
    return kept | {key: store.experts[name] | {"name": name} for key, name in leaving.items()}
