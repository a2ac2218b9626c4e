"""Guard against negative transfer: comparison of the student with a local model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, distributed

from lightning_fusion.data.rows import sample_metadata
from lightning_fusion.data.views.target import TargetDataModule

Factory = Callable[[TargetDataModule], Any]
"""Function that creates an untrained LightningModule for the data module of a fold."""


@dataclass(frozen=True)
class Guard:
    """Comparison of student and local model on held-out labeled samples.

    Attributes:
        student: Accuracy of the student.
        local: Accuracy of the local model on the same samples.
        standard_error: Standard error of the difference, from the paired differences of the samples.
        num_rows: Number of samples.
    """

    student: float
    local: float
    standard_error: float
    num_rows: int

    @property
    def choice(self) -> Literal["student", "local"]:
        """Select the student, unless the local model is better by more than one standard error of the difference.

        Example:
            >>> Guard(student=0.80, local=0.85, standard_error=0.06, num_rows=20).choice
            'student'
        """
        return "local" if self.local - self.student > self.standard_error else "student"

    def __str__(self) -> str:
        return (
            f"{self.choice}: accuracy of the student {self.student:.3f}, of the local model {self.local:.3f} on "
            f"{self.num_rows} held-out labeled samples, difference {self.student - self.local:+.3f} +- "
            f"{self.standard_error:.3f}"
        )

    @classmethod
    def of_rows(cls, student: Tensor, local: Tensor) -> "Guard":
        """Compare the correct predictions of both.

        Args:
            student: (N,) bool, correct predictions of the student.
            local: (N,) bool, correct predictions of the local model on the same samples.

        Example:
            >>> right = torch.tensor([True, True, False, True, True])
            >>> print(Guard.of_rows(student=~right, local=right))
            local: accuracy of the student 0.200, of the local model 0.800 on 5 held-out labeled samples, ...
        """
        difference = local.double() - student.double()
        error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
        return cls(float(student.double().mean()), float(local.double().mean()), error, len(difference))


def guard(
    student: Factory,
    local: Factory,
    target: TargetDataModule,
    trainer: Callable[[], Any],
    local_trainer: Callable[[], Any] | None = None,
    num_folds: int = 3,
) -> Guard:
    """Train student and local model on the same stratified folds of labels, and compare them on the held-out samples.

    Held-out samples of a fold are excluded from training, also as unlabeled samples. The local model is trained on the
    labeled samples only. A source selection that uses labels belongs in ``student``, so that it does not use the
    held-out labels. Our choice; the paper has no guard.

    Args:
        student: Factory of a module that learns from sources, called with the data of a fold.
        local: Factory of a module that learns from the labels only, called with the data of a fold.
        target: Data module of the target with all labels.
        trainer: Factory of a Trainer.
        local_trainer: Factory of the Trainer of the local model, whose epochs have fewer steps. ``None`` (default) uses
            ``trainer``.
        num_folds: Number of folds.

    Raises:
        InputError: If there are fewer labeled samples than folds.

    Example:
        >>> from functools import partial
        >>> from lightning import Trainer
        >>> from lightning_fusion import ExpertModule
        >>> from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
        >>> from lightning_fusion.encoders import SmallConvNet
        >>> target = TargetDataModule(SyntheticImageDataModule(), "style_0", labeled_per_class=2)
        >>> make = lambda data: ExpertModule(lambda classes: SmallConvNet(classes, width=2), classes=data.classes)
        >>> quiet = partial(Trainer, max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        >>> guard(make, make, target, partial(quiet, enable_model_summary=False)).num_rows
        8
    """
    right: dict[str, list[Tensor]] = {"student": [], "local": []}
    for fold in target.folds(num_folds):
        for name, factory, data, made in (
            ("student", student, fold, trainer),
            ("local", local, fold.variant(unlabeled=False), local_trainer or trainer),
        ):
            module = factory(data)
            run = made()
            run.fit(module, datamodule=data)
            right[name].append(_right(run, module, data))
    return Guard.of_rows(*(torch.cat(right[name]) for name in ("student", "local")))


def _right(trainer: Any, module: Any, data: TargetDataModule) -> Tensor:
    """Return (N,) bool, the correct predictions of a trained module on held-out samples."""
    found = trainer.predict(module, datamodule=data)
    index, answer = (torch.cat([part[name].cpu() for part in found]) for name in ("index", "probabilities"))
    if distributed.is_available() and distributed.is_initialized():  # each process has predicted some of the samples
        shards: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(shards, (index, answer))
        index, answer = (torch.cat(parts) for parts in zip(*shards, strict=True))
    target, _, wanted = sample_metadata(data.rows("test"))
    place = index.argsort()[torch.searchsorted(index.sort().values, wanted)]
    return answer.argmax(1)[place] == target
