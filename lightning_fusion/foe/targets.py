"""Targets of a fuser that chooses an expert: one that was trained on the domain of the sample."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.datamodule import OutputsBatch
from lightning_fusion.experts.outputs.split import OutputsSplit
from lightning_fusion.experts.outputs.store import expert_target_matrix


class ExpertTarget(nn.Module):
    """Choice of the expert that is a sample's target, among those that were trained on its domains and answered.

    Args:
        domains: Names of the D domains of the data.
        expert_domains: Domains that each of the K experts was trained on, by name.
        choice: ``random``, a function of the sample's index, or ``best`` by validation accuracy on its domains.
        seed: Random seed of the draw.

    Attributes:
        trained_on: (D, K) bool, which experts were trained on each domain.
        accuracy: (D, K) accuracy of each expert on each domain; ``None`` before :meth:`measure`.
    """

    trained_on: Tensor

    def __init__(
        self,
        domains: Sequence[str],
        expert_domains: Mapping[str, Sequence[str]],
        choice: Literal["random", "best"],
        seed: int,
    ) -> None:
        super().__init__()
        self.choice, self.seed = choice, seed
        self.register_buffer("trained_on", expert_target_matrix(domains, expert_domains), persistent=False)
        self.accuracy: Tensor | None = None

    def measure(self, part: OutputsSplit) -> None:
        """Measure the accuracy of each expert on each domain, which determines the best one.

        Args:
            part: Outputs on the validation split.
        """
        answered = torch.from_numpy(~np.asarray(part.missing))
        right = torch.from_numpy(part.scattered().argmax(2) == part.target[:, None]) & answered
        member = torch.from_numpy(part.domain.copy()).to(torch.float64)
        counts = (member.T @ answered.to(torch.float64)).clamp_min(1)
        self.accuracy = (member.T @ right.to(torch.float64) / counts).to(torch.float32)

    def forward(self, batch: OutputsBatch, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B,) target, and (B, K) bool, all experts trained on a domain of the sample that answered.

        Args:
            batch: Batch with domains.
            spread: (B, K, C) outputs of its experts, NaN where an answer is missing.

        Raises:
            InputError: If the batch has domains of another number.
        """
        if batch.domain.shape[1] != len(self.trained_on):
            raise InputError(
                f"target: expert needs the domains of each sample; the loader yields {batch.domain.shape[1]} domain "
                f"columns, expected {len(self.trained_on)}; give IndexedDataset(dataset, domains), or target: label"
            )
        experts = (batch.domain.to(torch.float32) @ self.trained_on.to(torch.float32)) > 0
        experts = experts & ~spread.isnan().any(2)
        if self.choice == "random":
            return draw_expert_target(experts, batch.index, self.seed), experts
        assert self.accuracy is not None
        return best_expert_target(experts, batch.domain, self.accuracy.to(experts.device)), experts


def draw_expert_target(expert_targets: Tensor, index: Tensor, seed: int = 0) -> Tensor:
    """Draw one expert trained on each sample's domain at random, as a function of the sample's index.

    The FoE paper draws one expert if several were trained on the sample's class. The draw is a hash of (seed, sample,
    expert), so it depends neither on the order of samples nor on the process or device.

    Args:
        expert_targets: (B, K) bool, the experts trained on each sample's domains.
        index: (B,) int64 sample numbers.
        seed: Random seed of the draw.

    Returns:
        (B,) int64 expert numbers; -100, which cross-entropy ignores, for samples without an expert target.

    Example:
        >>> draw_expert_target(torch.tensor([[False, True], [False, False]]), torch.tensor([4, 5]))
        tensor([   1, -100])
    """
    expert = torch.arange(expert_targets.shape[1], device=expert_targets.device)
    value = index[:, None] * 1_000_003 + expert + seed * 7_919
    for factor in (0x9E3779B97F4A7C1, 0x3F58476D1CE4E5B9):  # wrap-around multiplication and shifts mix all bits
        value = (value ^ (value >> 31)) * factor
    drawn = value.bitwise_and(0x7FFFFFFF).masked_fill(~expert_targets, -1).argmax(1)
    return drawn.masked_fill(~expert_targets.any(1), -100)


def best_expert_target(expert_targets: Tensor, domain: Tensor, accuracy: Tensor) -> Tensor:
    """Return the expert target with the highest validation accuracy on the sample's domains; the first of equals.

    Args:
        expert_targets: (B, K) bool, the experts trained on each sample's domains.
        domain: (B, D) bool, the domains of each sample.
        accuracy: (D, K) validation accuracy of each expert on each domain.

    Returns:
        (B,) int64 expert numbers; -100 for samples without an expert target.

    Example:
        >>> best_expert_target(torch.tensor([[True, True]]), torch.tensor([[True]]), torch.tensor([[0.6, 0.7]]))
        tensor([1])
    """
    score = (domain.to(accuracy.dtype) @ accuracy).masked_fill(~expert_targets, -1.0)
    return score.argmax(1).masked_fill(~expert_targets.any(1), -100)
