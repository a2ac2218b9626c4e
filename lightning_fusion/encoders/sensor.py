"""Small networks for sensor series and for ready features; each ends in a linear ``head``.

The layer before the head, ``pool`` of series and ``features`` of the perceptron, gives the representation (B, D).
Widths and kinds differ from network to network as they do from device to device.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError


class _SeriesNetwork(nn.Module):
    """Series to logits: ``body`` gives (B, D', T'), ``pool`` (B, D), ``head`` the rest."""

    body: nn.Module
    pool: nn.Module
    head: nn.Linear

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels

    def forward(self, series: Tensor) -> Tensor:
        """Map (B, in_channels, T) to (B, C) logits."""
        if series.ndim != 3 or series.shape[1] != self.in_channels:
            raise InputError(
                f"the sensor network got input of shape {tuple(series.shape)}; expected (batch, {self.in_channels}, "
                "samples): in_channels must be the number of channels of the data"
            )
        logits: Tensor = self.head(self.pool(self.body(series)))
        return logits


class SensorCNN(_SeriesNetwork):
    """Convolutions over time, then the mean and the maximum of each channel over the window.

    Each block is convolution, batch norm, ReLU; the first has stride 2, the others have twice as many channels.

    Args:
        num_classes: C.
        in_channels: Channels of the series.
        width: Channels of the first block; D is four times as many (twice, with one block).
        blocks: Number of blocks.
        kernel: Samples that a convolution sees.

    Raises:
        InputError: If ``blocks`` is below 1, or ``kernel`` is even.

    Example:
        >>> SensorCNN(num_classes=5)(torch.zeros(2, 6, 50)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, num_classes: int, in_channels: int = 6, width: int = 32, blocks: int = 3, kernel: int = 5
    ) -> None:
        super().__init__(in_channels)
        if blocks < 1 or kernel < 1 or kernel % 2 == 0:
            raise InputError(f"blocks is {blocks}, kernel {kernel}; expected at least one block, and an odd kernel")
        layers: list[nn.Module] = []
        channels = in_channels
        for number in range(blocks):
            wider = width if number == 0 else 2 * width
            layers += [
                nn.Conv1d(channels, wider, kernel, stride=2 if number == 0 else 1, padding=kernel // 2, bias=False),
                nn.BatchNorm1d(wider),
                nn.ReLU(inplace=True),
            ]
            channels = wider
        self.body = nn.Sequential(*layers)
        self.pool = _MeanAndMax()
        self.head = nn.Linear(2 * channels, num_classes)


class SensorGRU(_SeriesNetwork):
    """A gated recurrent unit that reads the series in both directions; its states are averaged over time.

    A convolution with stride first joins a few samples into one step, since the recurrence runs step by step.

    Args:
        num_classes: C.
        in_channels: Channels of the series.
        hidden: Width of the state of each direction; D is twice as many.
        stride: Samples of a step.

    Raises:
        InputError: If ``stride`` is below 1.

    Example:
        >>> SensorGRU(num_classes=5, hidden=8)(torch.zeros(2, 6, 50)).shape
        torch.Size([2, 5])
    """

    def __init__(self, num_classes: int, in_channels: int = 6, hidden: int = 32, stride: int = 4) -> None:
        super().__init__(in_channels)
        if stride < 1:
            raise InputError(f"stride is {stride}; expected at least 1")
        self.body = nn.Sequential(
            nn.Conv1d(in_channels, hidden, 2 * stride + 1, stride=stride, padding=stride, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            _Recurrence(hidden),
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.head = nn.Linear(2 * hidden, num_classes)


class SensorMLP(nn.Module):
    """A perceptron on ready features.

    Args:
        num_classes: C.
        in_features: Features of a sample.
        hidden: Width of each hidden layer; D is the last.

    Raises:
        InputError: If ``hidden`` is empty.

    Example:
        >>> SensorMLP(num_classes=6, in_features=43)(torch.zeros(2, 43)).shape
        torch.Size([2, 6])
    """

    def __init__(self, num_classes: int, in_features: int = 43, hidden: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        if not hidden:
            raise InputError("hidden is empty; expected the width of at least one layer, [64] say")
        self.in_features = in_features
        widths = [in_features, *hidden]
        layers = [
            layer
            for one, other in pairwise(widths)
            for layer in (nn.Linear(one, other, bias=False), nn.BatchNorm1d(other), nn.ReLU(inplace=True))
        ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_features) to (B, C) logits."""
        if features.ndim != 2 or features.shape[1] != self.in_features:
            raise InputError(
                f"the sensor network got input of shape {tuple(features.shape)}; expected (batch, {self.in_features}): "
                "in_features must be the number of features of the data"
            )
        logits: Tensor = self.head(self.features(features))
        return logits


class _MeanAndMax(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return torch.cat([frames.mean(-1), frames.amax(-1)], 1)


class _Recurrence(nn.Module):
    """(B, D, T) to the states (B, 2 D, T) of a GRU in both directions."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)

    def forward(self, frames: Tensor) -> Tensor:
        states: Tensor = self.gru(frames.transpose(1, 2))[0].transpose(1, 2)
        return states
