"""Speaker networks that map log-mel spectrograms to scaled cosines to the training speakers.

Each has a submodule ``embedding``, the output (B, D) of which is the speaker embedding, and a :class:`CosineHead` named
``head``, a classifier of the training speakers for angular margin losses.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.errors import InputError
from lightning_fusion.extras import require


class CosineHead(nn.Module):
    """Scaled cosines between an embedding and one learned direction per class.

    Computed in float32 in any precision of the run: a margin of 0.2 radians is lost in bfloat16.

    Args:
        in_features: D, size of an embedding.
        num_classes: C, number of classes.
        scale: Factor of the cosines; 30 is usual for VoxCeleb. It must be the same in the loss.

    Raises:
        InputError: If ``scale`` is not above 0.

    Example:
        >>> head = CosineHead(4, num_classes=3, scale=30.0)
        >>> bool((head(100 * torch.randn(8, 4)).abs() <= 30.001).all())
        True
    """

    def __init__(self, in_features: int, num_classes: int, scale: float = 30.0) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise InputError(f"scale is {scale}; expected a number above 0 (30 is usual)")
        self.scale = float(scale)
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(num_classes, in_features)))

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (B, D) embeddings to (B, C) logits within [-scale, scale]."""
        with torch.autocast(embedding.device.type, enabled=False):
            wide = torch.promote_types(embedding.dtype, torch.float32)
            return self.scale * F.linear(F.normalize(embedding.to(wide)), F.normalize(self.weight.to(wide)))

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, scale={self.scale}"


