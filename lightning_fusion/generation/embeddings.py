"""Collection of embeddings of generative experts, and the data module of stored embeddings."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_fusion.data.base import SPLITS
from lightning_fusion.data.batch import as_batch
from lightning_fusion.data.indexed import numbered
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.collect import first_process, quiet_trainer
from lightning_fusion.experts.outputs.datamodule import OutputsDataModule
from lightning_fusion.experts.outputs.loaders import EverySplit, check_split, fingerprints_of, set_up
from lightning_fusion.experts.outputs.seen import describe_seen, seen_samples
from lightning_fusion.experts.outputs.store import ExpertOutputs, expert_target_matrix
from lightning_fusion.experts.preprocessing import warn_preprocessing_mismatch
from lightning_fusion.generation.answers import InferenceSettings, run_expert
from lightning_fusion.generation.expert import GenerativeExpert
from lightning_fusion.store import MissingStoreError


class Spool:
    """Unpadded token rows of the batches of a loader, held in memory until the loader is exhausted."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.index: list[np.ndarray] = []
        self.domain: list[np.ndarray] = []
        self.batch_size = 1

    def add(self, batch: Any, source: str) -> int:
        """Add a batch, and return its number of rows.

        Raises:
            InputError: If it contains no tokens.
        """
        batch = as_batch(batch, source)
        if not isinstance(batch.input, Mapping) or not {"input_ids", "attention_mask"} <= set(batch.input):
            raise InputError(
                f"{source}: Batch.input must be a dict of input_ids and attention_mask (B, L), as texts are"
            )
        ids, there = batch.input["input_ids"].cpu().numpy(), batch.input["attention_mask"].cpu().numpy() > 0
        self.rows += [row[mask] for row, mask in zip(ids, there, strict=True)]
        self.index.append(batch.index.cpu().numpy())
        self.domain.append(batch.domain.reshape(len(ids), -1).cpu().numpy().astype(bool))
        self.batch_size = max(self.batch_size, len(ids))
        return len(ids)


def inference_settings(
    module: LightningModule, max_new_tokens: int, batch_size: int, folder: Path | None
) -> InferenceSettings:
    """Return the inference settings of a module's Trainer: its device and precision."""
    plugin = module.trainer.precision_plugin
    return InferenceSettings(
        max_new_tokens,
        batch_size,
        module.device,
        folder,
        str(module.trainer.precision),
        plugin.forward_context,
        plugin.convert_module,
    )


def gather_objects(module: LightningModule, value: Any) -> list[Any]:
    """Gather a Python object of each process, in the order of the processes."""
    if module.trainer.world_size == 1:
        return [value]
    found: list[Any] = [None] * module.trainer.world_size
    torch.distributed.all_gather_object(found, value)
    return found


