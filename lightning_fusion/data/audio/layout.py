"""Recordings in folder trees: where they lie, and what their paths say of them."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.data.audio.files import find_recordings
from lightning_fusion.data.patterns import compile_pattern
from lightning_fusion.errors import InputError, shorten

TREES = ("train", "val", "test")
"""What the trees of recordings are for, in the order of their numbers."""
SPEAKER_FOLDERS = "{speaker}/**"
"""The pattern of trees with a folder per speaker, as VoxCeleb and LibriSpeech have it."""
_SPLIT_NAMES = {"train", "dev", "val", "valid", "validation", "test", "eval"}


@dataclass
class AudioLayout:
    """All N recordings of a source; a recording's place is its sample number.

    Attributes:
        names: Of the recordings; of files, the paths relative to their tree's root.
        fields: What is known of each recording: under ``speaker`` who speaks, under ``label`` what is said, and
            other facts; a list of N texts each.
        tree: (N,) int64, 1 and 2 for recordings that are only for validation or only for testing, 0 for all others,
            of which splits without such recordings have their share; all 0 where None.
        roots: Where the files of each tree lie.
        speakers: Names of the speakers, sorted.
        speaker: (N,) int64, who speaks.
    """

    names: list[str]
    fields: dict[str, list[str]]
    tree: np.ndarray | None = None
    roots: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.speakers = sorted(set(self.fields["speaker"]))
        number = {name: position for position, name in enumerate(self.speakers)}
        self.speaker = np.array([number[name] for name in self.fields["speaker"]], np.int64)
        self._tree = np.zeros(len(self.names), np.int64) if self.tree is None else self.tree

    def paths(self, files: np.ndarray | None = None) -> list[str]:
        """Paths of some files; of all where None."""
        files = np.arange(len(self.names)) if files is None else files
        return [os.path.join(self.roots[self._tree[file]], self.names[file]) for file in files.tolist()]

    def tree_of(self, split: str) -> int:
        """Number of the tree that a split's recordings are taken from."""
        own = TREES.index(split)
        return own if (self._tree == own).any() else 0

    def files_of(self, tree: int) -> np.ndarray:
        """Numbers of the recordings of a tree."""
        return np.flatnonzero(self._tree == tree)

    def speakers_of(self, tree: int) -> np.ndarray:
        """Sorted numbers of the speakers of a tree."""
        return np.unique(self.speaker[self.files_of(tree)])


def check_files(pattern: str, needs: Iterable[str], memory_limit_gb: float) -> None:
    """Refuse a path pattern without some fields, or a limit that is none.

    Args:
        pattern: How paths are made.
        needs: Names of the fields.
        memory_limit_gb: Largest recordings that are kept in memory.

    Raises:
        InputError: Naming what is wrong.
    """
    if not memory_limit_gb >= 0:
        raise InputError(f"memory_limit_gb is {memory_limit_gb}; expected at least 0")
    fields = compile_pattern(pattern).groupindex
    for name in needs:
        if name not in fields:
            raise InputError(
                f"pattern {pattern} has no {{{name}}}: set pattern to say where it stands in a path, as in "
                "{label}_{speaker}_{utterance}.wav"
            )


def find_trees(root: str, val_root: str | None, test_root: str | None, pattern: str) -> AudioLayout:
    """Find the recordings under some folders, without opening a file.

    Args:
        root: Folder of the training recordings, and of all whose split has no folder of its own.
        val_root: Folder of the validation recordings, if they have their own.
        test_root: Folder of the test recordings, if they have their own.
        pattern: How paths relative to a root are made (:func:`~lightning_fusion.data.patterns.compile_pattern`).

    Raises:
        InputError: If a folder has no such recordings, or the folders of ``root`` are no speakers'.
    """
    roots = {"root": root, "val_root": val_root, "test_root": test_root}
    given = {number: (key, folder) for number, (key, folder) in enumerate(roots.items()) if folder is not None}
    trees = {number: find_recordings(folder, pattern, key) for number, (key, folder) in given.items()}
    found = [recording for tree in trees.values() for recording in tree]
    first = {recording.fields["speaker"] for recording in trees[0]}
    if pattern == SPEAKER_FOLDERS and {re.split("[-_ ]", name)[0].lower() for name in first} <= _SPLIT_NAMES:
        raise InputError(
            f"root: the folders of {root} name splits, not speakers ({shorten(sorted(first))}); set root to "
            "the one to train on, and val_root or test_root to the others"
        )
    if len(first) == 1:
        raise InputError(
            f"root: all recordings under {root} are of one speaker, {first.pop()} (as {found[0].name}); set "
            "root to the folder that holds the speakers' folders, or pattern to how paths name them"
        )
    layout = AudioLayout(
        [recording.name for recording in found],
        {name: [recording.fields[name] for recording in found] for name in found[0].fields},
        np.repeat(list(trees), [len(tree) for tree in trees.values()]),
        {number: os.path.abspath(folder) for number, (_, folder) in given.items()},
    )
    folded = Counter(map(str.casefold, layout.speakers))
    if alike := [name for name in layout.speakers if folded[name.casefold()] > 1]:
        rank_zero_warn(f"speakers whose names differ only in case count as different people: {shorten(alike)}")
    return layout
