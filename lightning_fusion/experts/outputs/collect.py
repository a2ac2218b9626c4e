"""Collection of the outputs of experts on a data set."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.data.base import SPLITS, FusionDataModule
from lightning_fusion.data.batch import as_batch
from lightning_fusion.data.indexed import numbered
from lightning_fusion.data.targets import as_targets
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import OnFailure
from lightning_fusion.experts.identity import VERSION_HINT
from lightning_fusion.experts.outputs.loaders import (
    EverySplit,
    check_split,
    check_whole,
    expected_rows,
    fingerprint_of,
    set_up,
    warn_class_order,
)
from lightning_fusion.experts.outputs.seen import describe_seen, seen_samples
from lightning_fusion.experts.outputs.store import OUTPUTS, ExpertOutputs
from lightning_fusion.experts.outputs.values import origin_arrays, origin_names
from lightning_fusion.experts.pool import ExpertPool, check_domains
from lightning_fusion.experts.queries import PoolQueries, check_failure_options
from lightning_fusion.store import ArrayStore, MissingStoreError, StoreWriter, release

_KEPT = (
    "; they stay missing: no expert is queried; overwrite (--overwrite=true) queries all experts on all samples again"
)
_SHARDS = ".shards"
_SHARD = "shard of expert outputs"
_CHUNK_ROWS = 16_384


def collect(
    pool: ExpertPool,
    data: LightningDataModule | Mapping[str, Any],
    output: str | Path | None = None,
    splits: Sequence[str] = SPLITS,
    keep_representations: bool = False,
    trainer: Trainer | None = None,
    overwrite: bool = False,
    on_failure: OnFailure = "raise",
    retries: int = 0,
) -> ExpertOutputs:
    """Run every expert once on every sample of some splits, and store the outputs.

    Experts run in the Trainer's predict loop, with its devices, precision and processes. A single process appends to
    the store. Each of several processes appends to its own shard; shards are merged by sample index, which also drops
    samples that a distributed sampler repeats. Memory does not grow with the number of samples, except for labels,
    domains and indices. An existing store of the same pool and data is opened, and no expert is run.

    Args:
        pool: Pool of experts.
        data: Data module with loaders that yield :class:`~lightning_fusion.Batch`, or for each split a pair (inputs,
            targets (N,)): a tensor (N, ...), or a list of N texts or other samples.
        output: Folder of the store. ``None`` (default) uses a temporary folder that is deleted with the result.
        splits: Some of ``train``, ``val``, ``test``.
        keep_representations: Store each expert's representations as well.
        trainer: Trainer that runs the experts. ``None`` (default) uses a default Trainer on the available device.
        overwrite: Replace a store of another pool or other data.
        on_failure: Behavior if an expert raises, or a row of its outputs has another shape or is no distribution:
            ``raise``, or ``skip``: the answer is missing (NaN, and marked in ``missing`` of the split), with a warning.
            A batch that fails as a whole is halved, and each half is queried again, down to single samples: one failing
            sample of 64 takes 12 more calls. An expert without a valid answer for its first samples (one batch) raises.
        retries: Further attempts on samples without a valid answer, after pauses of 0.1 s, 0.2 s, 0.4 s and so on. As
            long as an expert has had no valid answer, whole batches are queried again, and the last attempt halves.

    Returns:
        The opened store.

    Raises:
        InputError: If the outputs or labels are wrong, the folder contains another store, a loader leaves out
            samples, or an expert answers none of its first samples.

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
        data.report_duplicates()
    check_failure_options(on_failure, retries)
    if keep_representations and (on_failure == "skip" or retries):
        raise InputError(
            "keep_representations: a representation cannot be missing; leave on_failure and retries out, or collect "
            "outputs alone"
        )
    if not splits:
        raise InputError(f"splits is empty; choose from {shorten(SPLITS)}")
    for split in splits:
        check_split(split)
    if output is None and trainer is not None and trainer.world_size > 1:
        raise InputError("output is not set; several processes need one folder for their outputs")
    kept = tempfile.TemporaryDirectory(prefix="expert-outputs-") if output is None else None
    folder = Path(kept.name if kept is not None else str(output))
    data.prepare_data()
    set_up(data)
    task = list(getattr(data, "classes", pool.classes))
    pool = pool.for_task(task)  # the data module's vocabulary is the task's
    if not hasattr(data, "classes"):
        warn_class_order(data, splits[0], task)
    domains = list(getattr(data, "domains", []))
    if foreign := check_domains({name: expert.domains for name, expert in pool.members.items()}, domains):
        rank_zero_warn(
            f"domains: those of expert(s) {shorten(foreign)} are none of the data's ({shorten(domains)}): no sample "
            "counts as one of their own domains"
        )
    prints = {split: fingerprint_of(data, split) for split in splits}
    metadata = pool.metadata()  # before running: a precision such as bf16-true changes the weights
    stored = None
    if not overwrite:
        with suppress(MissingStoreError):
            stored = ExpertOutputs.open(folder)
    if stored is not None:
        stored.check_pool(pool)
        stored.check_data(prints)
        if stored.domains != domains:  # the fingerprint contains the columns alone
            raise InputError(
                f"output: the store {folder} has the domains {shorten(stored.domains)}; the data have "
                f"{shorten(domains)}: collect again with overwrite (--overwrite=true)"
            )
        stored.check_metadata(metadata)
        _check_identified(pool, folder)
        if not keep_representations or all(len(stored[split].representations) == len(pool.names) for split in splits):
            rank_zero_info(f"{folder} contains these outputs already; no expert is run")
            _warn_missing(stored, None)
            _warn_seen(stored)
            return stored
        raise InputError(
            f"output: the store {folder} has no representations; set overwrite (--overwrite=true) to collect them"
        )
    trainer = quiet_trainer() if trainer is None else trainer
    loaders = EverySplit(data, splits)
    if first_process():
        with StoreWriter(folder, OUTPUTS, overwrite) as writer:
            shards = folder / _SHARDS
            shutil.rmtree(shards, ignore_errors=True)
            here = trainer.world_size == 1 and trainer.strategy.launcher is None
            alone = writer if here else None
            collecting = _Collecting(pool, splits, keep_representations, shards, alone, on_failure, retries)
            trainer.predict(collecting, datamodule=loaders, return_predictions=False)
            trainer.strategy.barrier("collect: outputs")
            origins = {}
            for split in splits:
                parts = collecting.parts(split) if alone is not None else _shards(shards, split)
                index = _merge(parts, split, writer, pool.classes, expected_rows(data, split))
                origins[split] = _keep_origins(data, index, split, writer)
                if (seen := seen_samples(pool.members, data, split)) is not None:
                    writer[f"{split}/seen"] = seen
            shutil.rmtree(shards, ignore_errors=True)
            writer.commit(ExpertOutputs(pool.classes, domains, metadata, {}, prints).metadata() | {"origins": origins})
    else:
        collecting = _Collecting(pool, splits, keep_representations, folder / _SHARDS, None, on_failure, retries)
        trainer.predict(collecting, datamodule=loaders, return_predictions=False)
        trainer.strategy.barrier("collect: outputs")
    trainer.strategy.barrier("collect: merged")
    result = ExpertOutputs.open(folder, verify=False)
    result._keep = kept
    _warn_changed(pool, metadata)
    _warn_missing(result, collecting.queries)
    _warn_seen(result)
    return result


