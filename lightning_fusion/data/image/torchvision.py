"""CIFAR through torchvision."""

from typing import Any, Literal

import numpy as np

from lightning_fusion.data.image.layout import ImageLayout, ImageTable, resize_images
from lightning_fusion.data.image.superclasses import CIFAR100_SUPERCLASSES
from lightning_fusion.data.image.undivided import UndividedImageDataModule
from lightning_fusion.errors import InputError

_CLASSES = {
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "cifar100": sorted(name for names in CIFAR100_SUPERCLASSES.values() for name in names),
}


class TorchvisionDataModule(UndividedImageDataModule):
    """CIFAR-10 or CIFAR-100 as read by torchvision, with their official test split.

    Args:
        dataset: ``cifar10`` or ``cifar100``.
        root: Folder of torchvision's files.
        download: Download the files into ``root``, once per machine.
        **shared: Arguments of :class:`~lightning_fusion.data.image.undivided.UndividedImageDataModule`
            (``num_domains``, ``classes_per_domain``) and
            :class:`~lightning_fusion.data.image.datamodule.BaseImageDataModule`.

    Raises:
        InputError: If the files do not exist.

    Example:
        >>> how = {"superclasses": "cifar100", "num_domains": 20, "classes_per_domain": 30}
        >>> data = TorchvisionDataModule("cifar100", "data", **how)
        >>> len(data.classes), data.variant(domain=3).own_domains
        (20, ['domain_3'])
    """

    def __init__(
        self, dataset: Literal["cifar10", "cifar100"], root: str, download: bool = False, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.dataset, self.root, self.download = dataset, root, download
        self._configure()

    def _check(self) -> None:
        self._check_choices({"dataset": list(_CLASSES)})
        super()._check()

    def prepare_data(self) -> None:
        """Download the files if ``download`` is set."""
        if self.download and self.predict_root is None:
            self._parts(download=True)

    def read_layout(self) -> ImageLayout:
        """Return the names of the classes, without reading a file."""
        return ImageLayout(_CLASSES[self.dataset])

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Read the training and the test images."""
        parts = self._parts()
        pixels = np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2)
        if self.channels == 1:
            pixels = pixels.mean(1, keepdims=True).round().astype(np.uint8)
        number = {name: position for position, name in enumerate(layout.classes)}
        label = np.concatenate([[number[part.classes[target]] for target in part.targets] for part in parts])
        test = np.repeat([False, True], [len(part.targets) for part in parts])
        return ImageTable(resize_images(pixels, self.image_size), label, test=test)

    def _parts(self, download: bool = False) -> list[Any]:
        from torchvision import datasets

        kind = getattr(datasets, self.dataset.upper())
        try:
            return [kind(self.root, train=train, download=download) for train in (True, False)]
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"{self.dataset} under root {self.root}: {error}. Set download: true where there is a network, or use "
                "ImageDataModule for a folder of image files"
            ) from error
