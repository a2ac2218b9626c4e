"""Predictions of several models, recorded in CSV files, as outputs of experts."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_fusion.data.names import as_labels, canonical_label
from lightning_fusion.data.rows import Origins
from lightning_fusion.data.splits import stratified_sessions
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.adapters.recorded import RecordedFile, RecordedTable
from lightning_fusion.experts.outputs.divided import select_rows
from lightning_fusion.experts.outputs.store import ExpertOutputs

_SPLITS = ("train", "val", "test")


@dataclass
class RecordedPredictions:
    """Predictions that several models made for the same samples, one CSV file per model, and the labels.

    Each file has the column ``file`` (and ``line``, ``row`` or ``start_s`` where a file has several samples), or
    ``row`` alone, and a column of probabilities per class. A sample without a row in a file has no answer of
    this model. Where the labels have no column ``split``, the samples of each class are drawn by the seed, or whole
    groups where there is a column ``group``; windows of one recording are a group.

    Args:
        files: CSV files of the models: a list, where the names of the files are those of the experts, or files by name.
        labels: CSV file with the same columns of names, the column ``label``, and optionally ``domain``, ``group`` and
            ``split`` (train, val, test). ``None`` (default) means the first of ``files``.
        expert_domains: Domains that each expert was trained on, by name; for rows of the table that know the domain.
        val_fraction: Fraction of the samples for validation.
        test_fraction: Fraction of the samples for testing.
    """

    files: list[str] | dict[str, str] | str
    labels: str | None = None
    expert_domains: dict[str, list[str]] | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.4

    def __post_init__(self) -> None:
        files = [self.files] if isinstance(self.files, str) else self.files  # one file of a command line
        named = files if isinstance(files, dict) else _by_stem(files)
        if len(named) < 2:
            raise InputError(f"predictions.files: found {shorten(named) or 'none'}; fusion needs two at least")
        if not (self.val_fraction > 0 and self.test_fraction > 0 and self.val_fraction + self.test_fraction < 1):
            raise InputError(
                f"predictions: val_fraction is {self.val_fraction}, test_fraction {self.test_fraction}; expected "
                "numbers above 0 whose sum is below 1"
            )
        self._named = named

    @property
    def names(self) -> list[str]:
        """Names of the experts."""
        return list(self._named)

    def outputs(self, seeds: list[int]) -> dict[int, ExpertOutputs]:
        """Return the outputs of all splits, by seed.

        Args:
            seeds: Seeds of the draws.

        Raises:
            InputError: If a file cannot be read, or lacks a column, a label or a split.
        """
        tables = {name: RecordedTable(path) for name, path in self._named.items()}
        source = self.labels or next(iter(self._named.values()))
        samples = RecordedFile(source, "predictions.labels")
        if "label" not in samples.columns:
            raise InputError(
                f"predictions.labels: {source} has the columns {shorten(samples.columns, 20)}; expected label, the "
                "class of each sample" + ("" if self.labels else ", or a file with labels in predictions.labels")
            )
        keys, _, cells = samples.read(texts=("label", "domain", "group", "split"))
        labels = as_labels(cells["label"], "predictions.labels")
        classes = sorted({label for table in tables.values() for label in table.classes})
        if unknown := sorted(set(labels) - set(classes)):
            raise InputError(
                f"predictions.labels: {source} has the labels {shorten(map(repr, unknown))}, for which no file has a "
                f"column; they have {shorten(classes, 20)}"
            )
        if twice := [" ".join(map(str, key)).strip() for key, count in Counter(keys).items() if count > 1]:
            raise InputError(
                f"predictions.labels: {source} has several rows for {shorten(map(repr, twice))}; expected one for each "
                "sample, named by file, line, row or start_s"
            )
        said = {name: table(keys).numpy() for name, table in tables.items()}
        if unanswered := [name for name, values in said.items() if np.isnan(values).any(1).all()]:
            raise InputError(
                f"predictions.files: {shorten(unanswered)} has no row for any sample of {source}; expected the same "
                f"names of files, such as {keys[0][0] or keys[0][1]!r}"
            )
        domains = [canonical_label(value) for value in cells.get("domain", [""] * len(labels))]
        names = sorted(set(domains) - {""})
        whole = {
            "probabilities": said,
            "target": labels,
            "domain": np.array([[own == name for name in names] for own in domains], bool),
            "missing": np.stack([np.isnan(values).any(1) for values in said.values()], 1),
        }
        expert_classes = {name: table.classes for name, table in tables.items()}
        made = ExpertOutputs.from_arrays({"all": whole}, expert_classes, classes, names, self.expert_domains)
        part = made["all"]
        files, unit = [file for file, _ in keys], samples.unit
        known = {file: number for number, file in enumerate(dict.fromkeys(files))}
        position = np.array([place for _, place in keys]) if unit else None
        part.origins = Origins(list(known), np.array([known[file] for file in files]), position, unit)
        groups = _groups(cells.get("group"), source) or (files if unit == "start_s" else None)
        listed = cells.get("split")
        return {
            seed: ExpertOutputs(
                made.classes,
                made.domains,
                made.experts,
                {split: select_rows(part, np.flatnonzero(drawn == number)) for number, split in enumerate(_SPLITS)},
                dict.fromkeys(_SPLITS, made.fingerprints["all"]),
            )
            for seed in seeds
            for drawn in [
                self._drawn(np.asarray(part.target), groups, len(classes), seed)
                if listed is None
                else _listed(listed, source)
            ]
        }

    def _drawn(self, target: np.ndarray, groups: list[Any] | None, classes: int, seed: int) -> np.ndarray:
        """Return the (N,) split of each sample, drawn by whole groups."""
        if groups is None:
            groups = list(range(len(target)))
        _, group = np.unique([str(each) for each in groups], return_inverse=True)
        counts = np.zeros((group.max() + 1, classes))
        np.add.at(counts, (group, target), 1)
        result: np.ndarray = stratified_sessions(
            counts, np.zeros(len(counts)), self.val_fraction, self.test_fraction, seed
        )[group]
        return result


def _by_stem(files: list[str]) -> dict[str, str]:
    """Return files by their names without suffix."""
    stems = [Path(file).stem for file in files]
    if same := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(
            f"predictions.files: found several files named {shorten(same)}; give them by name, {{NAME: FILE, ...}}"
        )
    return dict(zip(stems, files, strict=True))


def _listed(splits: list[str], source: str) -> np.ndarray:
    """Return the (N,) split of each sample from the column of the labels."""
    found = [canonical_label(each).lower() for each in splits]
    if unknown := sorted(set(found) - set(_SPLITS)):
        raise InputError(
            f"predictions.labels: {source} has the splits {shorten(map(repr, unknown))}; expected train, val and test"
        )
    return np.array([_SPLITS.index(each) for each in found])


def _groups(groups: list[str] | None, source: str) -> list[str] | None:
    """Return the groups from the column of the labels; samples without one would be a group."""
    if without := [row for row, group in enumerate(groups or (), 2) if not group]:
        raise InputError(f"predictions.labels: {source} has no group in row(s) {shorten(without)}; fill them in")
    return groups
