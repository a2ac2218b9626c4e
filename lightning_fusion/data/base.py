"""Batches and the base class of all data modules of the library."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_fusion.data.batch import Batch
from lightning_fusion.data.samplers import SlicedDataModule
from lightning_fusion.data.targets import UNLABELED, single_class_message
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import row_digests
from lightning_fusion.hyperparameters import constructor_arguments, is_plain

SPLITS = ("train", "val", "test")
_READ_ROWS = 4096
_T = TypeVar("_T")


class Origins(NamedTuple):
    """Where samples come from: the file of each, and the place in it.

    Attributes:
        files: Names of F files or tables.
        file: (N,) int64, index of the file of each sample.
        position: (N,) int64 number of the line or row, from 1, or (N,) float64 start in seconds; ``None`` for whole
            files.
        unit: Name of the column of positions: ``line``, ``row`` or ``start_s``; empty for whole files.

    Example:
        >>> Origins(["a.csv", "b.csv"], np.array([1, 0]), np.array([7, 2]), "line").columns()
        {'file': ['b.csv', 'a.csv'], 'line': [7, 2]}
    """

    files: list[str]
    file: np.ndarray
    position: np.ndarray | None = None
    unit: str = ""

    def columns(self) -> dict[str, list[Any]]:
        """Return the cells of a table by column."""
        found: dict[str, list[Any]] = {"file": [self.files[number] for number in self.file.tolist()]}
        if self.position is not None:
            found[self.unit] = [round(value, 3) for value in self.position.tolist()]
        return found


class Rows(Protocol):
    """Inputs that are indexed by a tensor of positions: a tensor in memory, or files that are decoded on access."""

    def __getitem__(self, rows: Tensor) -> Any: ...


class RowDataset(Dataset[Batch]):
    """Map-style data set over a subset of samples; an index *tensor* fetches a whole batch in one step.

    Args:
        inputs: Inputs of all samples, a list or indexed by a tensor; shared between splits, never copied.
        targets: (N,) int64 targets of all samples.
        domains: (N, D) bool domain memberships of all samples.
        rows: (n,) int64 positions of the samples of this split.
        index: (N,) int64 stable sample indices; the position itself by default.
    """

    def __init__(
        self, inputs: Rows | list[Any], targets: Tensor, domains: Tensor, rows: Tensor, index: Tensor | None = None
    ) -> None:
        self.inputs, self.targets, self.domains, self.rows, self.index = inputs, targets, domains, rows, index

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Any) -> Batch:
        rows = self.rows[item]
        index = rows if self.index is None else self.index[rows]
        if isinstance(self.inputs, list):
            numbers: Any = rows.tolist()
            inputs = self.inputs[numbers] if rows.ndim == 0 else [self.inputs[row] for row in numbers]
        else:
            inputs = self.inputs[rows]
        return Batch(inputs, self.targets[rows], self.domains[rows], index)


def warn_single_class(dataset: RowDataset, classes: Sequence[str], split: str) -> None:
    """Warn if all labeled samples of a split are of one class.

    Args:
        dataset: Samples of the split.
        classes: Names of the classes.
        split: Name of the split.
    """
    message = single_class_message(dataset.targets[dataset.rows].numpy(), classes, f"the {split} split")
    if message is not None:
        rank_zero_warn(message)


class Stage(IntEnum):
    """Preparation stages of a data module, in order; a changed argument invalidates its stage and all later ones."""

    READING = 0
    CUTTING = 1
    SPLITTING = 2
    USING = 3


class StagedProperty(cached_property[_T]):
    """Cached property that is recomputed when an argument of its stage, or of an earlier one, changes."""

    stage: Stage


def staged_property(stage: Stage) -> Callable[[Callable[[Any], _T]], StagedProperty[_T]]:
    """Decorate a method of a data module as a cached property; variants share the value until they change its stage.

    Args:
        stage: Stage that computes the value; ``stage_of`` maps constructor arguments to stages.
    """

    def decorate(method: Callable[[Any], _T]) -> StagedProperty[_T]:
        made = StagedProperty(method)
        made.stage = stage
        return made

    return decorate


class FusionDataModule(SlicedDataModule):
    """Base class of all data modules: three splits, batches as slices, and metadata for models.

    A subclass sets ``batch_size``, ``seed`` and ``num_workers`` and implements :meth:`rows` (or :meth:`make_rows`,
    which :meth:`rows` calls once for each split), :attr:`classes` and :attr:`domains`. A subclass that separates the
    data of experts from those of a fuser takes ``role`` and sets ``has_roles``. A subclass with raw values in its
    batches implements :meth:`preprocess`.

    The constructor of a modality's base class records all arguments and stores the shared ones as attributes. The
    constructor of a source class stores its own arguments as attributes and ends with :meth:`_configure`, which
    validates them together. Derived values are properties decorated with :func:`staged_property`.
    """

    has_roles: ClassVar[bool] = False
    """Whether the class takes ``role`` ("expert" or "fuser"), and ``domain`` for the role of an expert."""
    stage_of: ClassVar[Mapping[str, Stage]] = {}
    """First stage that each argument invalidates; arguments that are not listed invalidate reading."""
    role: str
    domain: Any
    augmentation: nn.Module | None = None

    @staged_property(Stage.USING)
    def _made_rows(self) -> dict[str, Dataset[Any]]:
        return {}

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the targets."""
        raise NotImplementedError(f"{type(self).__name__} must implement the property classes")

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``."""
        raise NotImplementedError(f"{type(self).__name__} must implement the property domains")

    def rows(self, split: str) -> Any:
        """Return the data set of one split (``train``, ``val`` or ``test``), which takes index tensors.

        Raises:
            InputError: If the split does not exist or has no sample.
        """
        if split not in SPLITS:
            raise InputError(f"there is no split {split!r}; expected {shorten(SPLITS)}")
        if split not in self._made_rows:
            self._made_rows[split] = made = self.make_rows(split)
            if isinstance(made, RowDataset):
                warn_single_class(made, self.classes, split)
        return self._made_rows[split]

    def make_rows(self, split: str) -> Any:
        """Build the data set of a split; :meth:`rows` caches it until an argument changes."""
        raise NotImplementedError(f"{type(self).__name__} must implement rows(split), or make_rows(split)")

    def preprocess(self, inputs: Any, augment: bool = False) -> Any:
        """Turn the inputs of a batch into network input, on the device; the identity by default.

        Args:
            inputs: Inputs of a batch, as the loader yields them.
            augment: Whether to apply the training augmentation.
        """
        return inputs

    def use_preprocessing(self, known: Mapping[str, Any] | None) -> None:
        """Normalize with the statistics of a model's training in place of those not given; by default nothing.

        Args:
            known: Preprocessing of the training; ``None`` means that of the arguments and the data again.
        """

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment (in training) and preprocess the batch, on the device, in the precision of the trainer.

        Lightning converts batches before this hook, so that preprocessed inputs are converted here.
        """
        if not isinstance(batch, Batch):
            return batch
        augment = self.augmentation is not None and self.trainer is not None and self.trainer.training
        inputs = self.preprocess(batch.input, augment)
        if self.trainer is not None:
            inputs = self.trainer.precision_plugin.convert_input(inputs)
        return batch._replace(input=inputs)

    def notes(self, index: Tensor) -> list[str]:
        """Return, for each ``Batch.index``, what a prediction should be read with; an empty text if that is nothing.

        Args:
            index: (B,) int64 sample indices.
        """
        return [""] * len(index)

    def origins(self, index: Tensor) -> Origins | None:
        """Return file and line, or file and time, of samples; ``None`` if they come from no files.

        Args:
            index: (B,) int64 sample indices, as in ``Batch.index``.
        """
        return None

    def sample_digests(self, split: str) -> np.ndarray:
        """Return (N,) uint64, a digest of the content of each sample of a split as recorded, before any preprocessing.

        Equal samples have equal digests in all splits, roles and domains. Checkpoints of experts contain those of their
        training samples.
        """
        return self.content_digests(*located_rows(self.rows(split)))

    def content_digests(self, dataset: RowDataset, rows: Tensor) -> np.ndarray:
        """Return (n,) uint64 digests of the inputs of a data set at some positions.

        A subclass identifies a sample by what it is read from, if its input depends on settings.

        Args:
            dataset: Data set of this module.
            rows: (n,) int64 positions in its inputs.
        """
        chunks = (dataset.inputs[part] for part in rows.split(_READ_ROWS))
        parts = [row_digests(*(chunk.values() if isinstance(chunk, Mapping) else [chunk])) for chunk in chunks]
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of the content of one split, before augmentation."""
        raise NotImplementedError(f"{type(self).__name__} must implement fingerprint(split)")

    def statistics(self, split: str = "train") -> Tensor:
        """Return light statistics of the samples of one split, as recorded: (S,) float32."""
        raise NotImplementedError(f"{type(self).__name__} has no statistics; implement statistics(split)")

    def variant(self, **changes: Any) -> Self:
        """Return a copy with changed constructor arguments that shares the data already in memory.

        Args:
            **changes: Constructor arguments and their new values.

        Raises:
            TypeError: If the data module has no such argument.
        """
        unknown = set(changes) - constructor_arguments(type(self)).keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {shorten(sorted(unknown))}")
        other = copy.copy(self)
        other.trainer = None
        other._hparams = copy.copy(self.hparams)
        other._hparams.update({name: value for name, value in changes.items() if is_plain(value)})
        other._configure(**changes)
        return other

    def _configure(self, **arguments: Any) -> None:
        """Assign constructor arguments, drop cached values that depend on them, and validate all arguments."""
        for name, value in arguments.items():
            setattr(self, name, value)
        first = self._first_stage(arguments)
        for name in [*self.__dict__]:
            made = getattr(type(self), name, None)
            if isinstance(made, StagedProperty) and made.stage >= first:
                del self.__dict__[name]
        self._check()

    def _first_stage(self, changed: Iterable[str]) -> Stage:
        """Return the first stage that the changed arguments invalidate."""
        return min((self.stage_of.get(name, Stage.READING) for name in changed), default=Stage.USING)

    def _check(self) -> None:
        """Raise InputError for arguments that are out of range or inconsistent; subclasses add their own checks."""

    def _check_choices(self, choices: Mapping[str, Sequence[Any]]) -> None:
        """Raise InputError for an argument that is not one of its permitted values."""
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected {shorten(known)}")

    def _check_loading(self) -> None:
        """Raise InputError for an invalid batch size, number of workers or seed."""
        for name, least in (("batch_size", 1), ("num_workers", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise InputError(f"{name} is {value!r}; expected a whole number")
            if value < least:
                raise InputError(f"{name} is {value}; expected at least {least}")

    def _check_scale(self, count: int, channels: str = "") -> None:
        """Raise InputError unless ``mean`` and ``std`` have ``count`` finite values and ``std`` is positive."""
        for name, low, expected in (("mean", -math.inf, "finite numbers"), ("std", 0.0, "numbers above 0")):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != count:
                raise InputError(f"{name} has {len(values)} values for {count} channels{channels}")
            if not all(low < value < math.inf for value in values):
                raise InputError(f"{name} is {values}; expected {expected}")

    def _check_minimum(self, least: int, *names: str) -> None:
        """Raise InputError for arguments below a minimum."""
        for name in names:
            if not getattr(self, name) >= least:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least {least}")

    def _check_fractions(self, *names: str, zero: bool = False) -> None:
        """Raise InputError for arguments outside (0, 1), or [0, 1) with ``zero``."""
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < 1 or (value == 0 and not zero):
                expected = "from 0, below 1" if zero else "between 0 and 1"
                raise InputError(f"{name} is {value}; expected a fraction {expected}")

    def _check_held_out(self, val_fraction: float, test_fraction: float) -> None:
        """Raise InputError for validation and test fractions that are invalid or leave no training samples."""
        self._check_fractions("val_fraction", "test_fraction")
        if val_fraction + test_fraction >= 1:
            raise InputError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} leave no training samples; lower them"
            )

    def _check_role(self) -> None:
        """Raise InputError for an unknown role, or for a domain with a role other than ``expert``."""
        self._check_choices({"role": ("expert", "fuser")})
        if self.domain is not None and self.role != "expert":
            raise InputError("domain selects the training data of one expert; set role: expert, or remove domain")


class TargetRows(Dataset[Batch]):
    """Subset of a data set in which only some samples keep their label; the others have the target -100.

    Args:
        dataset: Data set that takes index tensors.
        rows: (n,) int64 positions in ``dataset``.
        labeled: (n,) bool, which samples keep their label. ``None`` means all.
    """

    def __init__(self, dataset: Any, rows: Tensor, labeled: Tensor | None = None) -> None:
        self.dataset, self.rows = dataset, rows
        self.labeled = torch.ones(len(rows), dtype=torch.bool) if labeled is None else labeled

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Any) -> Batch:
        batch = self.dataset[self.rows[item]]
        result: Batch = batch._replace(target=batch.target.where(self.labeled[item], UNLABELED))
        return result


def located_rows(dataset: Any) -> tuple[RowDataset, Tensor]:
    """Return the data set with the inputs of a split, and the (n,) positions of the split's samples in them.

    Raises:
        InputError: If the split is no :class:`RowDataset`, or a subset of one.
    """
    if isinstance(dataset, TargetRows):
        inside, rows = located_rows(dataset.dataset)
        return inside, rows[dataset.rows]
    if not isinstance(dataset, RowDataset):
        raise InputError(
            f"data: found a {type(dataset).__name__}; expected a RowDataset, whose samples can be identified"
        )
    return dataset, dataset.rows


def sample_metadata(dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return targets (N,), domains (N, D) and indices (N,) of a data set, without reading its inputs if possible.

    Args:
        dataset: Data set that takes index tensors.

    Example:
        >>> rows = RowDataset(torch.zeros(3, 2), torch.arange(3), torch.ones(3, 1).bool(), torch.tensor([0, 2]))
        >>> target, domain, index = sample_metadata(TargetRows(rows, torch.arange(2), torch.tensor([True, False])))
        >>> target.tolist(), index.tolist()
        ([0, -100], [0, 2])
    """
    if isinstance(dataset, TargetRows):
        target, domain, index = (part[dataset.rows] for part in sample_metadata(dataset.dataset))
        return target.where(dataset.labeled, UNLABELED), domain, index
    if isinstance(dataset, RowDataset):
        rows = dataset.rows
        index = rows if dataset.index is None else dataset.index[rows]
        return dataset.targets[rows], dataset.domains[rows], index
    parts = [dataset[part] for part in torch.arange(len(dataset)).split(_READ_ROWS)]
    target, domain, index = (torch.cat([part[place] for part in parts]) for place in (1, 2, 3))
    return target, domain, index
