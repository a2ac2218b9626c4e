"""Base class of all sources of images: roles, splits, domains, normalization and loaders."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.data.base import SPLITS, Stage, staged_property
from lightning_fusion.data.domains import ModalityDataModule, chosen_domains, domain_matrix, local_classes
from lightning_fusion.data.duplicates import SPLIT_NAMES, Samples, equal_rows
from lightning_fusion.data.image.files import MEMORY_LIMIT_GB, ORIGINAL, ImageFiles, single_colors
from lightning_fusion.data.image.layout import ImageLayout, ImageTable, usable_images
from lightning_fusion.data.image.new_images import read_new_images
from lightning_fusion.data.image.superclasses import read_superclasses
from lightning_fusion.data.names import (
    canonical_label,
    merge_forms,
    merge_message,
    missing_message,
    similar_message,
)
from lightning_fusion.data.normalization import Normalization
from lightning_fusion.data.rows import NewRows, RowDataset
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.data.statistics import image_statistics, mean_and_deviation
from lightning_fusion.data.targets import UNLABELED
from lightning_fusion.errors import EmptySplitError, InputError, shorten
from lightning_fusion.files import digest, row_digests


@dataclass
class _Task:
    """Targets of the classes of a source, and the domains of the task.

    Attributes:
        target: (C,) int64, target of each class of the source.
        names: Names of the targets.
        domains: Names of the domains.
        member: (C, D) bool, classes of the source in each domain.
    """

    target: np.ndarray
    names: list[str]
    domains: list[str]
    member: np.ndarray


class BaseImageDataModule(ModalityDataModule):
    """Labeled images with domains; base class of all sources of images.

    Two roles share the same splits. The role ``expert`` contains the training data of *one* expert: the samples of one
    domain, with that domain's classes. The role ``fuser`` contains the training data of a fuser: all domains. In the
    protocol ``clean`` one global fuser training set is held out before domains are formed, so that no expert is trained
    on it. In the protocol ``paper`` (Wang et al., ICLR 2024, as released) each domain holds out its own fraction, and
    the fuser training set is their union: with overlapping domains most experts are trained on most of it.

    Images are decoded once into memory as uint8 if they fit, else file by file for each batch. Batches are
    converted to floats, augmented and normalized on the device.

    A source is a subclass: its constructor passes ``**shared`` on, stores its own arguments as attributes and ends with
    ``self._configure()``, which validates them; it implements :meth:`read_layout` and :meth:`read_images`.

    Args:
        role: ``expert`` or ``fuser``.
        domain: For the role ``expert``: index or name of the domain, or several. ``None`` (default) selects all, as for
            a centralized model.
        protocol: ``clean`` or ``paper``, as described above.
        fuser_fraction: Fraction of the samples outside the test split that is held out for the fuser; must be the same
            for experts and fuser.
        val_fraction: Fraction of the samples of an expert, or of the fuser, for validation.
        superclasses: Use super-classes as targets: ``cifar100`` for its 20, or a JSON file {super-class: [class, ...]}.
        image_size: Side in pixels to which images are resized and center-cropped; ``None`` keeps them as they are, all
            of one size. ``original`` keeps images of any size for experts that prepare them: batches are lists of uint8
            images, without normalization, and no network is trained on them.
        channels: 1 or 3.
        mean: Mean of each channel, subtracted after scaling to [0, 1]. ``None`` (default) means 0.5, or for a trained
            model the mean in its checkpoint.
        std: Standard deviation of each channel, divided by. ``None`` (default) means 0.5, or that of the checkpoint.
        augmentation: Module applied to float batches (B, channels, H, W) in [0, 1], in training only, such as
            :class:`~lightning_fusion.data.image.augmentation.BatchAffine`.
        batch_size: Samples per batch and process.
        **loading: ``num_workers``, ``seed`` and ``predict_root`` of
            :class:`~lightning_fusion.data.domains.ModalityDataModule`.

    Raises:
        InputError: If an argument is out of range or does not match the source.
    """

    has_roles = True
    _blank: np.ndarray  # (N,) bool, images of a single color
    unlabeled: str | None = "drop"
    """What happens to unlabeled images in training; an argument of sources that may have any."""
    test_fraction: float = 0.2
    """Held-out test fraction of a source without a test split, which takes it as an argument."""
    stage_of = {
        **dict.fromkeys(("superclasses", "seed"), Stage.CUTTING),
        **dict.fromkeys(("role", "domain", "protocol"), Stage.SPLITTING),
        **dict.fromkeys(("fuser_fraction", "val_fraction", "test_fraction"), Stage.SPLITTING),
        **dict.fromkeys(("mean", "std", "augmentation", "batch_size", "num_workers"), Stage.USING),
    }

    def __init__(
        self,
        role: Literal["expert", "fuser"] = "expert",
        domain: int | str | list[int | str] | None = None,
        protocol: Literal["clean", "paper"] = "clean",
        fuser_fraction: float = 0.0,
        val_fraction: float = 0.1,
        superclasses: str | None = None,
        image_size: int | Literal["original"] | None = None,
        channels: Literal[1, 3] = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        augmentation: nn.Module | None = None,
        batch_size: int = 128,
        **loading: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **loading)
        self.role, self.domain, self.protocol, self.superclasses = role, domain, protocol, superclasses
        self.fuser_fraction, self.val_fraction, self.augmentation = fuser_fraction, val_fraction, augmentation
        self.image_size, self.channels, self.mean, self.std = image_size, channels, mean, std
        self._expected_size: list[int] | None = None  # height and width in a model's training

    # ------------------------------------------------- what a source implements

    def read_layout(self) -> ImageLayout:
        """Read the names of classes and domains, without decoding an image."""
        raise NotImplementedError(f"{type(self).__name__} must implement read_layout()")

    def read_images(self, layout: ImageLayout) -> ImageTable:
        """Read all images with ``self.channels`` channels, at ``self.image_size`` if that is a number.

        Args:
            layout: Result of :meth:`read_layout`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement read_images(layout)")

    def cut_domains(self, layout: ImageLayout, group: np.ndarray | None) -> tuple[list[str], np.ndarray]:
        """Return names of the D domains and (C, D) bool membership of classes: those of the source, else one domain.

        Args:
            layout: Layout of the source.
            group: (C,) int64, super-class of each class; ``None`` if there are none.
        """
        if layout.member is None:
            return ["all"], np.ones((len(layout.classes), 1), bool)
        return layout.domains, layout.member

    # --------------------------------------------------------------- metadata

    @staged_property(Stage.READING)
    def layout(self) -> ImageLayout:
        """Classes and domains of the source."""
        return self.read_layout()

    @property
    def classes(self) -> list[str]:
        """Names of the classes; with a ``domain``, only the classes of that domain."""
        names = self._task.names
        return names if self._own is None else [names[target] for target in self._own_targets()]

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``."""
        return self._task.domains

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains of the training samples."""
        return self.domains if self._own is None else [self.domains[number] for number in self._own]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Parameters of the normalization ``(value / 255 - mean) / std``, channels first; none for original images."""
        if self.image_size == ORIGINAL:
            return {"image_size": ORIGINAL, "channels": self.channels}
        return {
            "scale": 1 / 255,
            "mean": list(self.mean or self._carried.get("mean") or [0.5] * self.channels),
            "std": list(self.std or self._carried.get("std") or [0.5] * self.channels),
            "channels": self.channels,
            "image_size": self.image_size,
        }

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of pixels (paths and sizes, if files are read lazily), labels and preprocessing."""
        dataset = self.rows(split)
        rows, inputs = dataset.rows, dataset.inputs
        content = inputs.identity(rows) if hasattr(inputs, "identity") else inputs[rows]
        return digest(content, dataset.targets[rows], dataset.domains[rows], rows, self.preprocessing)

    def content_digests(self, dataset: RowDataset, rows: Tensor) -> np.ndarray:
        """Return digests of pixels; of names and sizes, if files are read lazily."""
        identify = getattr(dataset.inputs, "identity", None)
        return super().content_digests(dataset, rows) if identify is None else row_digests(identify(rows).split("\n"))

    def statistics(self, split: str = "train") -> Tensor:
        """Return light statistics of the images of a split before normalization, which a domain may publish.

        Mean over images of the values of :func:`~lightning_fusion.data.statistics.image_statistics`, then their
        standard
        deviations: 78 numbers for three channels.

        Returns:
            (S,) float32.
        """
        if self.image_size == ORIGINAL:
            raise InputError("image_size: original images have no statistics of one size; set image_size to a number")
        dataset = self.rows(split)
        chunks = dataset.rows.split(self.batch_size)
        statistics = (image_statistics(dataset.inputs[chunk].to(torch.float32) / 255) for chunk in chunks)
        return torch.cat(mean_and_deviation(statistics)).float()

    @property
    def new_sample_facts(self) -> dict[str, Any]:
        """Height and width of the images, if ``image_size`` does not set them."""
        if self.image_size is not None:
            return {}
        first = torch.from_numpy(np.flatnonzero(usable_images(self._table))[:1])
        return {"sample_size": list(self._table.images[first].shape[-2:])}

    def use_preprocessing(self, known: Mapping[str, Any] | None) -> None:
        """Normalize as in a model's training, and expect new images of its size if ``image_size`` is not set."""
        super().use_preprocessing(known)
        self._expected_size = (known or {}).get("sample_size")

    def new_rows(self, root: str) -> NewRows:
        """Read the image files in a folder and all folders in it, as files of this size; damaged ones get a note."""

        def reader(paths: list[Path]) -> ImageFiles:
            return ImageFiles(paths, self.channels, self.image_size)

        return self._sized(read_new_images(root, reader, MEMORY_LIMIT_GB, True, self.messages))

    def notes(self, index: Tensor) -> list[str]:
        """Return which images have a single color."""
        return ["a single color" if self._blank[row] else "" for row in index.tolist()]

    # ------------------------------------------------------------- Lightning

    def _read_samples(self) -> None:
        self._splits  # noqa: B018  # computed on access and kept

    def preprocess(self, images: Any, augment: bool = False) -> Any:
        """Turn (B, channels, H, W) uint8 images into normalized float32 network input; original images stay uint8."""
        if self.image_size == ORIGINAL:
            return images
        way = self._normalization.to(images.device)
        floats = way.scaled(images)
        if augment and self.augmentation is not None:
            floats = self.augmentation(floats)
        return way.normalized(floats)

    def make_rows(self, split: str) -> RowDataset:
        """Return the images of a split for this role and domain."""
        table, task = self._table, self._task
        rows = self._splits[split]
        if not len(rows):
            raise EmptySplitError(
                f"the {split} split of domain {shorten(self.own_domains)} has no sample ({type(self).__name__}, role "
                f"{self.role}); change domain, or the fractions of the splits"
            )
        targets = task.target[table.label]
        if self._own is not None:
            targets = local_classes(self._own_targets(), len(task.names))[targets]
        targets = np.where(table.label < 0, UNLABELED, targets)
        return RowDataset(table.images, torch.from_numpy(targets), self._membership, torch.from_numpy(rows))

    # -------------------------------------------------------------- internals

    def _sized(self, new: NewRows) -> NewRows:
        """Return new images, which must have the size of the training images if ``image_size`` is not set."""
        wanted = None if self.image_size is not None or not len(new) else self._expected_size
        if wanted is not None and (found := list(new[torch.tensor([0])].input.shape[-2:])) != wanted:
            remedy = f"set image_size: {wanted[0]}" if wanted[0] == wanted[1] else "resize them"
            raise InputError(
                f"predict_root: the images are {found[1]}x{found[0]}, those of the training were "
                f"{wanted[1]}x{wanted[0]}; {remedy}"
            )
        return new

    @staged_property(Stage.USING)
    def _normalization(self) -> Normalization:
        known = self.preprocessing
        return Normalization(known["mean"], known["std"], known["scale"])

    def _are_of_channels(self, known: Mapping[str, Any]) -> bool:
        return known.get("channels") == self.channels

    def _check(self) -> None:
        super()._check()
        self._check_role()
        self._check_choices({"protocol": ("clean", "paper"), "channels": (1, 3)})
        if isinstance(self.image_size, int) and self.image_size < 1:
            raise InputError(f"image_size is {self.image_size}; expected at least 1 pixel")
        if not isinstance(self.image_size, int) and self.image_size not in (None, ORIGINAL):
            raise InputError(f"image_size is {self.image_size}; expected a number of pixels, or {ORIGINAL}")
        if self.image_size == ORIGINAL and (
            given := [name for name in ("mean", "std", "augmentation") if getattr(self, name) is not None]
        ):
            raise InputError(
                f"image_size: original images are neither normalized nor augmented; remove {shorten(given)}, or set "
                "image_size to a number"
            )
        self._check_fractions("val_fraction", "test_fraction", "fuser_fraction", zero=True)
        for name, value in (("role", "fuser"), ("protocol", "paper")):
            if getattr(self, name) == value and not self.fuser_fraction:
                raise InputError(
                    f"{name} is {value}, and fuser_fraction is 0, so there is no fuser training set; set it, "
                    "the same for experts and fuser"
                )
        self._check_scale(self.channels)

    @staged_property(Stage.READING)
    def _table(self) -> ImageTable:
        table = self.read_images(self.layout)
        self._blank = single_colors(table.images, usable_images(table))
        if len(rows := np.flatnonzero(self._blank)):
            origins = self.origins(torch.from_numpy(rows))
            names = [f"number {row}" for row in rows.tolist()] if origins is None else origins.columns()["file"]
            self.messages.warn(
                f"{len(rows)} of {len(self._blank)} images have a single color: {shorten(names, 3)}; remove them"
            )
        return table

    @staged_property(Stage.CUTTING)
    def _task(self) -> _Task:
        target, names = self._targets(self.layout.classes)
        return _Task(target, names, *self.cut_domains(self.layout, None if self.superclasses is None else target))

    @property
    def _own(self) -> list[int] | None:
        """Indices of the selected domains; ``None`` if all are used."""
        return None if self.domain is None else chosen_domains(self.domain, self.domains, by_number=True)

    def _targets(self, classes: list[str]) -> tuple[np.ndarray, list[str]]:
        """Return the target of each class of the source, and the names of the targets."""
        forms = {written: canonical_label(written) for written in classes}
        classes = list(forms.values())
        self.messages.warn(merge_message(merge_forms(forms), "classes"))
        if self.superclasses is None:
            names = list(dict.fromkeys(classes))
            self.messages.warn(similar_message(names, "classes", "rename one, or merge them with superclasses"))
            self.messages.warn(missing_message(names, "classes", "leave these folders out"))
            return np.array([names.index(name) for name in classes]), names
        table = read_superclasses(self.superclasses)
        parent = {name: parent for parent, names in table.items() for name in names}
        if missing := [name for name in classes if name not in parent]:
            raise InputError(f"superclasses ({self.superclasses}) names no super-class for {shorten(missing)}")
        targets = [name for name in table if name in {parent[own] for own in classes}]
        return np.array([targets.index(parent[name]) for name in classes]), targets

    def _own_targets(self) -> np.ndarray:
        """(C_k,) sorted task targets of the selected domains."""
        return np.unique(self._task.target[self._task.member[:, self._own].any(1)])

    @property
    def _membership(self) -> Tensor:
        """(N, D) bool, domain membership of each image."""
        table = self._table
        if table.domain is None:
            known, single = torch.from_numpy(table.label >= 0)[:, None], len(self.domains) == 1
            return torch.from_numpy(self._task.member[table.label]).where(known, torch.tensor(single))
        return domain_matrix(table.domain, len(self.domains))

    @staged_property(Stage.SPLITTING)
    def _splits(self) -> dict[str, np.ndarray]:
        """Positions of the images of each split for this role and domain."""
        table = self._table
        strata = table.label if table.domain is None else table.label * len(self.domains) + table.domain
        rest, test = self._rest_and_test(strata)
        self._report_duplicates(table, "images", self.equal_images, self._described)
        member = self._membership.numpy()
        mine = list(range(len(self.domains))) if self._own is None else self._own
        if self.protocol == "paper":
            kept, held = {}, {}
            for domain in range(member.shape[1]):
                own = rest[member[rest, domain]]
                kept[domain], held[domain] = self._hold_out(strata, own, self.fuser_fraction, 100 + domain)
            fuser = _union(held.values())
            train, val = _union(kept[domain] for domain in mine), _union(held[domain] for domain in mine)
            val = np.setdiff1d(val, train)  # centralized model: what any domain trains on is in train
        else:
            expert, fuser = self._hold_out(strata, rest, self.fuser_fraction, 2)
            expert = expert[member[expert][:, mine].any(1)]
            train, val = self._hold_out(strata, expert, self.val_fraction, 3)
        if self.role == "fuser":
            train, val = self._hold_out(strata, fuser, self.val_fraction, 4)
        elif self.unlabeled == "keep":
            more = usable_images(table) & (table.label < 0) & member[:, mine].any(1)
            train = np.union1d(train, np.flatnonzero(more if table.test is None else more & ~table.test))
        return {"train": train, "val": val, "test": test[member[test][:, mine].any(1)]}

    def _rest_and_test(self, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the labeled images outside the test split, and of those in it."""
        table = self._table
        usable = np.flatnonzero(usable_images(table) & (table.label >= 0))
        if table.test is not None:
            return usable[~table.test[usable]], usable[table.test[usable]]
        return self._hold_out(strata, usable, self.test_fraction, 1)

    def equal_images(self) -> np.ndarray | None:
        """Return the (N,) first image of the same content for each image; None if images are not in memory."""
        images = self._table.images
        return equal_rows(images.numpy()) if isinstance(images, Tensor) else None

    def _image_name(self, row: int) -> str:
        """Name of an image, for messages."""
        return f"image {row}"

    def _described(self) -> Samples:
        """Labels, domains and splits of all images: of the fuser and of the experts of all domains."""
        table = self._table
        strata = table.label if table.domain is None else table.label * len(self.domains) + table.domain
        rest, test = self._rest_and_test(strata)
        split = np.full(len(table.label), -1)
        split[rest], split[test] = SPLITS.index("train"), SPLITS.index("test")
        if self.protocol == "clean":  # parts of the paper's protocol overlap
            expert, fuser = self._hold_out(strata, rest, self.fuser_fraction, 2)
            split[self._hold_out(strata, expert, self.val_fraction, 3)[1]] = SPLITS.index("val")
            split[fuser] = SPLIT_NAMES.index("fuser")
        label = np.where(table.label < 0, -1, self._task.target[table.label])
        return Samples(self._image_name, label, domain=table.domain, split=split, domains=self.domains)

    def _hold_out(
        self, strata: np.ndarray, rows: np.ndarray, fraction: float, purpose: int
    ) -> tuple[np.ndarray, np.ndarray]:
        kept, held = stratified_split(strata[rows], fraction, seed=self.seed * 1009 + purpose)
        return rows[kept], rows[held]


def _union(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(list(parts)))
