"""What a training is prepared from: labels, sizes of representations, the fitted teacher, the first weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_fusion.callbacks.early_parts import EarlyParts
from lightning_fusion.data.batch import Batch, check_targets
from lightning_fusion.data.targets import UNLABELED
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.probing import plain_batches, probe_experts, samples_of
from lightning_fusion.hat.arguments import MIXERS
from lightning_fusion.hat.fitted.base import Evidence, evidence_of
from lightning_fusion.hat.fitted.choice import MEMBERS
from lightning_fusion.hat.fitted.mean import Committee
from lightning_fusion.hat.heads import head_names
from lightning_fusion.hat.knowledge import reaches
from lightning_fusion.hat.start import Start, first_weights
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
            InputError: If the student has other outputs, or a source does not run on the batch.
        """
        if not isinstance(logits, Tensor):
            raise InputError(
                f"network: it returns a {type(logits).__name__}; expected a tensor of logits (B, {self.num_classes})"
            )
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


def begin(module: Any) -> Iterator[str]:
    """Set the student's first weights, and fit a teacher that is not trained with it, unless both are done.

    The weights are set in the first run of a module, and the teacher is fitted for each set of samples and labels. A
    resumed run has both from its checkpoint.

    Args:
        module: A :class:`~lightning_fusion.HaTJointModule` with its teacher, at the start of a run.

    Yields:
        Lines for the log: what the student starts with, and how it is trained.
    """
    teacher, done = module.teacher, int(module.batches_done)
    start = Start(None, f"weights after {done} batches") if done else Start(None, "scratch")
    if not done and module.init == "auto" and module.student_loaded:
        start = Start(None, "loaded weights", ", which init: auto keeps; init: best_source takes those of a source")
    chooses = not done and module.init != "scratch" and start.what == "scratch"
    fits = isinstance(teacher, FixedTeacher) and not teacher.is_fitted
    if chooses or fits:
        labeled = samples_of(module, teacher.knowledge.index.cpu()[teacher.knowledge.target.cpu() >= 0], module.device)
        wanted, evidence = teacher.known(labeled.target), _evidence_on(module, labeled)
    if chooses:
        how = (module.init, module.network, module.pool, module.columns, evidence, wanted, module.threshold)
        start = first_weights(*how)
        if start.state is not None:
            module.network.load_state_dict(start.state)
    module.started_from = start.what
    if start.why:
        yield f"init: {start.what}{start.why}"
    if fits:
        teacher.fit(evidence, wanted, labeled.index)
        teacher.teach((batch.index, _evidence_on(module, batch)) for batch in plain_batches(module, module.device))
        if teacher.untrained:
            yield f"teacher: {shorten(teacher.untrained)} cannot be fine-tuned, as outputs have no gradient: kept as is"
    if fits or start.state is not None:
        EarlyParts.renew_copies(module)
    yield _summary(module)


def _evidence_on(module: Any, batch: Batch) -> Evidence:
    return evidence_of(module.pool, module.columns, batch.input, len(batch.target))


def _summary(module: Any) -> str:
    """Return one line about the training: teacher, start of the student, mixup and alpha."""
    teacher, threshold = module.teacher, module.threshold
    strength = f"{module.alpha_0:g}" + (" times the accuracy" if module.alpha == "adaptive" else "")
    if isinstance(teacher, FixedTeacher):
        labeled = int((teacher.knowledge.target >= 0).sum())
        about = (
            f"{_members(teacher)}, cross-validated accuracy {float(teacher.knowledge.accuracy):.3f} on {labeled} "
            f"labeled samples, sharpness {float(teacher.sharpness):g}"
        )
        passes = bool(reaches(teacher.knowledge.accuracy, threshold))
        alpha = f"{float(module.strength()):g} ({module.alpha}: the teacher {'reaches' if passes else 'is below'} "
        alpha += f"the threshold {threshold:.3f})"
    else:
        about = f"{teacher.mixing}, trained with the student"
        alpha = f"{strength} where the teacher's accuracy reaches the threshold {threshold:.3f} ({module.alpha})"
    if module.alpha == "fixed":
        alpha = f"{module.alpha_0:g} (fixed)"
    return f"training: teacher {about}; start {module.started_from}; mixup {module.mixup:g}; alpha {alpha}"


def _members(teacher: FixedTeacher) -> str:
    """Return the name of a fitted teacher, with the weights of its members."""
    if not isinstance(teacher.model, Committee):
        return str(teacher.chosen)
    names = MEMBERS[str(teacher.chosen)]
    parts = [f"{name} {weight:.2f}" for name, weight in zip(names, teacher.model.weights.tolist(), strict=True)]
    return f"{teacher.chosen} ({', '.join(parts)})"


def below_threshold(module: Any, accuracy: Tensor, remedy: str) -> str | None:
    """Return a warning if the teacher's accuracy is below the threshold, so that alpha is 0; else ``None``.

    Args:
        module: A :class:`~lightning_fusion.HaTJointModule`.
        accuracy: () accuracy of the teacher.
        remedy: What the user can do.
    """
    if module.alpha == "fixed" or bool(reaches(accuracy, module.threshold)):
        return None
    found, wanted, digits = float(accuracy), module.threshold, 3
    while f"{found:.{digits}f}" == f"{wanted:.{digits}f}" and digits < 7:
        digits += 1
    first = module.started_from.startswith(("source", "average"))
    return (
        f"the teacher's accuracy ({found:.{digits}f}) is below the threshold ({wanted:.{digits}f}): the student learns "
        f"from the labels alone{f', after it started from {module.started_from}' if first else ''}; {remedy}"
    )
