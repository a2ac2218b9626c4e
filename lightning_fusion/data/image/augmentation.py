"""Augmentation of batches of images, on the device."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchAffine(nn.Module):
    """Random flip, shift and rotation, drawn for each image and applied to the batch in one resampling step.

    torchvision's transforms draw once for a whole batch; a loop over images would run on one core per image.

    Args:
        flip: Mirror left to right with probability 1/2.
        shift: Largest shift in pixels along each axis; pixels from outside are black.
        rotate_deg: Largest rotation in degrees.

    Example:
        >>> BatchAffine(flip=True, shift=4, rotate_deg=15)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, flip: bool = True, shift: float = 4.0, rotate_deg: float = 0.0) -> None:
        super().__init__()
        self.flip, self.shift, self.rotate_deg = flip, shift, rotate_deg

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, channels, H, W) float images to new ones of the same shape."""
        count, _, height, width = images.shape
        draw = torch.rand(4, count, device=images.device)
        angle = (2 * draw[0] - 1) * math.radians(self.rotate_deg)
        sign = torch.where(draw[1] < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(angle)
        down, right = ((2 * draw[2:] - 1) * self.shift).round()
        aspect = height / width
        theta = torch.stack(
            [
                torch.stack([sign * angle.cos(), -angle.sin() * aspect, 2 * right / width], -1),
                torch.stack([sign * angle.sin() / aspect, angle.cos(), 2 * down / height], -1),
            ],
            1,
        )
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid.to(images.dtype), align_corners=False)
