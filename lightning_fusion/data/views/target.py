"""One domain of a data module as a target domain with few labeled samples."""

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.rows import TargetRows, sample_metadata
from lightning_fusion.data.samplers import LabeledSampler
from lightning_fusion.data.splits import stratified_folds
from lightning_fusion.data.views.base import DataView, innermost
from lightning_fusion.errors import EmptySplitError, InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import constructor_arguments, record_arguments

_HELD_OUT = {"val_fraction", "test_fraction", "fuser_fraction", "val_speakers", "test_speakers"}
"""Arguments of data modules that hold out samples of the training."""


class TargetDataModule(DataView):
    """View of one domain as the target of a transfer: few labeled samples, many unlabeled ones.

    The training split contains all training samples of the domain. A stratified draw of them keeps its label; all
    others have the target -100, as have samples without a label in the data, which are kept unless ``unlabeled: drop``
    is set there. Data most of which have no label, such as the recordings of a new person, keep all labels with
    ``labeled_fraction: null``: then no sample is held out but those of splits that the source names. Every training
    batch contains labeled samples (:class:`LabeledSampler`). Validation and test splits are those of the domain, with
    labels; without validation samples there is no validation. Everything else (classes, preprocessing, augmentation,
    stable sample indices) is that of the wrapped module.

    Args:
        data: Data module of the library.
        domain: Name of one of its ``domains``.
        labeled_fraction: Fraction of the training samples of each class that keep their label. ``None``: every label
            of the data is one of the training.
        labeled_per_class: Number of labeled samples of each class instead; all if a class has fewer.
        min_per_class: With ``labeled_fraction``: minimum number of each class, 1 for data with rare classes.
        min_labeled: Minimum number of labeled samples in every training batch (all if there are fewer).
        unlabeled: Keep the unlabeled samples in the training split; a local model trains without them.
        seed: Seed of the draw of labels and of the order.
        **shared: ``predict_root`` of :class:`~lightning_fusion.data.views.base.DataView`.

    Raises:
        InputError: If the domain is unknown, has one class only, or a class is left without a labeled sample.

    Example:
        >>> from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
        >>> images = SyntheticImageDataModule(batch_size=32)
        >>> data = TargetDataModule(images, "style_2", labeled_fraction=0.2)
        >>> batch = next(iter(data.train_dataloader()))
        >>> len(data.labeled()), len(batch.target), int((batch.target >= 0).sum())
        (36, 31, 8)
    """

    def __init__(
        self,
        data: FusionDataModule,
        domain: str,
        labeled_fraction: float | None = 0.1,
        labeled_per_class: int | None = None,
        min_per_class: int = 0,
        min_labeled: int = 8,
        unlabeled: bool = True,
        seed: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.data, self.domain, self.unlabeled, self.seed = data, domain, unlabeled, seed
        self.labeled_fraction, self.labeled_per_class = labeled_fraction, labeled_per_class
        self.min_per_class, self.min_labeled = min_per_class, min_labeled
        data = None  # type: ignore[assignment]  # no plain data; what the command line parsed is recorded all the same
        record_arguments(self)
        self._held: Tensor | None = None
        self._configure()

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        if self.unlabeled and getattr(self.data, "unlabeled", "keep") is None:
            self.data = self.data.variant(unlabeled="keep")
        if self.labeled_fraction is None:
            self.data = _without_held_out(self.data)

    def _check(self) -> None:
        if self.labeled_fraction is None and self.labeled_per_class is not None:
            raise InputError("labeled_fraction: null keeps all labels, and labeled_per_class some; remove one of them")
        if self.labeled_fraction is not None and not 0 < self.labeled_fraction <= 1:
            raise InputError(f"labeled_fraction is {self.labeled_fraction}; expected a fraction above 0, up to 1")
        self._check_minimum(0, "min_per_class")
        self._check_minimum(1, "min_labeled", *([] if self.labeled_per_class is None else ["labeled_per_class"]))

    # --------------------------------------------------------------- metadata

    @property
    def own_domains(self) -> list[str]:
        """Name of the target domain, in a list."""
        return [self.domain]

    def statistics(self, split: str = "train") -> Tensor:
        """Return light statistics of the domain's samples, as the wrapped module computes them."""
        takes = "domain" in constructor_arguments(type(self.data))
        data: Any = self.data.variant(domain=self.domain) if takes else self.data
        result: Tensor = data.statistics(split)
        return result

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of the content of one split and of the draw of labels."""
        rows = self.rows(split)
        return digest(self.data.fingerprint("train" if self._held is not None else split), rows.rows, rows.labeled)

    # ------------------------------------------------------------------- rows

    def labeled(self) -> TargetRows:
        """Return the labeled training samples alone."""
        rows = self.rows("train")
        return TargetRows(rows.dataset, rows.rows[rows.labeled])

    def folds(self, count: int = 3) -> list["TargetDataModule"]:
        """Return stratified folds of the labeled samples as data modules.

        In each data module the held-out fold is removed from the training split, and is the validation and the test
        split.

        Args:
            count: Number of folds.

        Raises:
            InputError: If there are fewer labeled samples than folds, or a fold would leave labels of one class alone.

        Example:
            >>> from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
            >>> images = SyntheticImageDataModule()
            >>> data = TargetDataModule(images, "style_2", labeled_fraction=0.2)
            >>> [(len(fold.labeled()), len(fold.rows("test"))) for fold in data.folds(2)]
            [(18, 18), (18, 18)]
        """
        known = self.labeled()
        if not 2 <= count <= len(known):
            raise InputError(f"folds: {count} of {len(known)} labeled samples; expected 2 to {len(known)} folds")
        label = sample_metadata(known)[0].numpy()
        part = stratified_folds(label, count, self.seed)
        left = [np.unique(label[part != number]) for number in range(count)]
        if min(len(classes) for classes in left) < 2 <= len(np.unique(label)):
            numbers = dict(zip(*(each.tolist() for each in np.unique(label, return_counts=True)), strict=True))
            found = ", ".join(f"{numbers[number]} of {self.classes[number]}" for number in numbers)
            raise InputError(
                f"folds: the labeled samples of {self.domain} are {found}; without one of the {count} folds a single "
                "class is left: label two samples of two classes at least (min_per_class), or leave the guard out"
            )
        copies = []
        for number in range(count):
            other = self.variant()
            other._held = known.rows[torch.from_numpy(part == number)]
            copies.append(other)
        return copies

    def make_rows(self, split: str) -> TargetRows:
        """Return the domain's samples of a split; unlabeled training samples have the target -100."""
        if self._held is not None and split != "train":
            return TargetRows(self.data.rows("train"), self._held)
        try:
            dataset: Any = self.data.rows(split)
        except EmptySplitError as error:
            if self.labeled_fraction is not None or split == "train":
                raise
            raise EmptySplitError(
                f"the {split} split of domain {self.domain} has no sample: labeled_fraction: null trains on every "
                "label; predict new samples with predict_root, or name held-out ones in a split of the source"
            ) from error
        if self.domain not in self.domains:
            raise InputError(f"domain is {self.domain!r}; the data have {shorten(self.domains, 20)}")
        target, domain, _ = sample_metadata(dataset)
        rows = domain[:, self.domains.index(self.domain)].nonzero().flatten()
        if not len(rows):
            raise EmptySplitError(f"the {split} split of domain {self.domain} has no sample; change domain or split")
        if split != "train":
            return TargetRows(dataset, rows)
        labeled = self._draw(target[rows])
        if self._held is not None:
            kept = ~torch.isin(rows, self._held)
            rows, labeled = rows[kept], labeled[kept]
        return TargetRows(dataset, rows, labeled) if self.unlabeled else TargetRows(dataset, rows[labeled])

    def _draw(self, target: Tensor) -> Tensor:
        """Draw (n,) bool, which training samples keep their label; draws of increasing fractions are nested."""
        present = target[target >= 0].unique().tolist()
        if len(present) < 2:
            found = f"one class only ({self.classes[present[0]]})" if present else "no labeled sample"
            raise InputError(f"the training samples of domain {self.domain} have {found}; a target needs two classes")
        labeled = torch.zeros(len(target), dtype=torch.bool)
        without = []
        for number in present:
            own = (target == number).nonzero().flatten()
            given = 1.0 if self.labeled_fraction is None else self.labeled_fraction
            count = max(self.min_per_class, round(given * len(own)))
            if self.labeled_per_class is not None:
                count = self.labeled_per_class
            order = np.random.default_rng([self.seed, number]).permutation(len(own))
            labeled[own[torch.from_numpy(order[:count])]] = True
            without += [] if count else [f"{self.classes[number]} ({len(own)} samples)"]
        if without:
            raise InputError(
                f"labeled_fraction of {self.labeled_fraction} leaves no labeled sample of {shorten(without)} in domain "
                f"{self.domain}; raise it, or set min_per_class: 1 or labeled_per_class"
            )
        return labeled

    # ------------------------------------------------------------- Lightning

    def setup(self, stage: str | None = None) -> None:
        """Set up the wrapped module, draw the labels, and check that batches can be drawn."""
        super().setup(stage)
        if self.predict_root is None:
            self.train_dataloader()

    def train_dataloader(self) -> DataLoader[Any]:
        """Return batches of the training split in an order that depends on (seed, epoch), each with labeled samples."""
        if not self.unlabeled:
            return self._loader("train")
        kind = partial(LabeledSampler, labeled=self.rows("train").labeled, min_labeled=self.min_labeled)
        return self._loader("train", kind)

    def val_dataloader(self) -> Any:
        """Return batches of the validation split, in order; an empty list where the domain has no sample in it."""
        try:
            return super().val_dataloader()
        except EmptySplitError as error:
            rank_zero_info(f"no validation: {error}")
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")  # said by this line
            return []


def _without_held_out(data: FusionDataModule) -> FusionDataModule:
    """Return a data module that draws no validation, test or fuser samples."""
    inside = innermost(data)
    changes = {name: 0 for name in constructor_arguments(type(inside)).keys() & _HELD_OUT if getattr(inside, name) != 0}
    return data.variant(**changes) if changes else data
