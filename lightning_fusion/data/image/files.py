"""Image files in folder trees: listing, decoding, orientation."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.folders import is_skipped, left_out_messages, walk_files
from lightning_fusion.data.names import canonical_label, merge_forms, merge_message
from lightning_fusion.data.rows import Rows
from lightning_fusion.errors import InputError, nearest_path, shorten

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
MAX_MEGAPIXELS = 80.0
MEMORY_LIMIT_GB = 4.0
ORIGINAL = "original"
"""Value of ``image_size`` for images of any size, which experts prepare themselves: a batch is a list of images."""


@dataclass
class ImageFile:
    """An image file in a tree of two levels.

    Attributes:
        path: Path of the file.
        folder: Name of the upper folder, a split or a domain.
        label: Name of the lower folder, the class; empty for an unlabeled image.
    """

    path: Path
    folder: str
    label: str


class ImageFiles:
    """Reader of image files, which are decoded in threads, all at once or batch by batch.

    Args:
        paths: Paths of the files.
        channels: 1 or 3.
        image_size: Side in pixels to which images are resized and center-cropped; ``None`` keeps them as they are, all
            of one size, and :data:`ORIGINAL` as they are, of any size.
        max_megapixels: Larger images are not decoded: a small file may have very many pixels.
    """

    def __init__(
        self,
        paths: list[Path],
        channels: int,
        image_size: int | Literal["original"] | None,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        self.paths, self.mode, self.size = paths, {1: "L", 3: "RGB"}[channels], image_size
        self.max_megapixels = max_megapixels
        self._series: set[str] = set()  # files with several frames or pages
        self._named = False
        if Image.MAX_IMAGE_PIXELS is not None:  # PIL's own limit, which is global, follows
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, round(max_megapixels * 1e6))

    def __getitem__(self, rows: Tensor) -> Tensor | list[Tensor]:
        try:
            images = [self._decode(self.paths[row]) for row in rows.tolist()]
        except InputError as error:
            raise InputError(f"an image cannot be decoded: {error}; remove it or set skip_unreadable: true") from error
        self._name_series()
        if self.size == ORIGINAL:
            return images
        for row, image in zip(rows.tolist(), images, strict=True):
            self._check_size(row, image, images[0])
        return torch.stack(images)

    def identity(self, rows: Tensor) -> str:
        """Return names and sizes of some files as one text."""
        paths = [self.paths[row] for row in rows.tolist()]
        return "\n".join(
            f"{path.parent.parent.name}/{path.parent.name}/{path.name}:{path.stat().st_size}" for path in paths
        )

    def load(self, limit_gb: float, skip_unreadable: bool) -> tuple[Rows, dict[int, str]]:
        """Return the decoded images, or this reader if they do not fit into memory, and what cannot be decoded.

        Args:
            limit_gb: Memory limit; decoded images larger than this stay on disk.
            skip_unreadable: Leave out files that cannot be decoded, with a warning.

        Returns:
            The images, and the path and the reason by position of those that cannot be decoded.

        Raises:
            InputError: If sizes differ, or a file cannot be decoded.
        """
        sample = next((path for path in self.paths if self._problem(path) is None), None)
        if sample is None:
            problems = [self._problem(path) for path in self.paths[:3]]
            raise InputError(f"none of {len(self.paths)} image(s) can be decoded: {shorten(problems)}; replace them")
        first = self._decode(sample)
        fits = self.size != ORIGINAL and first.numel() * len(self.paths) <= limit_gb * 1e9
        if fits:
            images = torch.zeros((len(self.paths), *first.shape), dtype=torch.uint8)
            work: Callable[[int], str | None] = partial(self._store, images)
        elif skip_unreadable:
            work = lambda row: self._problem(self.paths[row])  # noqa: E731
        else:
            why = "keep their size" if self.size == ORIGINAL else f"do not fit into {limit_gb} GB"
            rank_zero_info(f"{len(self.paths)} images {why}: they are decoded batch by batch")
            return self, {}
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            results: Iterable[str | None] = threads.map(work, range(len(self.paths)))
            quiet = len(self.paths) < 2000
            problems = list(track(results, "Decoding images", total=len(self.paths), transient=True, disable=quiet))
        broken = {row: problem for row, problem in enumerate(problems) if problem is not None}
        if broken and not skip_unreadable:
            raise InputError(
                f"{len(broken)} image(s) cannot be decoded: {shorten(broken.values(), 3)}; remove them or set "
                "skip_unreadable: true"
            )
        if broken:
            rank_zero_warn(f"left out {len(broken)} image(s) that cannot be decoded: {shorten(broken.values(), 3)}")
        self._name_series()
        return (images if fits else self), broken

    def _name_series(self) -> None:
        """Warn once about files of which the first frame or page alone is read."""
        if self._series and not self._named:
            self._named = True
            rank_zero_warn(
                f"{len(self._series)} image(s) have several frames or pages, of which the first is read: "
                f"{shorten(sorted(self._series), 3)}"
            )

    def _store(self, images: Tensor, row: int) -> str | None:
        try:
            image = self._decode(self.paths[row])
        except InputError as error:
            return str(error)
        self._check_size(row, image, images[0])
        images[row] = image
        return None

    def _check_size(self, row: int, image: Tensor, other: Tensor) -> None:
        if image.shape != other.shape:
            raise InputError(
                f"{self.paths[row]} is {image.shape[2]}x{image.shape[1]} where others are "
                f"{other.shape[2]}x{other.shape[1]}; set image_size to resize them to one size, or to original for "
                "experts that prepare images themselves"
            )

    def _problem(self, path: Path) -> str | None:
        """Return path and reason of a file that cannot be decoded."""
        try:
            self._decode(path)
        except InputError as error:
            return str(error)
        return None

    def _decode(self, path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                if (found := image.width * image.height / 1e6) > self.max_megapixels:
                    raise ValueError(f"{found:.0f} megapixels; max_megapixels is {self.max_megapixels:g}")
                if getattr(image, "is_animated", False):
                    self._series.add(str(path))
                picture = _upright(image).convert(self.mode)
            if isinstance(self.size, int):
                picture = ImageOps.fit(picture, (self.size, self.size), method=Image.Resampling.BILINEAR)
            pixels = np.asarray(picture)
        except Exception as error:  # of any decoder
            what = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{path} ({what})") from error
        return torch.from_numpy((pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).copy())


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, place transparent images on white, and scale 16 bits to 8."""
    picture = ImageOps.exif_transpose(image)
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range; store 8 or 16 bits")
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture)
        if pixels.max(initial=0) > 65535 or pixels.min(initial=0) < 0:
            raise ValueError("32-bit pixels have no known range; store 8 or 16 bits")
        if 0 < pixels.max(initial=0) <= 255:  # a scale of its own would make a dark image as bright as the others
            raise ValueError(
                "its pixels have 16 bits and values of at most 255, so that their range is unknown; store 8 bits, or "
                "the full range of 16"
            )
        return Image.fromarray((pixels // 257).astype(np.uint8))
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return picture


def list_images(root: str, level: str, messages: MessageLog, ignored: Collection[str] = ()) -> list[ImageFile]:
    """List all image files of a tree of two levels, sorted by path.

    Images that lie in an upper folder itself, or in the lower folder of an ignored label, are unlabeled. Hidden files,
    hidden folders and folders of file servers are skipped. Whatever else is left out is listed.

    Args:
        root: Folder that contains ``<level>/<class>/*``.
        level: Meaning of the upper folders, for messages: split or domain.
        messages: Log of what is left out.
        ignored: Labels of unlabeled images.

    Raises:
        InputError: If the folder does not exist, one of its upper folders has no image, or a class has none.
    """
    expected = f"expected {root}/<{level}>/<class>/*"
    if not Path(root).is_dir():
        raise InputError(f"root: found no folder {root}{nearest_path(root)}; {expected}")
    others, skipped = Counter[str](), Counter[str]()
    found, unlabeled, misplaced = [], [], []
    contents = defaultdict[tuple[str, ...], list[str]](list)
    for name in walk_files(root, "root", skipped):
        parts, suffix = tuple(name.split("/")), os.path.splitext(name)[1].lower()
        contents[parts[:-1][:2]].append(name)
        if suffix not in IMAGE_SUFFIXES:
            others[suffix] += 1
        elif len(parts) == 3 and canonical_label(parts[1]) not in ignored:
            found.append(parts)
        elif len(parts) in (2, 3):
            unlabeled.append(parts)
        else:
            misplaced.append(name)
    full = {parts[:2] for parts in found}
    folders = [(folder, label) for folder in _folders(Path(root)) for label in [None, *_folders(Path(root, folder))]]
    for folder in dict.fromkeys(folder for folder, _ in folders):
        if not any(own[0] == folder for own in full):
            inside = [name for place, names in contents.items() if place[0] == folder for name in names]
            raise InputError(f"root: the {level} {folder} in {root} has no image; {expected}{_examples(inside)}")
    if not found:
        raise InputError(f"root: found no image under {root}; {expected}{_examples(misplaced)}")
    of_class = [(folder, label) for folder, label in folders if label and canonical_label(label) not in ignored]
    empty = [both for both in of_class if both not in full]
    for folder, label in empty:
        if contents[folder, label] or label not in {name for _, name in full}:
            raise InputError(
                f"root: the class {folder}/{label} in {root} has no readable image; {expected} with "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}{_examples(contents[folder, label])}: move or convert its images, "
                "or remove the folder"
            )
    if misplaced:
        messages.warn(
            f"{len(misplaced)} image(s) under {root} are left out, because they are not in {root}/<{level}>/<class>: "
            f"{shorten(sorted(misplaced), 3)}"
        )
    if outside := sorted("/".join(parts) for parts in unlabeled if len(parts) == 2):
        messages.warn(
            f"{len(outside)} image(s) under {root} count as unlabeled, because they are in the folder of no class: "
            f"{shorten(outside, 3)}"
        )
    if count := len(unlabeled) - len(outside):
        messages.info(f"{count} image(s) under {root} have an ignored label, and count as unlabeled")
    if empty:
        messages.warn(f"{len(empty)} folders under {root} are empty: {shorten(map('/'.join, empty), 3)}")
    warning, message = left_out_messages(root, others, skipped, ", ".join(sorted(IMAGE_SUFFIXES)))
    messages.warn(warning)
    messages.info(message)
    files = [
        ImageFile(Path(root, *parts), canonical_label(parts[0]), canonical_label(parts[1]) if parts[:2] in full else "")
        for parts in sorted([*found, *unlabeled])
    ]
    for what, names in (("class", [parts[1] for parts in found]), (level, [parts[0] for parts in found])):
        messages.warn(merge_message(merge_forms({name: canonical_label(name) for name in names}), f"{what} names"))
    return files


def single_colors(images: Rows, readable: np.ndarray) -> np.ndarray:
    """Return (N,) bool, which readable images have a single color; images that stay on disk are not examined.

    Args:
        images: All images.
        readable: (N,) bool, which can be decoded.

    Example:
        >>> images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        >>> images[1, 0, 0, 0] = 9
        >>> single_colors(images, np.array([True, True])).tolist()
        [True, False]
    """
    if not isinstance(images, Tensor):
        return np.zeros(len(readable), bool)
    pixels = images.flatten(2)
    result: np.ndarray = (pixels.amax(2) == pixels.amin(2)).all(1).numpy() & readable
    return result


def _folders(parent: Path) -> list[str]:
    """Return the names of the folders in a folder, without those that are skipped."""
    return sorted(path.name for path in parent.iterdir() if path.is_dir() and not is_skipped(path.name))


def _examples(names: list[str]) -> str:
    """Describe the files that a folder has instead of images."""
    return f", found {shorten(sorted(names), 3)}" if names else ""
