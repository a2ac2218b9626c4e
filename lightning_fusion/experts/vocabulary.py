"""Classes of a task, and those of the experts that share it."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from lightning_fusion.data.names import as_labels
from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import ExpertPool, reordered, scatter, scatter_columns, task_classes


class Vocabulary(NamedTuple):
    """Classes of a task and of its experts.

    Attributes:
        classes: Names of the C classes, in the order of the targets.
        expert_classes: Classes of each expert, in the order of its outputs.
        columns: For each expert, the class of each of its outputs.
    """

    classes: list[str]
    expert_classes: dict[str, list[str]]
    columns: list[list[int]]

    @classmethod
    def of(
        cls,
        pool: ExpertPool | None,
        expert_classes: Mapping[str, Sequence[str]] | None,
        classes: Sequence[str] | None = None,
    ) -> "Vocabulary":
        """Return the vocabulary of a pool, or of experts whose outputs are stored.

        Args:
            pool: The experts. ``None`` if only stored outputs are read.
            expert_classes: Classes of each expert, in the order of its outputs; those of the pool by default.
            classes: Classes of the task. ``None`` (default) means those of the pool, or all classes of the experts.

        Raises:
            InputError: If there are no experts, or their classes contradict the pool's or the task's.

        Example:
            >>> Vocabulary.of(None, {"a": ["dog"], "b": ["owl", "cat"]}, ["cat", "dog", "owl"]).columns
            [[1], [2, 0]]
        """
        if pool is not None:
            if expert_classes is not None and list(expert_classes.items()) != list(pool.expert_classes.items()):
                raise InputError("expert_classes differ from the classes of experts; leave them out beside experts")
            expert_classes, classes = pool.expert_classes, pool.classes
        if not expert_classes:
            raise InputError(
                "expert_classes: found none; give experts=, or the stored outputs' **outputs.fuser_arguments() (on the "
                "command line: use OutputsDataModule as data)"
            )
        known = {name: as_labels(names, "expert_classes") for name, names in expert_classes.items()}
        task = task_classes(known, classes)
        return cls(task, known, scatter_columns(known, task))

    def scatter(self, outputs: Tensor) -> Tensor:
        """Scatter (B, sum of C_k) outputs to the classes of the task: (B, K, C), zero for classes of other experts."""
        return scatter(outputs, self.columns, len(self.classes))


class ClassesOfVocabulary:
    """Mixin of modules with a ``vocabulary``, whose classes are theirs."""

    vocabulary: Vocabulary

    @property
    def classes(self) -> list[str]:
        """Names of the classes of the task, in the order of the targets."""
        return self.vocabulary.classes

    @property
    def expert_classes(self) -> dict[str, list[str]]:
        """Classes of each expert, in the order of its outputs."""
        return self.vocabulary.expert_classes


class HasVocabulary(Protocol):
    """Module with a vocabulary, and a pool if it has experts."""

    vocabulary: Vocabulary
    pool: ExpertPool | None

    @property
    def hparams(self) -> MutableMapping[str, object]:
        """Arguments that checkpoints record."""


def take_order(module: HasVocabulary, classes: Sequence[str] | None) -> bool:
    """Put the classes of a module into the order of its data, or of a model that it serves.

    Args:
        module: The module.
        classes: Classes in the wanted order; ``None`` or other names change nothing.

    Returns:
        Whether the order has changed.
    """
    known = module.vocabulary
    if classes is None or not reordered(classes, known.classes):
        return False
    module.vocabulary = Vocabulary.of(None, known.expert_classes, classes)
    module.hparams["classes"] = module.vocabulary.classes
    module.pool = None if module.pool is None else module.pool.for_task(classes)
    return True
