"""Synthetic images as a data module."""

from typing import Any

import numpy as np

from lightning_fusion.data.image.datamodule import BaseImageDataModule
from lightning_fusion.data.image.layout import ImageLayout, ImageTable, resize_images
from lightning_fusion.data.synthetic import synthetic_images


class SyntheticImageDataModule(BaseImageDataModule):
    """960 colored gratings of 16x16 pixels, four classes in four domains, for tests: no files, no network.

    The images come from :func:`~lightning_fusion.data.synthetic.synthetic_images`.

    Args:
        test_fraction: Held-out fraction of each class in each domain for testing.
        **shared: Arguments of :class:`~lightning_fusion.data.image.datamodule.BaseImageDataModule`.

    Example:
        >>> data = SyntheticImageDataModule(role="fuser", fuser_fraction=0.2, batch_size=32)
        >>> data.domains, next(iter(data.train_dataloader())).input.shape
        (['style_0', 'style_1', 'style_2', 'style_3'], torch.Size([32, 3, 16, 16]))
    """

    def __init__(self, test_fraction: float = 0.2, **shared: Any) -> None:
        super().__init__(**shared)
        self.test_fraction = test_fraction
        self._configure()

    def read_layout(self) -> ImageLayout:
        """Return the layout, with every class in every domain."""
        names = [f"class_{number}" for number in range(4)], [f"style_{number}" for number in range(4)]
        return ImageLayout(*names, member=np.ones((4, 4), bool))

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Generate the images."""
        pixels, label, domain = synthetic_images(60, len(layout.classes), len(layout.domains))
        return ImageTable(resize_images(pixels[:, : self.channels], self.image_size), label, domain)
