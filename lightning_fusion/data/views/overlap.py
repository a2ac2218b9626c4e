"""Training data of experts with a controlled overlap between domains."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.rows import RowDataset
from lightning_fusion.data.views.base import DataView, renumbered
from lightning_fusion.errors import EmptySplitError, InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import record_arguments


class OverlapDataModule(DataView):
    """View of one expert's data in which a fraction of the samples is drawn from all domains.

    Of the n samples of the domain in a split, ``round(overlap * n)``, drawn at random, are replaced by as many samples
    drawn from all domains: with 0 the domains are unchanged, with 1 the samples of all experts follow one
    distribution. The number of samples of an expert does not change. Targets index the classes that occur in its
    training samples.

    Args:
        data: Data module of all domains.
        domain: Name of the expert's domain.
        overlap: Fraction from 0 (domains unchanged) to 1 (identical distributions).
        **shared: ``predict_root`` of :class:`~lightning_fusion.data.views.base.DataView`.

    Raises:
        InputError: If the domain is unknown or the overlap is outside [0, 1].

    Example:
        >>> from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
        >>> data = SyntheticImageDataModule(fuser_fraction=0.2)
        >>> mixed = OverlapDataModule(data, "style_1", overlap=0.5)
        >>> own = data.rows("train").domains[mixed.rows("train").rows][:, data.domains.index("style_1")]
        >>> 0.5 <= float(own.float().mean()) < 0.9
        True
    """

    def __init__(self, data: FusionDataModule, domain: str, overlap: float, **shared: Any) -> None:
        super().__init__(**shared)
        self.data, self.domain, self.overlap = data, domain, overlap
        data = None  # type: ignore[assignment]  # no plain data; what the command line parsed is recorded all the same
        record_arguments(self)
        self._configure()

    def _check(self) -> None:
        if not 0 <= self.overlap <= 1:
            raise InputError(f"overlap is {self.overlap}; expected a fraction from 0 (disjoint) to 1 (identical)")
        if self.predict_root is None and self.domain not in self.domains:
            raise InputError(f"domain is {self.domain!r}; the data have {shorten(self.domains, 20)}")

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Seed of the wrapped module."""
        return self.data.seed

    @property
    def classes(self) -> list[str]:
        """Names of the classes that occur in the training samples."""
        dataset, rows = self._mixed("train")
        return [self.data.classes[number] for number in dataset.targets[rows].unique().tolist() if number >= 0]

    @property
    def own_domains(self) -> list[str]:
        """Name of the expert's domain; all domains if ``overlap`` is 1."""
        return self.domains if self.overlap == 1 else [self.domain]

    def make_rows(self, split: str) -> RowDataset:
        """Return the samples of a split: of the domain, and the fraction drawn from all domains."""
        dataset, rows = self._mixed(split)
        return renumbered(dataset, rows, self._own_numbers())

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of the content of one split."""
        dataset = self.rows(split)
        return digest(self.data.fingerprint(split), dataset.rows, *self.classes)

    def _mixed(self, split: str) -> tuple[RowDataset, Tensor]:
        dataset = self._rows_of_data(split)
        own = dataset.rows[dataset.domains[dataset.rows, self.domains.index(self.domain)]]
        if not len(own):
            raise EmptySplitError(f"the {split} split of domain {self.domain} has no sample; change split fractions")
        generator = np.random.default_rng([self.seed, int(digest(self.domain, split)[:8], 16)])
        leave, enter = generator.permutation(len(own)), generator.permutation(len(dataset.rows))
        count = round(self.overlap * len(own))
        kept = own[torch.from_numpy(np.sort(leave[count:]))]
        others = dataset.rows[torch.from_numpy(enter)]
        others = others[~torch.isin(others, kept)][:count]
        return dataset, torch.cat([kept, others])
