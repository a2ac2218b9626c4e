"""Optimizers and learning-rate schedules of modules, with the defaults of the library."""

import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_fusion.errors import InputError

_T = TypeVar("_T")
_LEAST_HALF = 3e-8  # smaller numbers are 0 in float16


class TunableLearningRate:
    """Attribute ``lr`` of a module, which Lightning's learning-rate finder reads and sets."""

    _optimizer: OptimizerCallable | None
    _lr: float | None = None

    @property
    def lr(self) -> float:
        """Learning rate of the optimizer of the constructor, or the one that was set in its place."""
        if self._lr is not None:
            return self._lr
        made = (self._optimizer or _default_optimizer)([nn.Parameter(torch.zeros(1))])
        return float(made.defaults["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        """Set the learning rate of all parameter groups of the next run."""
        self._lr = float(value)


def _without_device_queries() -> None:
    """Let steps on a machine without a GPU ask for one by a cheap call.

    Every step of an optimizer asks whether a GPU is there. Lightning's setting loads NVIDIA's library for it, which
    takes a third of a millisecond where there is none: a fourth of a step of a small network.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def build_optimizer(
    module: LightningModule,
    parameters: Iterable[nn.Parameter],
    optimizer: OptimizerCallable | None,
    scheduler: LRSchedulerCallable | None,
    interval: Literal["epoch", "step"],
) -> Any:
    """Build the return value of ``configure_optimizers``.

    Args:
        module: Module to be trained.
        parameters: Parameters to optimize.
        optimizer: Function that builds the optimizer from the parameters; ``None`` means AdamW with learning rate 1e-3
            and weight decay 1e-4 (the setting of the FoE paper), and with eps 1e-4 where weights are in float16.
        scheduler: Function that builds the schedule from the optimizer; ``None`` means cosine annealing from the
            learning rate to 0 over all steps of the run (as in the FoE paper).
        interval: Whether a given ``scheduler`` steps each epoch or each step.

    Raises:
        InputError: If the run has no end and the default schedule is used, if torch rejects an argument of the
            optimizer or schedule, or if the optimizer's eps is 0 in the precision of the weights.
    """
    _without_device_queries()
    chosen = (
        made_by(optimizer, parameters, "optimizer")
        if optimizer
        else _default_optimizer(parameters, eps=default_eps(module.parameters()))
    )
    rate: float | None = getattr(module, "_lr", None)
    for group in chosen.param_groups:
        if rate is not None:
            group["lr"] = rate
    check_eps(chosen, "optimizer")
    if scheduler is not None:
        schedule = made_by(scheduler, chosen, "scheduler")
        how: dict[str, Any] = {"scheduler": schedule, "interval": interval}
        if hasattr(schedule, "monitor"):  # Lightning's ReduceLROnPlateau names its monitored metric
            how["monitor"] = schedule.monitor
        return {"optimizer": chosen, "lr_scheduler": how}
    steps = module.trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise InputError("the cosine schedule needs an end: set trainer.max_epochs or max_steps, or set scheduler")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(chosen, T_max=max(1, int(steps)))
    return {"optimizer": chosen, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def default_eps(weights: Iterable[Tensor]) -> float:
    """Return eps of a default optimizer: torch's 1e-8 is 0 in float16."""
    return 1e-4 if any(weight.dtype == torch.float16 for weight in weights) else 1e-8


def check_eps(optimizer: torch.optim.Optimizer, what: str) -> None:
    """Raise InputError if the eps of an optimizer is 0 in the precision of its weights.

    Args:
        optimizer: Any optimizer.
        what: Name of the argument that it is from, for the message.
    """
    for group in optimizer.param_groups:
        if any(weight.dtype == torch.float16 for weight in group["params"]) and 0 < group.get("eps", 1) < _LEAST_HALF:
            raise InputError(
                f"{what}: eps of {type(optimizer).__name__} is {group['eps']}, which is 0 in float16, so that weights "
                "become NaN; set eps to 1e-4, or trainer.precision to 16-mixed or bf16-true"
            )


def made_by(make: Callable[[Any], _T], of: Any, what: str) -> _T:
    """Return an optimizer or schedule; an argument that torch rejects is named.

    Args:
        make: Function or class.
        of: Its argument: weights, or an optimizer.
        what: Name of the argument that ``make`` is, for the message.

    Raises:
        InputError: If it is no function, or torch rejects an argument.
    """
    if not callable(make):
        raise InputError(
            f"{what}: found an instance of {type(make).__name__}; give its class, such as "
            "functools.partial(torch.optim.Adam, lr=1e-3)"
        )
    try:
        return make(of)
    except ValueError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not frames[-1].f_globals.get("__name__", "").startswith("torch.optim"):  # a class of the user
            raise
        raise InputError(f"{what}: {error}; change its init_args") from error


def _default_optimizer(parameters: Iterable[Any], eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4, eps=eps)


def check_manual(module: LightningModule) -> None:
    """Raise InputError for Trainer options that manual optimization does not support.

    Args:
        module: Module with ``clip_norm``; to be called in ``configure_callbacks``, the first hook.

    Raises:
        InputError: If such an option is set; the message names the alternative.
    """
    trainer: Any = module._trainer
    if trainer is None or trainer.state.fn != "fit":
        return
    if trainer.gradient_clip_val or trainer.accumulate_grad_batches != 1:
        raise InputError(
            f"trainer.gradient_clip_val is {trainer.gradient_clip_val}, accumulate_grad_batches "
            f"{trainer.accumulate_grad_batches}: {type(module).__name__} steps its optimizers by itself; set its "
            "clip_norm instead, and a larger batch_size of the data"
        )
    for callback in trainer.callbacks:
        if isinstance(callback, StochasticWeightAveraging) or (
            isinstance(callback, GradientAccumulationScheduler) and callback.going_to_accumulate_grad_batches()
        ):
            raise InputError(
                f"trainer.callbacks: {type(callback).__name__} needs the Trainer's steps, and {type(module).__name__} "
                "steps its optimizers by itself; remove it"
            )
    if trainer.max_steps != -1 and not trainer.fast_dev_run:
        raise InputError(
            f"trainer.max_steps is {trainer.max_steps}: {type(module).__name__} steps its optimizers by itself, one or "
            "two for each batch; limit the run by max_epochs"
        )


def check_stepwise(module: LightningModule, made: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for optimizers and schedules that do not support manual optimization.

    Args:
        module: Module with manual optimization.
        made: Result of :func:`build_optimizer`.

    Raises:
        InputError: If one is not supported.
    """
    name = type(module).__name__
    for one in made:
        if isinstance(one["lr_scheduler"]["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise InputError(f"scheduler: ReduceLROnPlateau needs a metric, which {name} does not provide")
        if isinstance(one["optimizer"], torch.optim.LBFGS):
            raise InputError(f"optimizer: LBFGS evaluates the loss several times; {name} evaluates it once per step")


def step_together(module: LightningModule, loss: Tensor, turns: Sequence[bool]) -> None:
    """Run one backward pass in manual optimization, then step the selected optimizers and their schedules.

    In 16-bit precision all gradients have the scale of this backward pass, which a step may change: each step uses the
    original scale, and the smallest resulting one is kept.

    Args:
        module: Module in training.
        loss: Sum of the losses of the optimizers, which share no parameter.
        turns: Whether each optimizer of ``configure_optimizers`` steps, in order.
    """
    optimizers: Any = module.optimizers()
    optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
    for optimizer in optimizers:
        optimizer.zero_grad()
    module.manual_backward(loss)
    scaler: Any = getattr(module.trainer.precision_plugin, "scaler", None)
    scale = scaler.get_scale() if scaler is not None else 1.0
    scales = []
    schedules = {id(each.scheduler.optimizer): each for each in module.trainer.lr_scheduler_configs}
    for optimizer, turn in zip(optimizers, turns, strict=True):
        if not turn:
            continue
        if scaler is not None:
            scaler.update(scale)
        optimizer.step()
        schedule = schedules.get(id(optimizer.optimizer))  # None: the user's optimizer has none
        if schedule is not None and (schedule.interval == "step" or module.trainer.is_last_batch):
            scheduler: Any = schedule.scheduler  # none that needs a metric
            scheduler.step()
        scales += [scaler.get_scale()] if scaler is not None else []
    if scales:
        scaler.update(min(scales))
