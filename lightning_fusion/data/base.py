"""Batches, splits and the order of rows: what every data module of the library shares."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_fusion.data.samplers import SlicedDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import constructor_arguments, is_plain

SPLITS = ("train", "val", "test")
_T = TypeVar("_T")


class Batch(NamedTuple):
    """One batch of labeled samples.

    Attributes:
        input: (B, ...) tensor, or a dict of such tensors.
        target: (B,) int64, the position of the label in the data module's ``classes``.
        domain: (B, D) bool, which of the data module's ``domains`` each sample belongs to; domains may overlap.
        index: (B,) int64, a number of the sample that stays the same over epochs, splits and processes.
    """

    input: Any
    target: Tensor
    domain: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


def as_batch(batch: Any, source: str) -> Batch:
    """Check that a loader of ``source`` yields :class:`Batch`, or a tuple with the same four fields in that order.

    Raises:
        InputError: If it yields something else.
    """
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, (tuple, list)) and len(batch) == len(Batch._fields):
        return Batch(*batch)
    found = f"a tuple of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise InputError(
        f"{source} yields {found}; expected lightning_fusion.Batch(input, target, domain, index), where index "
        "identifies a sample over epochs"
    )


class Rows(Protocol):
    """Inputs that give many rows at once: a tensor in memory, or files that are decoded when asked for."""

    def __getitem__(self, rows: Tensor) -> Any: ...


class RowDataset(Dataset[Batch]):
    """Some rows of a table of samples; an index *tensor* fetches a whole batch in one step.

    Args:
        inputs: Gives the inputs of an index tensor; shared between splits, never copied.
        targets: (N,) int64 targets of all rows.
        domains: (N, D) bool memberships of all rows.
        rows: (n,) int64, the rows of this split.
        index: (N,) int64 stable sample numbers; the row number itself by default.
    """

    def __init__(
        self, inputs: Rows, targets: Tensor, domains: Tensor, rows: Tensor, index: Tensor | None = None
    ) -> None:
        self.inputs, self.targets, self.domains, self.rows, self.index = inputs, targets, domains, rows, index

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Any) -> Batch:
        rows = self.rows[item]
        index = rows if self.index is None else self.index[rows]
        return Batch(self.inputs[rows], self.targets[rows], self.domains[rows], index)


class Stage(IntEnum):
    """What a data module does in turn; an argument that changes a stage changes those that follow it as well."""

    READING = 0
    CUTTING = 1
    SPLITTING = 2
    USING = 3


class Made(cached_property[_T]):
    """A property that is made once, and anew when an argument of its stage or of an earlier one changes."""

    stage: Stage


def made_at(stage: Stage) -> Callable[[Callable[[Any], _T]], Made[_T]]:
    """Decorate a method of a data module as a property that variants share until they change its stage.

    Args:
        stage: That makes it; the arguments of which stage are in ``stage_of``.
    """

    def decorate(method: Callable[[Any], _T]) -> Made[_T]:
        made = Made(method)
        made.stage = stage
        return made

    return decorate


class FusionDataModule(SlicedDataModule):
    """What all data modules of the library share: three splits, slices as batches, and facts for the models.

    A subclass sets ``batch_size``, ``seed`` and ``num_workers`` and implements :meth:`rows` (or :meth:`make_rows`,
    which :meth:`rows` calls once for each split), :attr:`classes` and :attr:`domains`. One that keeps the data of
    experts and of a fuser apart takes ``role`` and sets ``has_roles``. One whose loader gives raw values implements
    :meth:`preprocess`.

    The constructor of a modality's base class records the arguments and keeps those that all its sources share under
    their names; that of a source class does so with its own ones, and ends with :meth:`_configure`, which checks them
    together. What follows from them is a property :func:`made_at` a stage.
    """

    has_roles: ClassVar[bool] = False
    """Whether the class takes ``role`` ("expert" or "fuser"), and ``domain`` for the role of an expert."""
    stage_of: ClassVar[Mapping[str, Stage]] = {}
    """The first stage that an argument changes; one that is not named changes what is read."""
    role: str
    domain: Any
    augmentation: nn.Module | None = None

    @made_at(Stage.USING)
    def _made_rows(self) -> dict[str, Dataset]:
        return {}

    @property
    def classes(self) -> list[str]:
        """Names of the classes that targets count."""
        raise NotImplementedError(f"{type(self).__name__} must implement the property classes")

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``."""
        raise NotImplementedError(f"{type(self).__name__} must implement the property domains")

    def rows(self, split: str) -> Any:
        """The data set of one split, ``train``, ``val`` or ``test``; takes index tensors.

        Raises:
            InputError: If there is no such split, or it has no sample.
        """
        if split not in SPLITS:
            raise InputError(f"there is no split {split!r}; expected {shorten(SPLITS)}")
        if split not in self._made_rows:
            self._made_rows[split] = self.make_rows(split)
        return self._made_rows[split]

    def make_rows(self, split: str) -> Any:
        """Make the data set of a split, which :meth:`rows` keeps until an argument changes."""
        raise NotImplementedError(f"{type(self).__name__} must implement rows(split), or make_rows(split)")

    def preprocess(self, inputs: Any, augment: bool = False) -> Any:
        """Turn what the loader gives into network input, on the device; as it is where nothing is to be done.

        Args:
            inputs: Of a batch.
            augment: Whether to augment it, as in training.
        """
        return inputs

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augmentation (in training) and preprocessing, on the device."""
        if not isinstance(batch, Batch):
            return batch
        augment = self.augmentation is not None and self.trainer is not None and self.trainer.training
        return batch._replace(input=self.preprocess(batch.input, augment))

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the content of one split, before augmentation."""
        raise NotImplementedError(f"{type(self).__name__} must implement fingerprint(split)")

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the samples of one split, as recorded: (S,) float32."""
        raise NotImplementedError(f"{type(self).__name__} has no statistics; implement statistics(split), or give some")

    def variant(self, **changes: Any) -> Self:
        """A copy with other constructor arguments that shares what is already in memory.

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
        """Assign constructor arguments, drop what was made of other ones, and check all of them together."""
        for name, value in arguments.items():
            setattr(self, name, value)
        first = self._first_stage(arguments)
        for name in [*self.__dict__]:
            made = getattr(type(self), name, None)
            if isinstance(made, Made) and made.stage >= first:
                del self.__dict__[name]
        self._check()

    def _first_stage(self, changed: Iterable[str]) -> Stage:
        """The first stage that some arguments change."""
        return min((self.stage_of.get(name, Stage.READING) for name in changed), default=Stage.USING)

    def _check(self) -> None:
        """Refuse arguments that are out of range or do not go together; a subclass adds its own."""

    def _check_choices(self, choices: Mapping[str, Sequence[Any]]) -> None:
        """Refuse an argument that is none of the words it may be."""
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected {shorten(known)}")

    def _check_loading(self) -> None:
        """Refuse a batch size, a number of loader processes or a seed that there cannot be."""
        for name, least in (("batch_size", 1), ("num_workers", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise InputError(f"{name} is {value!r}; expected a whole number")
            if value < least:
                raise InputError(f"{name} is {value}; expected at least {least}")

    def _check_scale(self, count: int, channels: str = "") -> None:
        """Refuse ``mean`` and ``std`` that are not those of ``count`` channels, or would make inputs infinite."""
        for name, low, expected in (("mean", -math.inf, "finite numbers"), ("std", 0.0, "numbers above 0")):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != count:
                raise InputError(f"{name} has {len(values)} values for {count} channels{channels}")
            if not all(low < value < math.inf for value in values):
                raise InputError(f"{name} is {values}; expected {expected}")

    def _check_least(self, least: int, *names: str) -> None:
        """Refuse arguments that are below a number."""
        for name in names:
            if not getattr(self, name) >= least:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least {least}")

    def _check_fractions(self, *names: str, zero: bool = False) -> None:
        """Refuse arguments that are no fraction: above 0 (or 0 itself, if that is one) and below 1."""
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < 1 or (value == 0 and not zero):
                expected = "from 0, below 1" if zero else "between 0 and 1"
                raise InputError(f"{name} is {value}; expected a fraction {expected}")

    def _check_held_out(self, val_fraction: float, test_fraction: float) -> None:
        """Refuse fractions for validation and testing that are none, or leave nothing to train on."""
        self._check_fractions("val_fraction", "test_fraction")
        if val_fraction + test_fraction >= 1:
            raise InputError(
                f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing to train on; lower them"
            )

    def _check_role(self) -> None:
        """Refuse a role that there is not, and a domain for any but the expert's."""
        self._check_choices({"role": ("expert", "fuser")})
        if self.domain is not None and self.role != "expert":
            raise InputError("domain selects what one expert trains on; set role: expert, or remove domain")


class TensorDataModule(FusionDataModule):
    """Tensors in memory as a data module.

    Args:
        tensors: For each split (inputs (N, ...), targets (N,)) or (inputs, targets, domains (N, D) bool); anything of
            a length that takes index tensors will do as inputs.
        classes: Names of the classes that targets count.
        domains: Names of the D domains.
        batch_size: Samples per batch and process.
        seed: Of the order.

    Raises:
        InputError: If a split's tensors differ in length.

    Example:
        >>> data = TensorDataModule({"train": (torch.rand(5, 3), torch.zeros(5, dtype=torch.long))}, classes=["cat"])
        >>> len(next(iter(data.train_dataloader())).target)
        5
    """

    def __init__(
        self,
        tensors: Mapping[str, Sequence[Any]],
        classes: Sequence[str],
        domains: Sequence[str] = (),
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._configure(batch_size=batch_size, seed=seed)
        self._classes, self._domains = list(classes), list(domains)
        self._rows = {}
        offset = 0
        for split, parts in tensors.items():
            if len(parts) not in (2, 3) or len({len(part) for part in parts}) != 1:
                found = ", ".join(str(len(part)) for part in parts)
                raise InputError(f"split {split}: expected (inputs, targets[, domains]) of one length; found {found}")
            count = len(parts[1])
            domain = parts[2] if len(parts) == 3 else torch.zeros(count, len(self._domains), dtype=torch.bool)
            index = torch.arange(offset, offset + count)
            self._rows[split] = RowDataset(parts[0], parts[1], domain, torch.arange(count), index)
            offset += count

    @property
    def classes(self) -> list[str]:
        """Names of the classes that targets count."""
        return self._classes

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``."""
        return self._domains

    def rows(self, split: str) -> RowDataset:
        """The data set of one split."""
        if split not in self._rows:
            raise InputError(f"there is no split {split!r}; it has {shorten(self._rows)}")
        return self._rows[split]

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the tensors of one split."""
        dataset = self.rows(split)
        return digest(dataset.inputs, dataset.targets, dataset.domains)


UNLABELED = -100
"""``Batch.target`` of a sample whose label is not known, or none of the classes; what torch's losses leave out."""

_READ_ROWS = 4096


class TargetRows(Dataset[Batch]):
    """Some rows of a data set, of which only some show their label.

    Args:
        dataset: Gives the batch of an index tensor.
        rows: (n,) int64 positions in ``dataset``.
        labeled: (n,) bool; all where None.
    """

    def __init__(self, dataset: Any, rows: Tensor, labeled: Tensor | None = None) -> None:
        self.dataset, self.rows = dataset, rows
        self.labeled = torch.ones(len(rows), dtype=torch.bool) if labeled is None else labeled

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: Any) -> Batch:
        batch = self.dataset[self.rows[item]]
        return batch._replace(target=batch.target.where(self.labeled[item], UNLABELED))


def row_facts(dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Targets (N,), domains (N, D) and index numbers (N,) of a data set, without its inputs where that is possible.

    Args:
        dataset: Takes index tensors.

    Example:
        >>> rows = RowDataset(torch.zeros(3, 2), torch.arange(3), torch.ones(3, 1).bool(), torch.tensor([0, 2]))
        >>> target, domain, index = row_facts(TargetRows(rows, torch.arange(2), torch.tensor([True, False])))
        >>> target.tolist(), index.tolist()
        ([0, -100], [0, 2])
    """
    if isinstance(dataset, TargetRows):
        target, domain, index = (part[dataset.rows] for part in row_facts(dataset.dataset))
        return target.where(dataset.labeled, UNLABELED), domain, index
    if isinstance(dataset, RowDataset):
        rows = dataset.rows
        index = rows if dataset.index is None else dataset.index[rows]
        return dataset.targets[rows], dataset.domains[rows], index
    parts = [dataset[part] for part in torch.arange(len(dataset)).split(_READ_ROWS)]
    target, domain, index = (torch.cat([part[place] for part in parts]) for place in (1, 2, 3))
    return target, domain, index
