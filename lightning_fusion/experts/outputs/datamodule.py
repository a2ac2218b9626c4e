"""Stored outputs as batches for a fuser."""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_fusion.data.rows import Origins
from lightning_fusion.data.samplers import SlicedDataModule
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.seen import check_unseen
from lightning_fusion.experts.outputs.split import OutputsSplit
from lightning_fusion.experts.outputs.store import ExpertOutputs


class OutputsBatch(NamedTuple):
    """One batch of stored outputs.

    Attributes:
        outputs: (B, sum of C_k) float32 probabilities, concatenated in the order of experts; then, with
            ``representations``, the representations of all experts, (B, sum of D_k). Missing answers are NaN.
            Subclasses read other arrays.
        target: (B,) int64.
        domain: (B, D) bool.
        index: (B,) int64.
    """

    outputs: Tensor
    target: Tensor
    domain: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which is not needed here


class _OutputsRows(Dataset[OutputsBatch]):
    def __init__(
        self, split: OutputsSplit, arrays: list[np.ndarray], memory_limit: float, some: np.ndarray | None = None
    ) -> None:
        self.arrays = arrays
        in_memory = sum(values.nbytes for values in arrays) <= memory_limit
        self.outputs = torch.from_numpy(np.concatenate(arrays, axis=1)) if in_memory else None
        self.target, self.domain, self.index = (
            torch.from_numpy(np.array(values)) for values in (split.target, split.domain, split.index)
        )
        self.some = None if some is None else torch.from_numpy(some)

    def __len__(self) -> int:
        return len(self.index if self.some is None else self.some)

    def __getitem__(self, rows: Tensor) -> OutputsBatch:
        rows = rows if self.some is None else self.some[rows]
        if self.outputs is not None:
            outputs = self.outputs[rows]
        else:
            outputs = torch.from_numpy(np.concatenate([values[rows.numpy()] for values in self.arrays], axis=1))
        return OutputsBatch(outputs, self.target[rows], self.domain[rows], self.index[rows])


def _positions(index: Tensor, parts: list[np.ndarray]) -> np.ndarray | None:
    """Return the (B,) positions of sample indices in concatenated ones; ``None`` if one is missing."""
    known = np.concatenate([np.empty(0, np.int64), *parts])
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], index.numpy()).clip(max=max(len(known) - 1, 0))
    if not len(known) or (known[order][place] != index.numpy()).any():
        return None
    result: np.ndarray = order[place]
    return result


