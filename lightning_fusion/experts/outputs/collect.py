"""Ask a pool of experts about a data set, once."""

import mmap
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_fusion.data.base import SPLITS, Batch, FusionDataModule, TensorDataModule, as_batch
from lightning_fusion.data.samplers import SliceSampler
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import tell_other_input
from lightning_fusion.experts.outputs.store import ExpertOutputs, StoreWriter, check_targets, read_manifest
from lightning_fusion.experts.pool import ExpertPool

_SHARDS = ".shards"
_FACTS = ("target", "domain", "index")
_MERGE_ROWS = 16_384


def collect(
    pool: ExpertPool,
    data: LightningDataModule | Mapping[str, Any],
    output: str | Path | None = None,
    splits: Sequence[str] = SPLITS,
    features: bool = False,
    trainer: Trainer | None = None,
    overwrite: bool = False,
) -> ExpertOutputs:
    """Ask every expert about every sample of some splits, and store the answers.

    The work runs in the Trainer's predict loop, so devices, precision and processes are Lightning's. Each process
    appends to its own shard; the shards are merged by sample index, which also drops the rows that a distributed
    sampler repeats. Memory does not grow with the number of rows. A store of the same pool on the same data is opened
    and no expert is asked.

    Args:
        pool: The experts.
        data: A data module whose loaders yield :class:`~lightning_fusion.Batch`, or for each split a pair of tensors
            (inputs (N, ...), targets (N,)).
        output: Folder of the store; a temporary one, which lives as long as the result, where None.
        splits: Which of ``train``, ``val``, ``test`` to ask about.
        features: Store each expert's features as well.
        trainer: Runs the experts; a plain one on the available device where None.
        overwrite: Replace a store of another pool or other data.

    Returns:
        The opened store.

    Raises:
        InputError: If the outputs or labels are wrong, the folder holds another store, or a loader leaves out rows.

    Example:
        >>> from lightning_fusion import Expert
        >>> pool = ExpertPool({"a": Expert(torch.nn.Linear(4, 2), classes=["cat", "dog"])})
        >>> data = {"test": (torch.zeros(6, 4), torch.zeros(6, dtype=torch.long))}
        >>> collect(pool, data, trainer=Trainer(logger=False, enable_progress_bar=False))
        ExpertOutputs(1 experts, 2 classes; rows: test 6)
    """
    if not isinstance(data, LightningDataModule):
        splits = [split for split in splits if split in data]
        data = TensorDataModule(data, classes=pool.classes)
    if not splits:
        raise InputError(f"splits is empty; choose from {shorten(SPLITS)}")
    for split in splits:
        check_split(split)
    if output is None and trainer is not None and trainer.world_size > 1:
        raise InputError("output: several processes need one folder for their answers; name it")
    kept = tempfile.TemporaryDirectory(prefix="expert-outputs-") if output is None else None
    folder = Path(kept.name if kept is not None else str(output))
    data.prepare_data()
    set_up(data)
    task = list(getattr(data, "classes", pool.classes))
    pool = pool.for_task(task)  # the data module's vocabulary is the task's
    for name, expert in pool.members.items():
        tell_other_input(f"expert {name}", expert.preprocessing, getattr(data, "preprocessing", None))
    prints = {split: fingerprint_of(data, split) for split in splits}
    facts = pool.facts()  # before asking: a precision such as bf16-true changes the weights at hand
    manifest = None if overwrite else read_manifest(folder)
    if manifest is not None:
        stored = ExpertOutputs.open(folder)
        stored.check_pool(pool)
        stored.check_data(prints)
        stored.check_facts(facts)
        if not features or all(len(stored[split].features) == len(pool.names) for split in splits):
            rank_zero_info(f"{folder} holds the answers already; no expert is asked")
            return stored
        raise InputError(f"output: the store {folder} has no features; set overwrite to collect them")
    if first_process():
        with StoreWriter(folder, overwrite) as writer:
            trainer = _ask(pool, data, splits, features, folder, trainer)
            for split in splits:
                _merge(folder / _SHARDS, split, writer, pool.classes, _expected_rows(data, split))
            shutil.rmtree(folder / _SHARDS)
            writer.commit(pool.classes, list(getattr(data, "domains", [])), facts, prints)
    else:
        trainer = _ask(pool, data, splits, features, folder, trainer)
    trainer.strategy.barrier("collect: merged")
    result = ExpertOutputs.open(folder)
    result._keep = kept
    return result


