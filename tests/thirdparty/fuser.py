"""A fuser of somebody else's: one more constructor argument and a training step of its own."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_fusion import Expert, FoEFuserModule


class PenalizedFuser(FoEFuserModule):
    """Adds a penalty on the squared weights of the fuser to its loss."""

    def __init__(
        self,
        experts: dict[str, Expert] | None = None,
        classes: list[str] | None = None,
        expert_classes: dict[str, list[str]] | None = None,
        domains: list[str] | None = None,
        expert_domains: dict[str, list[str]] | None = None,
        target: Literal["label", "expert"] = "label",
        network: Callable[[int, int], nn.Module] | None = None,
        optimizer: OptimizerCallable | None = None,
        penalty: float = 0.1,
    ) -> None:
        super().__init__(
            experts, classes, expert_classes, domains, expert_domains, target, network=network, optimizer=optimizer
        )
        self.penalty = penalty

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        weights = torch.stack([parameter.square().sum() for parameter in self.network.parameters()]).sum()
        self.log("train_penalty_loss", self.penalty * weights)
        return super().training_step(batch, batch_idx) + self.penalty * weights


class ShortFuser(FoEFuserModule):
    """Passes on whatever the library's fuser takes."""

    def __init__(self, penalty: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.penalty = penalty
