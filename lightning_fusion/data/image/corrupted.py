"""Images that are worse than those of the training: noise, blur, contrast, by the transforms of torchvision."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_fusion.data.image.folders import ImageDataModule
from lightning_fusion.data.image.layout import ImageLayout, ImageTable
from lightning_fusion.errors import InputError

_CHUNK = 2048


class CorruptedImageDataModule(ImageDataModule):
    """The images of a folder tree, each through one of several corruptions, as another camera would take them.

    The same arguments without ``corruptions`` give the clean images in the same splits with
    :class:`~lightning_fusion.data.image.folders.ImageDataModule`. Source of the idea: Hendrycks and Dietterich,
    Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019.

    Args:
        root: Folder with the splits, as for :class:`~lightning_fusion.data.image.folders.ImageDataModule`.
        corruptions: Modules that map (B, channels, H, W) float images in [0, 1] to others of the same shape, such as
            ``torchvision.transforms.v2.GaussianNoise``, ``GaussianBlur`` or ``ColorJitter`` with a fixed contrast; a
            random argument of a transform is drawn once for 2,048 images. Each image gets one of them, drawn at random.
        corruption_seed: Seed of the draw, and of the corruptions.
        **shared: Arguments of :class:`~lightning_fusion.data.image.folders.ImageDataModule`.

    Raises:
        InputError: If there is no corruption, one changes the shape, or the images are not in memory.
    """

    def __init__(self, root: str, corruptions: list[nn.Module], corruption_seed: int = 0, **shared: Any) -> None:
        self.corruptions, self.corruption_seed = corruptions, corruption_seed  # the base validates them
        super().__init__(root, **shared)

    def _check(self) -> None:
        super()._check()
        if not self.corruptions:
            raise InputError("corruptions is empty; expected modules such as torchvision.transforms.v2.GaussianBlur")

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Read the images, and corrupt them."""
        table = super().read_images(layout)
        if not isinstance(table.images, Tensor):
            raise InputError("memory_limit_gb: corrupted images are kept in memory; raise it")
        generator = torch.Generator().manual_seed(self.corruption_seed)
        which = torch.randint(len(self.corruptions), (len(table.images),), generator=generator)
        result = table.images.clone()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self.corruption_seed)
            for number, corruption in enumerate(self.corruptions):
                for rows in (which == number).nonzero()[:, 0].split(_CHUNK):
                    result[rows] = _corrupted(table.images[rows], corruption)
        table.images = result
        return table


def _corrupted(images: Tensor, corruption: nn.Module) -> Tensor:
    """Apply a corruption to (B, channels, H, W) uint8 images."""
    changed: Tensor = corruption(images.to(torch.float32) / 255)
    if changed.shape != images.shape:
        raise InputError(
            f"corruptions: {type(corruption).__name__} gave shape {tuple(changed.shape[1:])}; expected that of the "
            f"images, {tuple(images.shape[1:])}"
        )
    return (255 * changed).round().clamp(0, 255).to(torch.uint8)
