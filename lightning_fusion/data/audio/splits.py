"""Assignment of speakers and recordings to splits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lightning_fusion.data.audio.layout import AudioLayout
from lightning_fusion.data.audio.trials import Trials
from lightning_fusion.data.names import as_labels
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.errors import InputError, shorten

Wanted = int | float | list[str | int] | None
"""Speakers of a split: a fraction, a number, names, or None for the default."""
_USUAL = {"test": 0.2, "val": 0.1}


@dataclass
class AudioSplit:
    """The recordings of each split.

    Attributes:
        files: Sorted indices of the recordings of each split.
        speakers: Sorted indices of the training speakers.
    """

    files: dict[str, np.ndarray]
    speakers: np.ndarray


def check_speakers(name: str, wanted: Wanted, zero: bool) -> None:
    """Validate an argument that sets the speakers of a split.

    Args:
        name: Name of the argument.
        wanted: Value of the argument.
        zero: Whether it may be 0, for no such split.

    Raises:
        InputError: If the value is no fraction, number or list of names.
    """
    if isinstance(wanted, list):
        if len(set(wanted)) < len(wanted) or not wanted:
            doubled = sorted({str(each) for each in wanted if wanted.count(each) > 1})
            raise InputError(f"{name} names {shorten(doubled) or 'no speaker'} twice; name each speaker once")
    elif wanted is not None and not (
        0 < wanted < 1 or (wanted == 0 and zero) or (wanted >= 1 and wanted == int(wanted))
    ):
        raise InputError(f"{name} is {wanted}; expected a fraction below 1, a whole number, or names")


def split_recordings(strata: np.ndarray, val_fraction: float, test_fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Assign recordings to splits, with the same fractions in each stratum.

    Args:
        strata: (N,) stratum of each recording.
        val_fraction: Fraction of the recordings for validation.
        test_fraction: Fraction of the recordings for testing.
        seed: Seed of the draw.

    Raises:
        InputError: If no training recording is left.

    Example:
        >>> {split: len(files) for split, files in split_recordings(np.zeros(10), 0.1, 0.2, seed=0).items()}
        {'train': 7, 'val': 1, 'test': 2}
    """
    if test_fraction + val_fraction >= 1:
        raise InputError(f"val_speakers and test_speakers add up to {val_fraction + test_fraction:g}; expected below 1")
    rest, test = stratified_split(strata, test_fraction, seed * 1009 + 1)
    train, val = stratified_split(strata[rest], val_fraction / (1 - test_fraction), seed * 1009 + 2)
    return {"train": rest[train], "val": rest[val], "test": test}


def split_speakers(
    layout: AudioLayout,
    wanted: Mapping[str, Wanted],
    lists: Mapping[str, Trials],
    least: int,
    seeds: Mapping[str, int],
) -> AudioSplit:
    """Assign speakers to disjoint splits.

    Validation and test speakers come from separate trees, from lists of names, from trial lists (all speakers and only
    the recordings in the list), or are drawn.

    Args:
        layout: All recordings.
        wanted: Speakers of the splits ``val`` and ``test``.
        lists: Trial lists of these splits, if given.
        least: Minimum number of speakers of each split.
        seeds: Seeds of the draws of these splits.

    Raises:
        InputError: If a speaker is in two splits or unknown, or too few speakers are left.
    """
    where = layout.roots.get(0, "the source")
    pool = layout.speakers_of(0)
    held: dict[str, np.ndarray] = {}
    for split in ("test", "val"):
        names = wanted[split]
        if layout.tree_of(split):
            held[split] = layout.speakers_of(layout.tree_of(split))
            _reject_overlap(layout, "train", pool, split, held[split])
        elif isinstance(names, list):
            known = {layout.speakers[speaker]: speaker for speaker in pool.tolist()}
            chosen = as_labels(names, f"{split}_speakers")
            if unknown := [name for name in chosen if name not in known]:
                raise InputError(
                    f"{split}_speakers names {shorten(unknown)}, without recordings in {where}, which has "
                    f"{shorten(known)}"
                )
            held[split] = np.array([known[name] for name in chosen])
        elif names is None and split in lists:
            held[split] = np.unique(layout.speaker[lists[split].pairs.numpy()])
            if not len(np.setdiff1d(pool, held[split])):
                raise InputError(
                    f"{split}_trials names all {len(pool)} speakers of {where}, so no training speaker is left; set "
                    f"{split}_root to that folder and root to another one (VoxCeleb1-E and -H name all of VoxCeleb1: "
                    "train on VoxCeleb2)"
                )
    if len(held) == 2:
        _reject_overlap(layout, "val", held["val"], "test", held["test"])
    for purpose, split in enumerate(("test", "val"), 1):
        if split not in held:
            rest = np.setdiff1d(pool, np.concatenate([np.empty(0, np.int64), *held.values()]))
            held[split] = _draw(split, wanted[split], rest, len(pool), least, seeds[split] * 1009 + purpose)
    train = np.setdiff1d(pool, np.concatenate(list(held.values())))
    if len(train) < least:
        raise InputError(
            f"{len(train)} of the {len(pool)} speakers of {where} are left to train on, expected at least {least}; "
            "lower val_speakers and test_speakers, or name fewer"
        )
    files = {"train": _files(layout, 0, train)}
    for split, speakers in held.items():
        files[split] = _files(layout, layout.tree_of(split), speakers)
        if split in lists:
            named = np.unique(lists[split].pairs.numpy())
            if len(outside := np.setdiff1d(layout.speaker[named], speakers)):
                raise InputError(
                    f"{split}_trials names speakers that are not among {split}_speakers: "
                    f"{shorten(layout.speakers[speaker] for speaker in outside)}; remove {split}_speakers to take "
                    "those of the list"
                )
            files[split] = named
    return AudioSplit(files, train)


def _files(layout: AudioLayout, tree: int, speakers: np.ndarray) -> np.ndarray:
    files = layout.files_of(tree)
    return files[np.isin(layout.speaker[files], speakers)]


def _reject_overlap(layout: AudioLayout, one: str, ones: np.ndarray, other: str, others: np.ndarray) -> None:
    known = {layout.speakers[speaker].casefold() for speaker in ones}  # Anna and anna may be one person
    names = [layout.speakers[speaker] for speaker in others]
    if both := [name for name in names if name.casefold() in known]:
        raise InputError(
            f"{len(both)} speaker(s) are in {one} and in {other}: {shorten(both)}; splits are disjoint in speakers, "
            "so remove them from one (or rename them, if they are different people)"
        )


def _draw(split: str, wanted: Wanted, rest: np.ndarray, total: int, least: int, seed: int) -> np.ndarray:
    wanted = _USUAL[split] if wanted is None else wanted
    assert not isinstance(wanted, list)
    if not wanted:
        return rest[:0]
    count = max(least, round(wanted * total)) if wanted < 1 else int(wanted)
    if count > len(rest) - least:
        raise InputError(
            f"{split}_speakers asks for {count} of {len(rest)} speakers, and at least {least} are needed for training; "
            f"lower val_speakers and test_speakers, or provide more than {total} speakers"
        )
    return np.random.default_rng(seed).permutation(rest)[:count]
