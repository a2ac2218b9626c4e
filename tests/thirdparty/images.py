"""A source of images from another package."""

from typing import Any

import numpy as np
import torch

from lightning_fusion.data.image.datamodule import BaseImageDataModule
from lightning_fusion.data.image.layout import ImageLayout, ImageTable


class StripesDataModule(BaseImageDataModule):
    """Stripes of two directions by day and by night.

    Args:
        count: Images of each direction and time of the day.
        test_fraction: Fraction of them that is held out for testing.
        **shared: See the base.
    """

    def __init__(self, count: int = 20, test_fraction: float = 0.25, **shared: Any) -> None:
        super().__init__(**shared)
        self.count, self.test_fraction = count, test_fraction
        self._configure()

    def read_layout(self) -> ImageLayout:
        return ImageLayout(["flat", "upright"], ["day", "night"], np.ones((2, 2), bool))

    def read_images(self, layout: ImageLayout) -> ImageTable:
        label, domain, number = (part.reshape(-1) for part in np.indices((2, 2, self.count)))
        images = torch.zeros(len(label), self.channels, 8, 8, dtype=torch.uint8)
        images[:, :, ::2] = torch.from_numpy(200 - 50 * domain - number % 50)[:, None, None, None].byte()
        images[label == 1] = images[label == 1].transpose(2, 3)
        return ImageTable(images, label, domain)