def first_process() -> bool:
    """Whether this is the only process, or the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _ask(
    pool: ExpertPool, data: Any, splits: Sequence[str], features: bool, folder: Path, trainer: Trainer | None
) -> Trainer:
    shards = folder / _SHARDS
    if first_process():
        shutil.rmtree(shards, ignore_errors=True)
    if trainer is None:
        trainer = Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.predict(
        _Asking(pool, splits, features, shards), datamodule=EverySplit(data, splits), return_predictions=False
    )
    trainer.strategy.barrier("collect: asked")
    return trainer


class _Asking(LightningModule):
    """Runs the pool on each batch and appends the answers to this process's shard."""

    def __init__(self, pool: ExpertPool, splits: Sequence[str], features: bool, folder: Path) -> None:
        super().__init__()
        self.pool, self.splits, self.with_features, self.folder = pool, list(splits), features, folder
        self._files: dict[Path, Any] = {}

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        split = self.splits[dataloader_idx]
        batch = as_batch(batch, f"the {split} loader")
        features: dict[str, Tensor] = {}
        if self.with_features:
            outputs, features = self.pool.forward_with_features(batch.input)
        else:
            outputs = self.pool(batch.input)
        rows = len(batch.index)
        domain = batch.domain.reshape(rows, -1).to(torch.bool)
        self._append(split, "target", batch.target.to(torch.int64))
        self._append(split, "domain", domain)
        self._append(split, "index", batch.index.to(torch.int64))
        for kind, values in (("probabilities", outputs), ("features", features)):
            for name, value in values.items():
                self._append(split, f"{kind}.{name}", value)
        return batch.index

    def _append(self, split: str, name: str, values: Tensor) -> None:
        array = values.detach().cpu().numpy()
        # the file's name says how its bytes are to be read: name@dtype@width
        width = array.shape[1] if array.ndim == 2 else 0
        path = self.folder / str(self.global_rank) / split / f"{name}@{array.dtype.str[1:]}@{width}"
        if path not in self._files:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[path] = open(path, "wb")  # noqa: SIM115  (closed in on_predict_end)
        self._files[path].write(np.ascontiguousarray(array).data)

    def on_predict_end(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def _merge(shards: Path, split: str, writer: StoreWriter, classes: list[str], expected: int | None) -> None:
    """Put the rows of all shards in the order of their index, chunk by chunk."""
    folders = sorted(path / split for path in shards.iterdir() if (path / split).is_dir())
    indices = [_read(next(folder.glob("index@*"))) for folder in folders]
    index = np.concatenate(indices) if indices else np.empty(0, np.int64)
    unique, place = np.unique(index, return_inverse=True)
    if len(folders) == 1 and len(unique) < len(index):
        raise InputError(
            f"the {split} loader gave {len(index)} rows with {len(unique)} indices; Batch.index must be unique"
        )
    _check_whole(split, len(unique), expected)
    starts = np.cumsum([0, *(len(part) for part in indices)])
    for file in sorted(folders[0].iterdir()):
        name, dtype, width = file.name.rsplit("@", 2)
        shape = (len(unique), int(width)) if int(width) or name == "domain" else (len(unique),)
        array = writer.create(split, name, shape, np.dtype(dtype))
        for folder, start, stop in zip(folders, starts[:-1], starts[1:], strict=True):
            part = _read(folder / file.name)
            for first in range(0, stop - start, _MERGE_ROWS):
                last = min(first + _MERGE_ROWS, stop - start)
                if array.size:
                    array[place[start + first : start + last]] = part[first:last]
                    _let_go(array, part)
        if name == "target":
            check_targets(array, classes, f"the {split} loader")


def _let_go(*arrays: np.ndarray) -> None:
    """Give back the memory of what was read from or written to mapped files; the files keep their content."""
    for array in arrays:
        pages: Any = getattr(array, "_mmap", None)
        if hasattr(pages, "madvise"):  # not on every system
            pages.madvise(mmap.MADV_DONTNEED)


def _check_whole(split: str, found: int, expected: int | None) -> None:
    if not found:
        raise InputError(f"the {split} loader gave no rows; leave {split} out of splits")
    if expected is not None and found != expected:
        raise InputError(
            f"the {split} loader gave {found} of {expected} rows; it must give all of them (drop_last, "
            "limit_predict_batches?)"
        )


def _read(file: Path) -> np.ndarray:
    _, dtype, width = file.name.rsplit("@", 2)
    kind = np.dtype(dtype)
    if not file.stat().st_size:
        return np.empty((0, int(width)) if int(width) else (0,), kind)
    flat = np.memmap(file, kind, mode="r")
    return flat.reshape(-1, int(width)) if int(width) else flat


class EverySplit(LightningDataModule):
    """The splits of another data module, one after the other, as prediction loaders."""

    def __init__(self, data: Any, splits: Sequence[str]) -> None:
        super().__init__()
        self.data, self.splits = data, splits
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def setup(self, stage: str) -> None:
        """Set up the data module."""
        self.data.trainer = self.trainer
        set_up(self.data)

    def predict_dataloader(self) -> list[DataLoader]:
        """A loader per split, in the order of rows."""
        return [_ordered(_loader_of(self.data, split)) for split in self.splits]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The data module's."""
        return self.data.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The data module's."""
        return self.data.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The data module's."""
        return self.data.on_after_batch_transfer(batch, dataloader_idx)

    def teardown(self, stage: str) -> None:
        """Let the Trainer go."""
        self.data.trainer = None


def set_up(data: LightningDataModule) -> None:
    """Set up all splits of a data module."""
    for stage in ("fit", "test"):
        data.setup(stage)


def check_split(split: str) -> None:
    """Refuse the name of a split that there is not."""
    if split not in SPLITS:
        raise InputError(f"splits: found {split!r}; choose from {shorten(SPLITS)}")


def _loader_of(data: LightningDataModule, split: str) -> DataLoader:
    check_split(split)
    loader = getattr(data, f"{split}_dataloader")()
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"{type(data).__name__}.{split}_dataloader() gives a {type(loader).__name__}, not a DataLoader"
        )
    return loader


