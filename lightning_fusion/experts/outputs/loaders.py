"""Loaders of all splits of a data module, and fingerprints of their batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_fusion.data.base import SPLITS, FusionDataModule
from lightning_fusion.data.batch import Batch, as_batch
from lightning_fusion.data.duplicates import Samples, duplicates_message
from lightning_fusion.data.samplers import SliceSampler
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest


def check_whole(split: str, found: int, expected: int | None) -> None:
    """Raise InputError if a loader gave no samples, or others than all of its data set.

    Args:
        split: Name of the split.
        found: Number of samples that it gave.
        expected: Number of samples of the data set. ``None`` if it is unknown.
    """
    if not found:
        raise InputError(f"the {split} loader gave no rows; leave {split} out of splits")
    if expected is not None and found != expected:
        raise InputError(
            f"the {split} loader gave {found} of {expected} rows; it must give all of them (drop_last, "
            "limit_predict_batches?)"
        )


class EverySplit(LightningDataModule):
    """Splits of another data module as a sequence of prediction loaders."""

    def __init__(self, data: Any, splits: Sequence[str]) -> None:
        super().__init__()
        self.data, self.splits = data, splits
        self._loaders: list[DataLoader[Any]] = []
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def setup(self, stage: str) -> None:
        """Set up the data module."""
        self.data.trainer = self.trainer
        set_up(self.data)
        # not in predict_dataloader: Lightning cannot copy a loader made there as DataLoader(dataset, 32)
        self._loaders = [ordered(loader_of(self.data, split)) for split in self.splits]

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        """Return a loader per split, in the order of samples."""
        return self._loaders

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Call the hook of the data module."""
        return self.data.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Call the hook of the data module."""
        return self.data.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Call the hook of the data module."""
        return self.data.on_after_batch_transfer(batch, dataloader_idx)

    def teardown(self, stage: str) -> None:
        """Release the Trainer."""
        self.data.trainer = None


def set_up(data: LightningDataModule) -> None:
    """Set up all splits of a data module."""
    for stage in ("fit", "test"):
        data.setup(stage)


def check_split(split: str) -> None:
    """Raise InputError for an unknown split."""
    if split not in SPLITS:
        raise InputError(f"splits: found {split!r}; choose from {shorten(SPLITS)}")


def _has_loader(data: LightningDataModule, split: str) -> bool:
    """Return whether a data module gives a loader of a split, by a method of its own or an attribute."""
    name = f"{split}_dataloader"
    return getattr(getattr(data, name, None), "__func__", None) is not getattr(LightningDataModule, name)


def loader_of(data: LightningDataModule, split: str) -> DataLoader[Any]:
    """Return the loader of a split.

    Raises:
        InputError: If the split is unknown, or the data module gives no DataLoader.
    """
    check_split(split)
    given = [name for name in SPLITS if _has_loader(data, name)]
    if split not in given:
        raise InputError(
            f"{type(data).__name__} has no {split}_dataloader; implement it, or leave {split} out: splits: "
            f"[{', '.join(given)}]"
        )
    loader = getattr(data, f"{split}_dataloader")()
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"{type(data).__name__}.{split}_dataloader() gives a {type(loader).__name__}, not a DataLoader"
        )
    return loader


def ordered(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return the loader without shuffling if possible; the store is sorted by index in any case."""
    if isinstance(loader.sampler, SliceSampler):
        loader.sampler.shuffle = False
    return loader


def expected_rows(data: LightningDataModule, split: str) -> int | None:
    """Return the number of samples of a split; None if the data set has no length."""
    dataset = loader_of(data, split).dataset
    return len(dataset) if hasattr(dataset, "__len__") else None


def warn_class_order(data: LightningDataModule, split: str, classes: Sequence[str]) -> None:
    """Warn if the data set of a split, such as torchvision's ImageFolder, counts classes in another order.

    Args:
        data: Data module.
        split: Name of the split.
        classes: Classes of the task, which the targets count.
    """
    dataset = loader_of(data, split).dataset
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):  # a Subset
        dataset = dataset.dataset
    found = getattr(dataset, "classes", None)
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        return
    place = {name: number for number, name in enumerate(classes)}
    if any(place.get(name, number) != number for number, name in enumerate(found)):
        rank_zero_warn(
            f"classes: the data set of the {split} split has {shorten(found, 20)}, the experts' pool "
            f"{shorten(classes, 20)}: targets count classes in this order; set classes of the ExpertPool to those of "
            "the data set"
        )


def warn_random_samples(data: LightningDataModule, split: str) -> None:
    """Warn if the data set of a split gives another input when a sample is read again.

    Args:
        data: Data module; those of the library augment training batches only.
        split: Name of the split.
    """
    dataset = None if isinstance(data, FusionDataModule) else loader_of(data, split).dataset
    if dataset is None or not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset) or not len(dataset):
        return
    with torch.random.fork_rng(devices=[]):
        one, other = dataset[0], dataset[0]
    if not _same(one, other):
        rank_zero_warn(
            f"the data set of the {split} split gives another input each time sample 0 is read, as with random "
            f"augmentation: the outputs are of one draw, and no other run can reuse them; remove what is random from it"
        )


def _same(one: Any, other: Any) -> bool:
    """Return whether two samples have the same values; values of an unknown kind count as the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_same(value, other.get(key)) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor | np.ndarray) and isinstance(other, Tensor | np.ndarray):
        first, second = (np.asarray(torch.as_tensor(value).detach().float()) for value in (one, other))
        return np.array_equal(first, second, equal_nan=True)
    return not isinstance(one, str | int | float) or one == other or one != one


