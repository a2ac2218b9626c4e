"""Data module of tensors in memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_fusion.data.arrays import as_numbers
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.duplicates import tensors_message
from lightning_fusion.data.names import as_labels, canonical_label
from lightning_fusion.data.row_labels import check_row_labels
from lightning_fusion.data.rows import RowDataset, warn_single_class
from lightning_fusion.data.targets import as_targets, check_meaning
from lightning_fusion.errors import EmptySplitError, InputError, shorten
from lightning_fusion.files import digest, row_digests


class TensorDataModule(FusionDataModule):
    """Data module of tensors in memory.

    Args:
        tensors: For each split (inputs (N, ...), targets (N,)) or (inputs, targets, domains (N, D) bool). Inputs may
            be a list of texts or other samples, of which a batch has a list, or any object that has a length and takes
            index tensors.
        classes: Names of the classes, in the order of the targets.
        domains: Names of the D domains.
        batch_size: Samples per batch and process.
        seed: Seed of the order.

    Raises:
        InputError: If a split is no tuple, or its tensors differ in length.

    Example:
        >>> data = TensorDataModule({"train": (torch.rand(5, 3), torch.zeros(5, dtype=torch.long))}, classes=["cat"])
        >>> len(next(iter(data.train_dataloader())).target)
        5
    """

    def __init__(
        self,
        tensors: Mapping[str, Sequence[Any]],
        classes: Sequence[str],
        domains: Sequence[str] = (),
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._configure(batch_size=batch_size, seed=seed)
        self._classes, self._domains = as_labels(classes, "classes"), as_labels(domains, "domains")
        self._rows = {}
        for split, parts in tensors.items():
            if not isinstance(parts, tuple | list):
                raise InputError(
                    f"split {split}: found {type(parts).__name__}; expected (inputs, targets[, domains]): for a loader "
                    "or data set of your own, give a LightningDataModule"
                )
        given = {split: parts[1] for split, parts in tensors.items() if len(parts) > 1}
        check_meaning({f"split {split}: targets": values for split, values in given.items()}, self._classes)
        offset = 0
        for split, parts in tensors.items():
            if len(parts) not in (2, 3) or len({len(part) for part in parts}) != 1:
                found = ", ".join(str(len(part)) for part in parts)
                raise InputError(f"split {split}: expected (inputs, targets[, domains]) of one length; found {found}")
            check_row_labels(dict(zip(("inputs", "targets", "domains"), parts, strict=False)), f"split {split}")
            targets = torch.from_numpy(as_targets(parts[1], self._classes, f"split {split}: targets", unlabeled=True))
            count = len(targets)
            domain = torch.zeros(count, len(self._domains), dtype=torch.bool)
            if len(parts) == 3:
                domain = _as_domains(parts[2], self._domains, f"split {split}: domains")
            index = torch.arange(offset, offset + count)
            inputs = _as_inputs(parts[0], f"split {split}: inputs")
            self._rows[split] = RowDataset(inputs, targets, domain, torch.arange(count), index)
            warn_single_class(self._rows[split], self._classes, split)
            offset += count

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the targets."""
        return self._classes

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``."""
        return self._domains

    def rows(self, split: str) -> RowDataset:
        """Return the data set of one split."""
        if split not in self._rows:
            raise EmptySplitError(f"there is no split {split!r}; it has {shorten(self._rows)}")
        return self._rows[split]

    def report_duplicates(self) -> None:
        """Warn about inputs that are equal across splits or have contradictory labels."""
        parts = {split: (dataset.inputs, dataset.targets) for split, dataset in self._rows.items()}
        if message := tensors_message(parts):
            rank_zero_warn(message)

    def content_digests(self, dataset: RowDataset, rows: Tensor) -> np.ndarray:
        """Return (n,) uint64 digests of the inputs of a data set at some positions."""
        if not isinstance(dataset.inputs, list):
            return super().content_digests(dataset, rows)
        samples = [dataset.inputs[row] for row in rows.tolist()]
        if all(isinstance(sample, str | bytes) for sample in samples):
            return row_digests(samples)
        return row_digests([digest(*_contents(sample)) for sample in samples])

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of the tensors of one split."""
        dataset = self.rows(split)
        return digest(*_contents(dataset.inputs), dataset.targets, dataset.domains)


def _as_inputs(inputs: Any, where: str) -> Any:
    """Return a list of samples as such, and a list of numbers or of rows of numbers as a tensor."""
    kind = f"a {type(inputs).__name__}" if hasattr(inputs, "columns") else ""
    if isinstance(inputs, Tensor) and inputs.layout is not torch.strided:
        kind = "a sparse tensor"
    if isinstance(inputs, np.ndarray) and inputs.dtype.hasobject:
        kind = "an array of objects"
    if kind:
        raise InputError(f"{where}: found {kind}; expected a dense tensor (N, ...), or a list of N samples")
    if isinstance(inputs, Tensor) or not (isinstance(inputs, list | tuple) or hasattr(inputs, "to_list")):
        return inputs
    samples = list(inputs)
    if samples and isinstance(samples[0], int | float | list | tuple):
        with suppress(ValueError, TypeError):  # rows of texts or of several lengths are samples
            return torch.tensor(samples)
    return samples


def _as_domains(given: Any, names: Sequence[str], where: str) -> Tensor:
    """Return (N, D) bool memberships; the columns of a table are put in the order of the domains."""
    if hasattr(given, "columns"):
        labels = [canonical_label(label) for label in given.columns]
        if sorted(labels) != sorted(names):
            raise InputError(f"{where}: found the columns {shorten(labels)}; expected {shorten(names)}, in any order")
        given = given.to_numpy()[:, [labels.index(name) for name in names]]
    try:
        found = as_numbers(given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if found.ndim != 2 or (names and found.shape[1] != len(names)) or not np.isin(found, (0, 1)).all():
        raise InputError(
            f"{where}: found {found.dtype} of shape {found.shape}; expected truth values (N, {len(names)}), one for "
            "each domain"
        )
    return torch.from_numpy(found.astype(bool))


def _contents(inputs: Any) -> Iterator[Any]:
    """Return the parts of inputs that a digest reads in full."""
    if isinstance(inputs, Mapping):
        inputs = [part for item in inputs.items() for part in item]
    if isinstance(inputs, list | tuple):
        yield len(inputs)
        for part in inputs:
            yield from _contents(part)
    elif isinstance(inputs, Tensor | np.ndarray) or not hasattr(inputs, "__array_interface__"):
        yield inputs
    else:
        yield np.asarray(inputs)  # an image
