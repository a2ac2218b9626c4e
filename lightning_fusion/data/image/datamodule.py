"""Images: scikit-learn's digits, CIFAR through torchvision, and folder trees of files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.data.base import Batch, FusionDataModule, RowDataset, Rows
from lightning_fusion.data.image.files import _File, _ImageFiles, _list_tree
from lightning_fusion.data.image.superclasses import CIFAR100_SUPERCLASSES
from lightning_fusion.data.splits import draw_class_subsets, stratified_split
from lightning_fusion.data.statistics import image_facts, mean_and_deviation
from lightning_fusion.data.synthetic import synthetic_images
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import keep_plain

_CHOICES: dict[str, tuple[Any, ...]] = {
    "source": ("digits", "cifar10", "cifar100", "split_tree", "domain_tree", "synthetic"),
    "role": ("fuser", "expert"),
    "protocol": ("clean", "paper"),
    "channels": (1, 3, None),
}
_CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class ImageDataModule(FusionDataModule):
    """Labelled images with domains, split before the domains are cut.

    Sources:

    - ``digits``: 1,797 real handwritten digits, 8x8, that come with scikit-learn: no file, no network.
    - ``cifar10``, ``cifar100``: torchvision's data sets under ``root``.
    - ``split_tree``: files under ``root/<split>/<class>/*`` with the splits ``train`` (``val`` is added to it) and
      ``test``.
    - ``domain_tree``: files under ``root/<domain>/<class>/*``; each folder is a domain.
    - ``synthetic``: 960 coloured gratings of 16x16 pixels in four domains
      (:func:`~lightning_fusion.data.synthetic.synthetic_images`), for tests: no file, no network.

    Two roles share the same splits. The ``expert`` role gives what *one* expert may train on: the samples of one
    domain, with that domain's own classes. The ``fuser`` role gives what a fuser trains on: all domains. Under the
    ``clean`` protocol one global fuser set is held out before the domains are cut, so that no expert has seen it.
    Under the ``paper`` protocol (Wang et al., ICLR 2024, as released) each domain holds out its own share and the
    fuser set is their union: with overlapping domains most experts were then trained on most of it.

    Images are decoded once into uint8 memory where they fit, else file by file when a batch asks for them. Batches
    are turned into floats, augmented and normalised on the device.

    Args:
        source: Where the images come from, see above.
        root: Folder of the images; none for ``digits`` and ``synthetic``.
        role: ``fuser`` or ``expert``.
        domain: For the ``expert`` role: number or name of the domain; all of them where None (a centralised model).
        num_domains: Cut this many domains as class subsets. None: the folders of a ``domain_tree``, the
            styles of ``synthetic``, else one domain.
        classes_per_domain: Classes of each of the ``num_domains``, counted before they are joined to super-classes.
        superclasses: Targets are super-classes: ``cifar100`` for its 20, or a JSON file {super-class: [class, ...]}.
        protocol: ``clean`` or ``paper``, see above.
        fuser_share: Share of the non-test samples that is held out for the fuser.
        val_share: Share of an expert's, and of the fuser's, samples that is its validation split.
        test_share: Share held out for testing where the source has no test split of its own; refused elsewhere.
        image_size: Side in pixels to which images are resized and centre-cropped; None keeps them as they are.
        channels: 1 or 3; None takes 1 for digits and 3 elsewhere.
        mean: Of each channel, subtracted after scaling to [0, 1]; 0.5 where None.
        std: Of each channel, divided by; 0.5 where None.
        augmentation: Module applied to float batches (B, channels, H, W) in [0, 1], in training only.
        batch_size: Samples per batch and process.
        num_workers: Loader processes; only lazily decoded images gain from them.
        seed: Of splits, domains and order.
        memory_limit_gb: Decoded images larger than this stay on disk and are decoded batch by batch.
        skip_unreadable: Leave out files that do not decode, and say how many; else the first one is an error.
        download: Let torchvision download CIFAR into ``root`` in ``prepare_data``.

    Raises:
        InputError: Where an argument does not fit the source or a file cannot be read.

    Example:
        >>> data = ImageDataModule(source="digits", num_domains=5, classes_per_domain=4, batch_size=32)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.input.shape, batch.input.dtype, batch.domain.shape
        (torch.Size([32, 1, 8, 8]), torch.uint8, torch.Size([32, 5]))
    """

    has_roles = True
    source: str
    root: str | None
    role: str
    domain: int | str | None
    num_domains: int | None
    classes_per_domain: int | None
    superclasses: str | None
    protocol: str
    fuser_share: float
    val_share: float
    test_share: float | None
    image_size: int | None
    channels: int | None
    mean: list[float] | None
    std: list[float] | None
    augmentation: nn.Module | None
    memory_limit_gb: float
    skip_unreadable: bool
    download: bool
    _splits: dict[str, np.ndarray] | None

    def __init__(
        self,
        source: Literal["digits", "cifar10", "cifar100", "split_tree", "domain_tree", "synthetic"] = "digits",
        root: str | None = None,
        role: Literal["fuser", "expert"] = "fuser",
        domain: int | str | None = None,
        num_domains: int | None = None,
        classes_per_domain: int | None = None,
        superclasses: str | None = None,
        protocol: Literal["clean", "paper"] = "clean",
        fuser_share: float = 0.2,
        val_share: float = 0.1,
        test_share: float | None = None,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        augmentation: nn.Module | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        memory_limit_gb: float = 4.0,
        skip_unreadable: bool = False,
        download: bool = False,
    ) -> None:
        super().__init__()
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        augmentation = None  # a module is no plain data; what the command line parsed is recorded all the same
        self.save_hyperparameters(logger=False)
        keep_plain(self)
        self._table: _Table | None = None
        self._configure(**arguments)

    # ------------------------------------------------------------------ facts

    @property
    def classes(self) -> list[str]:
        """Task classes; for the ``expert`` role with a ``domain``, only the classes of that domain."""
        names = self._layout.targets
        if self.role == "fuser" or self.domain is None:
            return names
        return [names[target] for target in self._own_targets()]

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``."""
        return self._layout.domains

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains whose samples this data module trains on."""
        if self.role == "fuser" or self.domain is None:
            return self.domains
        return [self.domains[self._domain_number()]]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How pixel values become network input: ``(value / 255 - mean) / std``, channels first."""
        channels = self._layout.channels
        return {
            "scale": 1 / 255,
            "mean": list(self.mean or [0.5] * channels),
            "std": list(self.std or [0.5] * channels),
            "channels": channels,
            "image_size": self.image_size,
        }

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the pixels (of paths and sizes, where files are read lazily), labels and preprocessing."""
        dataset = self.rows(split)
        inputs = dataset.inputs
        content = inputs.identity(dataset.rows) if isinstance(inputs, _ImageFiles) else inputs[dataset.rows]
        return digest(
            content, dataset.targets[dataset.rows], dataset.domains[dataset.rows], dataset.rows, self.preprocessing
        )

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the images of a split, before they are normalised: what a domain may publish of itself.

        Mean over images of the numbers of :func:`~lightning_fusion.data.statistics.image_facts`, then their standard
        deviations: 78 numbers for three channels.

        Returns:
            (S,) float32.
        """
        dataset = self.rows(split)
        chunks = dataset.rows.split(self.batch_size)
        facts = (image_facts(dataset.inputs[chunk].to(torch.float32) / 255) for chunk in chunks)
        return torch.cat(mean_and_deviation(facts)).float()

    # ------------------------------------------------------------- Lightning

    def prepare_data(self) -> None:
        """Download CIFAR, once per machine, if asked to."""
        if self.download and self.source in ("cifar10", "cifar100"):
            self._torchvision(download=True)

    def setup(self, stage: str | None = None) -> None:
        """Read the images and cut splits and domains; cheap when repeated."""
        self.rows("test")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Floats, augmentation (in training) and normalisation, on the device."""
        if not isinstance(batch, Batch):
            return batch
        augment = self.augmentation is not None and self.trainer is not None and self.trainer.training
        return batch._replace(input=self.preprocess(batch.input, augment))

    def preprocess(self, images: Tensor, augment: bool = False) -> Tensor:
        """Turn (B, channels, H, W) uint8 images into normalised float32 network input of the same shape."""
        floats = images.to(torch.float32).div_(255)
        if augment and self.augmentation is not None:
            floats = self.augmentation(floats)
        how = self.preprocessing
        mean = torch.tensor(how["mean"], device=images.device).view(-1, 1, 1)
        std = torch.tensor(how["std"], device=images.device).view(-1, 1, 1)
        return (floats - mean) / std

    def rows(self, split: str) -> RowDataset:
        """The data set of one split: ``train``, ``val`` or ``test``, for the role and domain at hand."""
        if self._splits is None:
            self._splits = self._cut()
        table = self._load()
        targets = torch.from_numpy(self._target_of_row(table))
        domains = torch.from_numpy(self._membership(table))
        rows = self._splits[split]
        if not len(rows):
            raise InputError(
                f"the {split} split of domain {shorten(self.own_domains)} has no sample (source {self.source}, "
                f"role {self.role}); change domain, or the shares of the splits"
            )
        return RowDataset(table.images, targets, domains, torch.from_numpy(rows))

    # -------------------------------------------------------------- internals

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        if {"source", "root", "image_size", "channels", "memory_limit_gb", "skip_unreadable"} & set(arguments):
            self._table = None
        self._layout_cache: _Layout | None = None
        self._splits = None
        self._check()

    def _check(self) -> None:
        self._check_choices(_CHOICES)
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; expected at least 1")
        embedded = self.source in ("digits", "synthetic")
        if embedded and self.root is not None:
            raise InputError(f"source {self.source} needs no file and has no root; remove root or change source")
        if not embedded and self.root is None:
            raise InputError(f"source {self.source} needs root: the folder that holds the images")
        if self.source in ("cifar10", "cifar100", "split_tree") and self.test_share is not None:
            raise InputError(f"source {self.source} has its own test split; remove test_share")
        if (self.num_domains is None) != (self.classes_per_domain is None):
            raise InputError("num_domains and classes_per_domain go together; set both or neither")
        if self.num_domains is not None and self.source in ("domain_tree", "synthetic"):
            raise InputError(f"source {self.source} has domains of its own; remove num_domains and classes_per_domain")
        if self.domain is not None and self.role != "expert":
            raise InputError("domain selects what one expert trains on; set role: expert, or remove domain")
        for name in ("fuser_share", "val_share", "test_share"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                raise InputError(f"{name} is {share}; expected a share between 0 and 1")
        channels = self.channels or (1 if self.source == "digits" else 3)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != channels:
                raise InputError(f"{name} has {len(values)} values for {channels} channels")

    @property
    def _layout(self) -> "_Layout":
        """Names and who has what, read without decoding an image."""
        if self._layout_cache is None:
            self._layout_cache = self._read_layout()
        return self._layout_cache

    def _read_layout(self) -> "_Layout":
        files: list[_File] = []
        folders: list[str] = []
        channels = self.channels or 3
        if self.source == "digits":
            fine, channels = [str(digit) for digit in range(10)], self.channels or 1
        elif self.source == "synthetic":
            fine = [f"class_{number}" for number in range(4)]
            folders = [f"style_{number}" for number in range(4)]
        elif self.source == "cifar10":
            fine = _CIFAR10
        elif self.source == "cifar100":
            fine = sorted(name for names in CIFAR100_SUPERCLASSES.values() for name in names)
        else:
            files = _list_tree(Path(str(self.root)), self.source)
            fine = sorted({file.label for file in files})
            if self.source == "domain_tree":
                folders = sorted({file.folder for file in files})
        group, targets = self._groups(fine)
        number = {name: position for position, name in enumerate(fine)}
        if self.num_domains is not None:
            assert self.classes_per_domain is not None
            member = draw_class_subsets(
                len(fine),
                self.num_domains,
                self.classes_per_domain,
                group if self.superclasses else None,
                self.seed,
            )
            domains = [f"domain_{position}" for position in range(self.num_domains)]
        elif folders:
            member = np.zeros((len(fine), len(folders)), bool)
            place = {name: position for position, name in enumerate(folders)}
            for file in files:
                member[number[file.label], place[file.folder]] = True
            member |= not files  # the synthetic twin has every class in every domain
            domains = folders
        else:
            member, domains = np.ones((len(fine), 1), bool), ["all"]
        return _Layout(fine, group, targets, domains, folders, member, channels, files)

    def _groups(self, fine: list[str]) -> tuple[np.ndarray, list[str]]:
        """The target of each fine class, and the targets' names."""
        if self.superclasses is None:
            return np.arange(len(fine)), fine
        if self.superclasses == "cifar100":
            table = CIFAR100_SUPERCLASSES
        else:
            path = Path(self.superclasses)
            if not path.is_file():
                raise InputError(f"superclasses: found no file {path}; expected 'cifar100' or a JSON file")
            table = json.loads(path.read_text())
        parent = {name: parent for parent, names in table.items() for name in names}
        missing = [name for name in fine if name not in parent]
        if missing:
            raise InputError(f"superclasses ({self.superclasses}) names no super-class for {shorten(missing)}")
        targets = [name for name in table if name in {parent[f] for f in fine}]
        return np.array([targets.index(parent[name]) for name in fine]), targets

    def _domain_number(self) -> int:
        names = self._layout.domains
        if str(self.domain) in names:  # a name comes first: folders may be called 2019
            return names.index(str(self.domain))
        if str(self.domain).isdigit() and int(str(self.domain)) < len(names):
            return int(str(self.domain))
        raise InputError(f"domain is {self.domain!r}; expected a number below {len(names)} or one of {shorten(names)}")

    def _own_targets(self) -> np.ndarray:
        """(C_k,) sorted task targets of the chosen domain."""
        return np.unique(self._layout.group[self._layout.member[:, self._domain_number()]])

    def _target_of_row(self, table: "_Table") -> np.ndarray:
        targets = self._layout.group[table.fine]
        if self.role == "fuser" or self.domain is None:
            return targets
        local = np.full(len(self._layout.targets), -1)
        local[self._own_targets()] = np.arange(len(self._own_targets()))
        return local[targets]

    def _membership(self, table: "_Table") -> np.ndarray:
        """(N, D) bool: which row belongs to which domain."""
        if table.folder is not None:
            return table.folder[:, None] == np.arange(len(self._layout.domains))
        return self._layout.member[table.fine]

    def _cut(self) -> dict[str, np.ndarray]:
        """Cut train, val and test rows of the role and domain at hand."""
        table = self._load()
        strata = table.fine if table.folder is None else table.fine * len(self._layout.folders) + table.folder
        usable = np.flatnonzero(table.readable)
        if table.test is not None:
            rest, test = usable[~table.test[usable]], usable[table.test[usable]]
        else:
            rest, test = self._hold_out(strata, usable, 0.2 if self.test_share is None else self.test_share, 1)
        member = self._membership(table)
        mine = slice(None) if self.role == "fuser" or self.domain is None else [self._domain_number()]
        if self.protocol == "paper":
            kept, held = {}, {}
            for domain in range(member.shape[1]):
                own = rest[member[rest, domain]]
                kept[domain], held[domain] = self._hold_out(strata, own, self.fuser_share, 100 + domain)
            chosen = list(kept)[mine] if isinstance(mine, slice) else mine
            fuser = _union(held.values())
            train, val = _union(kept[d] for d in chosen), _union(held[d] for d in chosen)
            val = np.setdiff1d(val, train)  # the centralised model: a row that any domain trains on is a training row
        else:
            expert, fuser = self._hold_out(strata, rest, self.fuser_share, 2)
            expert = expert[member[expert][:, mine].any(1)]
            train, val = self._hold_out(strata, expert, self.val_share, 3)
        if self.role == "fuser":
            train, val = self._hold_out(strata, fuser, self.val_share, 4)
            return {"train": train, "val": val, "test": test[member[test].any(1)]}
        return {"train": train, "val": val, "test": test[member[test][:, mine].any(1)]}

    def _hold_out(
        self, strata: np.ndarray, rows: np.ndarray, share: float, purpose: int
    ) -> tuple[np.ndarray, np.ndarray]:
        kept, held = stratified_split(strata[rows], share, seed=self.seed * 1009 + purpose)
        return rows[kept], rows[held]

    def _load(self) -> "_Table":
        if self._table is None:
            self._table = self._read_table()
        return self._table

    def _read_table(self) -> "_Table":
        layout = self._layout
        number = {name: position for position, name in enumerate(layout.fine)}
        if self.source == "digits":
            from sklearn.datasets import load_digits

            digits = load_digits()
            pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None].repeat(layout.channels, 1)
            return _Table(self._sized(pixels), digits.target.astype(np.int64))
        if self.source == "synthetic":
            pixels, labels, styles = synthetic_images(60, len(layout.fine), len(layout.folders))
            return _Table(self._sized(pixels[:, : layout.channels]), labels, styles)
        if self.source in ("cifar10", "cifar100"):
            parts = self._torchvision(download=False)
            pixels = np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2)
            if layout.channels == 1:
                pixels = pixels.mean(1, keepdims=True).round().astype(np.uint8)
            labels = np.concatenate([[number[part.classes[label]] for label in part.targets] for part in parts])
            of_test = np.repeat([False, True], [len(part.targets) for part in parts])
            return _Table(self._sized(pixels), labels, test=of_test)
        reader = _ImageFiles([file.path for file in layout.files], layout.channels, self.image_size)
        fine = np.array([number[file.label] for file in layout.files])
        place = {name: position for position, name in enumerate(layout.folders)}
        folder = np.array([place[file.folder] for file in layout.files]) if layout.folders else None
        test = None if layout.folders else np.array([file.folder == "test" for file in layout.files])
        images, readable = reader.load(self.memory_limit_gb, self.skip_unreadable)
        return _Table(images, fine, folder, test, readable)

    def _torchvision(self, download: bool) -> list[Any]:
        from torchvision import datasets

        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[self.source]
        try:
            return [kind(str(self.root), train=train, download=download) for train in (True, False)]
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"{self.source} under root {self.root}: {error}. Set download: true where there is a network, or use "
                "source split_tree for a folder of image files"
            ) from error

    def _sized(self, pixels: np.ndarray) -> Tensor:
        images = torch.from_numpy(np.ascontiguousarray(pixels))
        if self.image_size is None or images.shape[-1] == self.image_size:
            return images
        from torchvision.transforms.v2.functional import resize

        return resize(images, [self.image_size, self.image_size], antialias=True)


@dataclass
class _Layout:
    fine: list[str]
    group: np.ndarray
    targets: list[str]
    domains: list[str]
    folders: list[str]
    member: np.ndarray
    channels: int
    files: list[_File]


class _Table:
    """All images of a source, with what is known of each row."""

    def __init__(
        self,
        images: Rows,
        fine: np.ndarray,
        folder: np.ndarray | None = None,
        test: np.ndarray | None = None,
        readable: np.ndarray | None = None,
    ) -> None:
        self.images, self.fine, self.folder, self.test = images, fine, folder, test
        self.readable = np.ones(len(fine), bool) if readable is None else readable


def _union(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(list(parts)))