def collect_embeddings(
    experts: Mapping[str, GenerativeExpert],
    data: LightningDataModule,
    output: str | Path,
    embedding_experts: Sequence[str] | None = None,
    splits: Sequence[str] = SPLITS,
    reads: Literal["both", "input"] = "both",
    max_new_tokens: int = 20,
    trainer: Trainer | None = None,
    overwrite: bool = False,
) -> ExpertOutputs:
    """Embed every sample of some splits by some experts, and store the embeddings.

    Experts are loaded one after the other. Finished batches are cached in ``<output>.parts``, from which a killed run
    resumes; the folder can be deleted when the store is complete. In the store an expert's representations are its
    embeddings, and the target is the expert trained on the sample's domain (one drawn by the sample's index where there
    are several).

    Args:
        experts: All selectable experts by name; each names its domains.
        data: Data module of texts.
        output: Folder of the store; an existing store of the same experts and data is opened, and no expert is run.
        embedding_experts: Names of the experts that embed. ``None`` (default) means all.
        splits: Some of ``train``, ``val``, ``test``.
        reads: Embed input and generated text (as in the paper), or the input alone, which needs no generation.
        max_new_tokens: Maximum number of tokens of a generated text.
        trainer: Trainer that runs the experts. ``None`` (default) uses a default Trainer on the available device.
        overwrite: Replace a store of other experts or data.

    Raises:
        InputError: If names or domains are wrong, or the folder contains another store.
    """
    names = check_experts(experts, embedding_experts)
    for split in splits:
        check_split(split)
    data.prepare_data()
    set_up(data)
    for name, expert in experts.items():
        warn_preprocessing_mismatch(f"expert {name}", expert.preprocessing, getattr(data, "preprocessing", None))
    for split in splits:
        if (seen := seen_samples(experts, data, split)) is not None and (
            message := describe_seen(seen, list(experts), split)
        ):
            rank_zero_warn(message)
    if unknown := [name for name, expert in experts.items() if expert.training_samples is None]:
        rank_zero_info(f"the training samples of {shorten(unknown)} are not recorded: {shorten(splits)} may have some")
    prints = fingerprints_of(data, splits)
    settings = {"reads": reads, "max_new_tokens": max_new_tokens if reads == "both" else None}
    metadata = {
        name: {"classes": [name], **expert.metadata(), "domains": expert.domains or [], **settings}
        for name, expert in experts.items()
    }
    if not overwrite:
        with suppress(MissingStoreError):
            return _opened(Path(output), metadata, names, prints)
    domains = list(getattr(data, "domains", []))
    expert_targets = expert_target_matrix(
        domains, {name: expert.domains or [] for name, expert in experts.items()}
    ).numpy()
    trainer = quiet_trainer() if trainer is None else trainer
    kind = _Embedding({name: experts[name] for name in names}, splits, reads, max_new_tokens, Path(f"{output}.parts"))
    trainer.predict(kind, datamodule=EverySplit(data, splits), return_predictions=False)
    if first_process():
        arrays = {}
        for split, (index, domain, representations) in kind.found.items():
            owned = (
                (domain @ expert_targets)
                if domain.shape[1] == len(domains)
                else np.zeros((len(index), len(metadata)), bool)
            )
            lost = np.flatnonzero(~owned.any(1))
            if len(lost):
                own = sorted({domains[place] for place in np.flatnonzero(domain[lost].any(0))})
                raise InputError(
                    f"experts: no expert was trained on the domain(s) {shorten(own) or 'of unnamed samples'} of "
                    f"{len(lost)} {split} row(s); set the experts' domains, or leave these rows out"
                )
            arrays[split] = {
                "probabilities": {name: np.ones((len(index), 1), np.float32) for name in metadata},
                "representations": representations,
                "target": [list(metadata)[number] for number in _drawn(owned, index)],
                "domain": domain,
                "index": index,
            }
        classes = {name: [name] for name in metadata}
        result = ExpertOutputs.from_arrays(arrays, classes, list(metadata), domains)
        result.experts.update(metadata)
        result.fingerprints.update(prints)
        result.save(output, overwrite)
    trainer.strategy.barrier("collect_embeddings: stored")
    return ExpertOutputs.open(output, verify=False)


def check_experts(experts: Any, embedding_experts: Sequence[str] | None) -> list[str]:
    """Return the names of the experts that embed.

    Raises:
        InputError: If there are no experts, one is of another kind, or a name is unknown.
    """
    if not isinstance(experts, Mapping) or not experts:
        raise InputError("experts: name at least one, as in {'first': GenerativeExpert(...)}")
    for name, expert in experts.items():
        if not isinstance(expert, GenerativeExpert):
            raise InputError(f"experts: {name} is a {type(expert).__name__}; expected a GenerativeExpert")
    names = list(experts) if embedding_experts is None else list(embedding_experts)
    unknown = [name for name in names if name not in experts]
    if unknown or not names or len(set(names)) < len(names):
        raise InputError(f"embedding_experts: found {shorten(names) or 'none'}; choose from {shorten(experts)}")
    return [name for name in experts if name in names]


def _opened(
    folder: Path, metadata: Mapping[str, Mapping[str, Any]], names: Sequence[str], prints: Mapping[str, str]
) -> ExpertOutputs:
    stored = ExpertOutputs.open(folder)
    if stored.experts != metadata:
        differ = [name for name in {**metadata, **stored.experts} if metadata.get(name) != stored.experts.get(name)]
        raise InputError(
            f"output: the store {folder} is of other experts or settings ({shorten(differ)}); set overwrite "
            "(--overwrite=true)"
        )
    stored.check_data(prints)
    for split in prints:
        if missing := [name for name in names if name not in stored[split].representations]:
            raise InputError(
                f"output: the store {folder} has no embeddings of {shorten(missing)}; set overwrite (--overwrite=true)"
            )
    rank_zero_info(f"{folder} contains the embeddings already; no expert is run")
    return stored


