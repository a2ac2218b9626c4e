"""Sample indices for data sets and loaders of other projects."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_fusion.data.arrays import is_lost
from lightning_fusion.data.batch import Batch, UnnumberedBatch
from lightning_fusion.data.names import as_labels
from lightning_fusion.errors import InputError, shorten


class IndexedDataset(Dataset[Batch]):
    """Map-style data set of ``(input, target)`` whose samples have an index, and optionally domains.

    Loaders of ``(input, target)`` suffice if nothing identifies a sample over epochs. The memory of a
    :class:`~lightning_fusion.HaTJointModule`, random expert targets, and shuffled calibration samples of
    :class:`~lightning_fusion.FrugalFoEModule` need the index.

    Args:
        dataset: Data set of pairs, of any library.
        domains: (N,) name of the domain of each sample. ``None`` (default) means that no domains are known.
        domain_names: Names of the domains, in the order of ``Batch.domain``. ``None`` (default) means the sorted names
            in ``domains``.

    Raises:
        InputError: If the data set has no length, or ``domains`` are not one known name for each sample.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> pairs = TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
        >>> loader = DataLoader(IndexedDataset(pairs, ["x", "x", "y", "y"]), batch_size=2, shuffle=True)
        >>> batch = next(iter(loader))
        >>> type(batch).__name__, batch.input.shape, batch.domain.shape
        ('Batch', torch.Size([2, 2]), torch.Size([2, 2]))
    """

    def __init__(
        self, dataset: Any, domains: Sequence[str] | None = None, domain_names: Sequence[str] | None = None
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputError(f"dataset: found a {type(dataset).__name__}; expected a data set with length and items")
        self.dataset = dataset
        known = None if domains is None else as_labels(domains, "domains")
        self.domain_names = (
            sorted(set(known or ())) if domain_names is None else as_labels(domain_names, "domain_names")
        )
        if len(set(self.domain_names)) < len(self.domain_names):
            raise InputError(f"domain_names: found duplicate names in {shorten(self.domain_names)}")
        if known is not None and len(known) != len(dataset):
            raise InputError(f"domains: found {len(known)} for {len(dataset)} samples; expected one for each")
        if domains is not None and (lost := [row for row, name in enumerate(domains) if is_lost(name)]):
            raise InputError(f"domains: found no name in row(s) {shorten(lost)}; expected one for each sample")
        if unknown := sorted(set(known or ()) - set(self.domain_names)):
            raise InputError(f"domains: {shorten(unknown)} are not in domain_names {shorten(self.domain_names)}")
        places = {name: place for place, name in enumerate(self.domain_names)}
        self._domain = None if known is None else torch.tensor([places[name] for name in known])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Batch:
        pair = self.dataset[row]
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InputError(f"dataset: sample {row} is a {type(pair).__name__}; expected a pair (input, target)")
        domain = torch.zeros(len(self.domain_names), dtype=torch.bool)
        if self._domain is not None:
            domain[self._domain[row]] = True
        return Batch(pair[0], pair[1], domain, row)  # type: ignore[arg-type]  # one sample; the loader makes tensors


def numbered(batch: Batch, module: LightningModule, batch_idx: int, dataloader_idx: int = 0) -> Batch:
    """Return the batch with sample indices, which are positions in the data set if the loader yields none.

    Positions are known in ``predict``, and wherever the loader does not shuffle.

    Args:
        batch: Batch of the current step; one with indices, of any kind, is returned as it is.
        module: Module in a run.
        batch_idx: Number of the batch.
        dataloader_idx: Number of the loader.

    Raises:
        InputError: If the positions are unknown.
    """
    if not isinstance(batch, UnnumberedBatch):
        return batch
    return numbered_by(batch, _current_loader(module.trainer, dataloader_idx), batch_idx)


def numbered_by(batch: Batch, loader: Any, batch_idx: int) -> Batch:
    """Return the batch with sample indices, as :func:`numbered` does for the loader of the current step.

    Args:
        batch: Batch of the loader.
        loader: Loader that yields it.
        batch_idx: Number of the batch.

    Raises:
        InputError: If the positions are unknown.
    """
    if not isinstance(batch, UnnumberedBatch):
        return batch
    index = _positions(loader, len(batch.target), batch_idx)
    if index is None:
        raise InputError(
            "the loader shuffles (input, target) pairs, and this step needs to know which samples they are; set "
            "shuffle=False, or wrap the data set: DataLoader(lightning_fusion.IndexedDataset(dataset), ...)"
        )
    return Batch(batch.input, batch.target, batch.domain, index.to(batch.target.device))


def _current_loader(trainer: Any, dataloader_idx: int) -> Any:
    if trainer.training:
        loaders = trainer.train_dataloader
    elif trainer.predicting:
        loaders = trainer.predict_dataloaders
    else:
        loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    return loaders[dataloader_idx] if isinstance(loaders, (list, tuple)) else loaders


def _positions(loader: Any, count: int, batch_idx: int) -> Tensor | None:
    """Return the (B,) positions of the samples of a batch in the data set; None if they are unknown."""
    batches = getattr(getattr(loader, "batch_sampler", None), "seen_batch_indices", None)  # of Lightning, in predict
    if batches is not None and batch_idx < len(batches):
        return torch.tensor(list(batches[batch_idx]))
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if size is None:
        return None
    places: Tensor = batch_idx * size + torch.arange(count)
    if isinstance(sampler, DistributedSampler):
        if sampler.shuffle:
            return None
        rows: int = len(sampler.dataset)  # type: ignore[arg-type]  # the sampler needed its length, too
        found: Tensor = (places * sampler.num_replicas + sampler.rank) % rows
        return found
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    if isinstance(sampler, SequentialSampler) or (isinstance(loader.dataset, IterableDataset) and alone):
        return places
    return None
