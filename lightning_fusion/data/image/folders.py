"""Image files in folder trees: a folder per split or domain, with a folder per class in each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from lightning_fusion.data.base import Stage
from lightning_fusion.data.duplicates import equal_files
from lightning_fusion.data.image.datamodule import BaseImageDataModule
from lightning_fusion.data.image.files import MAX_MEGAPIXELS, MEMORY_LIMIT_GB, ImageFile, ImageFiles, list_images
from lightning_fusion.data.image.layout import ImageLayout, ImageTable
from lightning_fusion.data.image.new_images import read_new_images
from lightning_fusion.data.image.undivided import UndividedImageDataModule
from lightning_fusion.data.names import as_labels
from lightning_fusion.data.rows import NewRows, Origins
from lightning_fusion.errors import InputError, shorten

_SPLITS = {"train": "train", "val": "train", "valid": "train", "validation": "train", "test": "test"}


@dataclass
class TreeLayout(ImageLayout):
    """Classes and domains named by the folders of a tree, and its files.

    Attributes:
        files: Files in the order of the samples.
    """

    files: list[ImageFile] = field(default_factory=list)


class ImageTreeDataModule(BaseImageDataModule):
    """Base class of image files in folder trees.

    Args:
        root: Root folder of the tree.
        memory_limit_gb: Decoded images larger than this stay on disk and are decoded batch by batch.
        skip_unreadable: Leave out files that cannot be decoded, with a warning; else they are an error.
        max_megapixels: Larger images cannot be decoded: a small file may have very many pixels.
        ignored_labels: Classes whose images count as unlabeled, such as a folder ``unlabeled``; images that lie in the
            folder of a split or domain itself are unlabeled too.
        unlabeled: What happens to unlabeled images in training: ``keep`` gives them the target -100, ``drop`` leaves
            them out. ``None`` (default) keeps them for :class:`~lightning_fusion.TargetDataModule`, and leaves them
            out otherwise. Validation, testing and the training of a fuser use labeled images only.
        **shared: Arguments of :class:`~lightning_fusion.data.image.datamodule.BaseImageDataModule`.
    """

    stage_of = BaseImageDataModule.stage_of | {"unlabeled": Stage.SPLITTING}

    def __init__(
        self,
        root: str,
        memory_limit_gb: float = MEMORY_LIMIT_GB,
        skip_unreadable: bool = False,
        max_megapixels: float = MAX_MEGAPIXELS,
        ignored_labels: list[str | int] | None = None,
        unlabeled: Literal["keep", "drop"] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.max_megapixels, self.ignored_labels, self.unlabeled = max_megapixels, ignored_labels, unlabeled
        self.root, self.memory_limit_gb, self.skip_unreadable = root, memory_limit_gb, skip_unreadable

    def origins(self, index: Tensor) -> Origins:
        """Return the file of each image."""
        layout: Any = self.layout
        return Origins([str(layout.files[row].path) for row in index.tolist()], np.arange(len(index)))

    def new_rows(self, root: str) -> NewRows:
        """Read the image files in a folder and all folders in it; with ``skip_unreadable`` damaged ones get a note."""
        how = self.memory_limit_gb, self.skip_unreadable, self.messages
        return self._sized(read_new_images(root, self._reader, *how))

    def equal_images(self) -> np.ndarray:
        """Return the (N,) first file of the same content for each file."""
        layout: Any = self.layout
        return equal_files([file.path for file in layout.files])

    def _image_name(self, row: int) -> str:
        layout: Any = self.layout
        return "/".join(layout.files[row].path.parts[-3:])

    def _check(self) -> None:
        super()._check()
        self._check_choices({"unlabeled": ("keep", "drop", None)})

    def _list(self, level: str) -> list[ImageFile]:
        return list_images(self.root, level, self.messages, as_labels(self.ignored_labels, "ignored_labels"))

    def _reader(self, paths: list[Path]) -> ImageFiles:
        return ImageFiles(paths, self.channels, self.image_size, self.max_megapixels)

    def _decode(self, layout: Any) -> ImageTable:
        """Return the images of a tree, in memory or read batch by batch, and their classes."""
        reader = self._reader([file.path for file in layout.files])
        images, broken = reader.load(self.memory_limit_gb, self.skip_unreadable)
        readable = np.array([row not in broken for row in range(len(layout.files))])
        number = {name: position for position, name in enumerate(layout.classes)}
        label = np.array([number.get(file.label, -1) for file in layout.files])
        if len(lost := np.setdiff1d(label[label >= 0], label[readable])):
            raise InputError(
                f"root: the class {shorten(layout.classes[one] for one in lost)} under {self.root} has no image that "
                "can be decoded; repair its files, or remove the folder"
            )
        return ImageTable(images, label, readable=readable)


class ImageDataModule(ImageTreeDataModule, UndividedImageDataModule):
    """Image files under ``root/<split>/<class>/*``, with the splits ``train`` (``val`` is added to it) and ``test``.

    Args:
        root: Folder that contains the splits.
        **shared: Arguments of :class:`ImageTreeDataModule` (``memory_limit_gb``, ``skip_unreadable``,
            ``max_megapixels``, ``ignored_labels``, ``unlabeled``),
            :class:`~lightning_fusion.data.image.undivided.UndividedImageDataModule` (``num_domains``,
            ``classes_per_domain``) and :class:`~lightning_fusion.data.image.datamodule.BaseImageDataModule`.

    Raises:
        InputError: If the tree has another layout, or a file cannot be read.

    Example:
        >>> from itertools import product
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from PIL import Image
        >>> root = Path(mkdtemp())
        >>> for split, label, number in product(("train", "test"), ("cat", "dog"), range(5)):
        ...     (root / split / label).mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (8, 8)).save(root / split / label / f"{number}.png")
        >>> data = ImageDataModule(str(root), batch_size=4)
        >>> data.setup("fit")
        >>> data.classes, next(iter(data.train_dataloader())).input.shape
        (['cat', 'dog'], torch.Size([4, 3, 8, 8]))
    """

    stage_of = UndividedImageDataModule.stage_of | ImageTreeDataModule.stage_of

    def __init__(self, root: str, **shared: Any) -> None:
        super().__init__(root=root, **shared)
        self._configure()

    def read_layout(self) -> TreeLayout:
        """List the files."""
        files = self._list("split")
        found = sorted({file.folder for file in files})
        if others := [name for name in found if name not in _SPLITS]:
            raise InputError(
                f"root: found the folder {others[0]} in {self.root}, which names no split "
                f"({', '.join(_SPLITS)}); for {self.root}/<domain>/<class>/* use DomainImageDataModule"
            )
        if {_SPLITS[name] for name in found} != {"train", "test"}:
            raise InputError(
                f"root: {self.root} lacks a train or a test folder; expected {self.root}/<split>/<class>/*; without "
                f"test images use DomainImageDataModule and {self.root}/<domain>/<class>/*"
            )
        classes = sorted({file.label for file in files} - {""})
        for split in ("train", "test"):
            if lacking := set(classes) - {file.label for file in files if _SPLITS[file.folder] == split}:
                self.messages.warn(
                    f"{len(lacking)} of {len(classes)} classes under {self.root} have no {split} image: "
                    f"{shorten(sorted(lacking))}"
                )
        return TreeLayout(classes, files=files)

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Decode the files if they fit into memory."""
        table = self._decode(layout)
        table.test = np.array([file.folder == "test" for file in layout.files])  # type: ignore[attr-defined]
        return table


class DomainImageDataModule(ImageTreeDataModule):
    """Image files under ``root/<domain>/<class>/*``; each folder is a domain, and may lack classes.

    Args:
        root: Folder that contains the domains.
        test_fraction: Held-out fraction of each class in each domain for testing.
        **shared: Arguments of :class:`ImageTreeDataModule` (``memory_limit_gb``, ``skip_unreadable``,
            ``max_megapixels``, ``ignored_labels``, ``unlabeled``) and
            :class:`~lightning_fusion.data.image.datamodule.BaseImageDataModule`.

    Raises:
        InputError: If the tree has another layout, or a file cannot be read.

    Example:
        >>> from itertools import product
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from PIL import Image
        >>> root = Path(mkdtemp())
        >>> for domain, label, number in product(("clinic", "home"), ("cat", "dog"), range(5)):
        ...     (root / domain / label).mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (8, 8)).save(root / domain / label / f"{number}.png")
        >>> data = DomainImageDataModule(str(root), domain="home")
        >>> data.domains, data.own_domains, len(data.rows("test"))
        (['clinic', 'home'], ['home'], 2)
    """

    def __init__(self, root: str, test_fraction: float = 0.2, **shared: Any) -> None:
        super().__init__(root=root, **shared)
        self.test_fraction = test_fraction
        self._configure()

    def read_layout(self) -> TreeLayout:
        """List the files."""
        files = self._list("domain")
        classes, domains = sorted({file.label for file in files} - {""}), sorted({file.folder for file in files})
        if set(domains) <= set(_SPLITS):
            raise InputError(
                f"root: the folders of {self.root} name splits, not domains ({shorten(domains)}); use ImageDataModule"
            )
        present = {(file.label, file.folder) for file in files}
        member = np.array([[(label, domain) in present for domain in domains] for label in classes])
        return TreeLayout(classes, domains, member, files)

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Decode the files if they fit into memory."""
        table = self._decode(layout)
        number = {name: position for position, name in enumerate(layout.domains)}
        table.domain = np.array([number[file.folder] for file in layout.files])  # type: ignore[attr-defined]
        return table
