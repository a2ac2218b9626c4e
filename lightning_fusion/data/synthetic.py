"""Synthetic twins of real data: no file, no network, and heterogeneity is a dial."""

import math

import numpy as np


def synthetic_images(
    rows: int = 60,
    num_classes: int = 4,
    num_domains: int = 4,
    image_size: int = 16,
    shift: float = 1.0,
    noise: float = 0.15,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coloured gratings: the class is their orientation, the domain tints them and turns them by ``shift``.

    With ``shift=0`` all domains look alike; with ``shift=1`` neighbouring domains differ by one class's step of
    orientation, so that a model of one domain is confidently wrong on the next.

    Args:
        rows: Images of each class and domain.
        num_classes: C.
        num_domains: D.
        image_size: Side in pixels.
        shift: How far domains differ, from 0 (not) to 1.
        noise: Standard deviation of pixel noise, in units of the full range.
        seed: Of phases and noise.

    Returns:
        Pixels (N, 3, image_size, image_size) uint8, classes (N,) and domains (N,) int64, N = rows * C * D.

    Example:
        >>> pixels, labels, domains = synthetic_images(rows=2, num_classes=3, num_domains=2)
        >>> pixels.shape, labels.tolist(), domains.tolist()
        ((12, 3, 16, 16), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    """
    generator = np.random.default_rng(seed)
    domains, labels, _ = (axis.reshape(-1) for axis in np.indices((num_domains, num_classes, rows)))
    angle = (labels + shift * domains) * math.pi / num_classes
    phase = generator.uniform(0, 2 * math.pi, len(labels))
    y, x = np.indices((image_size, image_size)) / image_size
    wave = np.sin(
        6 * math.pi * (x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]) + phase[:, None, None]
    )
    hue = 2 * math.pi * shift * domains / num_domains
    tint = 0.6 + 0.4 * np.cos(hue[:, None] + 2 * math.pi * np.arange(3) / 3)
    values = 0.5 + 0.4 * wave[:, None] * tint[:, :, None, None]
    values += generator.normal(0, noise, values.shape)
    return (values.clip(0, 1) * 255).astype(np.uint8), labels, domains
