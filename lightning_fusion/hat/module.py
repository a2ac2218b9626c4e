"""HaT: a small model of a new domain learns from a few labels and from selected sources, in one loop."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from lightning import Callback
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torchmetrics import Metric

from lightning_fusion.data.base import Batch, FusionDataModule, as_batch, row_facts
from lightning_fusion.data.samplers import SliceSampler
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert, as_vectors, catch_output, check_layer
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.pool import ExpertPool, restore_experts, store_experts
from lightning_fusion.hat.heads import head_name
from lightning_fusion.hat.knowledge import KnowledgeDictionary, default_threshold
from lightning_fusion.hat.mixer import Mixer, injection_loss, shared_columns
from lightning_fusion.hat.sources import Answer, SourceTable, ask
from lightning_fusion.optimization import build_optimizer

_PROBE_ROWS = 64
_OF_TRAINING = ("mixers.", "knowledge.", "batches_done", "mean_weights")  # what the student alone does not need
_FOLDS = 3  # of accuracy_source: crossfit
_CHOICES: dict[str, tuple[Any, ...]] = {
    "mixing": ("attention", "static", "uniform"),
    "update_rule": ("gt", "ge"),
    "accuracy_source": ("train", "holdout", "crossfit"),
    "heads": ("trained", "frozen"),
    "training": ("joint", "two_step"),
    "alpha": ("adaptive", "fixed"),
    "cache": ("auto", True, False),
}


class HaTJointModule(ExpertModule):
    """Heterogeneity-aware transfer to a new domain (Dai et al., arXiv 2412.04060): a reconstruction.

    Two models learn in one loop, each with its own optimizer. The mixer weighs what the sources say sample by sample,
    trained on the labelled rows; the student, the model that is wanted, learns from the labels and from the mixer's
    best knowledge of all rows:

        L_mix = -log p_mix[y]                                              on labelled rows
        L_t   = CE(f_t(x), y)  +  alpha KL(dictionary[x] || f_t(x))        on labelled rows, and on all rows

    They share no parameter (z_t is detached before the mixer, p_mix and dictionary before L_t), so one backward pass
    of the sum serves both. At the end of an epoch in which the mixer became better the dictionary is replaced
    (:class:`~lightning_fusion.KnowledgeDictionary`). Rows without label have the target -100
    (:class:`~lightning_fusion.TargetDataModule`). The sources stay as they are; what they say is computed once
    where training batches are not augmented. The checkpoint is an ordinary expert, the student.

    The optimization is manual. ``trainer.global_step`` counts the steps of both optimizers, two for each batch, and
    with it the numbers in names of checkpoint files and ``every_n_train_steps``; :attr:`progress` counts batches. So
    ``max_steps`` is refused: limit a run by ``max_epochs``. Schedulers step with every batch.

    Args:
        network: As for :class:`~lightning_fusion.ExpertModule`: the student.
        experts: The sources by name, or a pool; each must name its ``features``. Those of their classes count that
            the target has too; no two sources need have the same architecture, width or classes.
        features: Submodule of ``network`` whose output is z_t: the one before the task head.
        classes: As for :class:`~lightning_fusion.ExpertModule`, and so are the next two.
        trained_on: See there.
        preprocessing: See there.
        mixing: How sources are weighed: ``attention`` by sample, ``static`` by learnt weights, or ``uniform``.
        dim: Size of the attention's query and keys.
        temperature: Of the softmax over sources.
        heads: Train copies of the sources' heads with the mixer, or use the sources' own outputs (``frozen``).
        training: ``joint``, or ``two_step``: the mixer in the first half of the epochs, then the student (an
            ablation; the attention then reads a network that is not trained yet).
        dictionary: Learn from the dictionary; else from what the mixer says about the batch at that moment.
        update_rule: When the dictionary is replaced, see :class:`~lightning_fusion.KnowledgeDictionary`.
        accuracy_source: What the mixer's accuracy is counted over, see there.
        alpha: ``adaptive``: alpha_0 times the mixer's accuracy of the last epoch, 0 under the threshold; or ``fixed``.
        alpha_0: Largest strength of the injection.
        threshold: b; min(.95, max(share of the largest class, 1 / C) + .05) where None.
        cache: Compute what the sources say about all rows once; ``auto``: where the training batches are always the
            same. Refused where they are not.
        clip_norm: Largest norm of the gradients, of each optimizer by itself; exact in 16-bit precision too.
        metric: As for :class:`~lightning_fusion.ExpertModule`.
        optimizer: Of the student; AdamW, 1e-3, weight decay 1e-4 where None.
        scheduler: Of the student, stepped with every batch; a cosine to 0 over the run where None.
        mixer_optimizer: Of the mixer; likewise.
        mixer_scheduler: Of the mixer; likewise.
        seed: Of the draw of held-out rows of ``accuracy_source``.
        vocab_size: As for :class:`~lightning_fusion.ExpertModule`.

    Raises:
        InputError: If a source shares no class with the target, or a layer or an argument does not fit.

    Example:
        >>> from lightning_fusion.encoders import SmallConvNet
        >>> network = partial(SmallConvNet, in_channels=1)
        >>> source = Expert(network(2), classes=["zero", "one"], features="pool")
        >>> module = HaTJointModule(network, {"first": source}, features="pool", classes=["zero", "one"])
        >>> module(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 2])
    """

    batches_done: Tensor
    mean_weights: Tensor

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        experts: dict[str, Expert] | ExpertPool,
        features: str,
        classes: list[str] | None = None,
        trained_on: list[str] | None = None,
        preprocessing: dict[str, Any] | None = None,
        mixing: Literal["attention", "static", "uniform"] = "attention",
        dim: int = 32,
        temperature: float = 1.0,
        heads: Literal["trained", "frozen"] = "trained",
        training: Literal["joint", "two_step"] = "joint",
        dictionary: bool = True,
        update_rule: Literal["gt", "ge"] = "gt",
        accuracy_source: Literal["train", "holdout", "crossfit"] = "train",
        alpha: Literal["adaptive", "fixed"] = "adaptive",
        alpha_0: float = 1.0,
        threshold: float | None = None,
        cache: Literal["auto"] | bool = "auto",
        clip_norm: float | None = None,
        metric: Metric | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
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
            vocab_size=vocab_size,
        )
        self.automatic_optimization = False
        for name, known in _CHOICES.items():
            if (value := locals()[name]) not in known:
                raise InputError(f"{name} is {value!r}; expected {shorten(known)}")
        if not 0 <= alpha_0 < math.inf or (threshold is not None and not 0 <= threshold <= 1):
            raise InputError(f"alpha_0 is {alpha_0}, threshold {threshold}; expected at least 0, and 0 to 1")
        if clip_norm is not None and not clip_norm > 0:
            raise InputError(f"clip_norm is {clip_norm}; expected a number above 0, or none")
        if (mixing, heads, training) == ("uniform", "frozen", "two_step"):
            raise InputError("training: two_step has nothing to train first where mixing is uniform and heads frozen")
        self.pool = ExpertPool.of(given)
        for name, expert in self.pool.members.items():
            check_layer(expert.network, expert.features, f"expert {name}")
        frozen = {id(weight) for weight in self.pool.parameters()}
        if {id(weight) for weight in self.network.parameters()} <= frozen:
            raise InputError("network: all of its weights are those of frozen experts; give it a copy.deepcopy")
        check_layer(self.network, features, "the network")
        self.columns, self.uncovered = shared_columns(self.pool.expert_classes, self.classes)
        self.mixing, self.dim, self.temperature, self.heads, self.procedure = mixing, dim, temperature, heads, training
        self.use_dictionary, self.update_rule, self.accuracy_source = dictionary, update_rule, accuracy_source
        self.adaptive, self.alpha_0, self.threshold = alpha == "adaptive", alpha_0, threshold
        self.cache, self.clip_norm, self.seed = cache, clip_norm, seed
        self._mixer_optimizer, self._mixer_scheduler = mixer_optimizer, mixer_scheduler
        self.mixers: Any = None  # ModuleList of Mixer; the first batch tells the sizes
        self.knowledge: Any = None  # KnowledgeDictionary; the training split tells the rows
        self.register_buffer("batches_done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean_weights", torch.full((len(self.pool.names),), 1 / len(self.pool.names)))
        self.val_mixer_metric, self.test_mixer_metric = self.val_metric.clone(), self.test_metric.clone()
        self._sizes: dict[str, Any] = {}
        self._tables: dict[str, SourceTable] = {}
        self._steps = math.inf
        self._weights: Tensor | None = None

    # ------------------------------------------------------------ mathematics

    def forward_with_features(self, input: Any) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of the student, and its representation z_t (B, D)."""
        assert self.features is not None
        with catch_output(self.network, self.features) as caught:
            logits = self(input)
        return logits, as_vectors(caught[-1])

    def fuse(self, z: Tensor, answer: Answer) -> list[tuple[Tensor, Tensor]]:
        """Log-weights (B, S) and log p_mix (B, C) of each mixer; there is one but for ``accuracy_source: crossfit``.

        Args:
            z: (B, D) the student's representation, detached.
            answer: What the sources say.
        """
        return [mixer(z, answer.features, answer.scores) for mixer in self.mixers]

    @torch.no_grad()
    def sample_weights(self, input: Any) -> Tensor:
        """How much each source counts for each sample: (B, S), in the order of ``pool.names``; rows sum to 1.

        Student and sources are asked in eval mode. With ``accuracy_source: crossfit`` it is the mean over the mixers.

        Args:
            input: What the network takes: preprocessed, on the module's device.

        Raises:
            InputError: If there is no mixer: before training, and in a student's published checkpoint.
        """
        if self.mixers is None:
            raise InputError("there is no mixer: it is made in training, and a published student has none")
        with _in_eval(self):
            z = self.forward_with_features(input)[1]
            fused = self.fuse(z, ask(self.pool, input, self.heads == "frozen"))
        return torch.stack([log_weights.exp() for log_weights, _ in fused]).mean(0)

    def strength(self) -> Tensor | float:
        """Alpha, by the mixer's accuracy in the last epoch; override it for another rule."""
        assert self.threshold is not None
        return self.knowledge.alpha(self.alpha_0, self.threshold) if self.adaptive else self.alpha_0

    @property
    def progress(self) -> float:
        """Share of the training that is done, in batches."""
        return min(1.0, int(self.batches_done) / max(1.0, self._steps))

    @property
    def source_weights(self) -> dict[str, float]:
        """Mean weight of each source over the training batches of the last epoch in which the mixer was trained."""
        return dict(zip(self.pool.names, self.mean_weights.tolist(), strict=True))

    @property
    def _players(self) -> tuple[bool, bool]:
        """Whether the mixer and the student are trained in this epoch."""
        if self.procedure == "joint":
            return True, True
        first = self.current_epoch < math.ceil((self.trainer.max_epochs or 0) / 2)
        return first, not first

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """One step of both: a single backward pass, as the losses share no parameter."""
        batch = as_batch(batch, "the train loader")
        mixer, student = self._players
        players = min(mixer + student, len(self.trainer.optimizers))
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        seen = every > 0 and self.trainer.global_step // players % every == 0
        logits, z = self._student(batch.input, student)
        figures, losses = {}, []
        fused = torch.empty(0)
        if mixer or not self.use_dictionary:
            with torch.set_grad_enabled(mixer):
                mixed = self.fuse(z.detach(), self._answer(batch, "train"))
            fused = self.knowledge.combine(batch.index, [log_mix.detach().exp() for _, log_mix in mixed])
        if mixer:
            losses.append(self._mixer_loss(batch, [log_mix for _, log_mix in mixed]))
            figures["train_mixer_loss"] = losses[-1].detach()
            self._weigh([log_weights for log_weights, _ in mixed])
        if student:
            losses.append(self._student_loss(batch, logits, fused, figures))
        self._step(sum(losses[1:], losses[0]), mixer, student)
        if mixer:
            self.knowledge.keep(batch.index, fused)
        self.batches_done += 1
        if seen:
            for name, value in figures.items():
                self.log(name, value, prog_bar=name == "train_loss", batch_size=len(batch.target))
        if self.trainer.is_last_batch:  # before validation, whose end is when checkpoints are written
            self._refuse_divergence()
            if mixer:
                self._end_of_epoch()

    def _student(self, input: Any, trained: bool) -> tuple[Tensor, Tensor]:
        if trained:
            return self.forward_with_features(input)
        with torch.no_grad(), _in_eval(self.network):  # neither weights nor running statistics move
            return self.forward_with_features(input)

    def _mixer_loss(self, batch: Batch, log_mixes: list[Tensor]) -> Tensor:
        """L_mix; with several mixers their sum, as they share no parameter."""
        sums, counts = [], []
        for number, (mixer, log_mix) in enumerate(zip(self.mixers, log_mixes, strict=True)):
            target = mixer.known(self.knowledge.taught(batch.index, batch.target, number))
            sums.append(mixer.loss(log_mix, target))
            counts.append((target >= 0).sum())
        return self._means(sums, counts).sum()

    def _student_loss(self, batch: Batch, logits: Tensor, fused: Tensor, figures: dict[str, Any]) -> Tensor:
        """L_t."""
        log_student = logits.float().log_softmax(1)
        labelled = batch.target >= 0
        rows = ~labelled | (self.mixers[0].known(batch.target) >= 0)
        knowledge = fused
        if self.use_dictionary:
            knowledge, filled = self.knowledge(batch.index)
            rows = rows & filled
        supervised = F.nll_loss(log_student, batch.target, ignore_index=-100, reduction="sum")
        injected = injection_loss(log_student, knowledge, rows)
        means = self._means([supervised, injected], [labelled.sum(), rows.sum()])
        alpha = self.strength()
        loss = means[0] + alpha * means[1]
        figures |= {"train_loss": loss.detach(), "train_ce": means[0].detach(), "train_kl": means[1].detach()}
        figures["alpha"] = alpha
        return loss

    def _means(self, sums: list[Tensor], counts: list[Tensor]) -> Tensor:
        """Means over the rows that count in the batch on all processes; DDP averages gradients: hence its size."""
        total, rows = torch.stack(sums), torch.stack(counts).to(torch.float32)
        world = 1
        if dist.is_available() and dist.is_initialized():
            world = dist.get_world_size()
            dist.all_reduce(rows)
        return world * total / rows.clamp_min(1)

    def _step(self, loss: Tensor, mixer: bool, student: bool) -> None:
        """One backward pass, then the optimizers and schedules whose turn it is."""
        optimizers: Any = self.optimizers()
        schedulers: Any = self.lr_schedulers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
        waits = [part for part, trained in ((self.mixers, mixer), (self.network, student)) if not trained]
        if waits and self.trainer.world_size > 1:  # every weight must be in the graph
            loss = loss + 0 * torch.stack([weight.sum() for part in waits for weight in part.parameters()]).sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        turns = [trained for trained, there in ((student, True), (mixer, len(optimizers) > 1)) if there]
        scaler: Any = getattr(self.trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        scales = []
        for optimizer, schedule, turn in zip(optimizers, schedulers, turns, strict=True):
            if not turn:
                continue
            if scaler is not None:
                scaler.update(scale)  # a step may change it, but all gradients carry that of the one backward pass
            optimizer.step()
            schedule.step()
            scales += [scaler.get_scale()] if scaler is not None else []
        if scales:
            scaler.update(min(scales))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradients of one optimizer; they are unscaled here."""
        if self.clip_norm is not None:
            clip_grad_norm_([weight for group in optimizer.param_groups for weight in group["params"]], self.clip_norm)

    @torch.no_grad()
    def _weigh(self, log_weights: list[Tensor]) -> None:
        """Add a batch to the mean weights of the epoch."""
        new = sum((weights.exp().sum(0) for weights in log_weights[1:]), log_weights[0].exp().sum(0))
        self._weights = new if self._weights is None else self._weights + new

    def _refuse_divergence(self) -> None:
        for what, part in (("student", self.network), ("mixer", self.mixers)):
            if not all(bool(value.isfinite().all()) for value in part.state_dict().values()):
                raise InputError(
                    f"the training of the {what} diverged in epoch {self.current_epoch}: weights are NaN or infinite; "
                    "lower the learning rate, or set clip_norm"
                )

    @torch.no_grad()
    def _end_of_epoch(self) -> None:
        assert self._weights is not None
        self.knowledge.update()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._weights)
        self.mean_weights.copy_(self._weights / self._weights.sum())
        self._weights = None

    def on_train_epoch_end(self) -> None:
        """Log the mixer's accuracy, the updates of the dictionary so far and the mean weight of each source."""
        self.log("mixer_accuracy", self.knowledge.accuracy)
        self.log("dictionary_updates", self.knowledge.updates.float())
        for name, weight in self.source_weights.items():
            self.log(f"weight_{name}", weight)

    def _evaluate(self, batch: Any, split: str, metric: Metric) -> Tensor:
        """As an expert, and the accuracy of what the mixer makes of the sources (``mixer_accuracy``)."""
        assert self.features is not None
        with catch_output(self.network, self.features) as caught:
            logits = super()._evaluate(batch, split, metric)
        if self.mixers is not None:
            batch = as_batch(batch, f"the {split} loader")
            mixed = self.fuse(as_vectors(caught[-1]), self._answer(batch, split))
            measure: Any = self.val_mixer_metric if split == "val" else self.test_mixer_metric
            measure(torch.stack([log_mix.exp() for _, log_mix in mixed]).mean(0), batch.target)
            self.log(f"{split}_mixer_accuracy", measure, batch_size=len(batch.target))
        return logits

    # ---------------------------------------------------------------- sources

    def _answer(self, batch: Batch, split: str) -> Answer:
        """What the sources say about a batch; remembered, where that is possible."""
        if self._tables and split == "val" and "val" not in self._tables:
            self._tables["val"] = self._table("val")
        if split in self._tables:
            return self._tables[split](batch.index)
        return ask(self.pool, batch.input, self.heads == "frozen")

    def _table(self, split: str) -> SourceTable:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = data.rows(split)
        parts = torch.arange(len(rows)).split(data.batch_size)  # no more memory than a training step takes
        return SourceTable(self.pool, (self._moved(rows[part]) for part in parts), self.heads == "frozen")

    def _moved(self, batch: Any) -> Batch:
        """A batch as a step sees it."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batch = data.on_after_batch_transfer(move_data_to_device(batch, self.device), 0)
        return self.trainer.precision_plugin.convert_input(as_batch(batch, "the data module"))

    def _steady(self) -> bool:
        """Whether a training batch is always the same, and what ``rows`` gives: then answers can be remembered."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, FusionDataModule) or getattr(data, "augmentation", None) is not None:
            return False
        loader: Any = data.train_dataloader()
        rows: Any = data.rows("train")
        if not isinstance(loader.sampler, SliceSampler):
            return False
        with torch.random.fork_rng():
            item = next(iter(loader.sampler))
            first, again = (self._moved(loader.dataset[item]) for _ in range(2))
            index = row_facts(rows)[2]
            place = index.argsort()[torch.searchsorted(index.sort().values, first.index.cpu())]
            plain = self._moved(rows[place])
        return all(_same_input(first.input, other.input) for other in (again, plain))

    # ----------------------------------------------------- around the training

    def configure_callbacks(self) -> list[Callback]:
        """Those of an expert; what the trainer cannot do in manual optimization is refused here, before it does."""
        trainer = self._trainer
        if trainer is not None and trainer.state.fn == "fit":
            if trainer.gradient_clip_val or trainer.accumulate_grad_batches != 1:
                raise InputError(
                    f"trainer.gradient_clip_val is {trainer.gradient_clip_val}, accumulate_grad_batches "
                    f"{trainer.accumulate_grad_batches}: HaTJointModule steps two optimizers by itself; set its "
                    "clip_norm instead, and a larger batch_size of the data"
                )
            if trainer.max_steps != -1 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                raise InputError(
                    f"trainer.max_steps is {trainer.max_steps}: it counts the steps of two optimizers, two for each "
                    "batch; limit the run by max_epochs"
                )
        return super().configure_callbacks()

    def setup(self, stage: str) -> None:
        """Look at some training rows for the sizes of all representations, and at all for their numbers and labels."""
        if stage != "fit":
            return
        input, index, target = self._training_rows()
        present = target[target >= 0].unique()
        if len(present) < 2:
            found = f"of one class only ({self.classes[int(present[0])]})" if len(present) else "without any label"
            raise InputError(f"the training rows are {found}; the target needs labelled samples of two classes or more")
        sizes = self._measure(input)
        if self.mixers is None:
            self._build(sizes)
        self._check_sizes(sizes)
        if self.threshold is None:
            self.threshold = default_threshold(target, len(self.classes))
        target = self.mixers[0].known(target)
        if not bool((target >= 0).any()):
            raise InputError("no labelled training sample is of a class that a source knows; choose other experts")
        if self.uncovered:
            rank_zero_warn(
                f"no source knows the class(es) {shorten(self.uncovered)} of the target: the student learns them from "
                "labels alone"
            )
        self._note_rows(index, target)

    def _training_rows(self) -> tuple[Any, Tensor, Tensor]:
        """The input of the first training rows, and of all rows the numbers and labels."""
        data: Any = getattr(self.trainer, "datamodule", None)
        with torch.random.fork_rng():
            if isinstance(data, FusionDataModule):  # no worker is started for it
                rows: Any = data.rows("train")
                target, _, index = row_facts(rows)
                batch = rows[torch.arange(min(_PROBE_ROWS, len(rows)))] if len(rows) else None
            else:
                parts = [as_batch(part, "the train loader") for part in self.trainer.fit_loop._data_source.dataloader()]
                batch = parts[0] if parts else None
                target, index = (torch.cat([part[place] for part in parts] or [torch.empty(0)]) for place in (1, 3))
            if batch is None:
                raise InputError("data: the training split has no samples")
            if data is not None:
                batch = data.on_after_batch_transfer(batch, 0)
        return as_batch(batch, "the train loader").input, index, target

    @torch.no_grad()
    def _measure(self, input: Any) -> dict[str, Any]:
        """Sizes of all representations, and which part of each source is its head: plain data."""
        with _in_eval(self.network):
            logits, z = self.forward_with_features(input)
        if logits.shape[1:] != (len(self.classes),):
            raise InputError(
                f"network: it gives outputs (B, {shorten(logits.shape[1:])}); expected (B, {len(self.classes)}), one "
                "for each of classes"
            )
        own = z.shape[1]
        widths = {}
        for name, expert in self.pool.members.items():
            try:
                widths[name] = ExpertPool({name: expert}).representations(input)[name].shape[1]
            except RuntimeError as error:
                raise InputError(
                    f"experts: {name} does not run on the target's input ({error}); leave it out, or prepare the data "
                    "as it wants them"
                ) from error
        heads = {}
        for name, expert in self.pool.members.items() if self.heads == "trained" else ():
            try:
                heads[name] = head_name(expert, input)
            except InputError as error:
                raise InputError(f"expert {name}: {error}") from error
        return {"own": own, "sources": widths, "heads": heads}

    def _build(self, sizes: Mapping[str, Any]) -> None:
        self._sizes = dict(sizes)
        mixers = []
        for _ in range(_FOLDS if self.accuracy_source == "crossfit" else 1):
            heads = None
            if self.heads == "trained":
                networks: dict[str, Any] = {name: expert.network for name, expert in self.pool.members.items()}
                parts = {name: networks[name].get_submodule(head) for name, head in sizes["heads"].items()}
                heads = {name: copy.deepcopy(part).requires_grad_(True) for name, part in parts.items()}
            widths = {name: sizes["sources"][name] for name in self.pool.names}
            shape = (sizes["own"], widths, heads, self.columns, len(self.classes))
            mixers.append(Mixer(*shape, self.dim, self.temperature, self.mixing))
        self.mixers = nn.ModuleList(mixers)

    def _check_sizes(self, sizes: Mapping[str, Any]) -> None:
        if self._sizes != sizes:
            raise InputError(f"experts: the mixer was made for sources {self._sizes}; found {dict(sizes)}")

    def _note_rows(self, index: Tensor, target: Tensor) -> None:
        """Make the dictionary; the one at hand stays where it is of the same rows and labels."""
        rules: Any = (self.update_rule, self.accuracy_source, _FOLDS, self.seed)
        made = KnowledgeDictionary(index, len(self.classes), target, *rules)
        old = self.knowledge
        if old is None or not (torch.equal(old.index, made.index) and torch.equal(old.target, made.target)):
            self.knowledge = made

    def configure_optimizers(self) -> Any:
        """Two optimizers with a schedule each; one, where the mixer has no weights (uniform mixing, frozen heads)."""
        self._steps = self.trainer.estimated_stepping_batches
        turns = 2 if self.procedure == "two_step" else 1
        cosine: Any = None  # without an end there is none, and build_optimizer says so
        if math.isfinite(self._steps):
            cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=max(1, math.ceil(self._steps / turns)))
        chosen = [(self.network, self._optimizer, self._scheduler or cosine)]
        if any(True for _ in self.mixers.parameters()):
            chosen.append((self.mixers, self._mixer_optimizer, self._mixer_scheduler or cosine))
        made = [build_optimizer(self, part.parameters(), how, when, "step") for part, how, when in chosen]
        for one in made:
            if isinstance(one["lr_scheduler"]["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau):
                raise InputError("scheduler: ReduceLROnPlateau waits for a metric; HaTJointModule's step every batch")
            if isinstance(one["optimizer"], torch.optim.LBFGS):
                raise InputError(
                    "optimizer: LBFGS asks for the loss several times; HaTJointModule makes it once a step"
                )
        return made

    def on_fit_start(self) -> None:
        """Ask the sources about all rows, where what they say can be remembered."""
        epochs = self.trainer.max_epochs
        if self.procedure == "two_step" and (epochs is None or epochs < 2) and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise InputError(f"training: two_step needs an epoch for each step; trainer.max_epochs is {epochs}")
        steady = self.cache is not False and self._steady()
        if self.cache is True and not steady:
            raise InputError(
                "cache: the training batches are augmented or drawn anew (or the data module is not one of this "
                "library), so that what sources say of a row changes; set cache: auto"
            )
        self._tables = {"train": self._table("train")} if steady else {}
        self._weights = None

    def on_fit_end(self) -> None:
        """Warn where nothing was learnt from the sources; forget what they said."""
        self._tables = {}
        assert self.threshold is not None
        best = float(self.knowledge.best)
        if self.adaptive and best < self.threshold:
            rank_zero_warn(
                f"the mixer's best accuracy ({best:.3f}) is under the threshold ({self.threshold:.3f}): the student "
                "learnt nothing from the sources; choose other sources, train longer or lower threshold"
            )

    # ------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card of an ordinary expert; name the sources, and leave their weights out."""
        super().on_save_checkpoint(checkpoint)
        store_experts(checkpoint, self.pool.facts(), weights=False)
        if "optimizer_states" in checkpoint and self.mixers is not None:
            checkpoint["sources"] = self._sizes
        else:  # weights alone: the student, as it is published
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: state[name] for name in state if not name.startswith(_OF_TRAINING)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make mixer and dictionary of the interrupted run, and check the sources."""
        state, sizes = checkpoint["state_dict"], checkpoint.get("sources")
        if sizes is None:  # a student alone leaves the mixer at hand
            own = self.state_dict()
            state |= {name: own[name] for name in own if name.startswith(_OF_TRAINING)}
            restore_experts(checkpoint, self.pool)
            return
        if list(sizes["sources"]) != self.pool.names:
            raise InputError(
                f"experts: the model was trained from {shorten(sizes['sources'])}; found {shorten(self.pool.names)}"
            )
        restore_experts(checkpoint, self.pool)
        if self.mixers is None:
            self._build(sizes)
        self._check_sizes(sizes)
        found = [state["knowledge.index"], state["knowledge.target"]]
        if self.knowledge is None:
            self._note_rows(*found)
        own_rows = self.knowledge
        if not (torch.equal(found[0], own_rows.index) and torch.equal(found[1], own_rows.target)):
            raise InputError(
                f"data: the interrupted run had {len(found[0])} training rows, {int((found[1] >= 0).sum())} of them "
                f"labelled; found {len(own_rows.index)} and {int((own_rows.target >= 0).sum())}, or others: resume on "
                "the same data with the same seed"
            )


@contextmanager
def _in_eval(module: nn.Module) -> Iterator[None]:
    """Every part is in eval mode, and afterwards in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _same_input(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same_input(value, other[key]) for key, value in one.items())
    return torch.equal(one, other)
