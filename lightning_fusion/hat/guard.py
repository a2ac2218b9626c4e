"""Guard against negative transfer: comparison of the student with a local model, and with its sources kept."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from lightning_fusion.data.rows import sample_metadata
from lightning_fusion.data.views.target import TargetDataModule

Factory = Callable[[TargetDataModule], Any]
"""Function that creates an untrained LightningModule for the data module of a fold."""


@dataclass(frozen=True)
class Guard:
    """Comparison of the local model, the student and the ensemble of its sources on held-out labeled samples.

    Attributes:
        accuracy: Accuracy by answer: ``student``, ``local``, and ``ensemble``, the teacher that queries all sources.
        standard_error: Standard error of the difference to the student, from paired samples, of the other answers.
        num_rows: Number of samples.
    """

    accuracy: dict[str, float]
    standard_error: dict[str, float]
    num_rows: int

    @property
    def choice(self) -> str:
        """Select the student, unless another answer is better by more than one standard error of the difference.

        A single sample is never enough: its difference is one standard error, up to rounding. The student costs as
        little as the local model, and less than the ensemble. Of two better answers, the one with the higher accuracy
        is selected, the local model if they are equal.

        Example:
            >>> error = {"local": 0.06, "ensemble": 0.02}
            >>> Guard({"student": 0.80, "local": 0.85, "ensemble": 0.83}, error, num_rows=20).choice
            'ensemble'
        """
        own = self.accuracy["student"]
        better = [name for name in OTHERS if self.accuracy[name] - own > (1 + 1e-9) * self.standard_error[name]]
        return max(better, key=lambda name: self.accuracy[name], default="student")

    def __str__(self) -> str:
        own = self.accuracy["student"]
        others = ", ".join(
            f"{_NAMES[name]} {self.accuracy[name]:.3f} ({self.accuracy[name] - own:+.3f} +- "
            f"{self.standard_error[name]:.3f})"
            for name in OTHERS
        )
        return f"{self.choice}: accuracy of the student {own:.3f}, {others} on {self.num_rows} held-out labeled samples"

    @classmethod
    def of_rows(cls, right: Mapping[str, Tensor]) -> "Guard":
        """Compare the correct predictions of all answers.

        Args:
            right: (N,) bool, correct predictions on the same samples, by answer.

        Example:
            >>> right = torch.tensor([True, True, False, True, True])
            >>> print(Guard.of_rows({"student": ~right, "local": right, "ensemble": right}))
            local: accuracy of the student 0.200, of the local model 0.800 (+0.600 +- ...
        """
        differences = {name: right[name].double() - right["student"].double() for name in OTHERS}
        count = len(right["student"])
        errors = {
            name: float(each.std()) / math.sqrt(count) if count > 1 else math.inf for name, each in differences.items()
        }
        return cls({name: float(each.double().mean()) for name, each in right.items()}, errors, count)


OTHERS = ("local", "ensemble")
_NAMES = {"local": "of the local model", "ensemble": "of the ensemble"}


def guard(
    student: Factory,
    local: Factory,
    ensemble: Factory,
    target: TargetDataModule,
    trainer: Callable[[], Any],
    local_trainer: Callable[[], Any] | None = None,
    num_folds: int = 3,
) -> Guard:
    """Train student and local model on the same stratified folds of labels; compare them and an ensemble on the others.

    Held-out samples of a fold are excluded from training, also as unlabeled samples. The local model is trained on the
    labeled samples only. A source selection that uses labels belongs in ``student``, so that it does not use the
    held-out labels. Our choice; the paper has no guard.

    Args:
        student: Factory of a module that learns from sources, called with the data of a fold.
        local: Factory of a module that learns from the labels only, called with the data of a fold.
        ensemble: Factory of a module that queries all sources and is fitted already, called with the labeled samples of
            a fold.
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
        >>> guard(make, make, make, target, partial(quiet, enable_model_summary=False)).num_rows
        8
    """
    right: dict[str, list[Tensor]] = {"student": [], "local": [], "ensemble": []}
    for fold in target.folds(num_folds):
        few = fold.variant(unlabeled=False)
        for name, factory, data, made in (
            ("student", student, fold, trainer),
            ("local", local, few, local_trainer or trainer),
        ):
            module = factory(data)
            run = made()
            run.fit(module, datamodule=data)
            right[name].append(_right(run, module, data))
        right["ensemble"].append(_right(trainer(), ensemble(few), few))
    return Guard.of_rows({name: torch.cat(parts) for name, parts in right.items()})


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
