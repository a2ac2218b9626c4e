"""Images with a shortcut: a cue that goes with the class in training, and need not do so later."""

import colorsys
from typing import Any

import numpy as np
import torch

from lightning_fusion.data.image.datamodule import ImageLayout, ImageTable
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.errors import InputError

_CLASSES = 10


class ColoredDigitsDataModule(DigitsDataModule):
    """Handwritten digits in colors: each digit has a hue, which ``agreement`` of its images have.

    The other images have the hue of another digit, drawn at random, so that the hue tells nothing at an agreement of
    0.1. A second data module with ``agreement=0.1`` has the same images in the same splits, with the shortcut broken.
    Source of the idea: Arjovsky et al., Invariant Risk Minimization, arXiv 1907.02893, section 5.2.

    Args:
        agreement: Fraction of the images whose hue is that of their digit, in all splits.
        hue_width: Width of the range of hues of a digit, on a color circle of length 1; a tenth leaves no gap.
        color_seed: Seed of the colors; splits have their own.
        **shared: Arguments of :class:`~lightning_fusion.data.image.digits.DigitsDataModule`.

    Raises:
        InputError: If ``agreement`` or ``hue_width`` is outside its range.

    Example:
        >>> data = ColoredDigitsDataModule(agreement=0.9, image_size=16)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader())).input.shape[1:]
        torch.Size([3, 16, 16])
    """

    def __init__(self, agreement: float = 0.9, hue_width: float = 0.0, color_seed: int = 0, **shared: Any) -> None:
        self.agreement, self.hue_width, self.color_seed = agreement, hue_width, color_seed  # the base validates them
        super().__init__(channels=3, **shared)

    def _check(self) -> None:
        super()._check()
        if not (0 <= self.agreement <= 1 and 0 <= self.hue_width <= 0.1):
            found = f"agreement is {self.agreement}, hue_width {self.hue_width}"
            raise InputError(f"{found}; expected 0 to 1, and 0 to 0.1")

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Read the digits and color them."""
        table = super().read_images(layout)
        hues = draw_hues(table.label, self.agreement, self.hue_width, self.color_seed)
        colors = np.array([colorsys.hsv_to_rgb(hue, 1.0, 1.0) for hue in hues])
        colored = np.round(np.asarray(table.images) * colors[:, :, None, None]).astype(np.uint8)
        return ImageTable(torch.from_numpy(colored), table.label)


def draw_hues(labels: np.ndarray, agreement: float, width: float, seed: int) -> np.ndarray:
    """Draw the hue of each image.

    Args:
        labels: (N,) digits.
        agreement: Probability that the hue is that of the digit, not of another one.
        width: Width of the range of hues of a digit.
        seed: Seed; the images that agree at one agreement agree at every higher one.

    Returns:
        (N,) hues in [0, 1): a tenth of the digit whose hue it is, plus less than ``width``.

    Example:
        >>> draw_hues(np.array([3, 3]), 1.0, 0.0, 0).tolist()
        [0.3, 0.3]
    """
    generator = np.random.default_rng(seed)
    agrees = generator.random(len(labels)) < agreement
    other = (labels + generator.integers(1, _CLASSES, len(labels))) % _CLASSES
    within = generator.random(len(labels)) * width
    hues: np.ndarray = np.where(agrees, labels, other) / _CLASSES + within
    return hues
