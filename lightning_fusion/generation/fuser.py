"""FoE for generative tasks: selects the expert that generates the text of each input."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_fusion.callbacks.checkpoints import default_callbacks
from lightning_fusion.checkpoints import CheckedLoading
from lightning_fusion.data.batch import Batch, as_batch
from lightning_fusion.data.indexed import numbered
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.pool import check_same_experts
from lightning_fusion.experts.preprocessing import data_preprocessing, warn_preprocessing_mismatch
from lightning_fusion.files import atomic_write
from lightning_fusion.foe.fusers import MLPFuser
from lightning_fusion.generation.answers import run_expert
from lightning_fusion.generation.embeddings import (
    EmbeddingsDataModule,
    Spool,
    check_experts,
    gather_objects,
    inference_settings,
)
from lightning_fusion.generation.expert import GenerativeExpert
from lightning_fusion.generation.rouge import read_tokenizer
from lightning_fusion.hooks import CheckedHooks
from lightning_fusion.metrics.logging import SampleMean, SplitMetrics, accuracy_of, log_train
from lightning_fusion.optimization import TunableLearningRate, build_optimizer


class GenerativeFoE(TunableLearningRate, CheckedHooks, CheckedLoading, LightningModule):
    """Fusion of Experts for generative tasks (Wang et al., ICLR 2024): selects the expert that generates each text.

    The fuser reads the masked mean of the last-layer states of some or all experts,
    ``sum(dims) - H - ReLU - H - ReLU - Dropout 0.5 - K``, and is trained by cross-entropy to select the expert trained
    on the sample's domain. It trains on stored embeddings
    (:func:`~lightning_fusion.generation.embeddings.collect_embeddings`,
    :class:`~lightning_fusion.generation.embeddings.EmbeddingsDataModule`).

    ``predict`` reads a data module of texts and returns, for each batch, ``index`` (B,), the selected ``expert`` (B,)
    and the text ``generated`` (B, max_new_tokens), padded with ``pad_id``. First the experts whose embeddings are read
    embed all inputs, then the fuser selects, then each selected expert generates the texts of its inputs, unless it has
    already. Experts are loaded one after the other, so the peak memory is that of the largest expert. Afterwards
    ``summary`` contains the number of selections and of empty texts of each expert.

    Args:
        experts: All experts by name, required for ``predict``; checkpoints do not contain them.
        expert_names: Names of the experts in order; taken from ``experts`` if given, on the command line from the data
            module.
        representation_dims: Size of the embedding of each expert that is read, in order; on the command line from the
            data module.
        reads: Input of the embeddings, as collected: input and generated text, or the ``input`` alone.
        max_new_tokens: Maximum number of tokens of a generated text.
        hidden: H, width of the hidden layers. The paper uses 8192, for embeddings of several thousand features; 512 is
            the width of its classification fuser and fits embeddings of a few hundred features (our choice).
        dropout: Dropout after the last hidden layer.
        standardize: Standardize each feature of the embeddings by mean and standard deviation over the training
            samples, so that experts with large states do not dominate (our choice).
        folder: Folder to which ``predict`` writes ``answers.jsonl`` and, in ``parts``, finished batches, from which an
            interrupted run resumes. ``None`` (default) writes nothing.
        tokenizer: Folder or ``tokenizer.json``, to write texts in addition to tokens.
        pad_id: Token that pads the texts returned by ``predict``.
        network: Factory of the fuser network, called as ``network(num_inputs, num_outputs)``. ``None`` (default) uses
            the paper's network.
        loss: Called as ``loss(logits (B, K), expert (B,))``. ``None`` (default) uses cross-entropy.
        metric: Called as ``metric(logits (B, K), expert (B,))`` and logged in addition to the accuracy of the
            selection, under the name of its class.
        optimizer: Called with the parameters. ``None`` (default) uses AdamW with learning rate 1e-3 and weight decay
            1e-4.
        scheduler: Called with the optimizer. ``None`` (default) uses cosine annealing to 0 over the run.
        scheduler_interval: Whether a given ``scheduler`` steps each epoch or each step.

    Raises:
        InputError: If metadata are missing or contradict the experts.

    Example:
        >>> module = GenerativeFoE(expert_names=["news", "sport"], representation_dims={"news": 8}, hidden=16)
        >>> module.choose(torch.zeros(3, 8)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        experts: dict[str, GenerativeExpert] | None = None,
        expert_names: list[str] | None = None,
        representation_dims: dict[str, int] | None = None,
        reads: Literal["both", "input"] = "both",
        max_new_tokens: int = 20,
        hidden: int = 512,
        dropout: float = 0.5,
        standardize: bool = True,
        folder: str | None = None,
        tokenizer: str | None = None,
        pad_id: int = 0,
        network: Callable[[int, int], nn.Module] | None = None,
        loss: nn.Module | None = None,
        metric: Metric | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__()
        given, experts = experts, None  # not plain data
        self.save_hyperparameters()
        if not representation_dims:
            raise InputError("representation_dims: found none; use EmbeddingsDataModule as data, or give their widths")
        if given is not None:
            check_experts(given, list(representation_dims))
            if expert_names is not None and list(given) != list(expert_names):
                raise InputError(
                    f"experts: found {shorten(given)}; the fuser chooses from {shorten(expert_names)}, in this order"
                )
        names = list(given) if given is not None else list(expert_names or ())
        if not names or (unknown := [name for name in representation_dims if name not in names]):
            found = shorten(unknown) if names else "no names"
            raise InputError(f"expert_names: found {found}; expected all selectable experts")
        if reads not in ("both", "input") or max_new_tokens < 1:
            raise InputError(f"reads is {reads!r}, max_new_tokens {max_new_tokens}; expected both or input, and >= 1")
        self.experts = dict(given) if given is not None else None
        self.expert_names, self.representation_dims = names, dict(representation_dims)
        self.reads, self.max_new_tokens, self.standardize, self.pad_id = reads, max_new_tokens, standardize, pad_id
        self.folder = Path(folder) if folder is not None else None
        self.decode = read_tokenizer(tokenizer).decode if tokenizer is not None else None
        width = sum(representation_dims.values())
        self.network = network(width, len(names)) if network else MLPFuser(width, len(names), (hidden, hidden), dropout)
        self.center: Tensor
        self.scale: Tensor
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.loss = loss if loss is not None else nn.CrossEntropyLoss()
        metrics = {"loss": SampleMean(), "choice_accuracy": accuracy_of(len(names))}
        self.metrics = SplitMetrics(metrics, metric, main="choice_accuracy")
        self.summary: dict[str, Any] = {}
        self._expert_metadata: dict[str, Any] | None = None
        self._spool = Spool()
        self._results: list[dict[str, Tensor]] = []
        self._optimizer, self._scheduler, self._interval = optimizer, scheduler, scheduler_interval

    # ----------------------------------------------------------- mathematics

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map (B, sum of D_k) embeddings, concatenated in the order of ``representation_dims``, to (B, K) logits."""
        result: Tensor = self.network((embeddings - self.center) / self.scale)
        return result

    def choose(self, embeddings: Tensor) -> Tensor:
        """Return the (B,) int64 numbers of the selected experts."""
        result: Tensor = self(embeddings).argmax(1)
        return result

    # ----------------------------------------------------------------- steps

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the cross-entropy of the expert that was trained on the sample's domain."""
        batch = self._stored(batch, "train")
        loss = self.loss(self(batch.input).float(), batch.target)
        log_train(self, {"loss": loss}, batch)
        result: Tensor = loss
        return result

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``val_loss`` and ``val_choice_accuracy``, the fraction whose selected expert is the expert target."""
        self.metrics.loader = dataloader_idx
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``test_loss`` and ``test_choice_accuracy``."""
        self.metrics.loader = dataloader_idx
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Any, split: str) -> None:
        batch = self._stored(batch, split)
        logits = self(batch.input).float()
        self.metrics.count(split, logits, batch.target, self.loss(logits, batch.target))
        self.metrics.log(self, split, batch)

    def _stored(self, batch: Any, split: str) -> Batch:
        num_experts = None if split == "predict" else len(self.expert_names)
        batch = as_batch(batch, f"the {split} loader", num_classes=num_experts)
        width = sum(self.representation_dims.values())
        if not isinstance(batch.input, Tensor) or batch.input.ndim != 2 or batch.input.shape[1] != width:
            found = f"of shape {tuple(batch.input.shape)}" if isinstance(batch.input, Tensor) else "no tensor"
            raise InputError(
                f"the {split} loader's input is {found}; expected embeddings (B, {width}): collect them with "
                "collect_embeddings, and use EmbeddingsDataModule as data"
            )
        result: Batch = batch
        return result

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return ``index``, selected ``expert`` and ``generated`` text of a batch; no text for stored embeddings.

        The batch is kept; expert and text are filled in after all batches were read, expert by expert.
        """
        batch = numbered(as_batch(batch, "the predict loader", labeled=False), self, batch_idx, dataloader_idx)
        if isinstance(batch.input, Tensor):
            return {"index": batch.index, "expert": self.choose(self._stored(batch, "predict").input)}
        if dataloader_idx:
            raise InputError("predict: found several loaders of texts; expected one, call predict for each loader")
        rows = self._spool.add(batch, "the predict loader")
        result = {  # on the CPU already: Lightning keeps these tensors
            "index": batch.index.cpu(),
            "expert": torch.full((rows,), -1),
            "generated": torch.full((rows, self.max_new_tokens), self.pad_id),
        }
        self._results.append(result)
        return result

    def on_predict_epoch_start(self) -> None:
        """Reset the kept batches, and check the experts."""
        self._spool, self._results, self.summary = Spool(), [], {}
        found = data_preprocessing(self.trainer)
        for name, expert in (self.experts or {}).items():
            warn_preprocessing_mismatch(f"expert {name}", expert.preprocessing, found)

    def on_predict_epoch_end(self) -> None:
        """Embed, select, and generate the texts of the selected experts."""
        rows = self._spool.rows
        if not rows and (self.trainer.world_size == 1 or self.experts is None):  # embeddings have no texts
            return
        chosen, texts = self._answer(rows)
        start = 0
        for result in self._results:
            stop = start + len(result["index"])
            result["expert"].copy_(torch.from_numpy(chosen[start:stop]))
            for place, text in enumerate(texts[start:stop]):
                result["generated"][place, : len(text)] = torch.from_numpy(text)
            start = stop
        index = [int(number) for part in self._spool.index for number in part]
        shards = gather_objects(self, list(zip(index, chosen.tolist(), [text.tolist() for text in texts], strict=True)))
        self._tell({number: (expert, text) for shard in shards for number, expert, text in shard})

    def _answer(self, rows: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the selected experts (N,) and their texts."""
        if self.experts is None:
            raise InputError("experts: found none; predict on texts requires them, in the order of training")
        parts = self.folder / "parts" if self.folder is not None else None
        how = inference_settings(self, self.max_new_tokens, self._spool.batch_size, parts)
        read = {name: run_expert(self.experts[name], rows, self.reads, how) for name in self.representation_dims}
        for name, (_, vectors) in read.items():
            if len(rows) and vectors.shape[1] != self.representation_dims[name]:
                raise InputError(
                    f"expert {name} has embeddings of size {vectors.shape[1]}; the fuser was trained with "
                    f"{self.representation_dims[name]}: these are other experts"
                )
        if not rows:
            return np.empty(0, np.int64), []
        joined = torch.from_numpy(np.concatenate([vectors for _, vectors in read.values()], 1)).to(self.device)
        chosen = torch.cat([self.choose(some) for some in joined.split(4096)]).cpu().numpy()
        texts: list[np.ndarray] = [np.empty(0, np.int64)] * len(rows)
        for number, name in enumerate(self.expert_names):
            own = np.flatnonzero(chosen == number)
            if name in read and self.reads == "both":
                written = [read[name][0][place] for place in own]
            elif len(own):
                written = run_expert(self.experts[name], [rows[place] for place in own], "text", how)[0]
            else:
                continue
            for place, text in zip(own, written, strict=True):
                texts[place] = text
        return chosen, texts

    def _tell(self, answers: Mapping[int, tuple[int, list[int]]]) -> None:
        """Count selections, warn of empty texts, and write all texts."""
        counts = {name: {"chosen": 0, "empty": 0} for name in self.expert_names}
        for expert, text in answers.values():
            counts[self.expert_names[expert]]["chosen"] += 1
            counts[self.expert_names[expert]]["empty"] += not text
        self.summary = {"rows": len(answers), "experts": counts}
        if empty := [
            f"{name} {count['empty']} of {count['chosen']}" for name, count in counts.items() if count["empty"]
        ]:
            rank_zero_warn(f"expert(s) generated empty texts: {shorten(empty)}")
        if self.folder is None or not self.trainer.is_global_zero or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        target = self.folder / "answers.jsonl"
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as draft, open(draft, "w", encoding="utf-8") as file:
            for index in sorted(answers):
                expert, text = answers[index]
                row: dict[str, Any] = {"index": index, "expert": self.expert_names[expert], "tokens": text}
                if self.decode is not None:
                    row["text"] = self.decode(text)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        rank_zero_info(f"wrote {len(answers)} answers to {target}")

    # ----------------------------------------------------- around the training

    def setup(self, stage: str) -> None:
        """Check that embeddings and experts match, and compute mean and deviation of the embeddings."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, EmbeddingsDataModule):
            if data.expert_names != self.expert_names or data.representation_dims != self.representation_dims:
                raise InputError(
                    f"the store has the experts {data.expert_names} and embeddings {data.representation_dims}; the "
                    f"fuser was built for {self.expert_names} and {self.representation_dims}"
                )
            if stage == "fit":
                self._expert_metadata = data.outputs.experts
            self._compare(data.outputs.experts)
        elif self.experts is not None:
            self._compare({name: expert.metadata() for name, expert in self.experts.items()})
        if stage == "fit" and self.standardize and isinstance(data, EmbeddingsDataModule):
            inputs = torch.from_numpy(np.concatenate(data.arrays("train"), 1))
            self.center.copy_(inputs.mean(0))
            self.scale.copy_(inputs.std(0, correction=0).clamp_min(1e-6))

    def _compare(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        check_same_experts(self._expert_metadata or {}, found)
        for name, entry in (self._expert_metadata or {}).items():
            reads, tokens = entry.get("reads"), entry.get("max_new_tokens")
            if reads is not None and (reads != self.reads or tokens not in (None, self.max_new_tokens)):
                raise InputError(
                    f"reads is {self.reads!r}, max_new_tokens {self.max_new_tokens}; the embeddings of {name} were "
                    f"collected with {reads!r} and {tokens}: set the same"
                )

    def configure_optimizers(self) -> Any:
        """Return the optimizer and schedule of the constructor; AdamW and a cosine by default."""
        return build_optimizer(self, self.parameters(), self._optimizer, self._scheduler, self._interval)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks for reproducible runs and whole checkpoints that the trainer lacks."""
        return default_callbacks(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the metadata of the experts that the fuser was trained with."""
        checkpoint["experts"] = self._expert_metadata

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the experts are those that the fuser was trained with."""
        super().on_load_checkpoint(checkpoint)
        self._expert_metadata = checkpoint.get("experts")
        if self.experts is not None and self._expert_metadata:
            check_same_experts(
                self._expert_metadata, {name: expert.metadata() for name, expert in self.experts.items()}
            )