def _ordered(loader: DataLoader) -> DataLoader:
    """The same loader without shuffling where that is ours to say; the store is ordered by index in any case."""
    if isinstance(loader.sampler, SliceSampler):
        loader.sampler.shuffle = False
    return loader


def _expected_rows(data: LightningDataModule, split: str) -> int | None:
    dataset = _loader_of(data, split).dataset
    return len(dataset) if hasattr(dataset, "__len__") else None


def fingerprint_of(data: LightningDataModule, split: str) -> str:
    """The data module's own fingerprint, or one of all batches that does not depend on their order."""
    if isinstance(data, FusionDataModule):
        return data.fingerprint(split)
    total, rows = np.zeros(2, np.uint64), 0
    for raw in _loader_of(data, split):
        batch = as_batch(raw, f"the {split} loader")
        total += _row_hashes(batch).sum(0, dtype=np.uint64)
        rows += len(batch.index)
    _check_whole(split, rows, _expected_rows(data, split))
    return f"{total[0]:016x}{total[1]:016x}"


def _row_hashes(batch: Batch) -> np.ndarray:
    """(B, 2) uint64: a hash of each row's bytes, the same whatever batch the row stands in."""
    inputs = batch.input.values() if isinstance(batch.input, Mapping) else [batch.input]
    rows = len(batch.index)
    parts = [np.ascontiguousarray(t.cpu().numpy()).reshape(rows, -1) for t in (*inputs, batch.target, batch.domain)]
    generator = np.random.default_rng(0)
    hashes = np.zeros((rows, 2), np.uint64)
    for part in (*parts, batch.index.cpu().numpy().reshape(rows, 1)):
        content = part.view(np.uint8).astype(np.uint64)
        weights = generator.integers(0, 2**63, size=(content.shape[1], 2), dtype=np.uint64) * 2 + 1
        for column in range(2):
            mixed = (content * weights[:, column]).sum(1, dtype=np.uint64)
            hashes[:, column] = (hashes[:, column] ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) + mixed
    return hashes
