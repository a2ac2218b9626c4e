"""Handwritten digits of scikit-learn."""

from functools import cache
from typing import Any, Literal

import numpy as np

from lightning_fusion.data.image.layout import ImageLayout, ImageTable, resize_images
from lightning_fusion.data.image.undivided import UndividedImageDataModule


class DigitsDataModule(UndividedImageDataModule):
    """1,797 handwritten digits of 8x8 pixels, which come with scikit-learn: no files, no network.

    Args:
        test_fraction: Held-out fraction of each digit for testing.
        channels: 1, or 3 identical ones.
        **shared: Arguments of :class:`~lightning_fusion.data.image.undivided.UndividedImageDataModule`
            (``num_domains``, ``classes_per_domain``) and
            :class:`~lightning_fusion.data.image.datamodule.BaseImageDataModule`.

    Example:
        >>> data = DigitsDataModule(num_domains=5, classes_per_domain=4, batch_size=32)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.input.shape, batch.input.dtype, batch.domain.shape
        (torch.Size([32, 1, 8, 8]), torch.uint8, torch.Size([32, 5]))
        >>> data.variant(domain=0).classes
        ['2', '4', '5', '7']
    """

    def __init__(self, test_fraction: float = 0.2, channels: Literal[1, 3] = 1, **shared: Any) -> None:
        super().__init__(channels=channels, **shared)
        self.test_fraction = test_fraction
        self._configure()

    def read_layout(self) -> ImageLayout:
        """Return the names of the digits."""
        return ImageLayout([str(digit) for digit in range(10)])

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Read the digits, scaled to 0 ... 255."""
        images, targets = _digits()
        pixels = np.round(images * (255 / 16)).astype(np.uint8)[:, None].repeat(self.channels, 1)
        return ImageTable(resize_images(pixels, self.image_size), targets.astype(np.int64))


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Read images and targets once in a process: a recipe makes a data module for each seed and domain."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target