class StatisticsPooling(nn.Module):
    """Concatenated mean and standard deviation over time, computed in float32 at least.

    Source: Snyder et al., X-vectors, ICASSP 2018. The variance is clamped at 1e-5, because the square root has no
    finite gradient at 0 (a channel that is constant over the crop).

    Example:
        >>> StatisticsPooling()(torch.tensor([[[1.0, 3.0]]]))
        tensor([[2., 1.]])
    """

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, D, T) to (B, 2 D)."""
        wide = frames.to(torch.promote_types(frames.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, dim=-1, correction=0)
        pooled = torch.cat([mean, variance.clamp(min=1e-5).sqrt()], 1)
        return pooled if torch.is_autocast_enabled(frames.device.type) else pooled.to(frames.dtype)


class _SpeakerNetwork(nn.Module):
    """Base class of speaker networks: ``body`` (B, D', T) frames, ``pool`` a vector, ``embedding``, ``head``."""

    body: nn.Module
    pool: nn.Module
    embedding: nn.Module
    head: CosineHead

    def __init__(self, num_mels: int) -> None:
        super().__init__()
        self.num_mels = num_mels

    def forward(self, log_mel: Tensor) -> Tensor:
        """Map (B, num_mels, frames) to (B, C) scaled cosines."""
        if log_mel.ndim != 3 or log_mel.shape[1] != self.num_mels:
            raise InputError(
                f"the speaker network got input of shape {tuple(log_mel.shape)}; expected (batch, {self.num_mels}, "
                "frames) log-mel: num_mels must be the same in network and data"
            )
        logits: Tensor = self.head(self.embedding(self.pool(self.body(log_mel))))
        return logits


class SpeakerResNet(_SpeakerNetwork):
    """ResNet on log-mel features with pooling over time, the usual network for VoxCeleb.

    The defaults are the usual ResNet34: a 3x3 stem without stride, four stages of 32 to 256 channels with
    strides 1, 2, 2, 2, statistics pooling over time, one linear layer. Source: Zeinali et al., BUT System Description
    to VoxCeleb Speaker Recognition Challenge 2019, table 1. It stays in the contiguous layout: in channels-last the
    backward pass of a strided 1x1 convolution of fewer than 16 channels writes outside its memory on CPUs
    (https://github.com/uxlfoundation/oneDNN/issues/6035).

    Args:
        num_classes: C, number of classes.
        num_mels: Mel bands of the input, as in the data module.
        width: Number of channels of the first stage; each further stage has twice as many.
        blocks: Number of basic blocks of each stage; (3, 4, 6, 3) is ResNet34, (2, 2, 2, 2) ResNet18.
        embedding_dim: D, size of the embedding.
        pooling: ``statistics`` (mean and standard deviation over time) or ``mean``.
        scale: Scale of the cosines; must be that of the loss.

    Raises:
        InputError: If ``blocks`` is empty or ``pooling`` is unknown.

    Example:
        >>> network = SpeakerResNet(num_classes=5, num_mels=16, width=4, blocks=(1, 1))
        >>> network(torch.zeros(2, 16, 50)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        num_classes: int,
        num_mels: int = 80,
        width: int = 32,
        blocks: Sequence[int] = (3, 4, 6, 3),
        embedding_dim: int = 192,
        pooling: Literal["statistics", "mean"] = "statistics",
        scale: float = 30.0,
    ) -> None:
        super().__init__(num_mels)
        if not blocks or min(blocks) < 1:
            raise InputError(f"blocks is {tuple(blocks)}; expected at least one block for each of at least one stage")
        if pooling not in ("statistics", "mean"):
            raise InputError(f"pooling is {pooling!r}; expected 'statistics' or 'mean'")
        stages: list[nn.Module] = []
        channels, bands = width, num_mels
        for number, count in enumerate(blocks):
            stages.append(_stage(channels, width * 2**number, count, stride=1 if number == 0 else 2))
            channels, bands = width * 2**number, bands if number == 0 else -(-bands // 2)
        stem = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(nn.Unflatten(1, (1, num_mels)), *stem, *stages, nn.Flatten(1, 2))
        for module in self.body.modules():
            if isinstance(module, nn.Conv2d):  # as torchvision's ResNet
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.pool = StatisticsPooling() if pooling == "statistics" else _MeanPooling()
        self.embedding = nn.Linear((1 + (pooling == "statistics")) * channels * bands, embedding_dim)
        self.head = CosineHead(embedding_dim, num_classes, scale)


def _stage(in_channels: int, channels: int, count: int, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock, conv1x1  # imported here, because it takes two seconds

    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))
    return nn.Sequential(
        BasicBlock(in_channels, channels, stride, shortcut), *(BasicBlock(channels, channels) for _ in range(count - 1))
    )


class _MeanPooling(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        return frames.float().mean(-1)


class SmallSpeakerNet(_SpeakerNetwork):
    """Small x-vector network for CPUs: five convolutions over time, statistics pooling and a linear layer.

    The layers are those of Snyder et al. (X-vectors, ICASSP 2018, table 1) with fewer channels; the first one has
    stride 2, so that the others process half as many frames (our choices).

    Args:
        num_classes: C, number of classes.
        num_mels: Mel bands of the input, as in the data module.
        width: Channels of the first four convolutions; the last has twice as many.
        embedding_dim: D, size of the embedding.
        scale: Scale of the cosines; must be that of the loss.

    Example:
        >>> SmallSpeakerNet(num_classes=5, num_mels=40)(torch.zeros(2, 40, 200)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, num_classes: int, num_mels: int = 80, width: int = 96, embedding_dim: int = 128, scale: float = 30.0
    ) -> None:
        super().__init__(num_mels)
        self.body = nn.Sequential(
            *_frames(num_mels, width, kernel=5, stride=2),
            *_frames(width, width, kernel=3, dilation=2),
            *_frames(width, width, kernel=3, dilation=3),
            *_frames(width, width, kernel=1),
            *_frames(width, 2 * width, kernel=1),
        )
        self.pool = StatisticsPooling()
        self.embedding = nn.Linear(4 * width, embedding_dim)
        self.head = CosineHead(embedding_dim, num_classes, scale)


def _frames(in_channels: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.Conv1d(in_channels, channels, kernel, stride=stride, dilation=dilation, padding=padding, bias=False),
        nn.BatchNorm1d(channels),
        nn.ReLU(inplace=True),
    ]


class ECAPA(_SpeakerNetwork):
    """ECAPA-TDNN of SpeechBrain with a :class:`CosineHead`. Needs ``pip install lightning-fusion[speechbrain]``.

    Source: Desplanques et al., ECAPA-TDNN, Interspeech 2020.

    Args:
        num_classes: C, number of classes.
        num_mels: Mel bands of the input, as in the data module.
        channels: Number of channels of the convolution blocks, 512 or 1,024 in the paper; the last layer has three
            times as many.
        embedding_dim: D, size of the embedding.
        scale: Scale of the cosines; must be that of the loss.

    Raises:
        InputError: If SpeechBrain is not installed, or ``channels`` is no multiple of 8.

    Example:
        >>> ECAPA(num_classes=5, num_mels=16, channels=16)(torch.zeros(2, 16, 50)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, num_classes: int, num_mels: int = 80, channels: int = 512, embedding_dim: int = 192, scale: float = 30.0
    ) -> None:
        super().__init__(num_mels)
        speechbrain = require("speechbrain.lobes.models.ECAPA_TDNN", "speechbrain")
        if channels < 8 or channels % 8:
            raise InputError(f"channels is {channels}; expected a multiple of 8, the branches of a Res2Net block")
        body = speechbrain.ECAPA_TDNN(num_mels, lin_neurons=embedding_dim, channels=[*[channels] * 4, 3 * channels])
        self.body = nn.Sequential(_Transpose(), body)
        self.pool = nn.Identity()  # SpeechBrain's network pools by itself
        self.embedding = nn.Flatten()
        self.head = CosineHead(embedding_dim, num_classes, scale)


class _Transpose(nn.Module):
    def forward(self, log_mel: Tensor) -> Tensor:
        return log_mel.transpose(1, 2)
