"""One source of several: a data module reduced to some domains and classes."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule, RowDataset
from lightning_fusion.data.views.base import DataView, renumbered
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import record_arguments


class SourceDataModule(DataView):
    """The data of a source that knows some of the classes only, or whose labels are wrong.

    Rows of other classes are left out of every split and of the statistics, and targets count the classes that are
    kept. Wrong labels are wrong alike: each class bears the name of another, in one circle drawn with ``seed``, so that
    a model of them is as sure of itself as one of the right ones.

    Args:
        data: Any data module of the library.
        kept: Names of the classes that the source knows; all where None.
        permuted: Give each class the name of another.
        seed: Of the circle of names.

    Raises:
        InputError: If there is no such class, or fewer than two are kept.

    Example:
        >>> from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
        >>> data = SyntheticImageDataModule()
        >>> some = SourceDataModule(data, data.classes[1:3])
        >>> some.classes == data.classes[1:3], next(iter(some.train_dataloader())).target.unique().tolist()
        (True, [0, 1])
    """

    def __init__(
        self, data: FusionDataModule, kept: list[str] | None = None, permuted: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        self.data, self.kept, self.permuted, self.seed = data, kept, permuted, seed
        data = None  # type: ignore[assignment]  # no plain data; what the command line parsed is recorded all the same
        record_arguments(self)
        self._configure()

    @property
    def classes(self) -> list[str]:
        """Names of the classes that the source knows, in the order of the wrapped module."""
        return [name for name in self.data.classes if self.kept is None or name in self.kept]

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains whose rows these are."""
        return getattr(self.data, "own_domains", self.data.domains)

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the content of one split, and of the targets that its rows have here."""
        dataset = self.rows(split)
        return digest(self.data.fingerprint(split), dataset.rows, dataset.targets[dataset.rows], *self.classes)

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the rows of the classes that are kept, as the wrapped module computes them."""
        data: Any = copy.copy(self.data)
        data.rows = self.rows  # the wrapped module's statistics are of what its rows give
        return data.statistics(split)

    def make_rows(self, split: str) -> RowDataset:
        """The rows of a split whose classes are kept."""
        dataset = self._rows_of_data(split)
        if unknown := sorted(set(self.kept or ()) - set(self.data.classes)):
            raise InputError(f"kept: found {shorten(unknown)}; the data's classes are {shorten(self.data.classes)}")
        if len(self.classes) < 2:
            raise InputError(f"kept: found {self.kept}; a source needs two classes")
        numbers = self._own_numbers()
        if self.permuted:
            circle = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(self.classes)))
            other = torch.empty_like(circle)
            other[circle] = circle.roll(-1)
            numbers = other[numbers].where(numbers >= 0, -1)
        kept = renumbered(dataset, dataset.rows, numbers)
        if not len(kept):
            raise InputError(f"kept: the {split} split has no sample of {shorten(self.classes)}; keep other classes")
        return kept
