"""Preprocessing of images in their original size."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop

from lightning_fusion.data.image.files import ORIGINAL
from lightning_fusion.data.normalization import Normalization
from lightning_fusion.data.samples.base import SamplePreprocessing, described_samples, device_of
from lightning_fusion.errors import InputError, shorten

_MODES = {1: "L", 3: "RGB"}
_FITS = ("crop", "stretch", "pad")
_INTERPOLATIONS = {
    name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")
}


def as_picture(image: Any, channels: int = 3) -> Image.Image:
    """Return an image as a PIL image.

    Args:
        image: (1 or 3, H, W) tensor or (H, W) or (H, W, 1 or 3) array of values from 0 to 255, or a PIL image.
        channels: 1 for gray values, 3 for RGB.

    Raises:
        InputError: If it is anything else, or has values from 0 to 1.

    Example:
        >>> as_picture(torch.zeros(3, 4, 6, dtype=torch.uint8)).size
        (6, 4)
    """
    if not isinstance(image, Image.Image):
        pixels = _pixels(image)
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture: Image.Image = image if image.mode == _MODES[channels] else image.convert(_MODES[channels])
    return picture


def _pixels(image: Any) -> np.ndarray:
    """Return (H, W, 1 or 3) uint8 values of an array or a tensor."""
    values = image.detach().cpu().movedim(0, -1).numpy() if isinstance(image, Tensor) and image.ndim == 3 else image
    if isinstance(values, np.ndarray) and values.ndim == 2:
        values = values[:, :, None]
    if not isinstance(values, np.ndarray) or values.ndim != 3 or values.shape[2] not in (1, 3):
        found = f"shape {tuple(image.shape)}" if hasattr(image, "shape") else f"a {type(image).__name__}"
        raise InputError(
            f"input: found a sample of {found}; expected an image: a tensor (1 or 3, H, W) of values from 0 to 255, or "
            "a PIL image"
        )
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    low, high = float(values.min()), float(values.max())
    interpolated = isinstance(image, Tensor) and image.requires_grad  # by an attribution, from black to an image
    if low < -0.5 or high > 255.5 or (high <= 1 and not interpolated and (values % 1).any()):
        raise InputError(
            f"input: found an image of values from {low:.3g} to {high:.3g}; expected raw values from 0 to 255, which "
            "the expert prepares itself"
        )
    return np.ascontiguousarray(values.round().clip(0, 255).astype(np.uint8))


class ImageSamples(SamplePreprocessing):
    """Base class of preprocessing that takes images in their original size.

    A subclass implements :meth:`prepare`.

    Args:
        channels: 1 or 3, the channels of the images that :meth:`prepare` gets.
    """

    takes: ClassVar[str] = "images in their original size"

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels

    def check(self, found: Mapping[str, Any] | None) -> None:
        """Check that the data module gives images, and has not resized them before."""
        if not found:
            return
        if "image_size" not in found:
            raise InputError(
                f"preprocess: {type(self).__name__} takes images; the data module gives "
                f"{described_samples(found)}: give the expert another preprocess, or other data"
            )
        if found["image_size"] not in (None, ORIGINAL):
            raise InputError(
                f"preprocess: {type(self).__name__} takes {self.takes}; the data module resizes them to "
                f"{found['image_size']} pixels before: set image_size: {ORIGINAL} of the data module"
            )

    def prepare(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Map B images to the (B, ...) input of the network."""
        raise NotImplementedError(f"{type(self).__name__} must implement prepare(pictures)")

    def forward(self, samples: Any) -> Tensor:
        """Map a list of B images, or (B, 1 or 3, H, W) of them, with values from 0 to 255, to network input.

        Raises:
            InputError: If a sample is no image, or has values from 0 to 1.
        """
        is_dict = isinstance(samples, Mapping)
        if is_dict or (isinstance(samples, Tensor) and samples.ndim != 4):
            found = f"a dict of {shorten(samples)}" if is_dict else f"shape {tuple(samples.shape)}"
            raise InputError(f"input: found {found}; expected a list of images, or a tensor (B, 1 or 3, H, W)")
        device = device_of(samples)
        pictures = [as_picture(image, self.channels) for image in samples]
        return self.prepare(pictures).to(device)