class OutputsDataModule(SlicedDataModule):
    """Data module of stored outputs, for training a fuser without running experts.

    A subclass that reads other arrays of the store overrides :meth:`arrays` and :attr:`representation_dims`.

    Args:
        store: Folder of a store, or an :class:`ExpertOutputs`.
        batch_size: Samples per batch and process.
        seed: Seed of the order of the training samples.
        memory_limit_gb: A split larger than this stays on disk; its batches are read from the memory map.
        representations: Read the experts' representations as well, if ``collect`` stored them.
        verify: Compare the arrays of a folder with their digests, which reads all bytes once.
        train_split: Split of the store that a fuser trains on: ``train``, or ``val`` if experts were trained on
            ``train``. Then a part of ``val`` is held out for validation.
        val_fraction: With ``train_split: val``, the fraction of its samples of each class that is held out.
        allow_seen: Train a fuser on samples most of which an expert was trained on, with a warning.

    Raises:
        InputError: If there is no valid store, it lacks representations, or an argument is out of range; in ``fit``, if
            an expert was trained on most of the training samples and ``allow_seen`` is not set.

    Example:
        >>> outputs = ExpertOutputs.from_arrays(
        ...     {"train": {"probabilities": {"a": [[0.9, 0.1]] * 3}, "target": [0, 0, 1]}}, {"a": ["cat", "dog"]}
        ... )
        >>> next(iter(OutputsDataModule(outputs, batch_size=2).train_dataloader())).outputs.shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        store: str | ExpertOutputs,
        batch_size: int = 128,
        seed: int = 0,
        memory_limit_gb: float = 2.0,
        representations: bool = False,
        verify: bool = True,
        train_split: Literal["train", "val"] = "train",
        val_fraction: float = 0.2,
        allow_seen: bool = False,
    ) -> None:
        super().__init__()
        if train_split not in ("train", "val") or not 0 < val_fraction < 1:
            raise InputError(
                f"train_split is {train_split!r}, val_fraction {val_fraction}; expected train or val, and 0 to 1"
            )
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; expected at least 1")
        named = str(getattr(store, "path", store))
        self.save_hyperparameters(
            {
                "batch_size": batch_size,
                "seed": seed,
                "store": named,
                "representations": representations,
                "train_split": train_split,
                "val_fraction": val_fraction,
                "allow_seen": allow_seen,
            },
            logger=False,  # Lightning raises where it would log a module's argument of the same name beside it
        )
        self.representations, self.verify = representations, verify
        if not memory_limit_gb >= 0:
            raise InputError(f"memory_limit_gb is {memory_limit_gb}; expected a number >= 0")
        self.batch_size, self.seed, self.memory_limit_gb = batch_size, seed, memory_limit_gb
        self.train_split, self.val_fraction, self.allow_seen = train_split, val_fraction, allow_seen
        self._given = store
        self._opened: ExpertOutputs | None = None
        self._rows: dict[str, _OutputsRows] = {}

    @property
    def outputs(self) -> ExpertOutputs:
        """The store, opened on first access."""
        if self._opened is None:
            given = self._given
            self._opened = given if isinstance(given, ExpertOutputs) else ExpertOutputs.open(given, self.verify)
        return self._opened

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the task."""
        return self.outputs.classes

    @property
    def domains(self) -> list[str]:
        """Names of the domains."""
        return self.outputs.domains

    @property
    def expert_classes(self) -> dict[str, list[str]]:
        """Classes of each expert, in the order of its outputs."""
        return self.outputs.expert_classes

    @property
    def expert_domains(self) -> dict[str, list[str]]:
        """Domains that each expert was trained on."""
        return self.outputs.expert_domains

    @property
    def representation_dims(self) -> dict[str, int]:
        """Size of each expert's representation, in order; empty if they are not read.

        Raises:
            InputError: If the store has none.
        """
        if not self.representations:
            return {}
        part = next(iter(self.outputs.splits.values()))
        part.read(representations=True)
        return {name: part.representations[name].shape[1] for name in self.outputs.names}

    def origins(self, index: Tensor) -> Origins | None:
        """Return file and line, or file and time, of samples; ``None`` if the store lacks them.

        Args:
            index: (B,) int64 sample indices.
        """
        parts = [part for part in self.outputs.splits.values() if part.origins is not None]
        where = _positions(index, [part.index for part in parts])
        if where is None:
            return None
        known = [part.origins for part in parts if part.origins is not None]
        starts = np.cumsum([0, *(len(each.files) for each in known)])
        file = np.concatenate([start + each.file for start, each in zip(starts, known, strict=False)])[where]
        position = [each.position for each in known if each.position is not None]
        files = [name for each in known for name in each.files]
        return Origins(files, file, np.concatenate(position)[where] if position else None, known[0].unit)

    def notes(self, index: Tensor) -> list[str]:
        """Return what the predictions of samples should be read with; an empty text if that is nothing.

        Args:
            index: (B,) int64 sample indices.
        """
        parts = [part for part in self.outputs.splits.values() if part.notes is not None]
        where = _positions(index, [part.index for part in parts])
        notes = [note for part in parts for note in part.notes or ()]
        return [""] * len(index) if where is None else [notes[row] for row in where.tolist()]

    def arrays(self, split: str) -> list[np.ndarray]:
        """Return the arrays of a split that are concatenated in a batch: (N, ...) float32 each."""
        return self.outputs[split].read(self.representations)

    def setup(self, stage: str) -> None:
        """Check that experts were not trained on the training samples of a fuser."""
        part = self.outputs.splits.get(self.train_split)
        if stage == "fit" and part is not None and part.seen is not None:
            remedy = (
                "collect with role: fuser (RoleDataModule gives it to any data), set train_split: val if no expert was "
                "trained on val, or allow_seen: true"
            )
            check_unseen(part.seen, self.outputs.names, self.train_split, self.allow_seen, f"{remedy} (data)")

    def rows(self, split: str) -> Dataset[OutputsBatch]:
        """Return the data set of one split, which takes index tensors."""
        if split not in self._rows:
            source, some = split, None
            if self.train_split == "val" and split != "test":
                source = "val"
                both = stratified_split(np.asarray(self.outputs["val"].target), self.val_fraction, self.seed)
                some = both[0 if split == "train" else 1]
            limit = self.memory_limit_gb * 1e9
            self._rows[split] = _OutputsRows(self.outputs[source], self.arrays(source), limit, some)
        return self._rows[split]
