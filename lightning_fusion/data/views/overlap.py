"""Experts' training data that partly come from all domains."""

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule, RowDataset
from lightning_fusion.data.views.base import DataView, renumbered
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import record_arguments


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
        >>> from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
        >>> data = SyntheticImageDataModule(fuser_fraction=0.2)
        >>> mixed = OverlapDataModule(data, "style_1", overlap=0.5)
        >>> own = data.rows("train").domains[mixed.rows("train").rows][:, data.domains.index("style_1")]
        >>> 0.5 <= float(own.float().mean()) < 0.9
        True
    """

    def __init__(self, data: FusionDataModule, domain: str, overlap: float) -> None:
        super().__init__()
        self.data, self.domain, self.overlap = data, domain, overlap
        data = None  # type: ignore[assignment]  # no plain data; what the command line parsed is recorded all the same
        record_arguments(self)
        self._configure()

    def _check(self) -> None:
        if not 0 <= self.overlap <= 1:
            raise InputError(f"overlap is {self.overlap}; expected a share from 0, disjoint, to 1, identical")
        if self.domain not in self.domains:
            raise InputError(f"domain is {self.domain!r}; the data have {shorten(self.domains, 20)}")

    @property
    def seed(self) -> int:  # type: ignore[override]
        """The wrapped module's."""
        return self.data.seed

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the training rows."""
        dataset, rows = self._mixed("train")
        return [self.data.classes[number] for number in dataset.targets[rows].unique().tolist() if number >= 0]

    @property
    def own_domains(self) -> list[str]:
        """The expert's domain; all where it is trained on all alike."""
        return self.domains if self.overlap == 1 else [self.domain]

    def make_rows(self, split: str) -> RowDataset:
        """The rows of a split, of the domain and of all."""
        dataset, rows = self._mixed(split)
        return renumbered(dataset, rows, self._own_numbers())

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the content of one split."""
        dataset = self.rows(split)
        return digest(self.data.fingerprint(split), dataset.rows, *self.classes)

    def _mixed(self, split: str) -> tuple[RowDataset, Tensor]:
        dataset = self._rows_of_data(split)
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
