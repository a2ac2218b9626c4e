"""Light statistics that a domain may publish about its samples."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

_BINS = 8  # of each histogram


def image_statistics(images: Tensor) -> Tensor:
    """Compute light statistics of each image: moments and histogram of every channel, and edge directions.

    The statistics are our choice (the HaT paper has "light statistics"): for each channel the mean, the standard
    deviation and the fractions of eight equal intervals of brightness; for the mean of the channels the fractions of
    eight directions of the gradient, weighted by its size (Dalal and Triggs, CVPR 2005, over the whole image), and its
    mean size.

    Args:
        images: (B, channels, H, W), floats in [0, 1].

    Returns:
        (B, 10 * channels + 9) float32.

    Example:
        >>> image_statistics(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 39])
    """
    flat = images.float().flatten(2)
    level = (flat * _BINS).long().clamp(0, _BINS - 1)
    fractions = torch.stack([(level == number).float().mean(2) for number in range(_BINS)], 2)
    colors = torch.cat([flat.mean(2, keepdim=True), flat.std(2, unbiased=False, keepdim=True), fractions], 2)
    gray = F.pad(images.float().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    right = (gray[..., 1:-1, 2:] - gray[..., 1:-1, :-2]).flatten(1)
    down = (gray[..., 2:, 1:-1] - gray[..., :-2, 1:-1]).flatten(1)
    size = torch.hypot(right, down)
    place = ((torch.atan2(down, right) + math.pi) / (2 * math.pi) * _BINS).long() % _BINS
    edges = torch.stack([(size * (place == number)).sum(1) for number in range(_BINS)], 1)
    edges = edges / edges.sum(1, keepdim=True).clamp_min(1e-12)
    return torch.cat([colors.flatten(1), edges, size.mean(1, keepdim=True)], 1)


def spectrum_statistics(log_mel: Tensor) -> Tensor:
    """Compute the mean and standard deviation over time of each band of log-mel features.

    Args:
        log_mel: (B, M, frames), before anything is subtracted.

    Returns:
        (B, 2 * M) float32.

    Example:
        >>> spectrum_statistics(torch.rand(2, 40, 30)).shape
        torch.Size([2, 80])
    """
    return torch.cat([log_mel.float().mean(2), log_mel.float().std(2, unbiased=False)], 1)


BANDS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Edges of the four bands of :func:`window_statistics`, as fractions of half the sample rate: octaves. Our choice."""


def window_statistics(windows: Tensor) -> Tensor:
    """Compute eleven statistics of each channel of each window.

    Mean, standard deviation, smallest and largest value, mean absolute step from sample to sample, root mean square,
    zero crossings of the signal minus its mean (per sample), and the power in four bands of its spectrum
    (:data:`BANDS`; they add up to the variance).

    Args:
        windows: (B, channels, T).

    Returns:
        (B, channels, 11), float32.

    Example:
        >>> window_statistics(torch.tensor([[[1.0, 3.0, 1.0, 3.0]]])).squeeze().tolist()
        [2.0, 1.0, 1.0, 3.0, 2.0, 2.2360680103302, 0.75, 0.0, 0.0, 0.0, 1.0]
    """
    windows = windows.float()
    length = windows.shape[-1]
    mean = windows.mean(-1)
    moving = windows - mean[..., None]
    sign = moving >= 0
    power = torch.fft.rfft(moving).abs().square() * (2 / length**2)
    if length % 2 == 0:
        power[..., -1] /= 2  # half the sample rate has no mirror image
    place = torch.arange(power.shape[-1], device=windows.device) / (length / 2)
    bands = [power[..., (place > low) & (place <= high)].sum(-1) for low, high in pairwise(BANDS)]
    statistics = [
        mean,
        moving.square().mean(-1).sqrt(),
        windows.amin(-1),
        windows.amax(-1),
        windows.diff().abs().mean(-1),
        windows.square().mean(-1).sqrt(),
        (sign[..., 1:] != sign[..., :-1]).float().sum(-1) / length,
    ]
    return torch.stack([*statistics, *bands], -1)


def mean_and_deviation(chunks: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation over the first axis of all chunks, in float64, one chunk at a time."""
    total, square, count = torch.zeros(()), torch.zeros(()), 0
    shift = None
    for chunk in chunks:
        values = chunk.double()
        shift = values[0] if shift is None else shift  # near the mean: squares of large numbers lose digits
        total, square = total + (values - shift).sum(0), square + (values - shift).square().sum(0)
        count += len(values)
    mean = total / count
    assert shift is not None
    return mean + shift, (square / count - mean.square()).clamp(min=0).sqrt()
