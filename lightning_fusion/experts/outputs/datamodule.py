"""Stored outputs as batches for a fuser."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_fusion.data.samplers import SlicedDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.store import ExpertOutputs, OutputsSplit


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
    def __init__(self, split: OutputsSplit, arrays: list[np.ndarray], memory_limit: float) -> None:
        self.arrays = arrays
        in_memory = sum(values.nbytes for values in arrays) <= memory_limit
        self.outputs = torch.from_numpy(np.concatenate(arrays, axis=1)) if in_memory else None
        self.target, self.domain, self.index = (
            torch.from_numpy(np.array(values)) for values in (split.target, split.domain, split.index)
        )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor) -> OutputsBatch:
        if self.outputs is not None:
            outputs = self.outputs[rows]
        else:
            outputs = torch.from_numpy(np.concatenate([values[rows.numpy()] for values in self.arrays], axis=1))
        return OutputsBatch(outputs, self.target[rows], self.domain[rows], self.index[rows])


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

    Raises:
        InputError: If there is no valid store, it lacks representations, or ``batch_size`` is below 1.

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
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; expected at least 1")
        named = str(getattr(store, "path", store))
        self.save_hyperparameters(
            {"batch_size": batch_size, "seed": seed, "store": named, "representations": representations}
        )
        self.representations, self.verify = representations, verify
        self.batch_size, self.seed, self.memory_limit_gb = batch_size, seed, memory_limit_gb
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
        """Size of each expert's representation, in order; empty where they are not read.

        Raises:
            InputError: If the store has none.
        """
        if not self.representations:
            return {}
        part = next(iter(self.outputs.splits.values()))
        part.read(representations=True)
        return {name: part.representations[name].shape[1] for name in self.outputs.names}

    def arrays(self, split: str) -> list[np.ndarray]:
        """Return the arrays of a split that are concatenated in a batch: (N, ...) float32 each."""
        return self.outputs[split].read(self.representations)

    def rows(self, split: str) -> Dataset[OutputsBatch]:
        """Return the data set of one split, which takes index tensors."""
        if split not in self._rows:
            self._rows[split] = _OutputsRows(self.outputs[split], self.arrays(split), self.memory_limit_gb * 1e9)
        return self._rows[split]
