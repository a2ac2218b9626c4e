"""Augmentation of batches of sensor windows, on the device."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_fusion.errors import InputError


class SensorAugmentation(nn.Module):
    """Random noise, amplitude, rotation of the device and speed, drawn for each window.

    The transforms are those of Um et al., Data augmentation of wearable sensor data (ICMI 2017, arXiv 1706.00527), of
    which rotation and permutation gained most there. Values are as recorded, before the normalization.

    Args:
        jitter: Standard deviation of the noise, as a fraction of that of each channel over the batch.
        scale: Standard deviation of the factor around 1, one for each window and channel.
        rotation_deg: Largest angle of a rotation about a random axis, the same for all ``triples``.
        triples: Channels of the x, y and z axes of the sensors of a device, as numbers; without them nothing rotates.
        time_warp: Largest relative change of the speed within a window, below 1: a smooth monotone distortion of the
            time, which keeps both ends.

    Raises:
        InputError: If an argument is negative, ``time_warp`` is 1 or more, there is a rotation but no triple, or a
            triple is not of three channels; in ``forward``, if a channel of a triple does not exist.

    Example:
        >>> augment = SensorAugmentation(jitter=0.05, rotation_deg=30, triples=[[0, 1, 2], [3, 4, 5]], time_warp=0.2)
        >>> augment(torch.rand(8, 6, 50)).shape
        torch.Size([8, 6, 50])
    """

    def __init__(
        self,
        jitter: float = 0.0,
        scale: float = 0.0,
        rotation_deg: float = 0.0,
        triples: list[list[int]] | None = None,
        time_warp: float = 0.0,
    ) -> None:
        super().__init__()
        if min(jitter, scale, rotation_deg, time_warp) < 0 or time_warp >= 1:
            raise InputError(
                f"jitter is {jitter}, scale {scale}, rotation_deg {rotation_deg}, time_warp {time_warp}; expected 0 or "
                "more, and a time_warp below 1"
            )
        if any(len(set(triple)) != 3 for triple in triples or []) or bool(rotation_deg) != bool(triples):
            raise InputError(
                f"triples is {triples}, rotation_deg {rotation_deg}; expected both or neither: lists of three channels "
                "(x, y, z)"
            )
        self.jitter, self.scale, self.rotation_deg, self.time_warp = jitter, scale, rotation_deg, time_warp
        self.triples = triples or []

    def forward(self, windows: Tensor) -> Tensor:
        """Map windows (B, channels, T), or features (B, channels), to new ones of the same shape."""
        series = windows if windows.ndim == 3 else windows[..., None]
        if self.time_warp and series.shape[2] > 1:
            series = self._warped(series)
        if self.triples:
            series = self._rotated(series)
        if self.scale:
            series = series * (1 + self.scale * torch.randn(*series.shape[:2], 1, device=series.device))
        if self.jitter:
            spread = series.std((0, 2), correction=0)[:, None]
            series = series + self.jitter * spread * torch.randn_like(series)
        return series.reshape(windows.shape)

    def _rotated(self, series: Tensor) -> Tensor:
        if max(map(max, self.triples)) >= series.shape[1]:
            raise InputError(f"triples is {self.triples}, but the windows have {series.shape[1]} channels")
        rotation = _rotations(math.radians(self.rotation_deg) * torch.rand(len(series), device=series.device))
        result = series.clone()
        for triple in self.triples:
            result[:, triple] = rotation.to(series) @ series[:, triple]
        return result

    def _warped(self, series: Tensor) -> Tensor:
        count, _, length = series.shape
        draw = torch.rand(2, count, 1, device=series.device)
        place = torch.linspace(0, 1, length, device=series.device)
        # d(place + a / (2 pi) sin(2 pi place + b)) / d(place) = 1 + a cos(...), within 1 - |a| and 1 + |a|
        phase, amount = 2 * math.pi * draw[0], self.time_warp * (2 * draw[1] - 1) / (2 * math.pi)
        moved = place + amount * (torch.sin(2 * math.pi * place + phase) - torch.sin(phase))
        position = moved.clamp(0, 1) * (length - 1)
        left = position.floor().clamp_max(length - 2).long()
        share = (position - left).to(series)[:, None]
        left = left[:, None].expand(-1, series.shape[1], -1)
        return series.gather(2, left) * (1 - share) + series.gather(2, left + 1) * share


def _rotations(angle: Tensor) -> Tensor:
    """Return (B, 3, 3) rotations by angles (B,) about random axes (Rodrigues' formula)."""
    axis = functional.normalize(torch.randn(len(angle), 3, device=angle.device), dim=1)
    zero = torch.zeros_like(angle)
    x, y, z = axis.unbind(1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    turned: Tensor = torch.eye(3, device=angle.device) + sine * cross + (1 - cosine) * (cross @ cross)
    return turned
