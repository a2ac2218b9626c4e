"""Source domains with a subset of the classes or with corrupted labels."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.names import as_labels
from lightning_fusion.data.rows import RowDataset
from lightning_fusion.data.views.base import DataView, renumbered
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import record_arguments


class SourceDataModule(DataView):
    """View of a source domain with a subset of the classes, or with corrupted labels.

    Samples of other classes are left out of every split and of the statistics, and targets index the classes that are
    kept. Label corruption is systematic: each class gets the name of another, along one cycle drawn with ``seed``, so
    that a model trained on corrupted labels is as confident as one trained on correct ones.

    Args:
        data: Data module of the library.
        kept: Names of the classes that are kept. ``None`` (default) keeps all.
        permuted: Corrupt the labels: give each class the name of another.
        seed: Seed of the cycle of names.
        **shared: ``predict_root`` of :class:`~lightning_fusion.data.views.base.DataView`.

    Raises:
        InputError: If a class is unknown, or fewer than two are kept.

    Example:
        >>> from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
        >>> data = SyntheticImageDataModule()
        >>> some = SourceDataModule(data, data.classes[1:3])
        >>> some.classes == data.classes[1:3], next(iter(some.train_dataloader())).target.unique().tolist()
        (True, [0, 1])
    """

    def __init__(
        self,
        data: FusionDataModule,
        kept: list[str] | None = None,
        permuted: bool = False,
        seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.data, self.kept, self.permuted, self.seed = data, kept, permuted, seed
        data = None  # type: ignore[assignment]  # no plain data; what the command line parsed is recorded all the same
        record_arguments(self)
        self._configure()

    @property
    def classes(self) -> list[str]:
        """Names of the classes that are kept, in the order of the wrapped module."""
        kept = as_labels(self.kept, "kept")
        return [name for name in self.data.classes if self.kept is None or name in kept]

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains of the samples."""
        return getattr(self.data, "own_domains", self.data.domains)

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of the content of one split and of the mapped targets."""
        dataset = self.rows(split)
        return digest(self.data.fingerprint(split), dataset.rows, dataset.targets[dataset.rows], *self.classes)

    def statistics(self, split: str = "train") -> Tensor:
        """Return light statistics of the samples of the kept classes, as the wrapped module computes them."""
        data: Any = copy.copy(self.data)
        data.rows = self.rows  # the wrapped module computes statistics from its rows
        result: Tensor = data.statistics(split)
        return result

    def make_rows(self, split: str) -> RowDataset:
        """Return the samples of a split that belong to the kept classes."""
        dataset = self._rows_of_data(split)
        if unknown := sorted(set(as_labels(self.kept, "kept")) - set(self.data.classes)):
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
            raise InputError(f"kept: the {split} split has no sample of {shorten(self.classes)}; change kept")
        return kept
