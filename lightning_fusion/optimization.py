"""The optimizer and the learning-rate schedule of a module, chosen by the user or the house's default."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lightning_fusion.errors import InputError


def build_optimizer(
    module: LightningModule,
    parameters: Iterable[nn.Parameter],
    optimizer: OptimizerCallable | None,
    scheduler: LRSchedulerCallable | None,
    interval: Literal["epoch", "step"],
) -> Any:
    """What ``configure_optimizers`` returns.

    Args:
        module: Whose run it is.
        parameters: To optimise.
        optimizer: Builds the optimizer from the parameters; AdamW with learning rate 1e-3 and weight decay 1e-4 where
            None (the setting of the FoE paper).
        scheduler: Builds the schedule from the optimizer; a cosine from the learning rate to 0 over all steps of the
            run where None (likewise).
        interval: Whether a given ``scheduler`` steps each epoch or each step.

    Raises:
        InputError: If the run has no end and the default schedule is wanted.
    """
    chosen = optimizer(parameters) if optimizer else torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4)
    if scheduler is not None:
        schedule = scheduler(chosen)
        how: dict[str, Any] = {"scheduler": schedule, "interval": interval}
        if hasattr(schedule, "monitor"):  # Lightning's ReduceLROnPlateau names what it watches
            how["monitor"] = schedule.monitor
        return {"optimizer": chosen, "lr_scheduler": how}
    steps = module.trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise InputError("the cosine schedule needs an end: set trainer.max_epochs or max_steps, or choose a scheduler")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(chosen, T_max=max(1, int(steps)))
    return {"optimizer": chosen, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
