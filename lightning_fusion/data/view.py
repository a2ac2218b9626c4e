"""Other views of a data module: its rows chosen or renamed, everything else its own."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule, RowDataset, digest
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.hyperparameters import keep_plain


class DataView(FusionDataModule):
    """A data module that hands on what another one has. A subclass has its own ``rows``, and what follows from them."""

    data: FusionDataModule

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        self.batch_size, self.num_workers = self.data.batch_size, self.data.num_workers

    @property
    def classes(self) -> list[str]:
        """Names of the classes that targets count."""
        return self.data.classes

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``: all domains of the wrapped module."""
        return self.data.domains

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How raw values become network input, where the wrapped module says so."""
        return getattr(self.data, "preprocessing", None)

    @property
    def augmentation(self) -> Any:
        """The wrapped module's augmentation of training batches; None where there is none."""
        return getattr(self.data, "augmentation", None)

    def prepare_data(self) -> None:
        """What the wrapped module does once per machine."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped module up."""
        self.data.setup(stage)  # type: ignore[arg-type]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The wrapped module's."""
        return self._wrapped().on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The wrapped module's."""
        return self._wrapped().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The wrapped module's: normalisation, and augmentation in training."""
        return self._wrapped().on_after_batch_transfer(batch, dataloader_idx)

    def _wrapped(self) -> FusionDataModule:
        self.data.trainer = self.trainer  # it asks whether this is training
        return self.data


