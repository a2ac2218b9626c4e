"""Base class of views of a data module, which select or relabel its samples."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.rows import NewRows, Origins, RowDataset
from lightning_fusion.errors import InputError
from lightning_fusion.hyperparameters import constructor_arguments


def innermost(data: FusionDataModule) -> FusionDataModule:
    """Return the data module that views wrap; one that is no view itself."""
    while isinstance(data, DataView):
        data = data.data
    return data


class DataView(FusionDataModule):
    """Base class of data modules that wrap another one; a subclass overrides ``make_rows`` and dependent properties.

    Args:
        predict_root: File or folder with new samples, which the wrapped module reads for ``predict``. ``None``
            (default) means that of the wrapped module.
    """

    data: FusionDataModule

    def __init__(self, predict_root: str | None = None) -> None:
        super().__init__()
        self._given_root = predict_root

    def variant(self, **changes: Any) -> Self:
        """Return a copy with changed arguments of this view or of the wrapped module.

        Args:
            **changes: Constructor arguments of either, and their new values.
        """
        takes = constructor_arguments(type(self))
        own = {name: changes.pop(name) for name in [*changes] if name in takes}
        return super().variant(**own, **({"data": self.data.variant(**changes)} if changes else {}))

    def _configure(self, **arguments: Any) -> None:
        given, self._given_root = self._given_root, None
        super()._configure(**({} if given is None else {"predict_root": given}), **arguments)
        self.batch_size, self.num_workers = self.data.batch_size, self.data.num_workers

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the targets."""
        return self.data.classes

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``: all domains of the wrapped module."""
        return self.data.domains

    @property
    def predict_root(self) -> str | None:
        """File or folder with new samples, of the wrapped module."""
        return self.data.predict_root

    @predict_root.setter
    def predict_root(self, root: str | None) -> None:
        """Set that of the wrapped module."""
        self.data = self.data.variant(predict_root=root)

    @property
    def new_samples(self) -> NewRows | None:
        """New samples of the wrapped module, for ``predict``."""
        return self.data.new_samples

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """Preprocessing of the wrapped module; ``None`` if it declares none."""
        return getattr(self.data, "preprocessing", None)

    @property
    def new_sample_facts(self) -> dict[str, Any]:
        """What new samples need of the labeled samples of the wrapped module."""
        return self.data.new_sample_facts

    @property
    def augmentation(self) -> Any:  # type: ignore[override]
        """Training augmentation of the wrapped module; ``None`` if there is none."""
        return getattr(self.data, "augmentation", None)

    def use_preprocessing(self, known: Mapping[str, Any] | None) -> None:
        """Let the wrapped module use it."""
        self.data.use_preprocessing(known)
        self._configure()

    def notes(self, index: Tensor) -> list[str]:
        """Return the notes of the wrapped module."""
        return self.data.notes(index)

    def origins(self, index: Tensor) -> Origins | None:
        """Return the origins of samples of the wrapped module."""
        return self.data.origins(index)

    def prepare_data(self) -> None:
        """Prepare the data of the wrapped module, once per machine."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped module up."""
        self.data.setup(stage)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Call the hook of the wrapped module."""
        return self._wrapped().on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Call the hook of the wrapped module."""
        return self._wrapped().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Call the hook of the wrapped module: normalization, and augmentation in training."""
        return self._wrapped().on_after_batch_transfer(batch, dataloader_idx)

    def content_digests(self, dataset: RowDataset, rows: Tensor) -> np.ndarray:
        """Return the digests of the wrapped module."""
        return self.data.content_digests(dataset, rows)

    def _rows_of_data(self, split: str) -> RowDataset:
        """Return a split of the wrapped module, from which samples can be selected without reading them."""
        dataset: Any = self.data.rows(split)
        if not isinstance(dataset, RowDataset):
            raise InputError(
                f"data: rows({split!r}) of {type(self.data).__name__} is a {type(dataset).__name__}; expected a "
                "RowDataset, from which samples can be selected without reading them"
            )
        return dataset

    def _own_numbers(self) -> Tensor:
        """(C,) index in ``classes`` of each class of the wrapped module; -1 for classes that are not in it."""
        own = self.classes
        return torch.tensor([own.index(name) if name in own else -1 for name in self.data.classes])

    def _wrapped(self) -> FusionDataModule:
        self.data.trainer = self.trainer  # the wrapped module checks whether its trainer is training
        return self.data


def renumbered(dataset: RowDataset, rows: Tensor, numbers: Tensor) -> RowDataset:
    """Select samples of a data set and map their targets; samples that map to -1 are left out.

    Args:
        dataset: Data set to select from.
        rows: (n,) int64 positions of the samples.
        numbers: (C,) int64, new target of each old one.
    """
    targets = numbers[dataset.targets.clamp_min(0)].where(dataset.targets >= 0, -1)
    return RowDataset(dataset.inputs, targets, dataset.domains, rows[targets[rows] >= 0], dataset.index)
