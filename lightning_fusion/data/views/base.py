"""Other views of a data module: its rows chosen or renamed, everything else its own."""

from typing import Any

import torch

from lightning_fusion.data.base import FusionDataModule


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

    def _wrapped(self) -> FusionDataModule:
        self.data.trainer = self.trainer  # it asks whether this is training
        return self.data
