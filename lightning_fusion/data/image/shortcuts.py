"""Images with a shortcut: a cue that goes with the class in training, and need not do so later."""

import colorsys
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.base import Stage
from lightning_fusion.data.cues import check_agreement, draw_cues
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.image.folders import ImageDataModule, TreeLayout
from lightning_fusion.data.image.layout import ImageLayout, ImageTable, resize_images
from lightning_fusion.errors import InputError, shorten, suggestion

_DIGITS = 10


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
        check_agreement(self.agreement)
        if not 0 <= self.hue_width <= 0.1:
            raise InputError(f"hue_width is {self.hue_width}; expected 0 to 0.1")

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Read the digits and color them."""
        table = super().read_images(layout)
        hues = draw_hues(table.label, self.agreement, self.hue_width, self.color_seed)
        colors = np.array([colorsys.hsv_to_rgb(hue, 1.0, 1.0) for hue in hues])
        colored = np.round(np.asarray(table.images) * colors[:, :, None, None]).astype(np.uint8)
        return ImageTable(torch.from_numpy(colored), table.label)


class DominoesDataModule(ImageDataModule):
    """Images of chosen classes below handwritten digits that go with the class.

    Each class has a digit, by its place in ``names``, which ``agreement`` of its images have above them; the others
    have another digit, drawn at random. The digits are those of scikit-learn, 8x8 pixels, enlarged to the width of the
    images: height doubles. Source of the idea: Shah et al., The Pitfalls of Simplicity Bias in Neural Networks,
    NeurIPS 2020.

    Args:
        root: Folder with the splits, as for :class:`~lightning_fusion.data.image.folders.ImageDataModule`.
        names: At most ten classes; all other folders are left out.
        agreement: Fraction of the images whose digit is that of their class, in all splits.
        cue_seed: Seed of the digits.
        image_size: Side in pixels of the images, and of the digits.
        **shared: Arguments of :class:`~lightning_fusion.data.image.folders.ImageDataModule`.

    Raises:
        InputError: If an argument is outside its range, or a class has no folder.
    """

    stage_of = ImageDataModule.stage_of | dict.fromkeys(("names", "agreement", "cue_seed"), Stage.READING)

    def __init__(
        self,
        root: str,
        names: list[str],
        agreement: float = 0.9,
        cue_seed: int = 0,
        image_size: int = 16,
        **shared: Any,
    ) -> None:
        self.names, self.agreement, self.cue_seed = names, agreement, cue_seed  # the base validates them
        super().__init__(root, image_size=image_size, channels=3, **shared)

    def _check(self) -> None:
        super()._check()
        check_agreement(self.agreement)
        if not 2 <= len(set(self.names)) == len(self.names) <= _DIGITS:
            raise InputError(f"names: found {shorten(self.names)}; expected two to ten different classes")
        if not isinstance(self.image_size, int):
            raise InputError(f"image_size is {self.image_size}; expected a number, to which the digits are enlarged")

    def read_layout(self) -> TreeLayout:
        """List the files of the chosen classes."""
        whole = super().read_layout()
        for name in self.names:
            if name not in whole.classes:
                raise InputError(f"names: found no folder of {name!r} in {self.root}{suggestion(name, whole.classes)}")
        return replace(whole, classes=list(self.names), files=[one for one in whole.files if one.label in self.names])

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Read the images, and put a digit above each."""
        table = super().read_images(layout)
        if not isinstance(table.images, Tensor):
            raise InputError("memory_limit_gb: the images with their digits are kept in memory; raise it")
        generator = np.random.default_rng(self.cue_seed)
        cues = draw_cues(table.label, len(self.names), self.agreement, generator)
        table.images = torch.cat([self._digits(cues, generator), table.images], dim=2)
        return table

    def _digits(self, cues: np.ndarray, generator: np.random.Generator) -> Tensor:
        """(N, 3, H, W) uint8, an image of each digit in ``cues``, drawn at random."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        of_digit = [np.flatnonzero(digits.target == number) for number in range(_DIGITS)]
        drawn = [generator.choice(of_digit[cue]) for cue in cues]
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None].repeat(3, 1)
        return resize_images(pixels, self.image_size)[torch.from_numpy(np.array(drawn))]


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
    cues = draw_cues(labels, _DIGITS, agreement, generator)
    hues: np.ndarray = cues / _DIGITS + generator.random(len(labels)) * width
    return hues
