"""Fuser networks, and their expert targets."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class MLPFuser(nn.Module):
    """The fuser network of the FoE paper: Linear - ReLU - Linear - ReLU - Linear.

    Args:
        num_inputs: Width of the experts' outputs side by side.
        num_outputs: Classes, or experts where the fuser chooses one.
        hidden: Widths of the hidden layers; (512, 512) in the paper's CIFAR-100 experiment.
        dropout: Probability after the last hidden layer; 0 in that experiment, 0.5 for generative tasks.

    Example:
        >>> MLPFuser(400, 20)(torch.zeros(3, 400)).shape
        torch.Size([3, 20])
    """

    def __init__(
        self, num_inputs: int, num_outputs: int, hidden: Sequence[int] = (512, 512), dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = num_inputs
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            width = size
        if dropout:
            layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_outputs))

    def forward(self, outputs: Tensor) -> Tensor:
        """Map (B, num_inputs) probabilities to (B, num_outputs) logits."""
        logits: Tensor = self.layers(outputs)
        return logits


class RepresentationFuser(nn.Module):
    """Fuser network for outputs and representations: standardize - Dropout - (Linear - ReLU - Dropout) ... - Linear.

    Representations are many numbers of any scale, and the samples are few: without dropout such a fuser learns them by
    heart (our choice; docs/methods/foe.md has the comparison). In training a batch is standardized by its own rows,
    where there are several processes by those of one.

    Args:
        num_inputs: Width of all that the experts give, side by side.
        num_outputs: Classes, or experts where the fuser chooses one.
        hidden: Widths of the hidden layers.
        dropout: Probability, of the inputs as well.

    Example:
        >>> RepresentationFuser(4 + 64, 2)(torch.zeros(3, 68)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, num_inputs: int, num_outputs: int, hidden: Sequence[int] = (512, 512), dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(num_inputs, affine=False)
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        width = num_inputs
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, num_inputs) to (B, num_outputs) logits."""
        if self.training and len(inputs) == 1:  # one row has no deviation: what was seen so far stands in
            norm = self.norm
            standardized = functional.batch_norm(inputs, norm.running_mean, norm.running_var, eps=norm.eps)
        else:
            standardized = self.norm(inputs)
        logits: Tensor = self.layers(standardized)
        return logits


def draw_expert_target(expert_targets: Tensor, index: Tensor, seed: int = 0) -> Tensor:
    """Draw one expert trained on each sample's domain at random, as a function of the sample's index.

    The FoE paper draws one expert where several own a sample's class. The draw is a hash of (seed, sample, expert), so
    it depends neither on the order of samples nor on the process or device.

    Args:
        expert_targets: (B, K) bool.
        index: (B,) int64 sample numbers.
        seed: Seed of the draw.

    Returns:
        (B,) int64 expert numbers; -100, which cross-entropy ignores, where a row has no owner.

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
        expert_targets: (B, K) bool.
        domain: (B, D) bool.
        accuracy: (D, K) validation accuracy of each expert on each domain.

    Returns:
        (B,) int64 expert numbers; -100 where a row has no owner.

    Example:
        >>> best_expert_target(torch.tensor([[True, True]]), torch.tensor([[True]]), torch.tensor([[0.6, 0.7]]))
        tensor([1])
    """
    score = (domain.to(accuracy.dtype) @ accuracy).masked_fill(~expert_targets, -1.0)
    return score.argmax(1).masked_fill(~expert_targets.any(1), -100)