def _warn_seen(outputs: ExpertOutputs) -> None:
    """Warn about samples that experts were trained on."""
    for split, part in outputs.splits.items():
        if part.seen is not None and (message := describe_seen(part.seen, outputs.names, split)):
            rank_zero_warn(message)


def _warn_missing(outputs: ExpertOutputs, queries: PoolQueries | None) -> None:
    """Warn about missing answers, with their number in each split and the reasons in this process.

    Args:
        outputs: The store.
        queries: Queries of this process; ``None`` if the store existed, and no expert was run.
    """
    for number, name in enumerate(outputs.names):
        counts = {split: int(part.missing[:, number].sum()) for split, part in outputs.splits.items()}
        if any(counts.values()):
            listed = shorten(f"{count} of {len(outputs[split])} in {split}" for split, count in counts.items() if count)
            reasons = "" if queries is None else queries.reasons(name)
            rank_zero_warn(
                f"answers of expert {name} are missing: {listed}"
                + (f"; it {reasons}" if reasons else "")
                + (_KEPT if queries is None else "")
            )


def _warn_changed(pool: ExpertPool, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn about callables whose state has changed while they were run: they count as other experts from now on."""
    called = {name: expert for name, expert in pool.members.items() if not isinstance(expert.network, nn.Module)}
    changed = [name for name, expert in called.items() if expert.fingerprint != metadata[name]["fingerprint"]]
    if changed:
        rank_zero_warn(
            f"the state of expert(s) {shorten(changed)} has changed while they ran, such as a counter that the "
            f"function uses, so that they no longer match these outputs; {VERSION_HINT}"
        )


def _check_identified(pool: ExpertPool, folder: Path) -> None:
    """Reject stored outputs of experts whose state cannot be compared."""
    for name, expert in pool.members.items():
        reason = expert.unknown_state()
        if reason is not None:
            raise InputError(
                f"output: {folder} contains outputs of expert {name}, and whether it has changed since is unknown: "
                f"{reason}; set the expert's version, or collect again with overwrite (--overwrite=true)"
            )


def quiet_trainer() -> Trainer:
    """Return the default Trainer of experts: one device, no checkpoints, no logger."""
    return Trainer(devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False)


def first_process() -> bool:
    """Return whether this is the only process, or the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0


class _Collecting(LightningModule):
    """Run the pool on each batch and append the outputs to the store, or to the shard of this process."""

    def __init__(
        self,
        pool: ExpertPool,
        splits: Sequence[str],
        keep_representations: bool,
        shards: Path,
        writer: StoreWriter | None = None,
        on_failure: OnFailure = "raise",
        retries: int = 0,
    ) -> None:
        super().__init__()
        self.on_failure, self.queries = on_failure, PoolQueries(on_failure, retries)
        self.pool, self.splits, self.keep_representations, self.shards = (
            pool,
            list(splits),
            keep_representations,
            shards,
        )
        self.writer, self._alone = writer, writer is not None
        self._sample_arrays: dict[str, dict[str, list[np.ndarray]]] = {}
        self._names: dict[str, list[str]] = {}

    def setup(self, stage: str) -> None:
        self.pool.convert_from(self._found())

    def _found(self) -> dict[str, Any]:
        """Return the preprocessing of the data; empty if it has none."""
        return getattr(self.trainer.datamodule.data, "preprocessing", None) or {}  # type: ignore[attr-defined]  # EverySplit

    def teardown(self, stage: str) -> None:
        self.pool.convert_from(None)

    def on_predict_start(self) -> None:
        if not self._alone:
            self.writer = StoreWriter(self.shards / str(self.global_rank), _SHARD).__enter__()

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        split = self.splits[dataloader_idx]
        batch = as_batch(batch, f"the {split} loader", num_classes=len(self.pool.classes))
        batch = numbered(batch, self, batch_idx, dataloader_idx)
        found: dict[str, dict[str, Tensor]] = {}
        if self.keep_representations:
            found["probabilities"], found["representations"] = self.pool.forward_with_representations(batch.input)
        else:
            self.queries.preprocessing = self._found()
            found["probabilities"] = self.queries(self.pool, batch.input)
        domain = batch.domain.reshape(len(batch.index), -1)
        for name, value, kind in (
            ("target", batch.target, np.int64),
            ("domain", domain, bool),
            ("index", batch.index, np.int64),
        ):
            self._sample_arrays.setdefault(split, {}).setdefault(name, []).append(value.cpu().numpy().astype(kind))
        answers = {f"{kind}/{name}": value for kind, values in found.items() for name, value in values.items()}
        if self.on_failure == "skip":
            answers["missing"] = torch.stack([values.isnan().any(1) for values in found["probabilities"].values()], 1)
        self._names[split] = list(answers)
        assert self.writer is not None
        for name, value in answers.items():
            self.writer.append(f"{split}/{name}", value.detach().cpu().numpy())
        index: Tensor = batch.index
        return index

    def sample_arrays(self, split: str) -> dict[str, np.ndarray]:
        """Return target, domain and index of the samples of this process, in the order of its batches."""
        return {name: np.concatenate(parts) for name, parts in self._sample_arrays.get(split, {}).items()}

    def parts(self, split: str) -> list[dict[str, np.ndarray]]:
        """Return the arrays to be sorted: outputs as well, if the loader's order is not that of the index."""
        arrays = self.sample_arrays(split)
        if not arrays:
            return []
        if not (np.diff(arrays["index"]) > 0).all():
            assert self.writer is not None
            arrays |= {name: self.writer.take(f"{split}/{name}") for name in self._names[split]}
        return [arrays]

    def on_predict_end(self) -> None:
        if not self._alone:
            assert self.writer is not None
            for split in self._sample_arrays:
                for name, values in self.sample_arrays(split).items():
                    self.writer[f"{split}/{name}"] = values
            self.writer.commit({})
            self.writer.__exit__()


def _shards(folder: Path, split: str) -> list[dict[str, np.ndarray]]:
    stores = [ArrayStore(path, _SHARD, verify=False) for path in sorted(folder.iterdir())]
    return [part for part in (store.group(split) for store in stores) if part]


def _merge(
    parts: Sequence[Mapping[str, np.ndarray]], split: str, writer: StoreWriter, classes: list[str], expected: int | None
) -> np.ndarray:
    """Sort the samples of all parts by their index, chunk by chunk; return the sorted indices."""
    index = np.concatenate([part["index"] for part in parts]) if parts else np.empty(0, np.int64)
    unique, place = np.unique(index, return_inverse=True)
    if len(parts) == 1 and len(unique) < len(index):
        raise InputError(
            f"the {split} loader gave {len(index)} rows with {len(unique)} indices; Batch.index must be unique"
        )
    check_whole(split, len(unique), expected)
    starts = np.cumsum([0, *(len(part["index"]) for part in parts)])
    for name, first in parts[0].items():
        array = writer.create(f"{split}/{name}", (len(unique), *first.shape[1:]), first.dtype)
        for part, start, stop in zip(parts, starts[:-1], starts[1:], strict=True):
            for begin in range(0, (stop - start) if array.size else 0, _CHUNK_ROWS):
                end = min(begin + _CHUNK_ROWS, stop - start)
                array[place[start + begin : start + end]] = part[name][begin:end]
                release(array, part[name])
        if name == "target":
            as_targets(array, len(classes), f"the {split} loader: target")
    return unique


def _keep_origins(data: LightningDataModule, index: np.ndarray, split: str, writer: StoreWriter) -> dict[str, Any]:
    """Store file and place of each sample, and its note; return the names of files and notes."""
    if not isinstance(data, FusionDataModule):
        return {}
    rows = torch.from_numpy(index)
    known = data.origins(rows), data.notes(rows)
    for name, values in origin_arrays(*known):
        writer[f"{split}/{name}"] = values
    return origin_names(*known)
