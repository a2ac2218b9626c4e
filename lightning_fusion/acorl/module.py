"""ACoRL: train a model to be complementary to frozen ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning import Callback
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from lightning_fusion.acorl.diagnostics import accuracy_warnings
from lightning_fusion.acorl.dissimilarity import Dissimilarity
from lightning_fusion.acorl.diversity import Diversity, checked_diversity, diverse_loss
from lightning_fusion.acorl.inner import InnerSteps
from lightning_fusion.acorl.projection import Adversary, check_projection_arguments
from lightning_fusion.callbacks.early_parts import EarlyParts, expect_eval_mode
from lightning_fusion.data.batch import Batch, as_batch, check_targets
from lightning_fusion.data.targets import UNLABELED
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.layers import as_vectors, catch_output
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.names import module_key
from lightning_fusion.experts.pool import ExpertPool, restore_experts, scatter, scatter_columns, store_experts
from lightning_fusion.experts.preprocessing import data_preprocessing
from lightning_fusion.experts.probing import check_representations, first_rows, probe_experts, undisturbed
from lightning_fusion.metrics.logging import accuracy_of, log_train, logs_step
from lightning_fusion.optimization import build_optimizer
from lightning_fusion.schedules import DANNRamp, Schedule

_DEAD = 1e-10  # gradient norm below which a projection has stopped learning
_ADVERSARY = "adversary."  # prefix of the projections' weights in a checkpoint


class ACoRLModule(ExpertModule):
    """Adversarial complementary representation learning (Kang et al., arXiv 2404.15704).

    The module trains an ordinary expert with a second branch: for each frozen expert k, a projection d_k predicts the
    representation v_k from the new model's representation z, through a gradient reversal,

        loss = task loss + mean over k of D(d_k(GRL(z)), v_k)

    so d_k learns to predict v_k, and the network learns the task and a representation from which v_k cannot be
    predicted. By default d_k takes five steps of its own for each batch and predicts what v_k tells beyond the class
    (our choice, on validation samples; docs/methods/acorl.md says where that pays); with
    :data:`~lightning_fusion.acorl.arguments.PAPER` it is trained jointly, as the paper is summarized. The checkpoint is
    an ordinary expert, ``Expert(checkpoint=path)``, without the weights of the frozen experts. It contains the
    projections for resuming; a weights-only checkpoint does not. With strength 0, the control arm, the training is
    bit-identical to that of :class:`~lightning_fusion.ExpertModule`.

    Args:
        network: Factory of the network, called with the number of classes.
        experts: The frozen experts by name, or a pool; each must name its ``features``.
        features: Submodule of ``network`` whose output is z: the one before the task head.
        schedule: Strength of the reversal, lambda, by training progress: the trainer's steps divided by all steps of
            the run. ``None`` (default) uses :class:`~lightning_fusion.schedules.DANNRamp`.
        ramp_steps: Number of steps over which progress goes from 0 to 1; required if the Trainer has no maximum of
            steps or epochs.
        allow_imitation: Accept a negative strength, which makes the models similar.
        dissimilarity: D, called as ``dissimilarity(size of v_k, C)``. ``None`` (default) uses
            :class:`~lightning_fusion.acorl.dissimilarity.StandardizedResidualMSE`.
        projection: d_k, called as ``projection(size of its input, size of v_k)``; the input is z, with the class where
            the dissimilarity is conditional. ``None`` (default) uses
            :class:`~lightning_fusion.acorl.projection.ProjectionMLP`.
        adversary_steps: Steps of the projections for each batch, on z without gradient; 0 trains them jointly with the
            network, by the same loss and optimizer.
        adversary_optimizer: Called with the projections' weights where they have steps of their own. ``None``
            (default) uses Adam with learning rate 3e-3.
        layer_norm: Normalize z before the projections.
        diversity: Further terms of :mod:`lightning_fusion.acorl.diversity`, which compare answers.
        **expert: Further arguments of :class:`~lightning_fusion.ExpertModule`. ``optimizer`` updates the network, and
            the projections if ``adversary_steps`` is 0; with ``mixup`` the frozen experts receive the mixed images.

    Raises:
        InputError: If an expert or the network lacks the named layer, or has other classes, or if a term of
            ``diversity`` weighs samples and the loss has no ``reduction``.

    Example:
        >>> from functools import partial
        >>> from lightning_fusion.encoders import SmallConvNet
        >>> network = partial(SmallConvNet, in_channels=1)
        >>> first = Expert(network(2), classes=["zero", "one"], features="pool")
        >>> module = ACoRLModule(network, {"first": first}, features="pool", classes=["zero", "one"])
        >>> module(torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        network: Callable[[int], nn.Module],
        experts: dict[str, Expert] | ExpertPool,
        features: str,
        schedule: Schedule | None = None,
        ramp_steps: int | None = None,
        allow_imitation: bool = False,
        dissimilarity: Callable[[int, int], Dissimilarity] | None = None,
        projection: Callable[[int, int], nn.Module] | None = None,
        adversary_steps: int = 5,
        adversary_optimizer: OptimizerCallable | None = None,
        layer_norm: bool = True,
        diversity: list[Diversity] | None = None,
        **expert: Any,
    ) -> None:
        given, experts = experts, {}  # recording arguments copies them: not the weights of all experts
        super().__init__(network=network, features=features, **expert)
        if schedule is not None and not callable(schedule):
            raise InputError(f"schedule is {schedule!r}; expected a schedule such as schedules.Constant(1.0)")
        if ramp_steps is not None and ramp_steps < 1:
            raise InputError(f"ramp_steps is {ramp_steps}; expected at least 1")
        check_projection_arguments(adversary_steps, layer_norm)
        if adversary_optimizer is not None and not adversary_steps:
            raise InputError(
                "adversary_optimizer: with adversary_steps 0 the network's optimizer trains the projections; set "
                "adversary_optimizer to null"
            )
        self.pool = ExpertPool.of(given, self.classes)
        check_representations(self.network, features, self.pool)
        self.pool.convert_from(self.preprocessing)
        self.columns = scatter_columns(self.pool.expert_classes, self.classes)
        self.schedule = schedule if schedule is not None else DANNRamp()
        self.ramp_steps, self.allow_imitation = ramp_steps, allow_imitation
        self._dissimilarity, self._projection, self._layer_norm = dissimilarity, projection, layer_norm
        self.adversary_steps, self._adversary_optimizer = adversary_steps, adversary_optimizer
        self._inner: InnerSteps | None = None
        self._inner_state: dict[str, Any] | None = None
        self.diversity = checked_diversity(diversity, self.loss)
        self.adversary: Adversary | None = None  # built from the sizes of the first batch
        others = ["fused", "pool", *(f"expert_{module_key(name)}" for name in self.pool.names)]
        self.metrics.add({f"{who}_accuracy": accuracy_of(len(self.classes)) for who in others})
        self.metrics.shown.add("fused_accuracy")
        self._steps = math.inf
        self._probe: Batch | None = None
        self._norms: dict[str, Tensor] = {}
        self._learns: dict[str, bool] = {}
        self._warned: set[str] = set()
        for progress in (0.0, 0.5, 1.0):
            self.strength(progress)  # raises if the schedule is invalid

    # ------------------------------------------------------------ mathematics

    def strength(self, progress: float) -> float:
        """Return lambda at a training progress in [0, 1].

        Raises:
            InputError: If the schedule does not return a number, or returns a negative one without ``allow_imitation``.
        """
        value = self.schedule(progress)
        who = f"schedule: {type(self.schedule).__name__} gave {value!r} at progress {progress:.3g}"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(f"{who}; expected a finite float")
        if value < 0 and not self.allow_imitation:
            raise InputError(f"{who}: a negative strength makes the models similar; set allow_imitation to accept it")
        return float(value)

    @property
    def progress(self) -> float:
        """Training progress in [0, 1], by the trainer's count of optimizer steps."""
        return min(1.0, self.trainer.global_step / max(1.0, self._steps))

    @property
    def _is_control(self) -> bool:
        return all(self.strength(step / 20) == 0 for step in range(21))

    def forward_with_representations(self, input: Any, watch: bool = False) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and z (B, D), each computed from a separate view of the layer's output.

        Args:
            input: A batch.
            watch: Record the norms of the gradients that flow back through each view.
        """
        assert self.features is not None
        with catch_output(self.network, self.features, partial(self._view, "task_gradient", watch)) as caught:
            logits = self(input)
        return logits, as_vectors(self._view("reversed_gradient", watch, caught[-1]))

    def _view(self, name: str, watch: bool, x: Tensor) -> Tensor:
        view = x.view_as(x)  # hooks on one view do not affect the other uses of x
        if watch and view.requires_grad:
            view.register_hook(lambda gradient: self._norms.update({name: gradient.detach().float().norm()}))
        return view

    def complementarity(
        self, z: Tensor, representations: Mapping[str, Tensor], target: Tensor, strength: float
    ) -> dict[str, Tensor]:
        """Compute D(d_k(GRL(z)), v_k) for each frozen expert k, by name; override it for another branch.

        Args:
            z: (B, D) representation of the new model.
            representations: (B, D_k) of each frozen expert, from the same batch.
            target: (B,) classes, or (B, C) class fractions of mixed samples.
            strength: Strength of the reversal.
        """
        assert self.adversary is not None
        found: dict[str, Tensor] = self.adversary(z, representations, target, strength)
        return found

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute task loss plus mean dissimilarity; log both with gradient norms every ``log_every_n_steps`` steps."""
        batch = as_batch(batch, "the train loader", num_classes=len(self.classes), unlabeled=True)
        input, target = self.mix(batch)
        strength = self.strength(self.progress)
        seen = logs_step(self)
        logits, z = self.forward_with_representations(input, watch=seen)
        outputs, representations = self._experts(input)
        before = self._train_adversary(z, representations, target)
        found = self.complementarity(z, representations, target, strength)
        adversarial = torch.stack(list(found.values())).mean()
        task, penalty = diverse_loss(self.loss, self.diversity, logits, outputs, target)
        loss: Tensor = task + adversarial if penalty is None else task + adversarial + penalty
        log_train(self, {"loss": loss}, batch)
        if seen:
            explained = self._explained(before or found, representations, target)
            parts: dict[str, Tensor | float] = {"task_loss": task, "adversarial_loss": adversarial, "lambda": strength}
            parts |= {} if penalty is None else {"diversity_loss": penalty}
            for name, value in found.items():
                parts[f"expert_{module_key(name)}_dissimilarity"] = value
                if name in explained:
                    parts[f"expert_{module_key(name)}_r2"] = explained[name]
            log_train(self, parts, batch)
        return loss

    def _explained(
        self, losses: Mapping[str, Tensor], representations: Mapping[str, Tensor], target: Tensor
    ) -> dict[str, Tensor]:
        """R2 of each projection whose dissimilarity has one."""
        assert self.adversary is not None
        found = {
            name: self.adversary.measure_of(name).r2(value, representations[name], target)
            for name, value in losses.items()
        }
        return {name: value for name, value in found.items() if value is not None}

    def _experts(self, input: Any) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Mean probabilities (B, C) of the experts, where a term of ``diversity`` needs them, and representations."""
        if not self.diversity:
            return None, self.pool.representations(input)
        outputs, representations = self.pool.forward_with_representations(input)
        return self._known(outputs).mean(1), representations

    def _known(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """(B, K, C) probabilities of the experts over all classes."""
        return scatter(torch.cat(list(outputs.values()), dim=1), self.columns, len(self.classes))

    def _train_adversary(
        self, z: Tensor, representations: Mapping[str, Tensor], target: Tensor
    ) -> Mapping[str, Tensor]:
        """Take the projections' own steps; return their losses before, {} in joint training."""
        assert self.adversary is not None
        if self._inner is not None:
            return self._inner(z, representations, target)
        self.adversary.update(representations, target)
        return {}

    def on_after_backward(self) -> None:
        """Log the norms of both gradients at z, and check that the projections learn."""
        if not self._norms:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        inner = 1.0 if self.adversary_steps else scale
        for name, norm in self._norms.items():
            self.log(f"train_{name}_norm", norm / scale, batch_size=1)
        self._norms.clear()
        if self.adversary is not None:
            for name, projection in self.adversary.projections.items():
                gradients = [weight.grad.norm() for weight in projection.parameters() if weight.grad is not None]
                learns = bool(gradients) and not float(torch.stack(gradients).norm()) / inner <= _DEAD
                self._learns[name] = self._learns.get(name, False) or learns

    def on_train_epoch_end(self) -> None:
        """Warn if a projection has stopped learning or has nothing to learn: the models are not made dissimilar."""
        assert self.adversary is not None
        constant = [name for name in self.pool.names if not self.adversary.measure_of(name).compares()]
        for name in [name for name in constant if name not in self._warned]:
            self._warned.add(name)
            rank_zero_warn(
                f"the representation of expert {name} does not vary within the classes of the training samples, so "
                "the new model is not made dissimilar; name another layer as its features, or set conditional of "
                "dissimilarity to false"
            )
        for name in [name for name, learns in self._learns.items() if not learns and name not in self._warned]:
            self._warned.add(name)
            rank_zero_warn(
                f"the projection onto expert {name} gets no gradient (epoch {self.current_epoch}): it has "
                "stopped learning, so the new model is not made dissimilar; lower the learning rate, or change "
                "projection or dissimilarity"
            )
        self._learns.clear()

    def _count(self, batch: Batch, split: str) -> Tensor:
        """Log an expert's metrics, and the accuracies of each expert, of their mean and of all members (``fused``)."""
        logits = super()._count(batch, split)
        known = self._known(self.pool(batch.input))
        own = logits.float().softmax(-1)[:, None]
        answers = {"fused": torch.cat([own, known], 1).mean(1), "pool": known.mean(1)}
        answers |= {f"expert_{module_key(name)}": known[:, number] for number, name in enumerate(self.pool.names)}
        for who, answer in answers.items():
            self.metrics[split][f"{who}_accuracy"].update(answer, batch.target)
        return logits

    # ----------------------------------------------------- around the training

    def configure_callbacks(self) -> list[Callback]:
        """Return the callbacks of an expert; the projections are built before any callback is set up."""
        EarlyParts.install(self)
        return super().configure_callbacks()

    def setup(self, stage: str) -> None:
        """Connect model, experts and data; for a fit, :meth:`prepare_fit` has usually done it before."""
        if stage != "fit":
            self._connect(stage)
        elif not EarlyParts.installed(self):  # a subclass without configure_callbacks
            self.prepare_fit()

    def _connect(self, stage: str) -> None:
        super().setup(stage)
        self.pool.convert_from(data_preprocessing(self.trainer))

    def prepare_fit(self) -> None:
        """Determine the sizes of all representations from one training batch, and create the projections."""
        self._inner = self._inner_state = None  # of a run before
        self._connect("fit")
        self._probe = first_rows(self)
        labeled = self._probe.target[self._probe.target != UNLABELED]
        check_targets(labeled, len(self.classes), "the train loader")
        with undisturbed(self.network), torch.no_grad():
            self.network.eval()
            z = self.forward_with_representations(self._probe.input)[1]
            found = probe_experts(self.pool, self._probe.input)
            sizes = {name: value.shape[1] for name, value in found.items()}
            if self.adversary is None:
                self._build(z.shape[1], sizes)
        constant = [name for name, value in found.items() if len(value) > 1 and bool((value == value[0]).all())]
        if constant:
            raise InputError(
                f"experts: the representation of {shorten(constant)} is the same for all of the first {len(z)} "
                "training samples; name another layer as its features"
            )
        assert self.adversary is not None
        if self.adversary.sizes != sizes or self.adversary.num_features != z.shape[1]:
            raise InputError(
                f"features: the projections were made for {self.adversary.num_features} and {self.adversary.sizes} "
                f"features; found {z.shape[1]} and {sizes}"
            )

    def teardown(self, stage: str) -> None:
        """Release data module and experts."""
        super().teardown(stage)
        self.pool.convert_from(None)

    def _build(self, num_features: int, sizes: Mapping[str, int]) -> None:
        parts = self._projection, self._dissimilarity, self._layer_norm, bool(self.adversary_steps)
        self.adversary = Adversary(num_features, sizes, len(self.classes), *parts)
        if self.adversary_steps:
            self.adversary.requires_grad_(False)  # but in their own steps

    def begin_fit(self) -> None:
        """Create the optimizer of the projections' own steps, before callbacks that try learning rates."""
        expect_eval_mode(self, [self.pool])
        if self.adversary_steps and self.adversary is not None:
            self._inner = InnerSteps(self.adversary, self.adversary_steps, self._adversary_optimizer)
            if self._inner_state is not None:
                self._inner.load_state_dict(self._inner_state)
        self._inner_state = None

    def on_fit_start(self) -> None:
        """Check that the training has an end and that the reversed gradient reaches the network."""
        if not EarlyParts.installed(self):
            self.begin_fit()
        if self._probe is None:
            raise InputError(f"{type(self).__name__}: setup() does not call super().setup(stage); add it")
        self._steps = self.ramp_steps if self.ramp_steps is not None else self.trainer.estimated_stepping_batches
        if math.isinf(self._steps):
            raise InputError("schedule: a run without an end has no progress; set ramp_steps, or trainer.max_epochs")
        self._check_optimizers()
        if not self._is_control:
            probe = move_data_to_device(self._probe, self.device)
            self._check_reversal(self.trainer.precision_plugin.convert_input(probe))
        self._probe = None

    def _check_optimizers(self) -> None:
        """Check which optimizers of a subclass train the projections."""
        assert self.adversary is not None
        trained = {
            id(weight) for each in self.trainer.optimizers for group in each.param_groups for weight in group["params"]
        }
        own = [id(weight) in trained for weight in self.adversary.projections.parameters()]
        if self.adversary_steps and any(own):
            raise InputError(
                f"configure_optimizers: the projections have {self.adversary_steps} steps of their own for each batch: "
                "give the optimizer the weights of the network alone, self.network.parameters()"
            )
        if not self.adversary_steps and own and not all(own):
            raise InputError(
                "configure_optimizers: with adversary_steps 0 the projections are trained jointly: give an optimizer "
                "self.adversary.parameters() too"
            )

    def _check_reversal(self, batch: Batch) -> None:
        """Check the gradients of one batch at strength 1, since lambda starts at 0; no state is changed."""
        assert self.adversary is not None
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        with undisturbed(self.network, self.adversary):
            self.train()
            z = self.forward_with_representations(batch.input)[1]
            self.adversary.apart = False  # no bound: untrained projections predict worse than the mean
            turned = plain = torch.zeros_like(z)
            reached = False
            if z.requires_grad:
                turned, *others = self._probe_gradients(z, batch, 1.0, [z, *weights])
                reached = any(bool(gradient.any()) for gradient in others)
                (plain,) = self._probe_gradients(z, batch, -1.0, [z])
            self.adversary.apart = bool(self.adversary_steps)
        if not turned.isfinite().all():
            raise InputError("dissimilarity: its gradient at the representation is NaN or infinite on the first batch")
        if not (reached and turned.any()):
            raise InputError(
                f"features: no gradient of the projections reaches the network through its layer {self.features!r}; "
                "its output is constant, detached or computed from frozen weights: name the layer before the head"
            )
        if not torch.allclose(turned, -plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max())):
            raise InputError("the gradient at the representation is not reversed: complementarity() must reverse it")

    def _probe_gradients(self, z: Tensor, batch: Batch, strength: float, wanted: Sequence[Tensor]) -> list[Tensor]:
        """Compute gradients of L_a; every call uses the same random numbers and initial running means."""
        assert self.adversary is not None
        with undisturbed(self.adversary):
            representations = self.pool.representations(batch.input)
            self.adversary.update(representations, batch.target)
            found = self.complementarity(z, representations, batch.target, strength)
            mean = torch.stack(list(found.values())).mean()
            return list(torch.autograd.grad(mean, wanted, retain_graph=True, allow_unused=True, materialize_grads=True))

    def on_fit_end(self) -> None:
        """Log the warnings of :meth:`diagnostics`."""
        super().on_fit_end()
        metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        for message in self.diagnostics(metrics):
            rank_zero_warn(message)
        reached, planned = self.strength(self.progress), self.strength(1.0)
        if abs(reached) < abs(planned) / 2:
            rank_zero_warn(
                f"the training stopped after {self.progress:.0%} of its steps, when the strength of the reversal was "
                f"{reached:.2g} of {planned:.2g}; set ramp_steps to the number of steps of the run"
            )

    def diagnostics(self, metrics: Mapping[str, float]) -> Sequence[str]:
        """Return warnings from validation metrics; override it for other metrics."""
        return accuracy_warnings(metrics)

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule of an expert, with jointly trained projections as a second group."""
        if self.adversary is None:
            raise InputError(f"{type(self).__name__}: setup() does not call super().setup(stage); add it")
        others = {id(weight) for part in (self.adversary, self.pool) for weight in part.parameters()}
        own = [weight for weight in self.parameters() if id(weight) not in others]
        groups: Any = [{"params": own}]
        if not self.adversary_steps:
            groups.append({"params": list(self.adversary.parameters())})
        return build_optimizer(self, groups, self._optimizer, self._scheduler, self._interval)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of network and projections separately."""
        if not gradient_clip_val:
            return
        clip = clip_grad_value_ if str(gradient_clip_algorithm) == "value" else clip_grad_norm_
        for group in optimizer.param_groups:
            clip(group["params"], gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the expert's metadata and the names of the frozen experts, without their weights."""
        super().on_save_checkpoint(checkpoint)
        store_experts(checkpoint, self.pool.origin(), weights=False)
        if self.adversary is None:
            return
        if "optimizer_states" in checkpoint:
            sizes = {"own": self.adversary.num_features, "experts": self.adversary.sizes}
            checkpoint["representations"] = sizes | {"layer_norm": self._layer_norm}
            if self.adversary_steps:
                state = self._inner_state if self._inner is None else self._inner.state_dict()
                checkpoint["adversary_optimizer"] = state  # None before the first step
        else:  # weights-only files are not resumed: a chain of N members takes O(N) disk, not O(N^2)
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: state[name] for name in state if not name.startswith(_ADVERSARY)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the projections, and check the frozen experts."""
        super().on_load_checkpoint(checkpoint)
        sizes = checkpoint.get("representations")
        self._inner_state = checkpoint.get("adversary_optimizer")
        if self._inner is not None and self._inner_state is not None:  # in a run, after a learning rate was tried
            self._inner.load_state_dict(self._inner_state)
        joint = "adversary_optimizer" not in checkpoint
        if sizes is not None and joint == bool(self.adversary_steps):
            other = "projections trained jointly" if joint else "steps of their own"
            raise InputError(
                f"adversary_steps is {self.adversary_steps}; the checkpoint is of a run with {other}: continue with its"
                " settings, or start anew"
            )
        if sizes is not None and set(sizes["experts"]) != set(self.pool.names):
            raise InputError(
                f"experts: the model was trained against {shorten(sizes['experts'])}; found {shorten(self.pool.names)}"
            )
        if sizes is not None and sizes.get("layer_norm", self._layer_norm) != self._layer_norm:
            raise InputError(
                f"layer_norm is {self._layer_norm}; the checkpoint is of a run with {not self._layer_norm}: continue "
                "with its settings, or start anew"
            )
        if sizes is not None and self.adversary is None:
            self._build(sizes["own"], sizes["experts"])
        if sizes is not None and self.adversary is not None:
            shapes = {f"{_ADVERSARY}{name}": value.shape for name, value in self.adversary.state_dict().items()}
            state = checkpoint["state_dict"]
            if shapes != {name: value.shape for name, value in state.items() if name.startswith(_ADVERSARY)}:
                raise InputError(
                    "projection, dissimilarity: the checkpoint has projections of other sizes or another "
                    "dissimilarity: continue with its settings, or start anew"
                )
        if sizes is None and self.adversary is not None:  # a file without projections keeps the current ones
            own = self.adversary.state_dict()
            checkpoint["state_dict"] |= {f"{_ADVERSARY}{name}": value for name, value in own.items()}
        restore_experts(checkpoint, self.pool)
