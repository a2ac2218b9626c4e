"""Roles for data modules without roles: disjoint training data for experts and for a fuser."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.rows import RowDataset, sample_metadata
from lightning_fusion.data.samplers import SliceSampler
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.data.views.base import DataView
from lightning_fusion.errors import InputError
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import constructor_arguments

_DRAW = 4099  # apart from the draws of the wrapped module


class RoleDataModule(DataView):
    """View of a data module with domains in two roles: a fuser trains on samples that no expert was trained on.

    The ``expert`` role is the wrapped module with its ``domain`` argument. In the ``fuser`` role the training and
    validation splits are drawn from the wrapped module's *validation* split: samples that the module keeps together
    (recordings, sessions, equal texts) are never shared by experts and fuser, and ``val_fraction`` sets the size of
    the fuser training set. The test split is that of the wrapped module in both roles.

    Args:
        data: Data module of the library that takes ``domain``, with all its domains selected.
        role: ``expert`` or ``fuser``.
        domain: For the ``expert`` role: domain that the expert is trained on. ``None`` (default) means all.
        fuser_val_fraction: Fraction of the fuser's samples of each class for its validation split.
        **shared: ``predict_root`` of :class:`~lightning_fusion.data.views.base.DataView`.

    Raises:
        InputError: If ``data`` takes no ``domain``, or ``domain`` is set with the role ``fuser``.

    Example:
        >>> from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
        >>> data = RoleDataModule(SyntheticSensorDataModule(val_fraction=0.3), role="fuser")
        >>> expert = data.variant(role="expert", domain="p0_phone")
        >>> bool(torch.isin(expert.rows("train").rows, data.rows("train").rows).any())
        False
        >>> bool(torch.equal(data.rows("test").rows, data.data.rows("test").rows))
        True
    """

    has_roles = True

    def __init__(
        self,
        data: FusionDataModule,
        role: Literal["expert", "fuser"] = "expert",
        domain: str | None = None,
        fuser_val_fraction: float = 0.1,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self._set_hparams(dict(data.hparams))  # what is recorded of it is what it shows
        self.data, self.role, self.domain, self.fuser_val_fraction = data, role, domain, fuser_val_fraction
        self._configure()

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        self._own = self.data if self.role == "fuser" else self.data.variant(domain=self.domain)

    def _check(self) -> None:
        self._check_role()
        self._check_fractions("fuser_val_fraction", zero=True)
        if "domain" not in constructor_arguments(type(self.data)):
            raise InputError(
                f"data: {type(self.data).__name__} has no argument domain to select the data of one expert; use "
                "a data module with domains"
            )

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the task; for an expert, those of its domain."""
        return self._own.classes

    @property
    def own_domains(self) -> list[str]:
        """Names of the selected domains."""
        return self.domains if self.domain is None else [self.domain]

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """Preprocessing of the wrapped module for this role and domain."""
        return getattr(self._own, "preprocessing", None)

    @property
    def seed(self) -> int:  # type: ignore[override]
        """Seed of the wrapped module."""
        return self.data.seed

    def make_rows(self, split: str) -> RowDataset:
        """Return the samples of a split for this role and domain."""
        if self.role == "expert" or split == "test":
            result: RowDataset = self._own.rows(split)
            return result
        held = self._rows_of_data("val")
        kept, watched = stratified_split(
            np.asarray(sample_metadata(held)[0]), self.fuser_val_fraction, seed=self.data.seed * 1009 + _DRAW
        )
        rows = held.rows[torch.from_numpy(kept if split == "train" else watched)]
        return RowDataset(held.inputs, held.targets, held.domains, rows, held.index)

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of the content of one split."""
        if self.role == "expert" or split == "test":
            return self._own.fingerprint(split)
        return digest(self.data.fingerprint("val"), self.rows(split).rows)

    def _loader(self, split: str, kind: Callable[..., SliceSampler] = SliceSampler) -> DataLoader[Any]:
        if self.role == "fuser" and split != "test":
            return super()._loader(split, kind)
        own = self._wrapped()  # which may order and collate its samples in its own way
        return {"train": own.train_dataloader, "val": own.val_dataloader, "test": own.test_dataloader}[split]()

    def _wrapped(self) -> FusionDataModule:
        self._own.trainer = self.trainer  # the wrapped module checks whether its trainer is training
        return self._own


def with_roles(data: FusionDataModule) -> FusionDataModule:
    """Return data in the ``fuser`` role, wrapped in :class:`RoleDataModule` if they have no roles.

    Args:
        data: Data module of the library.
    """
    return data.variant(role="fuser", domain=None) if data.has_roles else RoleDataModule(data, role="fuser")
