"""What a training is prepared from: labels, sizes of representations, the fitted teacher, the first weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_fusion.data.batch import Batch, check_targets
from lightning_fusion.data.targets import UNLABELED
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.probing import plain_batches, probe_experts, samples_of
from lightning_fusion.hat.arguments import MIXERS
from lightning_fusion.hat.fitted import MEMBERS, Evidence, evidence_of
from lightning_fusion.hat.heads import head_names
from lightning_fusion.hat.start import first_weights
from lightning_fusion.hat.teacher import FixedTeacher, MixerTeacher, Teacher


def check_labels(target: Tensor, classes: Sequence[str]) -> None:
    """Check that training samples have labels of two classes at least.

    Args:
        target: (N,) labels, -100 for unlabeled samples.
        classes: Names of the classes.

    Raises:
        InputError: If they do not, or if a label is not the number of a class.
    """
    check_targets(target[target != UNLABELED], len(classes), "the train loader")
    present = target[target >= 0].unique()
    if len(present) < 2:
        found = f"of one class only ({classes[int(present[0])]})" if len(present) else "without any label"
        raise InputError(f"data: the training samples are {found}; expected labeled samples of two or more classes")


class TeacherPlan:
    """Arguments of a teacher, which is built when the sizes of the representations are known.

    Args:
        teacher: Name of a mixer or of a fitted teacher, or ``auto``.
        pool: The sources.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        num_classes: C, number of classes of the target.
        trained_heads: Whether a mixer trains copies of the sources' heads.
        sharpness: Of a fitted teacher, see :class:`~lightning_fusion.hat.teacher.FixedTeacher`.
        of_mixers: Further arguments of :class:`~lightning_fusion.hat.teacher.MixerTeacher`.
        seed: Random seed of both.

    Attributes:
        fitted: Whether the teacher is fitted before the training.
    """

    def __init__(
        self,
        teacher: str,
        pool: ExpertPool,
        columns: Mapping[str, list[int]],
        num_classes: int,
        trained_heads: bool,
        sharpness: float | None,
        of_mixers: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.fitted = teacher not in MIXERS
        self.pool, self.columns, self.num_classes = pool, columns, num_classes
        self._with_heads = trained_heads and not self.fitted
        names = list(MEMBERS) if teacher == "auto" else [teacher]
        self._fitted_arguments: dict[str, Any] = {"names": names, "power": sharpness, "seed": seed}
        self._mixer_arguments: dict[str, Any] = {"mixing": teacher, "seed": seed, **of_mixers}

    @torch.no_grad()
    def measure(self, logits: Tensor, z: Tensor, input: Any) -> dict[str, Any]:
        """Return the sizes of all representations and the name of each source's head, as plain data.

        Args:
            logits: (B, C) of the student.
            z: (B, D) its representation.
            input: The batch, on which the sources are run.

        Raises:
            InputError: If the student has another number of outputs, or a source does not run on the batch.
        """
        if logits.shape[1:] != (self.num_classes,):
            raise InputError(
                f"network: found outputs of shape (B, {shorten(logits.shape[1:])}); expected (B, {self.num_classes}), "
                "one for each of classes"
            )
        widths = {name: value.shape[1] for name, value in probe_experts(self.pool, input).items()}
        heads = head_names(self.pool.members, input) if self._with_heads else {}
        return {"own": z.shape[1], "sources": widths, "heads": heads}

    def make(self, sizes: Mapping[str, Any]) -> Teacher:
        """Return a new teacher for sources of these sizes, as :meth:`measure` returns them."""
        shared: Any = (self.pool, self.columns, self.num_classes, sizes)
        if self.fitted:
            return FixedTeacher(*shared, **self._fitted_arguments)
        return MixerTeacher(*shared, **self._mixer_arguments)


def begin(module: Any, index: Tensor, target: Tensor) -> Iterator[str]:
    """Set the student's first weights, and fit a teacher that is not trained with it; say what was chosen.

    Args:
        module: A :class:`~lightning_fusion.HaTJointModule` with its teacher, at the start of a run.
        index: (N,) numbers of the training samples.
        target: (N,) labels, -100 for unlabeled samples and for classes that no source has.

    Yields:
        A line for the log after each of the two.
    """
    if not module.fitted and module.init == "scratch":
        return
    teacher, device = module.teacher, module.trainer.strategy.root_device
    for part in (module.pool, module.network, teacher):
        part.to(device)

    def evidence_on(batch: Batch) -> Evidence:
        return evidence_of(module.pool, module.columns, batch.input, len(batch.target))

    labeled = samples_of(module, index[target >= 0], device)
    wanted, evidence = teacher.known(labeled.target), evidence_on(labeled)
    if module.init != "scratch":
        how = (module.init, module.network, module.pool, module.columns, evidence, wanted, module.threshold)
        weights, about = first_weights(*how)
        module.network.load_state_dict(weights or module.network.state_dict())
        yield about
    if isinstance(teacher, FixedTeacher):
        teacher.fit(evidence, wanted, labeled.index)
        teacher.teach((batch.index, evidence_on(batch)) for batch in plain_batches(module, device))
        figures = teacher.figures[str(teacher.chosen)]
        yield (
            f"teacher: {teacher.chosen}, cross-validated accuracy {figures['accuracy']:.3f} on {len(wanted)} labeled "
            f"samples, sharpness {float(teacher.sharpness):g}"
        )
