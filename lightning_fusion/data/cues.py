"""Cues that go with the class in training, and need not do so later: what the data of shortcut studies share."""

import numpy as np

from lightning_fusion.errors import InputError


def draw_cues(labels: np.ndarray, num_classes: int, agreement: float, generator: np.random.Generator) -> np.ndarray:
    """Draw the class that the cue of each sample names.

    Args:
        labels: (N,) classes.
        num_classes: C; at an agreement of 1 / C the cue tells nothing.
        agreement: Probability that the cue names the class of the sample, not another one, drawn at random.
        generator: Random numbers. Samples that agree at one agreement agree at every higher one, by the same seed.

    Returns:
        (N,) classes.

    Example:
        >>> draw_cues(np.array([0, 1, 2]), 3, 1.0, np.random.default_rng(0)).tolist()
        [0, 1, 2]
    """
    agrees = generator.random(len(labels)) < agreement
    other = (labels + generator.integers(1, num_classes, len(labels))) % num_classes
    cues: np.ndarray = np.where(agrees, labels, other)
    return cues


def check_agreement(agreement: float) -> None:
    """Raise InputError for a number that is no probability."""
    if not 0 <= agreement <= 1:
        raise InputError(f"agreement is {agreement}; expected 0 to 1")
