"""Image classifiers."""

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError


class SmallConvNet(nn.Module):
    """Three convolution blocks and a linear head: a network for small images on a CPU.

    Each block is convolution 3x3, batch norm, ReLU; the first two end in a 2x2 max-pool. With ``width=24`` it takes
    3.8 million multiply-adds for a 32x32 color image.

    Args:
        num_classes: C, number of classes.
        width: Number of channels of the first block; the second and third have twice and four times as many.
        in_channels: Number of channels of the image.

    Example:
        >>> SmallConvNet(num_classes=10, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int, width: int = 24, in_channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(in_channels, width),
            nn.MaxPool2d(2),
            *_block(width, 2 * width),
            nn.MaxPool2d(2),
            *_block(2 * width, 4 * width),
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4 * width, num_classes)
        self.to(memory_format=torch.channels_last)  # a training step on a CPU takes about a quarter less time

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) images to (B, C) logits."""
        logits: Tensor = self.head(self.pool(self.body(images.contiguous(memory_format=torch.channels_last))))
        return logits


def _block(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class TorchvisionClassifier(nn.Module):
    """Classification network of torchvision with a new head.

    Args:
        num_classes: C, number of classes.
        name: Name of a model for ``torchvision.models.get_model``.
        weights: Name of pre-trained weights of torchvision, such as ``DEFAULT``, which are downloaded; the head is then
            replaced by a new one.
        small_images: For ResNets: a 3x3 stem of stride 1 without max-pool, the usual CIFAR variant.

    Raises:
        InputError: If torchvision has no such network, or its head or stem cannot be replaced.

    Example:
        >>> TorchvisionClassifier(20, "resnet18", small_images=True)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 20])
    """

    def __init__(
        self, num_classes: int, name: str = "resnet18", weights: str | None = None, small_images: bool = False
    ) -> None:
        super().__init__()
        from torchvision import models

        if name not in models.list_models(module=models):
            raise InputError(f"name: torchvision has no network {name!r}; torchvision.models.list_models() lists them")
        if weights is None:
            self.network = models.get_model(name, weights=None, num_classes=num_classes)
        else:
            self.network = models.get_model(name, weights=weights)
            self._replace_head(num_classes, name)
        if small_images:
            if not isinstance(self.network, models.ResNet):
                raise InputError(f"small_images is for ResNets; {name} is not a ResNet")
            self.network.conv1 = nn.Conv2d(3, self.network.conv1.out_channels, 3, padding=1, bias=False)
            self.network.maxpool = nn.Identity()

    def _replace_head(self, num_classes: int, name: str) -> None:
        linear = [(path, module) for path, module in self.network.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise InputError(f"the head of {name} is not linear; build the network without weights")
        path, head = linear[-1]
        parent, _, attribute = path.rpartition(".")
        setattr(self.network.get_submodule(parent), attribute, nn.Linear(head.in_features, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to (B, C) logits."""
        logits: Tensor = self.network(images)
        return logits