def fingerprints_of(data: LightningDataModule, splits: Sequence[str]) -> dict[str, str]:
    """Return a fingerprint of each split: that of the data module, or of all batches whatever their order.

    Samples of equal content are reported, which data modules of the library do themselves.
    """
    if isinstance(data, FusionDataModule):
        return {split: data.fingerprint(split) for split in splits}
    prints, contents, targets = {}, [], []
    for split in splits:
        total, inputs, labels = np.zeros(2, np.uint64), [], []
        for raw in loader_of(data, split):
            batch = as_batch(raw, f"the {split} loader")
            hashes, content = _row_hashes(batch)
            total += hashes.sum(0, dtype=np.uint64)
            inputs.append(content)
            labels.append(batch.target.cpu().numpy().astype(np.int64).reshape(-1))
        check_whole(split, sum(map(len, inputs)), expected_rows(data, split))
        prints[split] = f"{total[0]:016x}{total[1]:016x}"
        contents.append(np.concatenate(inputs))
        targets.append(np.concatenate(labels))
    _report_duplicates(data, dict(zip(splits, contents, strict=True)), np.concatenate(targets))
    return prints


def _report_duplicates(data: LightningDataModule, contents: Mapping[str, np.ndarray], label: np.ndarray) -> None:
    """Report samples of equal content.

    Args:
        data: Data module.
        contents: (N,) uint64 hashes of the inputs of each split.
        label: Labels of all samples, one split after the other.
    """
    sizes = [len(part) for part in contents.values()]
    names = [f"{split} row {row}" for split, size in zip(contents, sizes, strict=True) for row in range(size)]
    _, first, place = np.unique(np.concatenate([*contents.values()]), return_index=True, return_inverse=True)
    split = np.repeat(np.arange(len(sizes)), sizes)
    samples = Samples(names.__getitem__, label, split=split, splits=list(contents))
    message, kinds = duplicates_message(first[place], "samples", samples)
    loaders = [loader_of(data, split) for split in contents]
    if any(isinstance(loader.dataset, IterableDataset) and loader.num_workers > 1 for loader in loaders) and message:
        rank_zero_warn(
            f"{message}; each worker of an IterableDataset reads all samples unless it takes its part of them "
            "(torch.utils.data.get_worker_info), or num_workers is 0"
        )
    elif kinds - {"others"}:
        rank_zero_warn(f"{message}; remove the copies")


def _bytes_of(values: Any) -> np.ndarray:
    """Return the content of (B, ...) values, or a digest of each of B samples of another kind, such as texts."""
    if isinstance(values, Tensor | np.ndarray):
        return np.ascontiguousarray(torch.as_tensor(values).cpu().numpy())
    digests = [digest(sample if isinstance(sample, Tensor | np.ndarray) else repr(sample)) for sample in values]
    return np.array([list(bytes.fromhex(found)) for found in digests], np.uint8)


def _row_hashes(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Return (B, 2) uint64 hashes of the samples' bytes, independent of the batch, and (B,) hashes of their inputs."""
    rows = len(batch.target)
    inputs = [*batch.input.values()] if isinstance(batch.input, Mapping) else [batch.input]
    parts = [_bytes_of(values).reshape(rows, -1) for values in (*inputs, batch.target, batch.domain)]
    generator = np.random.default_rng(0)
    hashes = np.zeros((rows, 2), np.uint64)
    content = np.zeros(rows, np.uint64)
    for number, part in enumerate((*parts, batch.index.cpu().numpy().reshape(rows, 1))):
        if number == len(inputs):
            content = hashes[:, 0].copy()
        octets = part.view(np.uint8).astype(np.uint64)
        weights = generator.integers(0, 2**63, size=(octets.shape[1], 2), dtype=np.uint64) * 2 + 1
        for column in range(2):
            mixed = (octets * weights[:, column]).sum(1, dtype=np.uint64)
            hashes[:, column] = (hashes[:, column] ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) + mixed
    return hashes, content
