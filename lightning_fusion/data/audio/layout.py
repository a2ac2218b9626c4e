"""Recordings in folder trees: their paths, and the fields in them."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from lightning_fusion.data.audio.files import find_recordings
from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.names import LabelForms
from lightning_fusion.data.patterns import compile_pattern
from lightning_fusion.errors import InputError, shorten

TREES = ("train", "val", "test")
"""Purposes of the trees of recordings, in the order of their indices."""
SPEAKER_FOLDERS = "{speaker}/**"
"""Pattern of trees with a folder per speaker, such as VoxCeleb and LibriSpeech."""
_SPLIT_NAMES = {"train", "dev", "val", "valid", "validation", "test", "eval"}


@dataclass
class AudioLayout:
    """All N recordings of a source; the position of a recording is its sample index.

    Attributes:
        names: Names of the recordings; for files, paths relative to the root of their tree.
        fields: Fields of the recordings (``speaker``, ``label`` and others); a list of N texts each, in canonical form.
        tree: (N,) int64, 1 and 2 for recordings reserved for validation or testing, 0 for all others, from which splits
            without reserved recordings are drawn. ``None`` means all 0.
        roots: Root folder of each tree.
        speakers: Names of the speakers, sorted.
        speaker: (N,) int64, speaker index of each recording.
        merged: For each field, the written forms of values that were written in several ways.
    """

    names: list[str]
    fields: dict[str, list[str]]
    tree: np.ndarray | None = None
    roots: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        forms = {name: LabelForms() for name in self.fields}
        self.fields = {name: [forms[name](value) for value in values] for name, values in self.fields.items()}
        self.merged = {name: forms[name].merged for name in forms}
        self.speakers = sorted(set(self.fields["speaker"]))
        number = {name: position for position, name in enumerate(self.speakers)}
        self.speaker = np.array([number[name] for name in self.fields["speaker"]], np.int64)
        self._tree = np.zeros(len(self.names), np.int64) if self.tree is None else self.tree

    def paths(self, files: np.ndarray | None = None) -> list[str]:
        """Return the paths of some files. ``None`` (default) means all files."""
        files = np.arange(len(self.names)) if files is None else files
        return [os.path.join(self.roots[self._tree[file]], self.names[file]) for file in files.tolist()]

    def select(self, files: np.ndarray) -> "AudioLayout":
        """Return the layout of some recordings."""
        fields = {name: [values[file] for file in files.tolist()] for name, values in self.fields.items()}
        return AudioLayout([self.names[file] for file in files.tolist()], fields, self._tree[files], self.roots)

    def tree_of(self, split: str) -> int:
        """Return the index of the tree that contains the recordings of a split."""
        own = TREES.index(split)
        return own if (self._tree == own).any() else 0

    def files_of(self, tree: int) -> np.ndarray:
        """Return the indices of the recordings of a tree."""
        return np.flatnonzero(self._tree == tree)

    def speakers_of(self, tree: int) -> np.ndarray:
        """Return the sorted indices of the speakers of a tree."""
        return np.unique(self.speaker[self.files_of(tree)])


def check_files(pattern: str, needs: Iterable[str], memory_limit_gb: float) -> None:
    """Validate a path pattern and a memory limit.

    Args:
        pattern: Path pattern.
        needs: Names of the required fields.
        memory_limit_gb: Memory limit for decoded recordings.

    Raises:
        InputError: If the pattern lacks a required field, or the limit is negative.
    """
    if not memory_limit_gb >= 0:
        raise InputError(f"memory_limit_gb is {memory_limit_gb}; expected at least 0")
    fields = compile_pattern(pattern).groupindex
    for name in needs:
        if name not in fields:
            raise InputError(
                f"pattern {pattern} has no {{{name}}}: set pattern with this field in its place, as in "
                "{label}_{speaker}_{utterance}.wav"
            )


def find_trees(
    root: str, val_root: str | None, test_root: str | None, pattern: str, messages: MessageLog | None = None
) -> AudioLayout:
    """Find the recordings under some folders, without opening a file.

    Args:
        root: Folder of the training recordings, and of all splits without a folder of their own.
        val_root: Folder of the validation recordings, if separate.
        test_root: Folder of the test recordings, if separate.
        pattern: Pattern of paths relative to a root (:func:`~lightning_fusion.data.patterns.compile_pattern`).
        messages: Log of what is left out; a new one by default.

    Raises:
        InputError: If a folder has no such recordings, or the folders of ``root`` do not name speakers.
    """
    roots = {"root": root, "val_root": val_root, "test_root": test_root}
    given = {number: (key, folder) for number, (key, folder) in enumerate(roots.items()) if folder is not None}
    trees = {number: find_recordings(folder, pattern, key, messages) for number, (key, folder) in given.items()}
    found = [recording for tree in trees.values() for recording in tree]
    first = {recording.fields["speaker"] for recording in trees[0]}
    if pattern == SPEAKER_FOLDERS and {re.split("[-_ ]", name)[0].lower() for name in first} <= _SPLIT_NAMES:
        raise InputError(
            f"root: the folders of {root} name splits, not speakers ({shorten(sorted(first))}); set root to "
            "the one to train on, and val_root or test_root to the others"
        )
    if len(first) == 1 and pattern == SPEAKER_FOLDERS:  # another pattern may be of one person's recordings
        raise InputError(
            f"root: all recordings under {root} are of one speaker, {first.pop()} (as {found[0].name}); set "
            "root to the parent of the speakers' folders, or pattern to match the paths"
        )
    return AudioLayout(
        [recording.name for recording in found],
        {name: [recording.fields[name] for recording in found] for name in found[0].fields},
        np.repeat(list(trees), [len(tree) for tree in trees.values()]),
        {number: os.path.abspath(folder) for number, (_, folder) in given.items()},
    )