class ImagePreprocessing(ImageSamples):
    """Resize images of any size to one, scale their values and normalize each channel.

    Args:
        image_size: Side of the result in pixels, or [height, width].
        fit: ``crop`` cuts the largest centered part of the same aspect ratio; ``stretch`` changes the aspect ratio;
            ``pad`` fits the image in, and fills the margins.
        resize: With ``crop``: pixels of the shorter side before the center of ``image_size`` is cut out, such as 256
            for 224, as torchvision does. ``None`` (default) cuts the largest part, as the data modules do.
        interpolation: ``bilinear``, ``bicubic``, ``lanczos``, ``nearest``, ``box`` or ``hamming``, with the filters of
            PIL, which average over pixels where the image becomes smaller.
        mean: Mean of each channel, subtracted after scaling. ``None`` (default) subtracts nothing.
        std: Standard deviation of each channel, divided by. ``None`` (default) divides by nothing.
        scale: Factor of the values before; 1/255 gives values from 0 to 1.
        channels: 1 for gray values, 3 for RGB.
        fill: Value of the margins of ``pad``, from 0 to 255.

    Raises:
        InputError: If an argument is out of range.

    Example:
        >>> preprocess = ImagePreprocessing(image_size=4, fit="pad", mean=[0.5] * 3, std=[0.5] * 3)
        >>> preprocess([torch.zeros(3, 9, 7, dtype=torch.uint8), torch.zeros(3, 5, 8, dtype=torch.uint8)]).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(
        self,
        image_size: int | list[int],
        fit: Literal["crop", "stretch", "pad"] = "crop",
        resize: int | None = None,
        interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"] = "bilinear",
        mean: list[float] | None = None,
        std: list[float] | None = None,
        scale: float = 1 / 255,
        channels: Literal[1, 3] = 3,
        fill: int = 0,
    ) -> None:
        size = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
        for name, value, known in (
            ("fit", fit, _FITS),
            ("interpolation", interpolation, tuple(_INTERPOLATIONS)),
            ("channels", channels, (1, 3)),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}; expected one of {', '.join(map(str, known))}")
        if len(size) != 2 or min(size) < 1:
            raise InputError(f"image_size is {image_size}; expected a number of pixels, or [height, width]")
        if resize is not None and (fit != "crop" or resize < max(size)):
            raise InputError(
                f"resize is {resize} with fit: {fit}; expected fit: crop, and at least image_size ({max(size)})"
            )
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != channels:
                raise InputError(f"{name} has {len(values)} values for {channels} channels")
        if std is not None and min(std) <= 0:
            raise InputError(f"std is {std}; expected numbers above 0")
        super().__init__(channels)
        self.size, self.fit, self.resize, self.interpolation, self.fill = size, fit, resize, interpolation, fill
        self.normalization = Normalization(mean or [0.0] * channels, std or [1.0] * channels, scale)

    def extra_repr(self) -> str:
        """Describe the settings."""
        scale = self.normalization
        return (
            f"image_size={self.size}, fit={self.fit}, resize={self.resize}, interpolation={self.interpolation}, "
            f"mean={scale.mean.tolist()}, std={scale.std.tolist()}, scale={scale.scale:g}, channels={self.channels}, "
            f"fill={self.fill}"
        )

    def prepare(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Map B images to (B, channels, height, width) float32."""
        arrays = [np.asarray(self._fitted(picture)) for picture in pictures]
        pixels = torch.from_numpy(np.stack(arrays))
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        result: Tensor = self.normalization.to("cpu")(pixels)
        return result

    def _fitted(self, picture: Image.Image) -> Image.Image:
        """Return the image in the size of the result."""
        (height, width), method = self.size, _INTERPOLATIONS[self.interpolation]
        if self.fit == "stretch":
            return picture.resize((width, height), method)
        if self.fit == "pad":
            color = (self.fill,) * self.channels if self.channels > 1 else self.fill
            return ImageOps.pad(picture, (width, height), method, color)
        if self.resize is None:
            return ImageOps.fit(picture, (width, height), method)
        short = min(picture.size)
        sides = [int(side * self.resize / short) if side != short else self.resize for side in picture.size]
        cut: Image.Image = center_crop(picture.resize((sides[0], sides[1]), method), [height, width])
        return cut


class ImageTransform(ImageSamples):
    """Transform of another library, such as that of published weights, applied to one image after the other.

    Args:
        transform: Function of a PIL image that returns a tensor (C, H, W).
        described: Description of the transform, a part of the expert's fingerprint.
        channels: 1 or 3, the channels of the images that it gets.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor], described: str, channels: int = 3) -> None:
        super().__init__(channels)
        self.transform, self.described = transform, described

    def extra_repr(self) -> str:
        """Describe the transform."""
        return self.described

    def prepare(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Map B images to (B, C, H, W)."""
        return torch.stack([self.transform(picture) for picture in pictures])
