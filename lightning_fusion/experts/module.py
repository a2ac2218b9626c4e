"""LightningModule that trains one expert."""

from collections.abc import Callable
from typing import Any, Literal

from lightning import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_fusion.callbacks.checkpoints import default_callbacks
from lightning_fusion.checkpoints import CheckedLoading
from lightning_fusion.data.base import labeled_attribute
from lightning_fusion.data.batch import Batch, as_batch
from lightning_fusion.data.indexed import numbered
from lightning_fusion.data.names import as_labels
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.factories import network_for
from lightning_fusion.experts.layers import check_layer, run_network
from lightning_fusion.experts.pool import reordered
from lightning_fusion.experts.preprocessing import carry_preprocessing, release_preprocessing
from lightning_fusion.experts.weights import CARD_KEY, SampleRecord, keep_samples, read_card
from lightning_fusion.hooks import CheckedHooks
from lightning_fusion.metrics.logging import SampleMean, SplitMetrics, accuracy_of, log_train
from lightning_fusion.metrics.majority import MajorityAccuracy
from lightning_fusion.optimization import TunableLearningRate, build_optimizer
from lightning_fusion.sharing import SharedModel


class ExpertModule(SharedModel, TunableLearningRate, CheckedHooks, CheckedLoading, LightningModule):
    """Train a classifier with a checkpoint that is an expert: ``Expert(checkpoint=path)`` needs nothing else.

    Args:
        network: Function or class that maps the number of classes to the network. A module may be passed in Python.
        classes: Names of the classes, in the order of the targets; the command line takes them from the data module.
        trained_on: Names of the domains of the training data; from the data module on the command line.
        preprocessing: Preprocessing of the data, stored with the expert; ``None`` (default) means that of the data
            module. Data modules that measure the statistics of their normalization take those stored here, whatever
            files are present.
        features: Name of the submodule whose output is the expert's representation, stored with the expert.
        loss: Called as ``loss(logits (B, C), target)``. ``None`` (default) uses cross-entropy.
        metric: Called as ``metric(logits (B, C), target (B,))`` and logged in addition to the accuracy, under the name
            of its class, such as ``val_multiclass_f1_score``.
        label_smoothing: Label smoothing of the default loss.
        mixup: Parameter alpha of Mixup (Zhang et al., ICLR 2018) in training, for images; 0 turns it off.
        optimizer: Called with the parameters. ``None`` (default) uses AdamW with learning rate 1e-3 and weight decay
            1e-4.
        scheduler: Called with the optimizer. ``None`` (default) uses cosine annealing to 0 over the run.
        scheduler_interval: Whether a given ``scheduler`` steps each epoch or each step.
        vocab_size: Tokens of the data's tokenizer; from the data module on the command line. A network with a
            ``vocab_size`` must have at least as many.

    Raises:
        InputError: If ``classes`` is missing, the network has no layer ``features`` or too few tokens, or
            ``label_smoothing`` is given together with a ``loss``.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from lightning_fusion.encoders import SmallConvNet
        >>> module = ExpertModule(partial(SmallConvNet, in_channels=1), classes=["zero", "one"])
        >>> module(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        classes: list[str] | None = None,
        trained_on: list[str] | None = None,
        preprocessing: dict[str, Any] | None = None,
        features: str | None = None,
        loss: nn.Module | None = None,
        metric: Metric | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not classes:
            raise InputError(
                "classes is not set, and the data module has none (none with predict_root); set it to the names of the "
                "classes, or give --ckpt_path, which has them"
            )
        if loss is not None and label_smoothing:
            raise InputError("label_smoothing belongs to the default loss; set it in your loss")
        if mixup < 0 or not 0 <= label_smoothing <= 1:
            raise InputError(f"mixup is {mixup}, label_smoothing {label_smoothing}; expected at least 0, and 0 to 1")
        classes = as_labels(classes, "classes")
        if len(classes) < 2:
            raise InputError(f"classes: found {len(classes)}, {shorten(classes)}; expected two at least")
        self.classes = classes
        self.network = network if isinstance(network, nn.Module) else network_for(network, len(classes))
        if features is not None:
            check_layer(self.network, features, "the network")
        _check_vocabulary(self.network, vocab_size)
        self.loss = loss if loss is not None else nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        measured = {"loss": SampleMean(), "accuracy": accuracy_of(len(classes))}
        self.metrics = SplitMetrics(measured | {"majority_accuracy": MajorityAccuracy(len(classes))}, metric)
        self.trained_on, self.preprocessing, self.features = trained_on, preprocessing, features
        self.mixup = mixup
        self.new_sample_facts: dict[str, Any] = {}  # of the data, for predictions without them
        self._samples = SampleRecord()
        self._optimizer, self._scheduler, self._interval = optimizer, scheduler, scheduler_interval

    def setup(self, stage: str) -> None:
        """Check the data module's classes; record its preprocessing, or let it use that of the training."""
        self._samples.start(stage)
        self.check_classes(getattr(self.trainer, "datamodule", None), stage)
        carry_preprocessing(self, stage == "fit")

    def check_classes(self, data: Any, stage: str) -> None:
        """Check that a data module has the classes of the model, which targets count.

        Args:
            data: Data module; one without ``classes`` is accepted.
            stage: Stage of the Trainer; ``predict`` has no targets.

        Raises:
            InputError: If it has them in another order or, in other stages than ``predict``, if it has others.
        """
        found = labeled_attribute(data, "classes")
        if found is None or list(found) == self.classes or (stage == "predict" and not reordered(found, self.classes)):
            return
        order = "the order " if reordered(found, self.classes) else ""
        remedy = "model the classes of the data module" if stage == "fit" else "data module (labels) those of the model"
        raise InputError(
            f"classes: the model has {order}{shorten(self.classes, 20)}, the data module {shorten(found, 20)}; give "
            f"the {remedy}"
        )

    def forward(self, input: Any) -> Tensor:
        """Map a batch of inputs to (B, C) logits."""
        return run_network(self.network, input)

    def teardown(self, stage: str) -> None:
        """Release the data module."""
        release_preprocessing(self)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of one batch."""
        batch = as_batch(batch, "the train loader", num_classes=len(self.classes), unlabeled=True)
        input, target = self.mix(batch)
        loss: Tensor = self.loss(self(input), target)
        log_train(self, {"loss": loss}, batch)
        return loss

    def mix(self, batch: Batch) -> tuple[Any, Tensor]:
        """Return input and target of a training step, mixed if ``mixup`` is set."""
        if not self.mixup:
            return batch.input, batch.target
        from torchvision.transforms.v2 import MixUp

        if not isinstance(batch.input, Tensor) or batch.input.ndim < 4:
            raise InputError("mixup is for images (B, channels, H, W) and videos; set mixup: 0 for other input")
        if bool((batch.target < 0).any()):
            raise InputError("mixup mixes labels, and some samples have none; set mixup: 0, or unlabeled: drop (data)")
        mixed: tuple[Tensor, Tensor] = MixUp(alpha=self.mixup, num_classes=len(self.classes))(batch.input, batch.target)
        return mixed

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Log ``val_loss``, ``val_accuracy`` and ``val_majority_accuracy``, that of the most frequent class.

        Returns:
            Dict of ``index`` (B,), ``target`` (B,) and ``probabilities`` (B, C), for callbacks.
        """
        self.metrics.loader = dataloader_idx
        return self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Log ``test_loss`` and ``test_accuracy``, and return what a validation step does."""
        self.metrics.loader = dataloader_idx
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return ``index`` (B,) and ``probabilities`` (B, C) of one batch."""
        batch = numbered(as_batch(batch, "the predict loader", labeled=False), self, batch_idx, dataloader_idx)
        return {"index": batch.index, "probabilities": self(batch.input).float().softmax(-1)}

    def _evaluate(self, batch: Any, split: str) -> dict[str, Tensor]:
        batch = as_batch(batch, f"the {split} loader", num_classes=len(self.classes))
        logits = self._count(batch, split)
        if split == "val":
            self.metrics[split]["majority_accuracy"].update(batch.target)
        self.metrics.log(self, split, batch)
        return {"index": batch.index, "target": batch.target, "probabilities": logits.float().softmax(-1)}

    def _count(self, batch: Batch, split: str) -> Tensor:
        logits: Tensor = self(batch.input)
        self.metrics.count(split, logits, batch.target, self.loss(logits, batch.target))
        return logits

    def configure_optimizers(self) -> Any:
        """Return the optimizer and schedule of the constructor; AdamW and a cosine by default."""
        return build_optimizer(self, self.parameters(), self._optimizer, self._scheduler, self._interval)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks for reproducible runs and whole checkpoints that the trainer lacks."""
        return default_callbacks(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the classes of the checkpoint's training, warn about other domains, and take its preprocessing."""
        super().on_load_checkpoint(checkpoint)
        card = read_card(checkpoint, "ckpt_path: the checkpoint")
        self._samples.read(card)
        known = card.get("classes")
        if known is not None and list(known) != self.classes:
            raise InputError(
                f"classes: the checkpoint was trained on {shorten(known, 20)}; the model has "
                f"{shorten(self.classes, 20)}"
            )
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        own, trained = labeled_attribute(data, "own_domains") or [], card.get("domains") or []
        if trained and (other := [domain for domain in own if domain not in trained]):
            rank_zero_warn(
                f"domains: the checkpoint was trained on {shorten(trained)}; the data have {shorten(other)} as well"
                if len(other) < len(own)
                else f"domains: the checkpoint was trained on {shorten(trained)}; the data are of {shorten(own)}"
            )
        self.new_sample_facts = dict(card.get("new_samples") or {})
        if card.get("preprocessing"):
            self.preprocessing = card["preprocessing"]
            if self._trainer is not None:  # setup comes before
                carry_preprocessing(self, fits=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the expert's card, which makes the checkpoint an expert, with digests of its training samples."""
        samples = self._samples.tensor(self._trainer)
        card = {"classes": self.classes, "features": self.features, "new_samples": self.new_sample_facts}
        write_card(checkpoint, self, samples=samples, **card)

    def on_fit_end(self) -> None:
        """Record the training samples with the network, and warn about a validation accuracy at chance level.

        The samples are for an expert that is made of the network without a checkpoint.
        """
        keep_samples(self.network, self._samples.of(self._trainer))
        self.metrics.warn_chance(self.trainer)


def write_card(checkpoint: dict[str, Any], module: Any, **metadata: Any) -> None:
    """Add the metadata of an expert to a checkpoint.

    Args:
        checkpoint: Checkpoint about to be saved.
        module: A LightningModule with ``trained_on`` and ``preprocessing``, and ``network`` among its hyperparameters.
        **metadata: Further metadata.
    """
    spec = module.hparams.get("network")
    card = {"domains": module.trained_on, "preprocessing": module.preprocessing}
    checkpoint[CARD_KEY] = metadata | card | {"network": spec if isinstance(spec, dict) else None}


def _check_vocabulary(network: nn.Module, vocab_size: int | None) -> None:
    known = getattr(network, "vocab_size", getattr(getattr(network, "config", None), "vocab_size", None))
    if vocab_size is not None and isinstance(known, int) and known < vocab_size:
        raise InputError(
            f"the data's tokenizer has {vocab_size} tokens, the network has {known}; set the network's vocab_size to "
            f"{vocab_size} or more, or use the tokenizer of the network"
        )
