"""Scheduled attributes of a module."""

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.schedules import Schedule


class ScheduledAttribute(Callback):
    """Set a numeric attribute of the module before every training batch by a schedule, such as a margin's warm-up.

    Progress is the trainer's global step over the steps of the whole run. A resumed run continues the schedule
    without stored state. The value is logged as ``train_<name>``, by the attribute's last name.

    Args:
        attribute: Dotted path of the attribute from the module, such as ``loss.margin``; must be a number.
        schedule: Schedule of the values.

    Raises:
        InputError: If the module has no such number, the run has no end, or the schedule returns no finite float.

    Example:
        >>> from lightning_fusion.schedules import Linear
        >>> warm_up = ScheduledAttribute("loss.margin", Linear(0.0, 0.2, until=0.3))
        >>> warm_up.schedule(0.15)
        0.1
    """

    def __init__(self, attribute: str, schedule: Schedule) -> None:
        self.attribute, self.schedule = attribute, schedule

    @property
    def state_key(self) -> str:
        """Key of the state, distinct for each attribute."""
        return f"{type(self).__qualname__}[{self.attribute}]"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the attribute, the run and the schedule before the first batch."""
        self._owner(pl_module)
        if trainer.estimated_stepping_batches == float("inf"):
            raise InputError(
                f"the schedule of {self.attribute} needs an end: set trainer.max_epochs or max_steps to a number"
            )
        self._value(0.0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set and log the value."""
        value = self._value(min(1.0, trainer.global_step / trainer.estimated_stepping_batches))
        owner, name = self._owner(pl_module)
        setattr(owner, name, value)
        pl_module.log(f"train_{name}", value)

    def _value(self, progress: float) -> float:
        value = self.schedule(progress)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(
                f"schedule: {type(self.schedule).__name__} gave {value!r} at progress {progress:.3g} for "
                f"{self.attribute}; expected a finite float"
            )
        return float(value)

    def _owner(self, pl_module: LightningModule) -> tuple[nn.Module, str]:
        path, _, name = self.attribute.rpartition(".")
        try:
            owner = pl_module.get_submodule(path)
        except AttributeError:
            known = shorten([place for place, _ in pl_module.named_children()], 20)
            raise InputError(
                f"attribute: {self.attribute!r} needs a part {path!r}, not in {type(pl_module).__name__}; its "
                f"parts: {known}"
            ) from None
        found = getattr(owner, name, None)
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            numbers = [key for key, value in vars(owner).items() if type(value) in (int, float) and key[0] != "_"]
            raise InputError(
                f"attribute: {self.attribute!r} is no number of {type(owner).__name__}; its numbers: "
                f"{shorten(numbers) or 'none'}"
            )
        return owner, name