class SourceDataModule(DataView):
    """The data of a source that knows some of the classes only, or whose labels are wrong.

    Rows of other classes are left out of every split and of the statistics, and targets count the classes that are
    kept. Wrong labels are wrong alike: each class bears the name of another, in one circle drawn with ``seed``, so that
    a model of them is as sure of itself as one of the right ones.

    Args:
        data: Any data module of the house.
        kept: Names of the classes that the source knows; all where None.
        permuted: Give each class the name of another.
        seed: Of the circle of names.

    Raises:
        InputError: If there is no such class, or fewer than two are kept.

    Example:
        >>> from lightning_fusion import ImageDataModule
        >>> data = ImageDataModule(source="synthetic")
        >>> some = SourceDataModule(data, data.classes[1:3])
        >>> some.classes == data.classes[1:3], next(iter(some.train_dataloader())).target.unique().tolist()
        (True, [0, 1])
    """

    kept: list[str] | None
    permuted: bool

    def __init__(
        self, data: FusionDataModule, kept: list[str] | None = None, permuted: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        data = None  # type: ignore[assignment]  # no plain data; what the command line parsed is recorded all the same
        self.save_hyperparameters(logger=False)
        keep_plain(self)
        self._configure(**arguments)

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        self._views: dict[str, RowDataset] = {}

    @property
    def classes(self) -> list[str]:
        """Names of the classes that the source knows, in the order of the wrapped module."""
        return [name for name in self.data.classes if self.kept is None or name in self.kept]

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains whose rows these are."""
        return getattr(self.data, "own_domains", self.data.domains)

    def rows(self, split: str) -> RowDataset:
        """The data set of one split."""
        if split not in self._views:
            self._views[split] = self._view(split)
        return self._views[split]

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the content of one split, and of the targets that its rows have here."""
        dataset = self.rows(split)
        return digest(self.data.fingerprint(split), dataset.rows, dataset.targets[dataset.rows], *self.classes)

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the rows of the classes that are kept, as the wrapped module computes them."""
        data: Any = copy.copy(self.data)
        data.rows = self.rows  # the wrapped module's statistics are of what its rows give
        return data.statistics(split)

    def _view(self, split: str) -> RowDataset:
        dataset: Any = self.data.rows(split)
        if not isinstance(dataset, RowDataset):
            raise InputError(
                f"data: rows({split!r}) of {type(self.data).__name__} is a {type(dataset).__name__}; expected a "
                "RowDataset, whose rows can be chosen without reading them"
            )
        if unknown := sorted(set(self.kept or ()) - set(self.data.classes)):
            raise InputError(f"kept: found {shorten(unknown)}; the data's classes are {shorten(self.data.classes)}")
        if len(self.classes) < 2:
            raise InputError(f"kept: found {self.kept}; a source needs two classes")
        place = torch.tensor([self.classes.index(name) if name in self.classes else -1 for name in self.data.classes])
        if self.permuted:
            circle = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(self.classes)))
            other = torch.empty_like(circle)
            other[circle] = circle.roll(-1)
            place = other[place].where(place >= 0, -1)
        targets = dataset.targets
        targets = place[targets.clamp_min(0)].where(targets >= 0, -1)
        rows = dataset.rows[targets[dataset.rows] >= 0]
        if not len(rows):
            raise InputError(f"kept: the {split} split has no sample of {shorten(self.classes)}; keep other classes")
        return RowDataset(dataset.inputs, targets, dataset.domains, rows, dataset.index)


class OverlapDataModule(DataView):
    """The data of an expert whose domain overlaps the others': a share of its rows is drawn from all of them.

    Of the n rows of a split that are the domain's, ``round(overlap * n)``, drawn at random, make room for as many that
    are drawn among the rows of all domains: at 0 the domains are as they are, at 1 all experts' rows come from one
    distribution, and everything between is on the way. Every expert has as many rows as before. Targets count the
    classes of which it has training rows.

    Args:
        data: The rows of all domains' experts, with their ``domains``.
        domain: Name of the expert's.
        overlap: From 0, disjoint as they are, to 1, identical.

    Raises:
        InputError: If there is no such domain or overlap.

    Example:
        >>> from lightning_fusion import ImageDataModule
        >>> data = ImageDataModule(source="synthetic", role="expert")
        >>> mixed = OverlapDataModule(data, "style_1", overlap=0.5)
        >>> own = data.rows("train").domains[mixed.rows("train").rows][:, data.domains.index("style_1")]
        >>> 0.5 <= float(own.float().mean()) < 0.9
        True
    """

    domain: str
    overlap: float

    def __init__(self, data: FusionDataModule, domain: str, overlap: float) -> None:
        super().__init__()
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        data = None  # type: ignore[assignment]  # no plain data; what the command line parsed is recorded all the same
        self.save_hyperparameters(logger=False)
        keep_plain(self)
        self._configure(**arguments)

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        self._views: dict[str, RowDataset] = {}
        self.seed = self.data.seed
        if not 0 <= self.overlap <= 1:
            raise InputError(f"overlap is {self.overlap}; expected a share from 0, disjoint, to 1, identical")
        if self.domain not in self.domains:
            raise InputError(f"domain is {self.domain!r}; the data have {shorten(self.domains, 20)}")

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the training rows."""
        dataset, rows = self._mixed("train")
        return [self.data.classes[number] for number in dataset.targets[rows].unique().tolist() if number >= 0]

    @property
    def own_domains(self) -> list[str]:
        """The expert's domain; all where it is trained on all alike."""
        return self.domains if self.overlap == 1 else [self.domain]

    def rows(self, split: str) -> RowDataset:
        """The data set of one split."""
        if split not in self._views:
            dataset, rows = self._mixed(split)
            known = self.classes
            place = torch.tensor([known.index(name) if name in known else -1 for name in self.data.classes])
            targets = place[dataset.targets.clamp_min(0)].where(dataset.targets >= 0, -1)
            kept = rows[targets[rows] >= 0]
            self._views[split] = RowDataset(dataset.inputs, targets, dataset.domains, kept, dataset.index)
        return self._views[split]

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the content of one split."""
        dataset = self.rows(split)
        return digest(self.data.fingerprint(split), dataset.rows, *self.classes)

    def _mixed(self, split: str) -> tuple[RowDataset, Tensor]:
        dataset: Any = self.data.rows(split)
        own = dataset.rows[dataset.domains[dataset.rows, self.domains.index(self.domain)]]
        if not len(own):
            raise InputError(f"the {split} split of domain {self.domain} has no sample; choose other shares of splits")
        generator = np.random.default_rng([self.seed, int(digest(self.domain, split)[:8], 16)])
        leave, enter = generator.permutation(len(own)), generator.permutation(len(dataset.rows))
        count = round(self.overlap * len(own))
        kept = own[torch.from_numpy(np.sort(leave[count:]))]
        others = dataset.rows[torch.from_numpy(enter)]
        others = others[~torch.isin(others, kept)][:count]
        return dataset, torch.cat([kept, others])
