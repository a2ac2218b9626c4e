"""Training of generative experts."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from lightning import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_fusion.callbacks.checkpoints import default_callbacks
from lightning_fusion.checkpoints import CheckedLoading
from lightning_fusion.data.batch import as_batch
from lightning_fusion.data.indexed import numbered
from lightning_fusion.errors import InputError
from lightning_fusion.experts.module import write_card
from lightning_fusion.experts.preprocessing import carry_preprocessing, release_preprocessing
from lightning_fusion.experts.weights import SampleRecord, read_card
from lightning_fusion.generation.rouge import Rouge, read_tokenizer
from lightning_fusion.hooks import CheckedHooks
from lightning_fusion.metrics.logging import SampleMean, SplitMetrics, accuracy_of, log_train
from lightning_fusion.optimization import TunableLearningRate, build_optimizer


class GenerativeExpertModule(TunableLearningRate, CheckedHooks, CheckedLoading, LightningModule):
    """Train a text-generating network by teacher forcing; its checkpoint is a :class:`GenerativeExpert`.

    Batches are those of :class:`~lightning_fusion.generation.pairs.TextPairsDataModule`: ``Batch.input`` contains the
    input text and ``target_ids``.

    Args:
        network: Factory of the network, a :class:`Writer`, called with the size of the vocabulary.
        vocab_size: Number of tokens of the tokenizer; from the data module on the command line.
        trained_on: Names of the domains of the training data; from the data module on the command line.
        preprocessing: Preprocessing of the texts, stored with the expert; from the data module on the command line.
        tokenizer: Folder or ``tokenizer.json``, to compute ROUGE over words instead of tokens.
        max_new_tokens: Maximum number of tokens of a text generated in testing.
        loss: Called as ``loss(log-probabilities (N, V), tokens (N,))`` for all tokens of a batch; padding has the token
            -100. ``None`` (default) uses the mean negative log-likelihood.
        metric: Called as ``metric(log-probabilities (N, V), tokens (N,))`` and logged in addition to the token
            accuracy, under the name of its class.
        optimizer: Called with the parameters. ``None`` (default) uses AdamW with learning rate 1e-3 and weight decay
            1e-4.
        scheduler: Called with the optimizer. ``None`` (default) uses cosine annealing to 0 over the run.
        scheduler_interval: Whether a given ``scheduler`` steps each epoch or each step.

    Raises:
        InputError: If ``vocab_size`` is missing.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from lightning_fusion.generation.networks import PointerGenerator
        >>> module = GenerativeExpertModule(partial(PointerGenerator, hidden=8), vocab_size=30)
        >>> input = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.tensor([[1, 1]])}
        >>> module(input, torch.tensor([[6]])).shape
        torch.Size([1, 2, 30])
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        vocab_size: int | None = None,
        trained_on: list[str] | None = None,
        preprocessing: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        max_new_tokens: int = 20,
        loss: nn.Module | None = None,
        metric: Metric | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not vocab_size or vocab_size < 1:
            raise InputError(f"vocab_size is {vocab_size}; give the number of tokens of the tokenizer")
        self.vocab_size, self.trained_on, self.preprocessing = vocab_size, trained_on, preprocessing
        self.network = network if isinstance(network, nn.Module) else network(vocab_size)
        self.max_new_tokens = max_new_tokens
        decode = read_tokenizer(tokenizer).decode if tokenizer is not None else None
        self.rouge = Rouge(decode, self.network.pad_id)  # type: ignore[arg-type]
        self.loss = loss if loss is not None else nn.NLLLoss()
        metrics = {"loss": SampleMean(), "token_accuracy": accuracy_of(vocab_size)}
        self.metrics = SplitMetrics(metrics, metric, main="token_accuracy")
        self._samples = SampleRecord()
        self._optimizer, self._scheduler, self._interval = optimizer, scheduler, scheduler_interval

    def forward(self, input: Any, target: Tensor) -> Tensor:
        """Return log-probabilities (B, T + 1, V) of the next token after the start and each token of the target."""
        result: Tensor = self.network(input, target)
        return result

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss of a batch, by default the mean negative log-likelihood of its tokens."""
        loss = self.loss(*self._predict(batch, "train"))
        log_train(self, {"loss": loss}, as_batch(batch, "the train loader"))
        result: Tensor = loss
        return result

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log ``val_loss``, and ``val_token_accuracy``, the fraction of correctly predicted tokens."""
        self.metrics.loader = dataloader_idx
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Generate texts, and log ``test_loss``, ``test_token_accuracy`` and ROUGE-1, ROUGE-2 and ROUGE-L."""
        self.metrics.loader = dataloader_idx
        self._evaluate(batch, "test")
        batch = as_batch(batch, "the test loader")
        written = self.network.generate(batch.input, self.max_new_tokens)  # type: ignore[operator]
        self.rouge.update(written, batch.input["target_ids"])

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return ``index`` (B,) and the ``generated`` tokens (B, max_new_tokens), padded with the network's pad_id."""
        batch = as_batch(batch, "the predict loader", labeled=False)
        batch = numbered(batch, self, batch_idx, dataloader_idx)
        written: Tensor = self.network.generate(batch.input, self.max_new_tokens)  # type: ignore[operator]  # no Tensor
        missing = self.max_new_tokens - written.shape[1]
        return {"index": batch.index, "generated": nn.functional.pad(written, (0, missing), value=self.rouge.pad_id)}

    def on_test_epoch_end(self) -> None:
        """Log ROUGE over all texts of all processes and loaders."""
        for name, value in self.rouge.compute().items():
            self.log(f"test_{name}", value, sync_dist=True)
        self.rouge.reset()

    def _evaluate(self, batch: Any, split: str) -> None:
        log_probabilities, labels = self._predict(batch, split)
        there = labels >= 0
        loss = self.loss(log_probabilities, labels)
        self.metrics.count(split, log_probabilities[there], labels[there], loss)
        self.metrics.log(self, split, as_batch(batch, f"the {split} loader"))

    def _predict(self, batch: Any, split: str) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (N, V) of the N tokens of a batch, and the tokens (N,), -100 for padding."""
        batch = as_batch(batch, f"the {split} loader")
        if not isinstance(batch.input, Mapping) or "target_ids" not in batch.input:
            raise InputError(f"the {split} loader has no input['target_ids'] (B, T), the target texts")
        logs = self(batch.input, batch.input["target_ids"])
        labels = self.network.labels(batch.input["target_ids"])  # type: ignore[operator]
        return logs.flatten(0, 1), labels.flatten()

    def setup(self, stage: str) -> None:
        """Record the preprocessing of the data module, or compare it with that of the training."""
        self._samples.start(stage)
        carry_preprocessing(self, stage == "fit")

    def teardown(self, stage: str) -> None:
        """Release the data module."""
        release_preprocessing(self)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and schedule of the constructor; AdamW and a cosine by default."""
        return build_optimizer(self, self.parameters(), self._optimizer, self._scheduler, self._interval)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks for reproducible runs and whole checkpoints that the trainer lacks."""
        return default_callbacks(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the expert's metadata, which make the checkpoint an expert, with digests of its training samples."""
        write_card(checkpoint, self, vocab_size=self.vocab_size, samples=self._samples.tensor(self._trainer))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the preprocessing and the record of training samples of the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        card = read_card(checkpoint, "ckpt_path: the checkpoint")
        self._samples.read(card)
        if card.get("preprocessing"):
            self.preprocessing = card["preprocessing"]
            if self._trainer is not None:  # setup comes before
                carry_preprocessing(self, fits=False)
