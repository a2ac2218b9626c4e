"""Other views of a data module: its rows chosen or renamed, everything else its own."""

from typing import Any

import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule, RowDataset
from lightning_fusion.errors import InputError


class DataView(FusionDataModule):
    """A data module that hands on what another one has. A subclass has its own ``rows``, and what follows from them."""

    data: FusionDataModule

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        self.batch_size, self.num_workers = self.data.batch_size, self.data.num_workers

    @property
    def classes(self) -> list[str]:
        """Names of the classes that targets count."""
        return self.data.classes

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``: all domains of the wrapped module."""
        return self.data.domains

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How raw values become network input, where the wrapped module says so."""
        return getattr(self.data, "preprocessing", None)

    @property
    def augmentation(self) -> Any:  # type: ignore[override]
        """The wrapped module's augmentation of training batches; None where there is none."""
        return getattr(self.data, "augmentation", None)

    def prepare_data(self) -> None:
        """What the wrapped module does once per machine."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped module up."""
        self.data.setup(stage)  # type: ignore[arg-type]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The wrapped module's."""
        return self._wrapped().on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The wrapped module's."""
        return self._wrapped().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The wrapped module's: normalization, and augmentation in training."""
        return self._wrapped().on_after_batch_transfer(batch, dataloader_idx)

    def _rows_of_data(self, split: str) -> RowDataset:
        """The wrapped module's rows of a split, of which some can be chosen without reading them."""
        dataset: Any = self.data.rows(split)
        if not isinstance(dataset, RowDataset):
            raise InputError(
                f"data: rows({split!r}) of {type(self.data).__name__} is a {type(dataset).__name__}; expected a "
                "RowDataset, whose rows can be chosen without reading them"
            )
        return dataset

    def _own_numbers(self) -> Tensor:
        """(C,) the number here of each class of the wrapped module; -1 for those that are not among ``classes``."""
        own = self.classes
        return torch.tensor([own.index(name) if name in own else -1 for name in self.data.classes])

    def _wrapped(self) -> FusionDataModule:
        self.data.trainer = self.trainer  # it asks whether this is training
        return self.data


def renumbered(dataset: RowDataset, rows: Tensor, numbers: Tensor) -> RowDataset:
    """Some rows of a data set, with other targets; rows whose target becomes -1 are left out.

    Args:
        dataset: Has the rows.
        rows: (n,) int64.
        numbers: (C,) int64, the new target of each one.
    """
    targets = numbers[dataset.targets.clamp_min(0)].where(dataset.targets >= 0, -1)
    return RowDataset(dataset.inputs, targets, dataset.domains, rows[targets[rows] >= 0], dataset.index)
