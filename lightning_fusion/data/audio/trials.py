"""Trials of speaker verification: read from lists in VoxCeleb's format, or drawn."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_fusion.errors import InputError, shorten


class Trials(NamedTuple):
    """Pairs of samples, and whether both are of one speaker.

    Attributes:
        pairs: (T, 2) int64 sample indices, as in ``Batch.index``.
        same: (T,) bool, whether both samples are of one speaker.
    """

    pairs: Tensor
    same: Tensor


def read_trials(
    path: str | Path,
    numbers: Mapping[str, int],
    key: str = "trials",
    root: str = "root",
    tell: Callable[[str], object] = rank_zero_warn,
) -> Trials:
    r"""Read a trial list, one ``label enrol test`` per line; the label is ``1`` for one speaker, else ``0``.

    VoxCeleb1-O, -E and -H and their cleaned versions have this format.

    Args:
        path: Path of the list.
        numbers: Sample index of each recording's name.
        key: Argument that names the list, for messages.
        root: Folder of the recordings, for messages.
        tell: Function that warns about trials of a recording with itself, and repeated trials.

    Raises:
        InputError: If a line is malformed, a recording or one kind of trial is missing, or a pair has both labels.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile("w", suffix=".txt") as file:
        ...     _ = file.write("1 anna/0.wav anna/1.wav\n0 anna/0.wav ben/0.wav\n")
        ...     file.flush()
        ...     trials = read_trials(file.name, {"anna/0.wav": 0, "anna/1.wav": 1, "ben/0.wav": 2})
        >>> trials.pairs.tolist(), trials.same.tolist()
        ([[0, 1], [0, 2]], [True, False])
    """
    text = _read_list(path, key, "'1 enrol test' or '0 enrol test'")
    words = text.split()
    labels = words[::3]
    if len(words) % 3 or set(labels) - {"0", "1"}:
        raise InputError(f"{key}: {path}, {_malformed(text)}; expected '1 enrol test' or '0 enrol test'")
    if not 0 < (ones := labels.count("1")) < len(labels):
        found = f"{ones} trials of one speaker and {len(labels) - ones} of two"
        raise InputError(f"{key}: {path} has {found}; both kinds are needed")
    sides = [np.fromiter((numbers.get(name, -1) for name in words[side::3]), np.int64, len(labels)) for side in (1, 2)]
    if (missing := [np.flatnonzero(side < 0) for side in sides]) and any(map(len, missing)):
        names = sorted({words[3 * row + 1 + side] for side, rows in enumerate(missing) for row in rows.tolist()})
        raise InputError(_missing(path, names, numbers, key, root))
    same = np.fromiter((label == "1" for label in labels), bool, len(labels))
    _check_pairs(np.stack(sides, 1), same, f"{key}: {path}", lambda row: " ".join(words[3 * row : 3 * row + 3]), tell)
    return Trials(torch.from_numpy(np.stack(sides, 1)), torch.from_numpy(same))


class NewTrials(NamedTuple):
    """Pairs of new recordings, whose speakers are unknown.

    Attributes:
        names: (T,) pairs of names, as in the list.
        pairs: (T, 2) int64 positions of the recordings among the new samples.
    """

    names: list[tuple[str, str]]
    pairs: Tensor


def read_new_trials(path: str | Path, numbers: Mapping[str, int], key: str, root: str) -> NewTrials:
    r"""Read a list of pairs to score, one ``enrol test`` per line; a label before them is skipped.

    Args:
        path: Path of the list.
        numbers: Position of each new recording, by its name.
        key: Argument that names the list, for messages.
        root: Folder of the recordings, for messages.

    Raises:
        InputError: If a line is no pair, a recording is missing, or there is no pair.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile("w", suffix=".txt") as file:
        ...     _ = file.write("a.wav b.wav\n1 a.wav c.wav\n")
        ...     file.flush()
        ...     read_new_trials(file.name, {"a.wav": 0, "b.wav": 1, "c.wav": 2}, "trials", "new").pairs.tolist()
        [[0, 1], [0, 2]]
    """
    names: list[tuple[str, str]] = []
    for number, line in enumerate(_read_list(path, key, "'enrol test'").splitlines(), 1):
        words = line.split()
        if len(words) == 3 and words[0] in ("0", "1"):
            words = words[1:]
        if len(words) not in (0, 2):
            raise InputError(f"{key}: {path}, line {number}: found {line.strip()[:80]!r}; expected 'enrol test'")
        if words:
            names.append((words[0], words[1]))
    if not names:
        raise InputError(f"{key}: {path} is empty; expected 'enrol test' in each line")
    if missing := sorted({name for pair in names for name in pair if name not in numbers}):
        raise InputError(_missing(path, missing, numbers, key, root))
    return NewTrials(names, torch.tensor([[numbers[one], numbers[other]] for one, other in names]))


def _read_list(path: str | Path, key: str, expected: str) -> str:
    if not Path(path).is_file():
        raise InputError(f"{key}: found no file {path}")
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{key}: {path} is no text file; expected lines {expected}") from error


def _missing(path: str | Path, names: list[str], numbers: Mapping[str, int], key: str, root: str) -> str:
    return (
        f"{key}: {path} names {len(names)} file(s) that are not under {root}: {shorten(names)}; names are relative "
        f"to that folder, as in {next(iter(numbers), 'nothing')}"
    )


def _check_pairs(
    pairs: np.ndarray, same: np.ndarray, where: str, line: Callable[[int], str], tell: Callable[[str], object]
) -> None:
    """Reject pairs with both labels; warn about a recording beside itself, and about pairs that count twice."""
    ordered = np.sort(pairs, 1)
    order = np.lexsort((ordered[:, 1], ordered[:, 0]))
    again = np.append(False, (ordered[order][1:] == ordered[order][:-1]).all(1))
    labels = same[order]
    both = np.flatnonzero(again[1:] & (labels[1:] != labels[:-1]))
    if len(both):
        raise InputError(
            f"{where}, {len(both)} pair(s) have the label 1 and the label 0, as {line(int(order[both[0]]))!r}; correct "
            "one of them"
        )
    if alone := np.flatnonzero(pairs[:, 0] == pairs[:, 1]).tolist():
        tell(f"{where}: {len(alone)} trial(s) compare a recording with itself, as {line(alone[0])!r}; remove them")
    if count := int(again.sum()):
        tell(
            f"{where}: {count} of {len(pairs)} trials repeat a pair, in either order, as "
            f"{line(int(order[again.argmax()]))!r}; each one counts in the error rates"
        )


def _malformed(text: str) -> str:
    """Describe the first line that is no trial."""
    lines = ((number, line.strip(), line.split()) for number, line in enumerate(text.splitlines(), 1))
    return next(
        f"line {number}: found {line[:80]!r}"
        for number, line, words in lines
        if words and (len(words) != 3 or words[0] not in ("0", "1"))
    )


def draw_trials(
    index: np.ndarray, speakers: np.ndarray, recordings: np.ndarray, max_trials: int, seed: int, split: str = "val"
) -> Trials:
    """Return all pairs of some samples, or draw ``max_trials`` of them.

    Two samples of one recording share the session and are an easy pair: they are paired only if their speaker has
    no other recording. Where there are too many pairs, half of the draws are same-speaker pairs (all of them, if they
    are fewer), and each kind is drawn uniformly: error rates are fractions of each kind and do not depend on the
    balance (our choice).

    Args:
        index: (N,) sample indices.
        speakers: (N,) speaker of each sample.
        recordings: (N,) recording of each sample.
        max_trials: Maximum number of trials.
        seed: Seed of the draw.
        split: Name of the split, for messages.

    Raises:
        InputError: If there is no same-speaker or no different-speaker pair.

    Example:
        >>> trials = draw_trials(np.arange(4), np.array([0, 0, 1, 1]), np.arange(4), max_trials=10, seed=0)
        >>> trials.pairs[trials.same].tolist(), len(trials.same)
        ([[0, 1], [2, 3]], 6)
    """
    order = np.lexsort((index, recordings, speakers))
    speakers, recordings = speakers[order], recordings[order]
    row = np.arange(len(order))
    first = np.searchsorted(speakers, speakers)
    several = recordings[first] != recordings[np.searchsorted(speakers, speakers, "right") - 1]
    begin = _first_of_recording(speakers, recordings)
    # The partners of a row are a run of earlier rows: of its own speaker, and of all speakers before that one.
    own, others = np.where(several, begin, row) - first, first
    if not own.sum():
        raise InputError(
            f"no two recordings of the {split} split are of one speaker, so there is no same-speaker trial; set "
            f"{split}_segments: 2 to cut each recording into parts (which underestimates the error), or add "
            "recordings of each speaker"
        )
    if not others.sum():
        raise InputError(f"the {split} split has one speaker; verification needs two: raise {split}_speakers")
    generator = np.random.default_rng(seed)
    count = min(int(own.sum()), max(max_trials // 2, max_trials - int(others.sum())))
    later, earlier = _draw_pairs(own, count, generator)
    target = np.stack([first[later] + earlier, later], 1)
    other = np.stack(_draw_pairs(others, min(int(others.sum()), max_trials - count), generator)[::-1], 1)
    pairs = index[order][np.concatenate([target, other])]
    same = np.repeat([True, False], [len(target), len(other)])
    return Trials(torch.from_numpy(pairs.astype(np.int64)), torch.from_numpy(same))


def _first_of_recording(speakers: np.ndarray, recordings: np.ndarray) -> np.ndarray:
    """Return the first row of each row's recording; rows are sorted by speaker and recording."""
    new = np.ones(len(speakers), bool)
    new[1:] = (speakers[1:] != speakers[:-1]) | (recordings[1:] != recordings[:-1])
    return np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))


def _draw_pairs(partners: np.ndarray, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``count`` different pairs (row, number of its partner), where row r has ``partners[r]`` partners."""
    ends = partners.cumsum()
    total = int(ends[-1])
    codes = np.arange(total) if count == total else np.sort(generator.choice(total, count, replace=False))
    rows = np.searchsorted(ends, codes, "right")
    return rows, codes - (ends[rows] - partners[rows])
