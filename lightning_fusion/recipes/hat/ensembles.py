"""Ensembles of the recipe hat: selected sources with a teacher that is fitted on the labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_fusion.data.batch import Batch, num_samples
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import take_rows
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.outputs.collect import first_process
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.probing import probe_experts
from lightning_fusion.files import atomic_write
from lightning_fusion.hat.fitted.base import Evidence, evidence_of
from lightning_fusion.hat.fitted.choice import MEMBERS, choose_teacher, fit_chosen, make_teacher
from lightning_fusion.hat.mixer import known_targets, shared_columns
from lightning_fusion.recipes.pool_modules import PoolModule

_FIRST = torch.arange(2)  # samples that tell the widths of representations


class Ensemble(PoolModule):
    """Sources with a teacher that is fitted on labels: the default of :class:`~lightning_fusion.HaTJointModule`.

    Args:
        sources: The sources, by name.
        classes: Names of the target's classes.
        widths: Size of the representation, by source.
    """

    def __init__(self, sources: Mapping[str, Expert], classes: list[str], widths: Mapping[str, int]) -> None:
        super().__init__(ExpertPool(sources, classes))
        self.widths = dict(widths)
        self.columns, _ = shared_columns(self.pool.expert_classes, classes)
        self.teacher: Any = self._make("all")

    def _make(self, name: str) -> Any:
        """Return a teacher of a name, not fitted."""
        return make_teacher(name, self.pool, self.columns, self.widths, len(self.pool.classes))

    @classmethod
    def fit(cls, sources: Mapping[str, Expert], few: TargetDataModule, seed: int) -> "Ensemble":
        """Fit the teacher on the labeled samples of a target.

        Args:
            sources: The sources, by name.
            few: The target with its labeled samples alone.
            seed: Random seed.
        """
        rows = few.rows("train")
        batch = few.on_after_batch_transfer(rows[torch.arange(len(rows))], 0)
        pool = ExpertPool(sources, few.classes)
        pool.convert_from(few.preprocessing)
        widths = {name: value.shape[1] for name, value in probe_experts(pool, take_rows(batch.input, _FIRST)).items()}
        made = cls(sources, few.classes, widths)
        made._convert_from(few.preprocessing)
        evidence, target = made._evidence(batch, labeled=True)
        found = choose_teacher(["all"], made._make, evidence, target, seed)
        fit_chosen(found, made.teacher, evidence, target, seed)
        made._convert_from(None)
        return made

    def save(self, path: Path) -> None:
        """Write the fitted teacher, with the weights of fine-tuned sources."""
        if first_process():
            path.parent.mkdir(exist_ok=True, parents=True)
            with atomic_write(path) as draft:
                torch.save({"widths": self.widths, "teacher": self.teacher.state_dict()}, draft)

    @classmethod
    def load(cls, sources: Mapping[str, Expert], classes: list[str], path: Path) -> "Ensemble":
        """Read a file of :meth:`save`.

        Args:
            sources: The sources, by name.
            classes: Names of the target's classes.
            path: The file.

        Raises:
            InputError: If the file is damaged, or of other sources.
        """
        try:
            content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            if list(content["widths"]) != list(sources):
                raise ValueError(f"it is of the sources {', '.join(content['widths'])}")
            made = cls(sources, classes, content["widths"])
            made.teacher.load_state_dict(content["teacher"])
        except Exception as error:  # of unpickling a damaged file
            raise InputError(f"run: {path} is damaged ({error}); run the recipe again") from error
        return made

    def _convert_from(self, found: Any) -> None:
        self.pool.convert_from(found)
        self.teacher.convert_from(found)

    def _evidence(self, batch: Batch, labeled: bool = False) -> tuple[Evidence, Tensor]:
        """Return the outputs of the sources on a batch and its targets; if labeled, of their classes alone."""
        found = evidence_of(self.pool, self.columns, batch.input, len(batch.target))
        if not labeled:
            return found, batch.target
        covered = (torch.tensor(list(self.columns.values())) >= 0).any(0)
        known = (known_targets(batch.target, covered) >= 0).nonzero().flatten()
        return found.take(known), batch.target[known]

    def setup(self, stage: str) -> None:
        """Convert the input of each source, also of fine-tuned ones, to the preprocessing of its training."""
        super().setup(stage)
        self._convert_from(self._queries.preprocessing or None)

    def teardown(self, stage: str) -> None:
        """Release the sources."""
        self._convert_from(None)

    def answer(self, input: Any) -> dict[str, Tensor]:
        """Return the probabilities of the teacher."""
        count = num_samples(input)
        assert count is not None
        return {"probabilities": self.teacher(evidence_of(self.pool, self.columns, input, count))}


def kept_members(made: Ensemble, few: TargetDataModule) -> dict[str, float]:
    """Return the test accuracy of every member of a fitted ensemble, kept.

    Args:
        made: The ensemble of the sources.
        few: The target with its labeled samples alone.
    """
    rows = few.rows("test")
    evidence, truth = made._evidence(few.on_after_batch_transfer(rows[torch.arange(len(rows))], 0))
    members = zip(MEMBERS["all"], made.teacher.members, strict=True)
    return {name: float((member(evidence).argmax(1) == truth).double().mean()) for name, member in members}
