"""Fusion of Experts for classification: a small network on the outputs of frozen experts."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from lightning_fusion.callbacks.checkpoints import default_callbacks
from lightning_fusion.callbacks.early_parts import expect_eval_mode
from lightning_fusion.checkpoints import CheckedLoading
from lightning_fusion.data.base import labeled_attribute
from lightning_fusion.data.batch import as_batch
from lightning_fusion.data.indexed import numbered
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.layers import run_network
from lightning_fusion.experts.outputs.datamodule import OutputsBatch, OutputsDataModule
from lightning_fusion.experts.outputs.seen import warn_seen
from lightning_fusion.experts.pool import (
    POOL,
    ExpertPool,
    check_classes,
    check_domains,
    check_same_experts,
    reordered,
    restore_experts,
    store_experts,
)
from lightning_fusion.experts.preprocessing import carry_from_experts, data_preprocessing, release_new_samples
from lightning_fusion.experts.queries import PoolQueries
from lightning_fusion.experts.vocabulary import ClassesOfVocabulary, Vocabulary, take_order
from lightning_fusion.foe.diagnostics import fuser_warnings
from lightning_fusion.foe.fusers import MLPFuser, RepresentationFuser
from lightning_fusion.foe.stored import check_stored, unanswered
from lightning_fusion.foe.targets import ExpertTarget
from lightning_fusion.hooks import CheckedHooks
from lightning_fusion.metrics.diversity import BestExpertAccuracy
from lightning_fusion.metrics.logging import SampleMean, SplitMetrics, accuracy_of, log_train, logs_step
from lightning_fusion.metrics.majority import MajorityAccuracy
from lightning_fusion.optimization import TunableLearningRate, build_optimizer
from lightning_fusion.sharing import SharedModel


class FoEFuserModule(
    SharedModel, TunableLearningRate, CheckedHooks, CheckedLoading, ClassesOfVocabulary, LightningModule
):
    """Fusion of Experts for classification (Wang et al., ICLR 2024, section 3).

    The fuser F reads the concatenated softmax outputs of the experts and minimizes

        sum over samples of CE(F([f_1(x), ..., f_K(x)]), target)

    where the target is the class label, or the expert to select (``target: expert``, whose output is then the
    prediction). The experts stay frozen. The module trains on stored outputs
    (:class:`~lightning_fusion.OutputsDataModule`) or on raw input, which requires ``experts``.

    A checkpoint contains the fuser, and the experts' metadata with fingerprints; ``save_experts`` adds their weights.

    Args:
        experts: The frozen experts by name, or a pool. ``None`` (default) if only stored outputs are read.
        classes: The task's C classes. The command line takes this and the next three from the data module; with
            ``experts`` they default to all classes of the experts.
        expert_classes: Classes of each expert, in the order of its outputs; taken from ``experts`` if given.
        domains: Names of the columns of ``Batch.domain``; required if ``target`` is ``expert``.
        expert_domains: Domains that each expert was trained on; required if ``target`` is ``expert``.
        target: Target of the fuser: the class ``label``, or the ``expert`` to select.
        expert_target: Expert target of samples with several experts trained on their domains: one drawn at ``random``
            (as in the paper), or the ``best`` of them on the validation samples of these domains (our choice; requires
            stored outputs).
        representation_dims: Size of each expert's representation, in order, if the fuser reads representations in
            addition to outputs; the command line takes it from the data module. The paper's fuser reads outputs only.
        mean_weight: Weight of the mean of the experts' outputs in the prediction, if the target is the label: (1 -
            weight) p + weight a, where p is the softmax of the fuser and a the mean of the experts' outputs. The
            training loss does not depend on it. The paper uses 0.
        network: Factory of the fuser network, called as ``network(num_inputs, num_outputs)``. ``None`` (default) uses
            :class:`~lightning_fusion.foe.fusers.MLPFuser`, or :class:`~lightning_fusion.foe.fusers.RepresentationFuser`
            if the fuser reads representations.
        loss: Called as ``loss(logits, target)``, with the logits (B, C) of the fuser, or (B, K) if the target is the
            expert; targets of -100 are ignored. ``None`` (default) uses cross-entropy.
        metric: Called as ``metric(logits (B, C), target (B,))`` with the fused prediction, and logged in addition to
            the accuracy, under the name of its class.
        optimizer: Called with the parameters of the fuser. ``None`` (default) uses AdamW with learning rate 1e-3 and
            weight decay 1e-4.
        scheduler: Called with the optimizer. ``None`` (default) uses cosine annealing to 0 over the run.
        scheduler_interval: Whether a given ``scheduler`` steps each epoch or each step.
        save_experts: Keep the experts' weights in checkpoints.
        on_failure: Behavior if an expert of raw input raises, or a row of its outputs is no distribution: ``raise``, or
            ``skip`` the expert for these samples, with a warning: its answer is missing, as in :func:`collect`.
        seed: Seed of random expert targets.

    Raises:
        InputError: If metadata are missing or contradict the experts.

    Example:
        >>> module = FoEFuserModule(expert_classes={"a": ["cat", "dog"], "b": ["dog", "owl"]})
        >>> module.classes, module.fuse(torch.tensor([[0.9, 0.1, 0.5, 0.5]])).shape
        (['cat', 'dog', 'owl'], torch.Size([1, 3]))
    """

    def __init__(
        self,
        experts: dict[str, Expert] | ExpertPool | None = None,
        classes: list[str] | None = None,
        expert_classes: dict[str, list[str]] | None = None,
        domains: list[str] | None = None,
        expert_domains: dict[str, list[str]] | None = None,
        target: Literal["label", "expert"] = "label",
        expert_target: Literal["random", "best"] = "random",
        representation_dims: dict[str, int] | None = None,
        mean_weight: float = 0.0,
        network: Callable[[int, int], nn.Module] | None = None,
        loss: nn.Module | None = None,
        metric: Metric | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        save_experts: bool = False,
        on_failure: Literal["raise", "skip"] = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__()
        given, experts = experts, None  # recording arguments copies them: not the weights of all experts
        self.save_hyperparameters()
        self.pool = None if given is None else ExpertPool.of(given, classes)
        self.vocabulary = Vocabulary.of(self.pool, expert_classes, classes)
        if self.pool is not None:
            expert_domains = {name: expert.domains or [] for name, expert in self.pool.members.items()}
        self.target, self.expert_target, self.seed, self.save_experts = target, expert_target, seed, save_experts
        if target not in ("label", "expert") or expert_target not in ("random", "best"):
            raise InputError(
                f"target is {target!r}, expert_target is {expert_target!r}; expected label or expert, random or best"
            )
        if not 0 <= mean_weight < 1 or (mean_weight and target != "label"):
            raise InputError(f"mean_weight is {mean_weight}; expected 0 or more, below 1, and target: label if above 0")
        self.mean_weight = mean_weight
        check_domains(expert_domains or {}, domains or [])
        known = expert_domains or {name: [] for name in self.expert_classes}
        self.goal = ExpertTarget(domains or [], known, expert_target, seed)
        if target == "expert" and not self.goal.trained_on.any():
            raise InputError(
                "target: expert requires the domains of the experts: no expert's domains are among the data's "
                f"domains ({domains}); set the experts' domains, or target: label"
            )
        self.hparams.update(
            classes=self.classes,
            expert_classes=self.expert_classes,
            domains=domains,
            expert_domains=expert_domains,
        )
        self.representation_dims = dict(representation_dims or {})
        if self.representation_dims and list(self.representation_dims) != list(self.expert_classes):
            raise InputError(
                f"representation_dims are of {shorten(self.representation_dims)}; expected a width for each of the "
                f"experts {shorten(self.expert_classes)}, in their order"
            )
        if self.representation_dims and on_failure == "skip":
            raise InputError(
                "on_failure: a representation cannot be missing; set it to raise, or leave representation_dims out"
            )
        if len(self.classes) < 2:
            raise InputError(f"classes: found {len(self.classes)}, {shorten(self.classes)}; expected two at least")
        self.num_probabilities = sum(len(names) for names in self.expert_classes.values())
        num_inputs = self.num_probabilities + sum(self.representation_dims.values())
        num_outputs = len(self.classes) if target == "label" else len(self.expert_classes)
        build = network if network is not None else RepresentationFuser if self.representation_dims else MLPFuser
        self.network = build(num_inputs, num_outputs)
        self.loss = loss if loss is not None else LabeledCrossEntropy()
        metrics = {"loss": SampleMean(), "accuracy": accuracy_of(len(self.classes))}
        metrics |= {"choice_accuracy": SampleMean()} if target == "expert" else {}
        metrics["best_expert_accuracy"] = BestExpertAccuracy(len(self.expert_classes))
        metrics["majority_accuracy"] = MajorityAccuracy(len(self.classes))
        self.metrics = SplitMetrics(metrics, metric)
        self._queries = PoolQueries(on_failure)
        self._classes_fixed = False  # by a fit, or a checkpoint
        self._expert_metadata: dict[str, Any] | None = None if self.pool is None else self.pool.metadata()
        self._stored_experts: dict[str, Any] | None = None  # experts of the current store
        self._optimizer, self._scheduler, self._interval = optimizer, scheduler, scheduler_interval

    # ----------------------------------------------------------- mathematics

    def forward(self, input: Any) -> Tensor:
        """Run every expert on a batch of raw inputs and fuse their outputs.

        Returns:
            (B, C) fused logits; log-probabilities of the selected expert if the target is the expert.

        Raises:
            InputError: If the module has no experts.
        """
        return self.fuse(self._query(input))

    def fuse(self, outputs: Tensor) -> Tensor:
        """Map (B, sum of C_k) expert outputs, followed by representations (B, sum of D_k), to (B, C) fused logits.

        With ``target: label`` validation, test and prediction call this method: override it to fuse in another way.
        Training minimizes the loss of an overridden method's logits, else that of the network's, without the average.
        Missing answers are NaN; the network reads zeros in their place, which no distribution has.
        """
        logits = self._logits(outputs)
        if self.target == "expert":
            return self._answer(outputs, self._choose(outputs, logits))
        if not self.mean_weight:
            return logits
        spread = self._spread(outputs).float()
        missing = spread.isnan()
        average = spread.masked_fill(missing, 0).sum(1) / (~missing.any(2)).sum(1, keepdim=True).clamp_min(1)
        return torch.lerp(logits.float().softmax(1), average, self.mean_weight).clamp_min(1e-12).log()

    def _fuse(self, outputs: Tensor) -> Tensor:
        """Return the logits of :meth:`fuse`, which a subclass may override."""
        logits = self.fuse(outputs)
        if logits.shape != (expected := (len(outputs), len(self.classes))):
            raise InputError(
                f"{type(self).__name__}.fuse returns shape {tuple(logits.shape)}; expected the logits of the classes, "
                f"{expected}"
            )
        return logits

    def _logits(self, outputs: Tensor) -> Tensor:
        """Return the output of the network, which reads zeros where an answer is missing."""
        missing = outputs.isnan()
        if self.representation_dims and not torch.compiler.is_exporting() and bool(missing.any()):
            raise InputError(
                "representation_dims: a fuser that reads representations cannot take missing answers; train one on "
                "the outputs alone (representations: false)"
            )
        return run_network(self.network, outputs.masked_fill(missing, 0))

    def _choose(self, outputs: Tensor, logits: Tensor) -> Tensor:
        """Return the (B,) selected experts, among those that answered."""
        missing = self._spread(outputs).isnan().any(2)
        if not torch.compiler.is_compiling() and bool(missing.all(1).any()):
            rows = shorten(missing.all(1).nonzero().flatten().tolist())
            raise InputError(
                f"target: expert needs an answer of at least one expert; row(s) {rows} of the batch have none"
            )
        return logits.masked_fill(missing, -torch.inf).argmax(1)

    def _answer(self, outputs: Tensor, chosen: Tensor) -> Tensor:
        """Return the (B, C) log-probabilities of the selected experts."""
        spread = self._spread(outputs).float()
        return spread[torch.arange(len(outputs), device=outputs.device), chosen].clamp_min(1e-12).log()

    def _spread(self, outputs: Tensor) -> Tensor:
        """Return the (B, K, C) outputs of each expert in the classes of the task."""
        return self.vocabulary.scatter(outputs[:, : self.num_probabilities])

    def _query(self, input: Any) -> Tensor:
        if self.pool is None:
            raise InputError(
                "experts: this fuser has none, so it reads stored outputs only; give experts to predict on raw input"
            )
        if not self.representation_dims:
            return torch.cat(list(self._queries(self.pool, input).values()), dim=1).to(self.dtype)
        outputs, representations = self.pool.forward_with_representations(input)
        if (found := {name: values.shape[1] for name, values in representations.items()}) != self.representation_dims:
            raise InputError(
                f"representation_dims: the experts give representations of widths {found}, not "
                f"{self.representation_dims}"
            )
        return torch.cat([*outputs.values(), *representations.values()], dim=1).to(self.dtype)

    def _read(self, batch: Any, split: str) -> OutputsBatch:
        """Return stored outputs, or the outputs of the experts on raw input, in the precision of the fuser."""
        if isinstance(batch, OutputsBatch):
            return batch._replace(outputs=batch.outputs.to(self.dtype))
        fits, labeled = split == "train", split != "predict"
        num_classes = None if not labeled or (fits and self.target == "expert") else len(self.classes)
        batch = as_batch(batch, f"the {split} loader", labeled, num_classes, unlabeled=fits)
        input = (
            batch.input if self.pool is None else self.pool.input_of(batch, getattr(self.trainer, "datamodule", None))
        )
        return OutputsBatch(self._query(input), batch.target, batch.domain, batch.index)

    # ----------------------------------------------------------------- steps

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss of a batch; log it every ``log_every_n_steps`` steps."""
        batch = self._read(batch, "train")
        goal = batch.target if self.target == "label" else self.goal(batch, self._spread(batch.outputs))[0]
        own = self.target == "label" and type(self).fuse is not FoEFuserModule.fuse
        logits = self._fuse(batch.outputs) if own else self._logits(batch.outputs)
        loss: Tensor = self.loss(logits.float(), goal)
        if logs_step(self):
            log_train(self, {"loss": loss}, batch)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Log ``val_loss``, ``val_accuracy``, and the accuracies of the best single expert and the most frequent class.

        Returns:
            Dict of ``index`` (B,), ``target`` (B,) and ``probabilities`` (B, C), for callbacks.
        """
        self.metrics.loader = dataloader_idx
        batch = self._read(batch, "val")
        spread = self._spread(batch.outputs)
        right = (spread.argmax(2) == batch.target[:, None]) & ~spread.isnan().any(2)
        self.metrics["val"]["best_expert_accuracy"].update(right)
        self.metrics["val"]["majority_accuracy"].update(batch.target)
        return self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Log ``test_loss`` and ``test_accuracy``, and return what a validation step does."""
        self.metrics.loader = dataloader_idx
        return self._evaluate(self._read(batch, "test"), "test")

    def _evaluate(self, batch: OutputsBatch, split: str) -> dict[str, Tensor]:
        goal = batch.target
        if self.target == "label":
            logits = answer = self._fuse(batch.outputs)
        else:
            logits = self._logits(batch.outputs)
            goal, experts = self.goal(batch, self._spread(batch.outputs))
            chosen = self._choose(batch.outputs, logits)
            answer = self._answer(batch.outputs, chosen)
            right = experts[torch.arange(len(experts), device=experts.device), chosen]
            self.metrics[split]["choice_accuracy"].update(right.float())
        self.metrics.count(split, answer, batch.target, self.loss(logits.float(), goal))
        self.metrics.log(self, split, batch)
        return {"index": batch.index, "target": batch.target, "probabilities": answer.float().softmax(1)}

    @torch.no_grad()
    def expert_weights(self, batch: Any) -> Tensor | None:
        """Return the (B, K) weights of the experts in the predictions of a batch of stored outputs; rows sum to 1.

        With ``target: expert`` the selected expert has the weight 1. Else the weight of an expert is proportional to
        the total variation distance between the prediction and the one in which the output of this expert is uniform
        (our choice).

        Args:
            batch: Batch of stored outputs, on the device of the module.

        Returns:
            ``None`` for raw input, on which the experts would run again, and for fusers that read representations.
        """
        if not isinstance(batch, OutputsBatch) or self.representation_dims:
            return None
        outputs = batch.outputs.to(self.dtype)
        if self.target == "expert":
            chosen = self._choose(outputs, self._logits(outputs))
            return F.one_hot(chosen, len(self.expert_classes)).float()
        prediction, distances, start = self._fuse(outputs).float().softmax(1), [], 0
        for names in self.expert_classes.values():
            changed = outputs.clone()
            changed[:, start : start + len(names)] = 1 / len(names)
            start += len(names)
            distances.append((self._fuse(changed).float().softmax(1) - prediction).abs().sum(1) / 2)
        weights = torch.stack(distances, 1) + 1e-12
        return weights / weights.sum(1, keepdim=True)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Return ``index`` (B,) and fused ``probabilities`` (B, C) of a batch, and the selected ``expert`` (B,)."""
        if not isinstance(batch, OutputsBatch):
            batch = as_batch(batch, "the predict loader", labeled=False)
            batch = numbered(batch, self, batch_idx, dataloader_idx)
        batch = self._read(batch, "predict")
        if self.target == "label":
            return {"index": batch.index, "probabilities": self._fuse(batch.outputs).float().softmax(-1)}
        chosen = self._choose(batch.outputs, self._logits(batch.outputs))
        return {"index": batch.index, "probabilities": self._answer(batch.outputs, chosen).exp(), "expert": chosen}

    # ----------------------------------------------------- around the training

    def setup(self, stage: str) -> None:
        """Check that store and experts match; compute accuracies by domain if they determine the target."""
        data = getattr(self.trainer, "datamodule", None)
        self._take_classes(labeled_attribute(data, "classes"), stage)
        if self.pool is not None:
            carry_from_experts(self.pool.members.values(), self.trainer)
            self._queries.preprocessing = data_preprocessing(self.trainer) or {}
            self.pool.convert_from(self._queries.preprocessing or None)
        by_accuracy = self.target == "expert" and self.expert_target == "best"
        if not isinstance(data, OutputsDataModule):
            if by_accuracy and stage != "predict":
                raise InputError(
                    "expert_target: best needs stored outputs; use OutputsDataModule as data, or expert_target: random"
                )
            check_classes("the fuser", self.classes, data, stage)
            if stage == "fit" and self.pool is not None:
                warn_seen(self.pool.members, data)
            return
        outputs = data.outputs
        check_stored(data, self.expert_classes, self.classes, self.representation_dims)
        if self.pool is not None:
            outputs.check_pool(self.pool)
        self._stored_experts = outputs.experts
        for message in unanswered(outputs):
            rank_zero_warn(message)
        if self.pool is None:
            try:
                check_same_experts(self._expert_metadata or {}, self._stored_experts)
            except InputError as error:
                if stage != "fit":
                    raise
                rank_zero_warn(f"{error}; training continues on the outputs of these")
        if stage == "fit":
            self._expert_metadata = outputs.experts
        if by_accuracy:
            self.goal.measure(outputs["val"])

    def teardown(self, stage: str) -> None:
        """Release the experts, and report their failures."""
        if self.pool is not None:
            self.pool.convert_from(None)
            release_new_samples(self.trainer)
            self._queries.report(stage)

    def on_fit_start(self) -> None:
        """Leave out the warning that the experts are in eval mode, as they are frozen."""
        expect_eval_mode(self, [self.pool])

    def on_fit_end(self) -> None:
        """Log the warnings of :func:`fuser_warnings`."""
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        for message in fuser_warnings(metrics, self.target):
            rank_zero_warn(message)
        self.metrics.warn_chance(self.trainer)

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule of the network and of further parts of a subclass; experts stay as they are."""
        trained = [weight for weight in self.parameters() if weight.requires_grad]
        return build_optimizer(self, trained, self._optimizer, self._scheduler, self._interval)

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks for reproducible runs and whole checkpoints that the trainer lacks."""
        return default_callbacks(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the experts' metadata, and their weights if ``save_experts``."""
        store_experts(checkpoint, self._expert_metadata, self.save_experts)

    def _take_classes(self, classes: Sequence[str] | None, stage: str) -> None:
        """Take the order of the data's classes; it is fixed once the fuser is trained."""
        if self._classes_fixed and classes is not None and reordered(classes, self.classes):
            raise InputError(
                f"classes: the fuser was trained on {shorten(self.classes, 20)}; the data have them in the order "
                f"{shorten(classes, 20)}; give the data in the former order"
            )
        take_order(self, classes)
        self._classes_fixed |= stage == "fit"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the experts against those the fuser was trained with, and complete the weights for strict loading."""
        super().on_load_checkpoint(checkpoint)
        self._take_classes(checkpoint.get("hyper_parameters", {}).get("classes"), "load")
        self._classes_fixed = True
        state, known = checkpoint["state_dict"], checkpoint.get("experts") or {}
        if self.pool is None:
            for name in [name for name in state if name.startswith(POOL)]:
                del state[name]
            if self._stored_experts:  # Trainer calls setup() before it loads a checkpoint
                check_same_experts(known, self._stored_experts)
            self._expert_metadata = known
            return
        restore_experts(checkpoint, self.pool)


class LabeledCrossEntropy(nn.Module):
    """Cross-entropy, averaged over the samples that have a target (not -100); 0 if there are none."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Map (B, C) logits and a (B,) target to a scalar that is part of the graph."""
        total = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum")
        return total / (target != -100).sum().clamp_min(1)
