"""Answers that earlier runs have stored: in the store of a folder, and in journals of interrupted runs."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.identity import VERSION_HINT
from lightning_fusion.experts.outputs.journal import Block, Journal
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.experts.pool import ExpertPool, named_fingerprint
from lightning_fusion.store import release

_CHUNK_ROWS = 16_384
_IDS_AT_ONCE = 1 << 20


class KnownAnswers:
    """Which answers are stored already, by split, expert and sample index.

    Args:
        ids: (N,) int64 sample indices, sorted, by split.
        known: (K, N) bool by split.
    """

    def __init__(self, ids: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> None:
        self._ids, self._known = ids, known

    def lacking(self, split: str, expert: int, index: np.ndarray) -> np.ndarray | None:
        """Return the positions of samples that an expert has not answered; None where that is all of them.

        Args:
            split: Name of the split.
            expert: Number of the expert in the pool.
            index: (B,) sample indices.

        Example:
            >>> known = KnownAnswers({"test": np.array([2, 5])}, {"test": np.array([[True, False]])})
            >>> known.lacking("test", 0, np.array([5, 2, 7])).tolist()
            [0, 2]
        """
        ids = self._ids.get(split)
        if ids is None or not len(ids):
            return None
        place = np.searchsorted(ids, index).clip(max=len(ids) - 1)
        found = (ids[place] == index) & self._known[split][expert, place]
        return np.flatnonzero(~found) if found.any() else None

    def complete(self, split: str, index: np.ndarray, experts: int) -> bool:
        """Return whether all experts have answered all of some samples.

        Args:
            split: Name of the split.
            index: (B,) sample indices.
            experts: Number of experts.
        """
        lacking = (self.lacking(split, expert, index) for expert in range(experts))
        return not len(index) or not any(found is None or len(found) for found in lacking)

    def count(self, expert: int, splits: Collection[str] | None = None) -> int:
        """Return the number of answers of an expert, optionally in some splits."""
        return sum(
            int(known[expert].sum()) for split, known in self._known.items() if splits is None or split in splits
        )


@dataclass
class Earlier:
    """What earlier runs have stored of the outputs of a pool.

    Attributes:
        pool: The pool.
        store: A store of the same data, if any.
        journals: Journals of interrupted runs on the same data, in order.
        metadata: Metadata of the experts of the pool by name.
    """

    pool: ExpertPool
    store: ExpertOutputs | None
    journals: list[Journal]
    metadata: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        known = {} if self.store is None else self.store.experts
        former = {} if self.store is None else self.store.former
        stored = {name: entry["fingerprint"] for name, entry in known.items()}
        self.names = self._match(stored)
        """Name in the store of each expert that is in it."""
        kept = {key: entry["fingerprint"] for key, entry in former.items()}
        self.former = {
            name: next(key for key, print in kept.items() if print == self.metadata[name]["fingerprint"])
            for name in self.pool.names
            if name not in self.names and self._identified(name) and self.metadata[name]["fingerprint"] in kept.values()
        }
        """Key of each expert that was in the store before."""
        self._check_not_renamed(stored)

    def _identified(self, name: str) -> bool:
        return self.pool.members[name].unknown_state() is None

    def _match(self, known: Mapping[str, str | None]) -> dict[str, str]:
        """Return the name among known experts of each expert of the pool: its own, or one of its fingerprint."""
        names = {name: name for name in self.pool.names if name in known}
        renamed = {print: name for name, print in known.items() if name not in self.metadata and print is not None}
        for name, entry in self.metadata.items():
            if name not in names and entry["fingerprint"] in renamed and self._identified(name):
                names[name] = renamed[entry["fingerprint"]]
        return names

    def _check_not_renamed(self, known: Mapping[str, str | None]) -> None:
        """Raise InputError if a function with a version may be one that is stored under a name that the pool lacks."""
        new = {name: self.pool.members[name] for name in self.pool.names if name not in self.names | self.former}
        left = {name: print for name, print in known.items() if name not in self.metadata}
        for name, other in itertools.product(new, left):
            if new[name].identified_by_version and named_fingerprint(new[name], other) == left[other]:
                raise InputError(
                    f"experts: {name} has the code and the version of {other}, whose answers are stored; name it "
                    f"{other} if it is the same expert, or give it another version (version='v2') to query it"
                )

    # ------------------------------------------------------------------ checks

    def check(self, folder: Path, prints: Mapping[str, str], domains: Sequence[str], precision: str) -> None:
        """Check that what is stored is of the pool and the data.

        Args:
            folder: Folder of the store.
            prints: Fingerprint of the data of each requested split.
            domains: Domains of the data.
            precision: Precision of the Trainer.

        Raises:
            InputError: If it is not; the message has both fingerprints.
        """
        if self.store is not None:
            self.store.check_members(self.pool, self.metadata)
            self.store.check_data({split: print for split, print in prints.items() if split in self.store.splits})
            if self.store.domains != list(domains):  # the fingerprint contains the columns alone
                raise InputError(
                    f"output: the store {folder} has the domains {shorten(self.store.domains)}; the data have "
                    f"{shorten(domains)}: collect again with overwrite (--overwrite=true)"
                )
            self.store.check_metadata({name: self.metadata[name] for name in self.names if self.names[name] == name})
            others = [split for split in self.store.splits if split not in prints]
            fresh = [name for name in self.pool.names if name not in self.names]
            if others and fresh:
                raise InputError(
                    f"splits: the store {folder} has the split(s) {shorten(others)} as well, and no outputs of expert "
                    f"{shorten(fresh)} on them; give all of them in splits, or name another folder (output)"
                )
        for journal in self.journals:
            self._check_journal(journal, folder, prints, precision)
        answered = {name for name, own in self.names.items() if own == name}
        answered |= {name for journal in self.journals for _, name in journal.answers}
        for name in self.pool.names:
            reason = self.pool.members[name].unknown_state() if name in answered else None
            if reason is not None:
                raise InputError(
                    f"output: {folder} contains outputs of expert {name}, and whether it has changed since is "
                    f"unknown: {reason}; set the expert's version, or collect again with overwrite (--overwrite=true)"
                )

    def _check_journal(self, journal: Journal, folder: Path, prints: Mapping[str, str], precision: str) -> None:
        where = f"output: {folder} contains answers that an interrupted run received"
        for split, name in journal.answers:
            entry = self.metadata.get(name)
            if entry is not None and entry["fingerprint"] != journal.experts[name]:
                hint = "" if isinstance(self.pool.members[name].network, nn.Module) else f"; {VERSION_HINT}"
                raise InputError(
                    f"{where} from another expert {name}: its fingerprint is {journal.experts[name]}, the pool's "
                    f"{entry['fingerprint']}; give the changed expert another name to query it alone, or collect all "
                    f"again with overwrite (--overwrite=true){hint}"
                )
            own = None if entry is None else {len(self.pool.members[name].classes)}
            if own not in (None, journal.widths(split, name)):
                raise InputError(
                    f"{where} with another number of classes of expert {name}: found "
                    f"{shorten(sorted(journal.widths(split, name)))}, expected {shorten(own)}; collect again with "
                    "overwrite (--overwrite=true)"
                )
            if split in prints and journal.data[split] != prints[split]:
                raise InputError(
                    f"{where} on other data: the fingerprint of {split} is {journal.data[split]} there and "
                    f"{prints[split]} here; collect again with overwrite (--overwrite=true)"
                )
            if journal.precision != precision:
                raise InputError(
                    f"trainer.precision: found {precision}; {folder} contains answers that an interrupted run received "
                    f"with {journal.precision}: set it to that, or collect again with overwrite (--overwrite=true)"
                )

    # ----------------------------------------------------------------- answers

    def blocks(self, split: str, name: str, journals: Sequence[Journal] | None = None) -> Iterator[Block]:
        """Yield the stored answers of an expert of the pool, later ones last.

        Args:
            split: Name of the split.
            name: Name of the expert.
            journals: Journals to read in place of :attr:`journals`.
        """
        stored = self.stored(split, name)
        if stored is not None:
            assert self.store is not None
            values, representations = stored
            index = self.store.splits[split].index
            for start in range(0, len(index), _CHUNK_ROWS):
                rows = slice(start, start + _CHUNK_ROWS)
                yield index[rows], values[rows], None if representations is None else representations[rows]
                release(index, values, *([] if representations is None else [representations]))
        for journal in self.journals if journals is None else journals:
            if (own := self.name_in(journal, name)) is not None:
                yield from journal.read(split, own)

    def name_in(self, journal: Journal, name: str) -> str | None:
        """Return the name in a journal of an expert of the pool; None if the journal has no such expert."""
        return self._match(journal.experts).get(name)

    def reads_all(self, journal: Journal) -> bool:
        """Return whether all experts of a journal with answers are in the pool."""
        used = self._match(journal.experts).values()
        return all(name in used for _, name in journal.answers)

    def stored(self, split: str, name: str) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Return the answers and representations of an expert in the store; None where there are none."""
        if self.store is None or split not in self.store.splits:
            return None
        part = self.store.splits[split]
        if name in self.names:
            return part.probabilities[self.names[name]], part.representations.get(self.names[name])
        key = self.former.get(name)
        return None if key is None or key not in part.former else part.former[key]

    def known(self, splits: Sequence[str], keep_representations: bool, retry_missing: bool) -> KnownAnswers:
        """Return which answers need no query.

        Args:
            splits: Names of the splits.
            keep_representations: Answers without a representation are queried again.
            retry_missing: Missing answers are queried again.
        """
        ids = {split: found for split in splits if len(found := self._ids(split))}
        known = {split: np.zeros((len(self.pool.names), len(found)), bool) for split, found in ids.items()}
        for split, found in ids.items():
            for number, name in enumerate(self.pool.names):
                stored = self.stored(split, name)
                if stored is not None and not retry_missing and (stored[1] is not None or not keep_representations):
                    assert self.store is not None
                    known[split][number] = np.isin(found, self.store.splits[split].index)
                    continue
                for index, values, representations in self.blocks(split, name):
                    valid = np.full(len(index), not keep_representations or representations is not None)
                    if retry_missing:
                        valid &= ~np.isnan(values).any(1)
                    place = np.searchsorted(found, index).clip(max=len(found) - 1)
                    known[split][number, place[valid & (found[place] == index)]] = True
        return KnownAnswers(ids, known)

    def _ids(self, split: str) -> np.ndarray:
        """Return the (N,) indices of the samples with stored answers, sorted."""
        found = np.empty(0, np.int64)
        if self.store is not None and split in self.store.splits:
            found = np.sort(self.store.splits[split].index)
        waiting: list[np.ndarray] = []
        for journal in self.journals:
            for index, _, _ in journal.read_samples(split):
                waiting.append(index)
                if sum(map(len, waiting)) > _IDS_AT_ONCE:
                    found, waiting = np.unique(np.concatenate([found, *waiting])), []
        return np.unique(np.concatenate([found, *waiting]))

    def describe(self, known: KnownAnswers, total: int | None, splits: Sequence[str]) -> str:
        """Say how many answers need no query; empty where that is none.

        Args:
            known: The answers.
            total: Number of samples of these splits; None where it is unknown.
            splits: Names of the splits.
        """
        groups: dict[int, list[str]] = {}
        for number, name in enumerate(self.pool.names):
            groups.setdefault(known.count(number, splits), []).append(name)
        of = "" if total is None else f"of {total} "
        parts = [
            f"{count} {of}answers of {'expert' if len(names) == 1 else 'each of the experts'} {shorten(names)}"
            for count, names in groups.items()
            if count
        ]
        return f"{'; '.join(parts)} were stored by an earlier run" if parts else ""
