"""Small networks for sensor series and for precomputed features; each ends in a linear ``head``.

The output of the layer before the head, ``pool`` for series and ``features`` for the perceptron, is the representation
(B, D).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError


class _SeriesNetwork(nn.Module):
    """Base class of series networks: ``body`` returns (B, D', T'), ``pool`` (B, D), ``head`` logits."""

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
    """Convolutional network over time with mean and maximum pooling of each channel.

    Each block is convolution, batch norm, ReLU; the first has stride 2, the others have twice as many channels.

    Args:
        num_classes: C, number of classes.
        in_channels: Number of channels of the series.
        width: Number of channels of the first block; D is four times as many (twice, with one block).
        blocks: Number of blocks.
        kernel: Kernel size of the convolutions, in samples.

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
    """Bidirectional gated recurrent unit with mean pooling of its states over time.

    A strided convolution first reduces the number of steps of the recurrence.

    Args:
        num_classes: C, number of classes.
        in_channels: Number of channels of the series.
        hidden: Size of the state of each direction; D is twice as large.
        stride: Number of samples of a step.

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
    """Multilayer perceptron on precomputed features.

    Args:
        num_classes: C, number of classes.
        in_features: Number of features of a sample.
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
            raise InputError("hidden is empty; expected the width of at least one layer, such as [64]")
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
    """Map (B, D, T) to the states (B, 2 D, T) of a bidirectional GRU."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)

    def forward(self, frames: Tensor) -> Tensor:
        states: Tensor = self.gru(frames.transpose(1, 2))[0].transpose(1, 2)
        return states
