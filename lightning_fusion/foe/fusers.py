"""Fuser networks, and their expert targets."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class MLPFuser(nn.Module):
    """The fuser network of the FoE paper: Linear - ReLU - Linear - ReLU - Linear.

    Args:
        num_inputs: Size of the experts' concatenated outputs.
        num_outputs: Number of classes, or of experts if the fuser selects one.
        hidden: Widths of the hidden layers; (512, 512) in the paper's CIFAR-100 experiment.
        dropout: Dropout probability after the last hidden layer; 0 in that experiment, 0.5 for generative tasks.

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

    Representations have many features of any scale, so a fuser without dropout overfits small training sets (our
    choice; docs/methods/foe.md has the comparison). In training, a batch is standardized by the samples of the batch
    and process.

    Args:
        num_inputs: Size of the concatenated outputs and representations.
        num_outputs: Number of classes, or of experts if the fuser selects one.
        hidden: Widths of the hidden layers.
        dropout: Dropout probability of the inputs and of the hidden layers.

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
        if self.training and len(inputs) == 1:  # one sample has no deviation: use the running statistics
            norm = self.norm
            standardized = functional.batch_norm(inputs, norm.running_mean, norm.running_var, eps=norm.eps)
        else:
            standardized = self.norm(inputs)
        logits: Tensor = self.layers(standardized)
        return logits


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
