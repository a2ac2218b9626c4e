"""Batches and the base class of all data modules of the library."""

import copy
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_fusion.data.batch import Batch
from lightning_fusion.data.checks import ArgumentChecks
from lightning_fusion.data.rows import NewRows, Origins, RowDataset, located_rows, warn_single_class
from lightning_fusion.data.samplers import SlicedDataModule, slice_loader
from lightning_fusion.errors import InputError, nearest_path, shorten
from lightning_fusion.files import row_digests
from lightning_fusion.hyperparameters import constructor_arguments, is_plain

SPLITS = ("train", "val", "test")
_READ_ROWS = 4096
_T = TypeVar("_T")


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


class FusionDataModule(ArgumentChecks, SlicedDataModule):
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
    augmentation: nn.Module | None = None
    predict_root: str | None = None
    """File or folder with new samples for ``predict``; an argument of the data modules of all modalities."""

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
        if self.predict_root is not None:
            raise InputError(
                f"predict_root is {self.predict_root}, new samples that predict alone reads, and the {split} split is "
                "one of the labeled data; remove predict_root"
            )
        if split not in self._made_rows:
            self._made_rows[split] = made = self.make_rows(split)
            if isinstance(made, RowDataset):
                warn_single_class(made, self.classes, split)
        return self._made_rows[split]

    def make_rows(self, split: str) -> Any:
        """Build the data set of a split; :meth:`rows` caches it until an argument changes."""
        raise NotImplementedError(f"{type(self).__name__} must implement rows(split), or make_rows(split)")

    def new_rows(self, root: str) -> NewRows:
        """Read all samples of a file or folder for prediction; a modality implements it for all of its sources.

        ``predict`` calls it with ``predict_root``, after :meth:`use_preprocessing`, and does not call :meth:`rows`: the
        labeled data need not exist, and nothing here may read them. Folders have any depth and any names, there are no
        labels, and every sample is one of the result: no split is drawn. What a file needs to become an input comes
        from the constructor arguments, and from the statistics that :meth:`use_preprocessing` received. Batches go
        through :meth:`preprocess` as all others do.

        What cannot be read raises InputError, or is a position of :class:`NewRows` that is not readable, with a note
        that says why; files of other kinds are named in a warning. Names in the origins are relative to ``root``.
        Origins with the unit ``start_s`` are parts of series: the writer of predictions averages them for each file.

        Args:
            root: File or folder, which exists.

        Raises:
            InputError: If there is no sample, or one cannot be read.
        """
        raise InputError(
            f"predict_root: {type(self).__name__} reads no new files; use the data module of a modality, or implement "
            "new_rows(root)"
        )

    @staged_property(Stage.USING)
    def new_samples(self) -> NewRows | None:
        """New samples under ``predict_root``, which ``predict`` answers for; ``None`` without it."""
        if self.predict_root is None:
            return None
        if not Path(self.predict_root).exists():
            raise InputError(
                f"predict_root: found no file or folder {self.predict_root}{nearest_path(self.predict_root)}"
            )
        with torch.inference_mode(False):  # predict is in it, and a tensor made in it cannot be changed outside
            made = self.new_rows(self.predict_root)
        if not len(made):
            first = made.notes(made.unread[:1])
            reason = f"; the first of {len(made.unread)}: {first[0]}" if first else ""
            raise InputError(f"predict_root: {self.predict_root} has no sample that can be read{reason}")
        return made

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return batches of the new samples under ``predict_root``, in order; without it, those of the test split."""
        if self.new_samples is None:
            return super().predict_dataloader()
        return slice_loader(self.new_samples, self.batch_size, False, self.seed, self.num_workers)

    def setup(self, stage: str | None = None) -> None:
        """Read the labeled samples, which is inexpensive when repeated; with ``predict_root`` nothing is read yet.

        Raises:
            InputError: If ``predict_root`` is set in another stage than ``predict``.
        """
        if self.predict_root is None:
            self._read_samples()
        elif stage not in (None, "predict"):
            name = getattr(stage, "value", stage)
            raise InputError(f"predict_root is an argument of predict, and {name} needs labeled samples; remove it")

    def _read_samples(self) -> None:
        """Read the labeled samples; by default on first use."""

    def preprocess(self, inputs: Any, augment: bool = False) -> Any:
        """Turn the inputs of a batch into network input, on the device; the identity by default.

        Args:
            inputs: Inputs of a batch, as the loader yields them.
            augment: Whether to apply the training augmentation.
        """
        return inputs

    @property
    def new_sample_facts(self) -> dict[str, Any]:
        """Plain data of the labeled samples that new ones need beside the preprocessing, for checkpoints of models."""
        return {}

    def use_preprocessing(self, known: Mapping[str, Any] | None) -> None:
        """Normalize with the statistics of a model's training in place of those not given; by default nothing.

        Args:
            known: Preprocessing of the training, with :attr:`new_sample_facts`; ``None`` means that of the arguments
                and the data again.
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
        stages = {"predict_root": Stage.USING, **self.stage_of}
        return min((stages.get(name, Stage.READING) for name in changed), default=Stage.USING)


def labeled_attribute(data: Any, name: str) -> Any:
    """Return an attribute of the labeled data of a data module, such as ``classes`` or ``own_domains``.

    Args:
        data: Any data module.
        name: Name of the attribute.

    Returns:
        ``None`` if it has none, or gives new samples (``predict_root``), for which the labeled data may not exist.
    """
    return None if getattr(data, "predict_root", None) is not None else getattr(data, name, None)
