"""Preparation of raw values as network input, rebuilt from what a data module records as its ``preprocessing``."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Normalization(nn.Module):
    """Normalization of each channel: ``(value * scale - mean) / std``, channels in the second axis.

    Args:
        mean: C means, subtracted after scaling.
        std: C standard deviations, divided by.
        scale: Factor of raw values; 1 / 255 for images.
        missing: C replacements of raw values that are NaN; ``None`` keeps them.

    Example:
        >>> Normalization([0.5], [0.5], scale=1 / 255)(torch.tensor([[[0, 255]]], dtype=torch.uint8)).tolist()
        [[[-1.0, 1.0]]]
    """

    mean: Tensor
    std: Tensor
    missing: Tensor | None

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], scale: float = 1.0, missing: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.scale = scale
        filled = None if missing is None else torch.tensor(missing, dtype=torch.float32)
        for name, values in (("mean", torch.tensor(mean)), ("std", torch.tensor(std)), ("missing", filled)):
            self.register_buffer(name, None if values is None else values.float(), persistent=False)

    def scaled(self, values: Tensor) -> Tensor:
        """Return raw values as float32, multiplied by ``scale``; missing ones are replaced before."""
        floats = values.to(torch.float32)
        if self.missing is not None:
            floats = torch.where(floats.isnan(), _of_channels(self.missing, floats), floats)
        return floats if self.scale == 1 else floats / (1 / self.scale)

    def normalized(self, values: Tensor) -> Tensor:
        """Subtract mean and divide by standard deviation."""
        return (values - _of_channels(self.mean, values)) / _of_channels(self.std, values)

    def forward(self, values: Tensor) -> Tensor:
        """Map raw values (B, C, ...) to network input of the same shape."""
        return self.normalized(self.scaled(values))

    def inverse(self, values: Tensor) -> Tensor:
        """Map network input (B, C, ...) to raw values."""
        return (values * _of_channels(self.std, values) + _of_channels(self.mean, values)) / self.scale

    @property
    def changes(self) -> bool:
        """Whether it does more than to scale: a mean other than 0, or a standard deviation other than 1."""
        return bool((self.mean != 0).any() or (self.std != 1).any())


def preprocessor(preprocessing: Mapping[str, Any] | None) -> nn.Module | None:
    """Return the module that maps raw values to network input, as a data module with this ``preprocessing`` does.

    Args:
        preprocessing: Attribute ``preprocessing`` of a data module, or of an expert.

    Returns:
        A :class:`Normalization`, a :class:`~lightning_fusion.data.audio.features.LogMel`, the identity for waveforms;
        ``None`` if nothing of it is known, or if it starts from texts.

    Example:
        >>> preprocessor({"mean": [1.0], "std": [2.0]})(torch.tensor([[5.0]]))
        tensor([[2.]])
    """
    known = preprocessing or {}
    if "mean" in known and "std" in known:
        return Normalization(known["mean"], known["std"], known.get("scale", 1.0), known.get("missing"))
    if known.get("frontend") == "waveform":
        return nn.Identity()
    if known.get("frontend") == "log_mel":
        from lightning_fusion.data.audio.features import LogMel

        return LogMel(*(known[name] for name in ("sample_rate_hz", "num_mels", "window_s", "hop_s", "low_hz", "floor")))
    return None


def _of_channels(values: Tensor, like: Tensor) -> Tensor:
    """Return (C,) values in a shape that broadcasts over (B, C, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 2))
