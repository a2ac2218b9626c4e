"""HaT: joint training of a student for a new domain and a mixer of selected sources."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from lightning import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torchmetrics import Metric

from lightning_fusion.callbacks.early_parts import EarlyParts, expect_eval_mode
from lightning_fusion.data.batch import Batch, as_batch, num_samples
from lightning_fusion.data.indexed import numbered
from lightning_fusion.data.names import near_message
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.layers import as_vectors, catch_output, state_tensors
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.names import module_key
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.preprocessing import data_preprocessing
from lightning_fusion.experts.probing import (
    all_rows,
    batches_repeat,
    check_representations,
    first_rows,
    in_eval,
    training_labels,
)
from lightning_fusion.hat.arguments import check_arguments
from lightning_fusion.hat.checkpoints import restore_sources, restore_student, restore_teacher, store_teacher
from lightning_fusion.hat.fitted.base import evidence_of
from lightning_fusion.hat.hints import RepresentationHints
from lightning_fusion.hat.knowledge import default_threshold
from lightning_fusion.hat.mixer import global_means, injection_loss, shared_columns
from lightning_fusion.hat.mixup import Pairs, paired_loss
from lightning_fusion.hat.preparation import TeacherPlan, begin, below_threshold, check_labels
from lightning_fusion.hat.sources import Answer, SourceOutputs
from lightning_fusion.hat.teacher import FixedTeacher, MixerTeacher, Teacher
from lightning_fusion.hyperparameters import check_choices
from lightning_fusion.metrics.logging import accuracy_of, log_train, logs_step
from lightning_fusion.optimization import build_optimizer, check_manual, check_stepwise, step_together


class HaTJointModule(ExpertModule):
    """Heterogeneity-aware transfer to a new domain (Dai et al., arXiv 2412.04060): a reconstruction.

    The student, the resulting model, is trained on the labels and on a teacher's predictions of all samples, which
    stand in a dictionary:

        L_t = CE(f_t(x), y)  +  alpha KL(dictionary[x] || f_t(x))          on labeled samples, and on all samples

    In the paper the teacher is a *mixer*, which weights the outputs of the sources for each sample and is trained in
    the same loop, with an optimizer of its own:

        L_mix = -log p_mix[y]                                              on labeled samples

    A *fitted* teacher (our choice) is fitted on the labels before the training, and its predictions do not change: an
    average of the sources, stacking, a fuser, or fine-tuned copies of the sources.

    The losses share no parameter (z_t is detached before the mixer, p_mix and dictionary before L_t), so one backward
    pass of their sum trains both. At the end of an epoch in which the mixer improved, the dictionary is replaced
    (:class:`~lightning_fusion.KnowledgeDictionary`). Unlabeled samples have the target -100
    (:class:`~lightning_fusion.TargetDataModule`). The sources are frozen; their outputs are computed once if training
    batches are not augmented. The checkpoint is an ordinary expert, the student.

    The optimization is manual. With a mixer ``trainer.global_step`` counts the steps of both optimizers, two for each
    batch, which also affects the names of checkpoint files and ``every_n_train_steps``; :attr:`progress` counts
    batches.
    ``max_steps`` raises ``InputError``: limit a run by ``max_epochs``.

    Args:
        network: Factory of the student, called with the number of classes.
        experts: The sources by name, or a pool; each must name its ``features``. Classes that the target lacks are
            ignored; sources may differ in architecture, width and classes.
        features: Submodule of ``network`` whose output is z_t: the one before the task head.
        classes: Names of the classes, in the order of the targets; the command line takes this, the next two and
            ``vocab_size`` from the data module.
        trained_on: Names of the domains of the training data.
        preprocessing: Preprocessing of the data, stored with the expert.
        teacher: Fitted on the labels: ``uniform`` (the sources' average), ``stacking`` on their outputs,
            ``stacking_representations``, ``foe``, ``fine_tuned`` (each source fine-tuned, averaged), ``all`` (the mean
            of these five, with weights of the best cross-validated likelihood), or ``auto``, the one of all six with
            the best; it is fitted again for other data. Trained with the student: ``attention`` (the paper's mixer),
            or ``static`` weights. The arguments from ``dim`` to ``accuracy_source`` and those of the mixer's optimizer
            are for these two.
        init: Weights with which the student starts, among the sources of the same architecture and the same
            preprocessing: ``best_source`` (the one with the best likelihood of the labels), ``average`` of them (for
            each class over those that have it), ``scratch`` (those of ``network``, also pre-trained ones), or ``auto``:
            ``best_source`` where inputs are real numbers and its accuracy on the labels reaches the threshold of alpha,
            else ``scratch``. ``auto`` keeps a student that was loaded from its checkpoint; pre-trained weights that
            ``network`` returns cannot be distinguished from random ones, and need ``scratch``.
        mixup: Parameter of mixup of the student's inputs and targets, for inputs of real numbers; 0 for none. ``None``
            (default) means 1 for such inputs, and 0 for tokens and other inputs, which cannot be mixed.
        sharpness: Power of a fitted teacher's probabilities, which are normalized again; 1 leaves them as they are.
            ``None`` (default) chooses it by cross-validated likelihood.
        representation_weight: Weight of a further loss of the student, the error of a linear map from its
            representation to those of the sources (:class:`~lightning_fusion.hat.hints.RepresentationHints`).
        dim: Size of the attention's query and keys.
        temperature: Temperature of the softmax over sources.
        heads: Train copies of the sources' heads with the mixer, or use the sources' own outputs (``frozen``).
        training: ``joint``, or ``two_step``: the mixer in the first half of the epochs, then the student (an ablation,
            in which the attention reads the representation of an untrained network).
        dictionary: Distill from the dictionary; if false, from the mixer's current predictions of the batch.
        update_rule: When the dictionary is replaced, see :class:`~lightning_fusion.KnowledgeDictionary`.
        accuracy_source: Samples of the mixer's accuracy, see :class:`~lightning_fusion.KnowledgeDictionary`.
        alpha: Strength of the injection: alpha_0, but 0 where the teacher's accuracy is below the threshold
            (``gated``); times that accuracy as well, as in the paper (``adaptive``); or always alpha_0 (``fixed``). The
            accuracy is that of the last epoch, of fitted teachers the cross-validated one.
        alpha_0: Maximum strength of the injection.
        threshold: Threshold b of the teacher's accuracy. ``None`` (default) means min(.95, max(fraction of the largest
            class, 1 / C) + .05).
        cache: Compute the outputs of the sources on all samples once, unless training batches are augmented. If false,
            compute them for each batch. A fitted teacher needs them in training with ``representation_weight`` alone.
        clip_norm: Maximum norm of the gradients, for each optimizer separately, also in 16-bit precision.
        metric: Called as ``metric(logits (B, C), target (B,))`` and logged in addition to the accuracy, under the name
            of its class.
        optimizer: Optimizer of the student. ``None`` (default) uses AdamW with learning rate 1e-3 and weight decay
            1e-4.
        scheduler: Schedule of the student. ``None`` (default) uses cosine annealing to 0 over the run.
        scheduler_interval: Whether a given ``scheduler`` or ``mixer_scheduler`` steps each epoch or each step.
        mixer_optimizer: Optimizer of the mixer. ``None`` (default) uses AdamW with learning rate 1e-3 and weight decay
            1e-4.
        mixer_scheduler: Schedule of the mixer. ``None`` (default) uses cosine annealing to 0 over the run.
        seed: Random seed of the held-out samples of ``accuracy_source``.
        vocab_size: Number of tokens of the data's tokenizer; the ``vocab_size`` of a network must be at least as large.

    Raises:
        InputError: If a source shares no class with the target, or a layer or an argument is invalid.

    Example:
        >>> from lightning_fusion.encoders import SmallConvNet
        >>> network = partial(SmallConvNet, in_channels=1)
        >>> source = Expert(network(2), classes=["zero", "one"], features="pool")
        >>> module = HaTJointModule(network, {"first": source}, features="pool", classes=["zero", "one"])
        >>> module(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 2])
    """

    batches_done: Tensor

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        experts: dict[str, Expert] | ExpertPool,
        features: str,
        classes: list[str] | None = None,
        trained_on: list[str] | None = None,
        preprocessing: dict[str, Any] | None = None,
        teacher: Literal[
            "auto", "all", "uniform", "stacking", "stacking_representations", "foe", "fine_tuned", "attention", "static"
        ] = "all",
        init: Literal["auto", "scratch", "best_source", "average"] = "auto",
        mixup: float | None = None,
        sharpness: float | None = None,
        representation_weight: float = 0.0,
        dim: int = 32,
        temperature: float = 1.0,
        heads: Literal["trained", "frozen"] = "trained",
        training: Literal["joint", "two_step"] = "joint",
        dictionary: bool = True,
        update_rule: Literal["gt", "ge"] = "gt",
        accuracy_source: Literal["train", "holdout", "crossfit"] = "train",
        alpha: Literal["gated", "adaptive", "fixed"] = "gated",
        alpha_0: float = 1.0,
        threshold: float | None = None,
        cache: bool = True,
        clip_norm: float | None = None,
        metric: Metric | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        mixer_optimizer: OptimizerCallable | None = None,
        mixer_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
        vocab_size: int | None = None,
    ) -> None:
        given, experts = experts, {}  # recording arguments copies them: not the weights of all experts
        super().__init__(
            network=network,
            classes=classes,
            trained_on=trained_on,
            preprocessing=preprocessing,
            features=features,
            metric=metric,
            optimizer=optimizer,
            scheduler=scheduler,
            scheduler_interval=scheduler_interval,
            vocab_size=vocab_size,
        )
        self.automatic_optimization = False
        check_choices(HaTJointModule.__init__, locals())
        check_arguments(HaTJointModule.__init__, locals())
        self.pool = ExpertPool.of(given)
        check_representations(self.network, features, self.pool)
        self.columns, self.uncovered = shared_columns(self.pool.expert_classes, self.classes)
        for name, own in self.pool.expert_classes.items():
            if message := near_message(own, self.classes, f"source {name}", "the target"):
                rank_zero_warn(message)
        of_mixers: dict[str, Any] = {"dim": dim, "temperature": temperature}
        of_mixers |= {"update_rule": update_rule, "accuracy_source": accuracy_source}
        how: Any = (heads == "trained", sharpness, of_mixers, seed)
        self._plan = TeacherPlan(teacher, self.pool, self.columns, len(self.classes), *how)
        self.fitted = self._plan.fitted
        self._outputs = SourceOutputs(self.pool, with_scores=heads == "frozen")
        self.teacher: Any = None  # a Teacher; built from the sizes of the first training samples
        self.hints: RepresentationHints | None = None  # likewise
        self._mixup, self.mixup = mixup, mixup or 0.0  # as given, and for the type of the input, known from the data
        self.init, self.representation_weight = init, representation_weight
        self.procedure, self.use_dictionary = training, dictionary
        self.alpha, self.alpha_0, self.threshold = alpha, alpha_0, threshold
        self.cache, self.clip_norm = cache, clip_norm
        self._mixer_optimizer, self._mixer_scheduler = mixer_optimizer, mixer_scheduler
        self.register_buffer("batches_done", torch.zeros((), dtype=torch.int64))
        self.metrics.add({"teacher_accuracy": accuracy_of(len(self.classes))})
        self._steps = math.inf
        self._default_threshold: float | None = None  # of the training data
        self.student_loaded, self.started_from = False, "scratch"

    # ------------------------------------------------------------ mathematics

    def forward_with_representations(self, input: Any) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) of the student, and its representation z_t (B, D)."""
        assert self.features is not None
        with catch_output(self.network, self.features) as caught:
            logits = self(input)
        return logits, as_vectors(caught[-1])

    def student_losses(self, logits: Tensor, target: Tensor, knowledge: Tensor, filled: Tensor | bool) -> Tensor:
        """Return (2,) means over the batch of CE and KL, whose sum is L_t; override it for another loss of the student.

        Args:
            logits: (B, C) of the student.
            target: (B,) classes, -100 for unlabeled samples.
            knowledge: (B, C) probabilities, without gradient.
            filled: (B,) bool, which samples have knowledge; True if all have.
        """
        log_student = logits.float().log_softmax(1)
        labeled = target >= 0
        taught = (~labeled | (self.teacher.known(target) >= 0)) & filled
        supervised = F.nll_loss(log_student, target, ignore_index=-100, reduction="sum")
        injected = injection_loss(log_student, knowledge, taught)
        return global_means([supervised, injected], [labeled.sum(), taught.sum()])

    @torch.no_grad()
    def sample_weights(self, input: Any) -> Tensor:
        """Return the (B, S) weights of the sources for each sample, in the order of ``pool.names``; rows sum to 1.

        Student and sources run in eval mode. With ``accuracy_source: crossfit`` the weights are the mean over the
        mixers.

        Args:
            input: Preprocessed input on the module's device.

        Raises:
            InputError: If there is no mixer: before training, in a student's published checkpoint, and with a fitted
                teacher.
        """
        teacher = self._made_teacher(MixerTeacher)
        with in_eval(self):
            mixed = teacher(self.forward_with_representations(input)[1], self._outputs(input))
        return torch.stack([log_weights.exp() for log_weights in mixed.log_weights]).mean(0)

    @torch.no_grad()
    def teacher_probabilities(self, input: Any) -> Tensor:
        """Return the (B, C) probabilities of the teacher, which queries all sources: the ensemble, if it is kept.

        Args:
            input: Preprocessed input on the module's device.

        Raises:
            InputError: If there is no teacher: before training, and in a student's published checkpoint.
        """
        teacher = self._made_teacher(Teacher)
        with in_eval(self):
            if isinstance(teacher, FixedTeacher):
                count = num_samples(input)
                assert count is not None
                found: Tensor = teacher(evidence_of(self.pool, self.columns, input, count))
                return found
            mean: Tensor = teacher(self.forward_with_representations(input)[1], self._outputs(input)).mean()
            return mean

    def strength(self) -> Tensor | float:
        """Return alpha from the teacher's accuracy; override it for another rule."""
        if self.alpha == "fixed":
            return self.alpha_0
        assert self.threshold is not None
        strength: Tensor = self.teacher.knowledge.alpha(self.alpha_0, self.threshold, scaled=self.alpha == "adaptive")
        return strength

    @property
    def progress(self) -> float:
        """Training progress in [0, 1], in batches."""
        return min(1.0, int(self.batches_done) / max(1.0, self._steps))

    @property
    def source_weights(self) -> dict[str, float]:
        """Return the mean weight of each source over the training batches of the last epoch that trained the mixer.

        Raises:
            InputError: If there is no mixer: before training, in a student's published checkpoint, and with a fitted
                teacher.
        """
        return dict(zip(self.pool.names, self._made_teacher(MixerTeacher).mean_weights.tolist(), strict=True))

    def _made_teacher(self, kind: type[Teacher]) -> Any:
        if self.teacher is None:
            raise InputError("the module has no teacher: it is built in training, and a published student has none")
        if not isinstance(self.teacher, kind):
            raise InputError("the module has no mixer: its teacher is fitted; set teacher: attention or static")
        return self.teacher

    @property
    def _players(self) -> tuple[bool, bool]:
        """Return whether the mixer and the student are trained in this epoch."""
        if self.fitted:
            return False, True
        if self.procedure == "joint":
            return True, True
        first = self.current_epoch < math.ceil((self.trainer.max_epochs or 0) / 2)
        return first, not first

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Update the student, and the mixer if there is one: one backward pass, as their losses share no parameter."""
        batch = numbered(as_batch(batch, "the train loader"), self, batch_idx)
        rows = self.teacher.knowledge.rows(batch.index)
        mixer, student = self._players
        pairs = Pairs.draw(self.mixup, batch.input) if self.mixup and student else None
        logits, own = self._student(batch.input if pairs is None else pairs.mix(batch.input), student)
        z = own
        if pairs is not None and not self.fitted:  # the mixer reads the sample itself
            z = self._student(batch.input, False)[1]
        figures, losses = {}, []
        queried = mixer or not self.use_dictionary or self.hints is not None
        answer = self._answer(batch, "train", rows) if queried else None
        if mixer or not self.use_dictionary:
            with torch.set_grad_enabled(mixer):
                mixed = self.teacher(z.detach(), answer)
            fused = self.teacher.fused(rows, mixed)
        if mixer:
            losses.append(self.teacher.loss(rows, batch.target, mixed))
            figures["mixer_loss"] = losses[-1].detach()
        if student:
            knowledge, filled = self.teacher.knowledge(rows) if self.use_dictionary else (fused, True)
            means = paired_loss(pairs, partial(self.student_losses, logits), batch.target, knowledge, filled)
            alpha = self.strength()
            total = means[0] + alpha * means[1]
            if self.hints is not None:
                error = self._representation_loss(own, answer, pairs)
                total = total + self.representation_weight * error
                figures["representation_loss"] = error.detach()
            losses.append(total)
            figures |= {"loss": losses[-1].detach(), "alpha": alpha}
            figures |= {"supervised_loss": means[0].detach(), "injection_loss": means[1].detach()}
        self._step(sum(losses[1:], losses[0]), mixer, student)
        if mixer:
            self.teacher.keep(rows, fused, mixed)
        self._log_step(figures, mixer + student, batch)
        self.batches_done += 1
        if self.trainer.is_last_batch:  # before validation, after which checkpoints are written
            self._reject_divergence()
            if mixer:
                self.teacher.end_epoch()

    def _representation_loss(self, z: Tensor, answer: Any, pairs: Pairs | None) -> Tensor:
        """Return the mean error of the hints; of mixed inputs the combination of those of both samples."""
        assert self.hints is not None
        error = paired_loss(pairs, partial(self.hints, z), answer.representations)
        return global_means([error.sum()], [torch.tensor(len(error), device=error.device)])[0]

    def _student(self, input: Any, trained: bool) -> tuple[Tensor, Tensor]:
        if trained:
            return self.forward_with_representations(input)
        with torch.no_grad(), in_eval(self.network):  # neither weights nor running statistics change
            return self.forward_with_representations(input)

    def _step(self, loss: Tensor, mixer: bool, student: bool) -> None:
        """Run the backward pass, then step the optimizers and schedules that are due."""
        parts = ((self.teacher, mixer), (self.network, student), (self.hints, student))
        waits = [part for part, trained in parts if part is not None and not trained]
        if waits and self.trainer.world_size > 1:  # DDP requires every weight in the graph
            loss = loss + 0 * torch.stack([weight.sum() for part in waits for weight in part.parameters()]).sum()
        step_together(self, loss, [student, mixer][: len(self.trainer.optimizers)])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradients of one optimizer after unscaling."""
        if self.clip_norm is not None:
            clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], self.clip_norm)

    def _log_step(self, figures: dict[str, Tensor | float], players: int, batch: Batch) -> None:
        """Log every ``log_every_n_steps`` batches; the trainer counts the steps of both optimizers."""
        steps = min(players, len(self.trainer.optimizers))
        if logs_step(self, self.trainer.global_step // steps - 1):
            log_train(self, figures, batch)

    def _reject_divergence(self) -> None:
        for what, part in (("student", self.network), ("mixer", self.teacher.mixers)):
            if not all(bool(value.isfinite().all()) for value in state_tensors(part).values()):
                raise InputError(
                    f"the training of the {what} diverged in epoch {self.current_epoch}: weights are NaN or infinite; "
                    "lower the learning rate, or set clip_norm"
                )

    def on_train_epoch_end(self) -> None:
        """Log the teacher's accuracy, and of a mixer the dictionary's updates and the mean weight of each source."""
        found = {"teacher_accuracy": self.teacher.knowledge.accuracy}
        if not self.fitted:
            found["dictionary_updates"] = self.teacher.knowledge.updates.float()
            found |= {f"expert_{module_key(name)}_weight": weight for name, weight in self.source_weights.items()}
        for name, value in found.items():
            self.log(f"train_{name}", value, sync_dist=True)  # the same in all processes

    def _count(self, batch: Batch, split: str) -> Tensor:
        """Log the metrics of an expert, and ``teacher_accuracy``, of a fitted teacher in tests only: it is constant."""
        assert self.features is not None
        with catch_output(self.network, self.features) as caught:
            logits = super()._count(batch, split)
        if isinstance(self.teacher, MixerTeacher):
            mixed = self.teacher(as_vectors(caught[-1]), self._answer(batch, split))
            self.metrics[split]["teacher_accuracy"].update(mixed.mean(), batch.target)
        elif self.teacher is not None and split == "test":
            self.metrics[split]["teacher_accuracy"].update(self.teacher_probabilities(batch.input), batch.target)
        return logits

    def _answer(self, batch: Batch, split: str, rows: Tensor | None = None) -> Answer:
        """Return the outputs of the sources on a batch, cached where possible."""
        known = self._outputs.tables
        if known and split == "val" and "val" not in known:
            self._outputs.cache("val", all_rows(self.trainer, "val", self.device))
        if split != "train" and self.metrics.loader > 0:  # of other rows than the data module's
            return self._outputs(batch.input)
        return self._outputs.of(batch, split, rows)

    # ----------------------------------------------------- around the training

    def configure_callbacks(self) -> list[Callback]:
        """Check Trainer options for manual optimization, and return the callbacks of an expert."""
        check_manual(self)
        EarlyParts.install(self)
        return super().configure_callbacks()

    def setup(self, stage: str) -> None:
        """Connect student, sources and data; for a fit, :meth:`prepare_fit` has usually done it before."""
        if stage != "fit":
            self._connect(stage)
        elif not EarlyParts.installed(self):  # a subclass without configure_callbacks
            self.prepare_fit()

    def _connect(self, stage: str) -> None:
        super().setup(stage)
        self.convert_from(data_preprocessing(self.trainer))

    def convert_from(self, found: Mapping[str, Any] | None) -> None:
        """Convert the input of all sources from another normalization to their own, also that of fine-tuned ones.

        Args:
            found: Preprocessing of the input; ``None`` ends the conversion.
        """
        self.pool.convert_from(found)
        if isinstance(self.teacher, FixedTeacher):
            self.teacher.convert_from(found)

    def prepare_fit(self) -> None:
        """Build the teacher from the sizes of some training rows, and from the numbers and labels of all."""
        self._connect("fit")
        input = first_rows(self).input
        self.mixup = Pairs.parameter(self._mixup, input)
        index, target = training_labels(self.trainer)
        check_labels(target, self.classes)
        sizes = self._measure(input)
        self._make_teacher(sizes)
        if self.threshold in (None, self._default_threshold):
            self.threshold = self._default_threshold = default_threshold(target, len(self.classes))
        target = self.teacher.known(target)
        if not bool((target >= 0).any()):
            raise InputError("experts: no source has a class of the labeled training samples; choose other experts")
        if self.uncovered:
            rank_zero_warn(
                f"no source has the class(es) {shorten(self.uncovered)} of the target: the student learns them from "
                "labels alone"
            )
        self.teacher.note_rows(index, target)

    def begin_fit(self) -> None:
        """Set the student's first weights and fit a teacher, in the first run on the data and not in a resumed one.

        A checkpoint to resume from is loaded after :meth:`setup` and before this.
        """
        for line in begin(self):
            rank_zero_info(line)
        expect_eval_mode(self, (self.pool, self.teacher))
        remedy = "lower threshold, choose other sources, or label more samples"
        if self.fitted and (message := below_threshold(self, self.teacher.knowledge.accuracy, remedy)):
            rank_zero_warn(message)

    def teardown(self, stage: str) -> None:
        """Release data module and sources."""
        super().teardown(stage)
        self.convert_from(None)

    def _measure(self, input: Any) -> dict[str, Any]:
        with torch.no_grad(), in_eval(self.network):
            logits, z = self.forward_with_representations(input)
        return self._plan.measure(logits, z, input)

    def _make_teacher(self, sizes: Mapping[str, Any]) -> None:
        """Build the teacher for the current sources; an existing one of the same sizes is kept."""
        if self.teacher is None:
            self.teacher = self._plan.make(sizes)
        self.teacher.check_sizes(sizes)
        if self.representation_weight and self.hints is None:
            self.hints = RepresentationHints(sizes["own"], sizes["sources"])

    def configure_optimizers(self) -> Any:
        """Return two optimizers with schedules; only the student's if the mixer has no weights."""
        if self.teacher is None:
            raise InputError(f"{type(self).__name__}: setup() does not call super().setup(stage); add it")
        self._steps = self.trainer.estimated_stepping_batches
        turns = 2 if self.procedure == "two_step" else 1
        cosine: Any = None  # without an end of the run, build_optimizer raises
        if math.isfinite(self._steps):
            cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=max(1, math.ceil(self._steps / turns)))
        others = {id(weight) for part in (self.teacher, self.pool) for weight in part.parameters()}
        own = [weight for weight in self.parameters() if id(weight) not in others]  # with further parts of a subclass
        if not any(weight.requires_grad for weight in own):
            raise InputError(
                "network: none of its weights requires a gradient, so nothing is trained; unfreeze a layer"
            )
        chosen = [(own, self._optimizer, self._scheduler)]
        if not self.fitted:
            chosen.append((list(self.teacher.parameters()), self._mixer_optimizer, self._mixer_scheduler))
        made = [
            build_optimizer(self, weights, how, when or cosine, self._interval if when else "step")
            for weights, how, when in chosen
        ]
        check_stepwise(self, made)
        return made

    def on_fit_start(self) -> None:
        """Run the sources on all training samples, if their outputs can be cached."""
        if not EarlyParts.installed(self):  # a subclass without configure_callbacks
            self.begin_fit()
        expected = 1 if self.fitted else 2
        if (found := len(self.trainer.optimizers)) != expected:
            raise InputError(
                f"configure_optimizers: {type(self).__name__} has {found} optimizer(s); expected {expected}, in this "
                f"order: {', '.join(['of network', 'of teacher'][:expected])}"
            )
        quick = self.trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a connector of the Trainer
        if quick:  # max_steps counts both optimizers; limit_train_batches ends the run
            self.trainer.fit_loop.epoch_loop.max_steps = -1
        epochs = self.trainer.max_epochs
        if self.procedure == "two_step" and (epochs is None or epochs < 2) and not quick:
            raise InputError(f"training: two_step needs an epoch for each step; trainer.max_epochs is {epochs}")
        queried = not self.fitted or self.hints is not None
        self._outputs.tables.clear()
        if self.cache and queried and batches_repeat(self.trainer, self.device):
            self._outputs.cache("train", all_rows(self.trainer, "train", self.device))

    def on_fit_end(self) -> None:
        """Log a warning if the sources had no effect, and release the cache."""
        super().on_fit_end()
        self._outputs.tables.clear()
        remedy = "choose other sources, train longer, or lower threshold"
        if not self.fitted and (message := below_threshold(self, self.teacher.knowledge.best, remedy)):
            rank_zero_warn(message)

    # ------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the expert's metadata and the names of the sources, without their weights."""
        super().on_save_checkpoint(checkpoint)
        store_teacher(checkpoint, self.pool, self.teacher)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build mixer and dictionary of the interrupted run, and check the sources."""
        super().on_load_checkpoint(checkpoint)
        if "sources" not in checkpoint:
            restore_student(checkpoint, self.pool, self.state_dict())
            self.student_loaded = True
            return
        self._make_teacher(restore_sources(checkpoint, self))
        restore_teacher(checkpoint, self.teacher)
        if self._trainer is not None and self._trainer.state.fn == "fit":
            EarlyParts.renew_copies(self)  # they load their own state afterwards
