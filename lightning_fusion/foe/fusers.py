"""Fuser networks, and their expert targets."""

from collections.abc import Sequence

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
        >>> import torch
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
        >>> import torch
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
