"""What a source of images gives: classes and domains before an image is decoded, then the images."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.rows import Rows


@dataclass
class ImageLayout:
    """Classes and domains of a source, known before an image is decoded.

    Attributes:
        classes: Names of the C classes.
        domains: Names of the D domains, if the source defines domains.
        member: (C, D) bool, the classes of each domain.
    """

    classes: list[str]
    domains: list[str] = field(default_factory=list)
    member: np.ndarray | None = None


@dataclass
class ImageTable:
    """All N images of a source.

    Attributes:
        images: (N, channels, H, W) uint8, or a reader that takes index tensors. The text ``identity(rows)`` of a
            reader replaces the pixels in fingerprints.
        label: (N,) int64, index of each image's class in the layout's ``classes``; -1 for unlabeled images.
        domain: (N,) int64, index of each image's domain in the layout's ``domains``, if it has domains.
        test: (N,) bool, the test split of the source, if it has one.
        readable: (N,) bool, which images can be decoded. ``None`` means all.
    """

    images: Rows
    label: np.ndarray
    domain: np.ndarray | None = None
    test: np.ndarray | None = None
    readable: np.ndarray | None = None


def usable_images(table: ImageTable) -> np.ndarray:
    """Return (N,) bool, which images of a source can be decoded."""
    return np.ones(len(table.label), bool) if table.readable is None else table.readable


def resize_images(pixels: np.ndarray, image_size: int | Literal["original"] | None) -> Tensor:
    """Convert (N, channels, H, W) pixels to a tensor, resized to squares of ``image_size`` pixels if it is a number.

    Example:
        >>> resize_images(np.zeros((2, 1, 8, 8), np.uint8), 4).shape
        torch.Size([2, 1, 4, 4])
    """
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    if not isinstance(image_size, int) or images.shape[-1] == image_size:
        return images
    from torchvision.transforms.v2.functional import resize

    result: Tensor = resize(images, [image_size, image_size], antialias=True)
    return result
