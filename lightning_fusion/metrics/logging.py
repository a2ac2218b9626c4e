"""Logging of all modules: ``<split>_<name>``, from one MetricCollection for each split."""

import re
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lightning_fusion.errors import InputError
from lightning_fusion.metrics.majority import MajorityAccuracy, chance_warning


class Labeled(Protocol):
    """A batch with targets, which determine its number of samples."""

    @property
    def target(self) -> Tensor:
        """(B,)."""


class SampleMean(Metric):
    """Mean over samples that propagates NaN, so that diverged training is visible.

    ``torchmetrics.MeanMetric`` (1.9) removes NaN, or ignores the weights with ``nan_strategy="disable"``.

    Example:
        >>> import torch
        >>> mean = SampleMean()
        >>> mean.update(torch.tensor(1.0), samples=3)
        >>> mean.update(torch.tensor([2.0, 6.0]))
        >>> mean.compute()
        tensor(2.2000)
    """

    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, values: Tensor, samples: int | None = None) -> None:
        """Update the state with a batch.

        Args:
            values: (B,) values, or the mean of a batch.
            samples: B, where ``values`` is a mean.
        """
        total = values.sum() if samples is None else values * samples
        self.total = self.total + total.to(self.total.dtype)
        self.samples = self.samples + (values.numel() if samples is None else samples)

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.samples


def accuracy_of(num_classes: int) -> MulticlassAccuracy:
    """Return the accuracy metric of the predicted classes, over samples."""
    return MulticlassAccuracy(max(2, num_classes), average="micro")


def name_of(metric: Metric) -> str:
    """Return the name under which a user's metric is logged: that of its class in snake case.

    Example:
        >>> from torchmetrics.classification import MulticlassF1Score
        >>> name_of(MulticlassF1Score(3))
        'multiclass_f1_score'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(metric).__name__).lower()


class SplitMetrics(nn.Module):
    """Metrics of validation and test, a MetricCollection with a prefix for each.

    Where there are several loaders, each has its own metrics. Those of the first have the plain names, such as
    ``val_loss``, so that monitors find them; those of the others have the suffix of Lightning, as in
    ``val_loss/dataloader_idx_1``. A step sets ``loader``, the number of the current one.

    Args:
        metrics: Metrics by name; each split has its own copies.
        metric: Additional metric of the user, named by :func:`name_of`.
        main: Name of the metric in ``metrics`` of the predictions, which is shown in the progress bar.

    Raises:
        InputError: If the name of ``metric`` is taken.

    Example:
        >>> import torch
        >>> metrics = SplitMetrics({"loss": SampleMean(), "accuracy": accuracy_of(2)})
        >>> metrics.count("val", torch.eye(2), torch.tensor([0, 0]), loss=torch.tensor(0.5))
        >>> metrics["val"].compute()
        {'val_accuracy': tensor(0.5000), 'val_loss': tensor(0.5000)}
    """

    def __init__(self, metrics: Mapping[str, Metric], metric: Metric | None = None, main: str = "accuracy") -> None:
        super().__init__()
        self.shown = {main}
        self.loader = 0
        self.of_further_loaders = nn.ModuleDict()
        self.val, self.test = (MetricCollection({}, prefix=f"{split}_", compute_groups=False) for split in _SPLITS)
        self.add(metrics)
        self._of_predictions = [main]
        if metric is not None:
            if (name := name_of(metric)) in metrics:
                raise InputError(f"metric: a {type(metric).__name__} would be logged as {name}, which is taken")
            self.add({name: metric})
            self._of_predictions.append(name)

    def __getitem__(self, split: str) -> MetricCollection:
        """Return the metrics of ``val`` or ``test``: those of the current loader."""
        first = {"val": self.val, "test": self.test}[split]
        if not self.loader:
            return first
        name = f"{split}_{self.loader}"
        if name not in self.of_further_loaders:
            with torch.inference_mode(False):  # states created in inference mode cannot be updated outside of it
                made = first.clone()
                made.reset()
            self.of_further_loaders[name] = made
        found: MetricCollection = self.of_further_loaders[name]  # type: ignore[assignment]  # made above
        return found

    def add(self, metrics: Mapping[str, Metric]) -> None:
        """Add copies of metrics to both splits."""
        for split in _SPLITS:
            self[split].add_metrics({name: metric.clone() for name, metric in metrics.items()})

    def count(self, split: str, predictions: Tensor, target: Tensor, loss: Tensor) -> None:
        """Update the mean loss, the main metric and the user's metric with a batch."""
        self[split]["loss"].update(loss, samples=len(target))
        for name in self._of_predictions:
            self[split][name].update(predictions, target)

    def log(self, module: LightningModule, split: str, batch: Labeled) -> None:
        """Log every metric that was updated, over the whole epoch and all processes."""
        place = f"metrics.of_further_loaders.{split}_{self.loader}" if self.loader else f"metrics.{split}"
        for name, metric in self[split].items(keep_base=True, copy_state=False):
            if metric.update_called:
                module.log(
                    f"{split}_{name}",
                    metric,
                    prog_bar=name in self.shown,
                    batch_size=len(batch.target),
                    add_dataloader_idx=self.loader > 0,
                    metric_attribute=f"{place}.{name}",
                )

    def warn_chance(self, trainer: Any) -> None:
        """Warn about a fit whose last validation accuracy is not above that of a constant answer.

        Args:
            trainer: Trainer of the fit.
        """
        majority = self.val["majority_accuracy"]
        values = [trainer.callback_metrics.get(f"val_{name}") for name in ("accuracy", "majority_accuracy")]
        if trainer.fast_dev_run or any(value is None for value in values) or not isinstance(majority, MajorityAccuracy):
            return
        accuracy, chance = (float(value) for value in values)
        if message := chance_warning(accuracy, chance, majority.num_samples):
            rank_zero_warn(message)

    def log_epoch(self, module: LightningModule, split: str) -> None:
        """Log the loss and the metrics of the predictions at the end of an epoch, updated in this process or not."""
        for name in ("loss", *self._of_predictions):
            metric = self[split][name]
            module.log(f"{split}_{name}", metric.compute(), prog_bar=name in self.shown, sync_dist=True)
            metric.reset()


def log_train(module: LightningModule, values: Mapping[str, Tensor | float], batch: Labeled) -> None:
    """Log values of a training batch as ``train_<name>``; the progress bar shows the loss."""
    for name, value in values.items():
        module.log(f"train_{name}", value, prog_bar=name == "loss", batch_size=len(batch.target))


def logs_step(module: LightningModule, step: int | None = None) -> bool:
    """Return whether values of a training step are logged: every ``log_every_n_steps`` steps, never where that is 0.

    Args:
        module: Module in training.
        step: Number of the step. ``None`` (default) uses the trainer's ``global_step``.
    """
    every: int = module.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector of the Trainer
    return every > 0 and (module.trainer.global_step if step is None else step) % every == 0


_SPLITS = ("val", "test")
