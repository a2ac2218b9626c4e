"""Evaluation of speaker embeddings by verification trials."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from lightning_fusion.data.audio.trials import NewTrials
from lightning_fusion.data.base import labeled_attribute
from lightning_fusion.data.batch import Batch, as_batch, check_targets
from lightning_fusion.data.indexed import numbered
from lightning_fusion.data.targets import UNLABELED
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.names import module_key
from lightning_fusion.metrics.logging import SplitMetrics
from lightning_fusion.verification.metrics import Verification

_SPLITS = {"fit": ("val",), "validate": ("val",), "test": ("test",), "predict": ()}
_FUSED, _OWN = "score", "new"
"""Names of the columns of scores: those of the answer, and of the module beside frozen experts."""


class TrialEvaluation(nn.Module):
    """Metrics of verification trials that a module updates over an epoch.

    Args:
        members: Names of the models whose embeddings are evaluated; the first is the module itself, "".
        p_target: Prior probability of a same-speaker trial in the detection cost.
    """

    def __init__(self, members: Sequence[str] = ("",), p_target: float = 0.01) -> None:
        super().__init__()
        self.members = list(members)
        self.counts_classes = True  # whether targets are classes of the module, as in its training
        self.trials = nn.ModuleDict(
            {split: Verification(len(members), p_target) for split in ("val", "test", "predict")}
        )

    def setup(self, module: LightningModule, stage: str) -> None:
        """Read the trials of the data module."""
        find: Any = getattr(getattr(module.trainer, "datamodule", None), "trials", None)
        for split in _SPLITS[stage]:
            metric: Any = self.trials[split]
            metric.trials = None
            unused = find is None or getattr(module.trainer, f"limit_{split}_batches") == 0
            if (trials := None if unused else find(split)) is not None:
                metric.set_trials(*trials)
        if stage == "predict":
            new: NewTrials | None = getattr(getattr(module.trainer, "datamodule", None), "new_trials", None)
            metric = self.trials["predict"]
            metric.trials = None if new is None else (new.pairs, torch.zeros(len(new.pairs), dtype=torch.bool))

    @property
    def scores_new(self) -> bool:
        """Whether there are trials of new recordings."""
        metric: Any = self.trials["predict"]
        return metric.trials is not None

    def reset(self, split: str) -> None:
        """Reset the metrics."""
        # reset at the start as well: states created in inference mode cannot be updated outside of it
        self.trials[split].reset()  # type: ignore[operator]

    def collect(self, batch: Batch, split: str, embeddings: Sequence[Tensor]) -> None:
        """Store the embeddings (B, D_k) of each member, if there are trials."""
        trials: Any = self.trials[split]
        if trials.trials is not None:
            trials.update(embeddings, batch.index)

    def finish(self, module: LightningModule, split: str, metrics: SplitMetrics) -> None:
        """Log the metrics of one epoch.

        Raises:
            InputError: If there are neither trials nor samples of known speakers.
        """
        trials: Any = self.trials[split]
        # all processes must log the same keys, otherwise they deadlock
        updates = torch.tensor(float(metrics[split]["loss"].update_count), device=module.device)
        known = bool(module.trainer.strategy.reduce(updates, reduce_op="sum") > 0)
        if trials.trials is None and not known:
            raise InputError(
                f"the {split} split has no speaker of the training set, and the data module has no trials: there is "
                f"nothing to measure; give {split} trials, or set trainer.limit_{split}_batches to 0"
            )
        if known:
            metrics.log_epoch(module, split)
        if trials.trials is not None and not module.trainer.sanity_checking:
            for name, value in self._score(trials, module.trainer, split).items():
                module.log(f"{split}_{name}", value, prog_bar=name in ("eer", "fused_eer"), sync_dist=True)
        self.reset(split)  # free the memory of the embeddings

    def scores(self) -> dict[str, Tensor] | None:
        """Return the (T,) scores of new trials, NaN where a recording has no sample; ``None`` without trials.

        The scores of several members, each in a column of its name, are beside their mean, which is the ``score``.
        """
        metric: Any = self.trials["predict"]
        if metric.trials is None:
            return None
        with metric.sync_context():
            seen = dim_zero_cat(metric.index).cpu()
            whole = metric.trials
            known = torch.isin(whole[0], seen).all(1)
            metric.trials = tuple(part[known] for part in whole)
            found = torch.full((len(known), len(self.members)), torch.nan)
            if known.any():
                found[known] = metric.scores().float().cpu()
            metric.trials = whole
        columns = {_FUSED: found.mean(1)}
        if len(self.members) > 1:
            columns |= {name or _OWN: found[:, place] for place, name in enumerate(self.members)}
        return columns

    def _score(self, metric: Verification, trainer: Trainer, split: str) -> dict[str, Tensor]:
        """Return EER and minDCF by name; with limited batches, of the trials whose samples are among them."""
        limit = getattr(trainer, f"limit_{split}_batches")
        if isinstance(limit, float) and limit == 1:
            return self._named(metric.compute())
        assert metric.trials is not None
        with metric.sync_context():
            seen = dim_zero_cat(metric.index).cpu()
        pairs, same = whole = metric.trials
        kept = torch.isin(pairs, seen).all(1)
        rank_zero_info(f"limit_{split}_batches is {limit}: {int(kept.sum())} of {len(pairs)} trials are scored")
        if not 0 < int(same[kept].sum()) < int(kept.sum()):
            none = torch.full((len(self.members),), torch.nan)
            return self._named({"eer": none, "min_dcf": none})
        metric.set_trials(pairs[kept], same[kept])
        found = metric.compute()
        metric.set_trials(*whole)
        return self._named(found)

    def _named(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        result = {name: value for name, value in found.items() if name.startswith("fused")}
        for name in ("eer", "min_dcf"):
            result |= {
                f"expert_{module_key(member)}_{name}" if member else name: value
                for member, value in zip(self.members, found[name].reshape(-1), strict=True)
            }
        return result


class TrialEvaluationMixin:
    """Mixin for the evaluation of speaker embeddings by verification trials.

    List it before the base class of the module. The module sets ``evaluation`` and implements :meth:`embed`.
    """

    evaluation: TrialEvaluation
    trial_scores: dict[str, Tensor] | None = None
    classes: list[str]
    preprocessing: dict[str, Any] | None
    metrics: SplitMetrics
    loss: nn.Module

    def embed(self, input: Any) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and embeddings (B, D), float32, of the module's network."""
        raise NotImplementedError(f"{type(self).__name__} must implement embed(input)")

    def other_embeddings(self, input: Any) -> list[Tensor]:
        """Return the embeddings (B, D_k) of further members, in the order of ``evaluation``."""
        return []

    def setup(self, stage: str) -> None:
        """Read the trials of the data module, and check that the model matches its speakers and input."""
        self.evaluation.setup(self, stage)  # type: ignore[arg-type]  # beside a LightningModule
        super().setup(stage)  # type: ignore[misc]

    def check_classes(self, data: Any, stage: str) -> None:
        """Check that the model has the training speakers of a data module; trials are of other speakers.

        Args:
            data: Data module; one without ``classes`` is accepted.
            stage: Stage of the Trainer.

        Raises:
            InputError: If it has them in another order or, in a fit, if it has others. In other stages there are no
                loss and accuracy of the others.
        """
        speakers = list(labeled_attribute(data, "classes") or self.classes)
        self.evaluation.counts_classes = speakers == self.classes
        if stage == "fit" or sorted(speakers) == sorted(self.classes):
            super().check_classes(data, stage)  # type: ignore[misc]  # of an ExpertModule
        elif set(speakers) & set(self.classes):
            rank_zero_warn(
                f"classes: the model has {shorten(self.classes)}, the data module {shorten(speakers)}: speakers that "
                "the model was trained on may be among those of the trials"
            )

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics."""
        self._reset("val")

    def on_test_epoch_start(self) -> None:
        """Reset the metrics."""
        self._reset("test")

    def _reset(self, split: str) -> None:
        self.evaluation.reset(split)
        self.metrics[split].reset()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the embeddings of every member, and update loss and accuracy of known speakers."""
        _check_one_loader("val", dataloader_idx)
        self._collect(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Collect the embeddings of every member, and update loss and accuracy of known speakers."""
        _check_one_loader("test", dataloader_idx)
        self._collect(batch, "test")

    def on_predict_epoch_start(self) -> None:
        """Reset the embeddings."""
        self.evaluation.reset("predict")

    def on_predict_epoch_end(self) -> None:
        """Score the trials of new recordings: ``trial_scores``, by member, which ``PredictionWriter`` writes."""
        self.trial_scores = self.evaluation.scores()
        self.evaluation.reset("predict")

    def on_validation_epoch_end(self) -> None:
        """Log EER and minDCF of every member and of their fusion, and ``val_loss`` of known speakers."""
        self.evaluation.finish(self, "val", self.metrics)  # type: ignore[arg-type]

    def on_test_epoch_end(self) -> None:
        """Log EER and minDCF of every member and of their fusion, and ``test_loss`` of known speakers."""
        self.evaluation.finish(self, "test", self.metrics)  # type: ignore[arg-type]

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return ``index`` (B,), ``probabilities`` (B, C) of the training speakers, and ``embedding`` (B, D)."""
        batch = as_batch(batch, "the predict loader", labeled=False)
        batch = numbered(batch, self, batch_idx, dataloader_idx)  # type: ignore[arg-type]  # of LightningModules
        logits, embedding = self.embed(batch.input)
        if not dataloader_idx:
            others = self.other_embeddings(batch.input) if self.evaluation.scores_new else []
            self.evaluation.collect(batch, "predict", [embedding, *others])
        return {"index": batch.index, "probabilities": logits.float().softmax(-1), "embedding": embedding}

    def _collect(self, batch: Any, split: str) -> None:
        batch = as_batch(batch, f"the {split} loader")
        known = batch.target != UNLABELED
        if self.evaluation.counts_classes:
            check_targets(batch.target[known], len(self.classes), f"the {split} loader")
        logits, embedding = self.embed(batch.input)
        self.evaluation.collect(batch, split, [embedding, *self.other_embeddings(batch.input)])
        if self.evaluation.counts_classes and known.any():
            logits, target = logits[known], batch.target[known]
            self.metrics.count(split, logits, target, self.loss(logits, target))


def _check_one_loader(split: str, dataloader_idx: int) -> None:
    if dataloader_idx:
        raise InputError(
            f"{split}_dataloader: found several loaders; expected one, since trials are pairs of the samples of one "
            "loader: evaluate the loaders one after the other"
        )