def _drawn(owned: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Draw one of the experts trained on each row's domain, (N, K) bool, as a function of the row's index."""
    rank = (index * 2_654_435_761 >> 7) % owned.sum(1)
    result: np.ndarray = (owned.cumsum(1) > rank[:, None]).argmax(1)
    return result


class _Embedding(LightningModule):
    """Spool the rows of each split, then embed them expert by expert."""

    def __init__(
        self,
        experts: dict[str, GenerativeExpert],
        splits: Sequence[str],
        reads: Literal["both", "input"],
        max_new_tokens: int,
        folder: Path,
    ) -> None:
        super().__init__()
        self.experts, self.splits, self.reads, self.folder = experts, list(splits), reads, folder
        self.max_new_tokens = max_new_tokens
        self.spools = {split: Spool() for split in splits}
        self.found: dict[str, tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]] = {}

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> int:
        split = self.splits[dataloader_idx]
        batch = numbered(as_batch(batch, f"the {split} loader"), self, batch_idx, dataloader_idx)
        return self.spools[split].add(batch, f"the {split} loader")

    def on_predict_epoch_end(self) -> None:
        spools = self.spools.values()
        rows = [row for spool in spools for row in spool.rows]
        how = inference_settings(self, self.max_new_tokens, max(spool.batch_size for spool in spools), self.folder)
        representations = {name: run_expert(expert, rows, self.reads, how)[1] for name, expert in self.experts.items()}
        start = 0
        for split, spool in self.spools.items():
            stop = start + len(spool.rows)
            own = {name: values[start:stop] for name, values in representations.items()}
            index, domain = (np.concatenate(part) if part else None for part in (spool.index, spool.domain))
            shards = [part for part in gather_objects(self, (index, domain, own)) if part[0] is not None]
            if not shards:
                raise InputError(f"the {split} loader gave no rows; leave {split} out of splits")
            whole, place = np.unique(np.concatenate([part[0] for part in shards]), return_index=True)
            self.found[split] = (
                whole,
                np.concatenate([part[1] for part in shards])[place],
                {name: np.concatenate([part[2][name] for part in shards])[place] for name in own},
            )
            start = stop


class EmbeddingsDataModule(OutputsDataModule):
    """Data module of stored embeddings: inputs (B, sum of D_k), concatenated in the order of experts.

    Args:
        store: Folder of a store of :func:`collect_embeddings`, or an :class:`~lightning_fusion.ExpertOutputs`.
        embedding_experts: Experts whose embeddings are read. ``None`` (default) reads all stored ones.
        batch_size: Samples per batch and process.
        seed: Seed of the order of the training samples.

    Raises:
        InputError: If there is no such store, or it lacks an expert's embeddings.
    """

    def __init__(
        self,
        store: str | ExpertOutputs,
        embedding_experts: list[str] | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(store, batch_size, seed)
        stored = next(iter(self.outputs.splits.values())).representations
        names = [
            name for name in self.outputs.names if name in (stored if embedding_experts is None else embedding_experts)
        ]
        unknown = [name for name in embedding_experts or () if name not in stored]
        if unknown or not names:
            raise InputError(
                f"embedding_experts: the store has no embeddings of {shorten(unknown) or 'any expert'}; it has "
                f"{shorten(stored) or 'none'}: make them with collect_embeddings"
            )
        self.embedding_experts = names

    def arrays(self, split: str) -> list[np.ndarray]:
        """Return the embeddings of each expert that is read: (N, D_k) float32."""
        return [self.outputs[split].representations[name] for name in self.embedding_experts]

    @property
    def expert_names(self) -> list[str]:
        """Names of all experts, in the order of the targets."""
        return self.outputs.names

    @property
    def representation_dims(self) -> dict[str, int]:
        """Size of the embedding of each expert that is read, in order."""
        representations = next(iter(self.outputs.splits.values())).representations
        return {name: representations[name].shape[1] for name in self.embedding_experts}
