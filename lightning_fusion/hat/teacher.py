"""Teachers of the student: mixers of the sources or fitted teachers, with the knowledge dictionary."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from lightning_fusion.errors import InputError
from lightning_fusion.experts.layers import movement
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.hat.fitted.base import Evidence
from lightning_fusion.hat.fitted.choice import SHARPNESS, choose_teacher, fit_chosen, make_teacher, sharpen
from lightning_fusion.hat.fitted.fine_tuning import FineTuned
from lightning_fusion.hat.heads import copy_heads
from lightning_fusion.hat.knowledge import KnowledgeDictionary
from lightning_fusion.hat.mixer import Mixer, global_means, known_targets
from lightning_fusion.hat.sources import Answer

_FOLDS = 3  # number of mixers for accuracy_source: crossfit


class Mixed(NamedTuple):
    """Outputs of the mixers on a batch; there is one mixer except with ``crossfit``.

    Attributes:
        log_weights: (B, S) log-weights of the S sources, for each mixer.
        log_mix: (B, C) logarithm of p_mix, for each mixer.
    """

    log_weights: tuple[Tensor, ...]
    log_mix: tuple[Tensor, ...]

    def mean(self) -> Tensor:
        """Return the (B, C) mean of the mixers' p_mix."""
        return torch.stack([log_mix.exp() for log_mix in self.log_mix]).mean(0)


class Teacher(nn.Module):
    """Base class of teachers, whose predictions of every sample stand in a dictionary.

    Args:
        pool: The sources; they are not submodules of the teacher.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        num_classes: C, number of classes of the target.
        sizes: ``own``, the size of z_t; ``sources``, the size of z_i by source; ``heads``, the name of each source's
            head, of which mixers train copies; empty if the sources' outputs are used.

    Attributes:
        knowledge: The dictionary; ``None`` before :meth:`note_rows`.
    """

    covered: Tensor

    def __init__(
        self,
        pool: ExpertPool,
        columns: Mapping[str, list[int]],
        num_classes: int,
        sizes: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.sizes, self.num_classes = dict(sizes), num_classes
        self.knowledge: Any = None
        own = torch.tensor([columns[name] for name in pool.names])
        self.register_buffer("covered", (own >= 0).any(0), persistent=False)

    def check_sizes(self, sizes: Mapping[str, Any]) -> None:
        """Check that sources have the same sizes and heads.

        Raises:
            InputError: If they differ; the message gives both.
        """
        if self.sizes != sizes:
            raise InputError(f"experts: the mixer was made for sources {self.sizes}; found {dict(sizes)}")

    def note_rows(self, index: Tensor, target: Tensor) -> None:
        """Build the dictionary; an existing one of the same samples and labels is kept.

        Args:
            index: (N,) sample numbers.
            target: (N,) labels, -100 for unlabeled samples and for classes that no source has.
        """
        made = self._make_knowledge(index, target)
        if self.knowledge is None or not self.knowledge.is_of(made.index, made.target):
            self.knowledge = made

    def _make_knowledge(self, index: Tensor, target: Tensor) -> KnowledgeDictionary:
        return KnowledgeDictionary(index, self.num_classes, target)

    def known(self, target: Tensor) -> Tensor:
        """Return the (B,) targets, -100 for unlabeled samples and for classes that no source has."""
        return known_targets(target, self.covered)


class FixedTeacher(Teacher):
    """A teacher that is fitted on the labels before the training of the student; its predictions do not change.

    Args:
        pool: The sources.
        columns: As in :class:`Teacher`.
        num_classes: C.
        sizes: As in :class:`Teacher`.
        names: Names of the teachers of :mod:`~lightning_fusion.hat.fitted` to choose from.
        power: Power of the probabilities. ``None`` (default) chooses it by cross-validated likelihood.
        seed: Random seed of folds and teachers.

    Attributes:
        model: The fitted teacher; ``None`` before :meth:`fit`.
        chosen: Its name.
        figures: Cross-validated log-likelihood and accuracy of each teacher that was compared.
    """

    sharpness: Tensor

    def __init__(
        self,
        pool: ExpertPool,
        columns: Mapping[str, list[int]],
        num_classes: int,
        sizes: Mapping[str, Any],
        names: Sequence[str],
        power: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(pool, columns, num_classes, sizes)
        self.seed = seed
        self.names, self.powers = list(names), SHARPNESS if power is None else (power,)
        self._make = partial(make_teacher, pool=pool, columns=columns, widths=sizes["sources"], num_classes=num_classes)
        self.mixers = nn.ModuleList()
        self.model: Any = None
        self.chosen: str | None = None
        self.figures: dict[str, dict[str, float]] = {}
        self.register_buffer("sharpness", torch.ones(()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move, but do not cast: what was fitted in float32 reads the sources' outputs in float32 in any precision."""
        apply: Callable[..., Any] = super()._apply  # untyped in torch
        return apply(movement(fn), recurse)

    @property
    def is_fitted(self) -> bool:
        """Whether the dictionary has the predictions of a fitted teacher: a new one for other samples has none."""
        return self.model is not None and bool(self.knowledge.filled.all())

    @property
    def untrained(self) -> list[str]:
        """Names of the sources that were to be fine-tuned and have no gradient."""
        tuned = [part for part in self.modules() if isinstance(part, FineTuned)]
        return list(dict.fromkeys(name for part in tuned for name in part.untrained))

    def build(self, name: str) -> None:
        """Create the chosen teacher, without fitting it.

        Args:
            name: One of :data:`~lightning_fusion.hat.fitted.choice.MEMBERS`.
        """
        self.chosen, self.model = name, self._make(name)

    def fit(self, evidence: Evidence, target: Tensor, index: Tensor) -> None:
        """Choose and fit the teacher on the labeled samples.

        Args:
            evidence: Outputs of the sources on N labeled samples of classes of the sources.
            target: (N,) classes.
            index: (N,) sample numbers.
        """
        device = target.device
        make: Any = lambda name: self._make(name).to(device)  # noqa: E731
        found = choose_teacher(self.names, make, evidence, target, self.seed, self.powers)
        self.build(found.name)
        fit_chosen(found, self.model.to(device), evidence, target, self.seed)
        self.sharpness.fill_(found.sharpness)
        self.figures = {
            name: {"accuracy": found.accuracy[name], "log_likelihood": found.log_likelihood[name]}
            for name in found.accuracy
        }
        self._held = index, found.held_out, found.accuracy[found.name]

    def teach(self, batches: Iterable[tuple[Tensor, Evidence]]) -> None:
        """Fill the dictionary: labeled samples with predictions of teachers that were fitted without them.

        Args:
            batches: Sample numbers (B,), and the outputs of the sources, of all samples.
        """
        index, held_out, accuracy = self._held
        for numbers, evidence in batches:
            self.knowledge.fill(numbers, self(evidence), accuracy)
        self.knowledge.fill(index, held_out, accuracy)

    def convert_from(self, found: Mapping[str, Any] | None) -> None:
        """Convert the input of fine-tuned sources as :meth:`ExpertPool.convert_from` does that of the sources."""
        if self.model is not None:
            self.model.convert_from(found)

    def forward(self, evidence: Evidence) -> Tensor:
        """Return (B, C) sharpened probabilities of the fitted teacher."""
        return sharpen(self.model(evidence), float(self.sharpness))


class MixerTeacher(Teacher):
    """Mixers of frozen sources that are trained with the student, and fill the dictionary when they have improved.

    Args:
        pool: The sources; they are not submodules of the teacher.
        columns: As in :class:`Teacher`, as are the next two.
        num_classes: C, number of classes of the target.
        sizes: Sizes of the representations, and names of the heads.
        mixing: ``attention``, or ``static``, one learned weight for each source.
        dim: Size of the attention's query and keys.
        temperature: Temperature of the softmax over sources.
        update_rule: Replace the dictionary if the accuracy is greater (``gt``), or greater or equal (``ge``).
        accuracy_source: Samples for the accuracy: ``train``, ``holdout`` or ``crossfit``.
        seed: Random seed of the weights and folds.

    Attributes:
        mixers: One mixer, or one for each fold of the labels with ``accuracy_source: crossfit``.
        knowledge: The dictionary; ``None`` before :meth:`note_rows`.
        mean_weights: (S,) mean weights in the last epoch that trained the mixers.
    """

    mean_weights: Tensor

    def __init__(
        self,
        pool: ExpertPool,
        columns: Mapping[str, list[int]],
        num_classes: int,
        sizes: Mapping[str, Any],
        mixing: Literal["attention", "static"] = "attention",
        dim: int = 32,
        temperature: float = 1.0,
        update_rule: Literal["gt", "ge"] = "gt",
        accuracy_source: Literal["train", "holdout", "crossfit"] = "train",
        seed: int = 0,
    ) -> None:
        super().__init__(pool, columns, num_classes, sizes)
        self.mixing, self.update_rule, self.accuracy_source, self.seed = mixing, update_rule, accuracy_source, seed
        widths = {name: sizes["sources"][name] for name in pool.names}
        mixers = []
        for _ in range(_FOLDS if accuracy_source == "crossfit" else 1):
            heads = copy_heads(pool.members, sizes["heads"]) if sizes["heads"] else None
            mixers.append(Mixer(sizes["own"], widths, heads, columns, num_classes, dim, temperature, mixing))
        self.mixers: Any = nn.ModuleList(mixers)
        self.register_buffer("mean_weights", torch.full((len(widths),), 1 / len(widths)))
        self._weights = torch.zeros(len(widths))  # state of one epoch and process

    def note_rows(self, index: Tensor, target: Tensor) -> None:
        """Build the dictionary, and forget the weights of an interrupted epoch."""
        super().note_rows(index, target)
        self._weights.zero_()

    def _make_knowledge(self, index: Tensor, target: Tensor) -> KnowledgeDictionary:
        rules: Any = (self.update_rule, self.accuracy_source, _FOLDS, self.seed)
        return KnowledgeDictionary(index, self.num_classes, target, *rules)

    def forward(self, z: Tensor, answer: Answer) -> Mixed:
        """Mix the outputs of the sources.

        Args:
            z: (B, D) representation of the student, detached.
            answer: Outputs of the sources.
        """
        return Mixed(*zip(*(mixer(z, answer.representations, answer.scores) for mixer in self.mixers), strict=True))

    def loss(self, rows: Tensor, target: Tensor, mixed: Mixed) -> Tensor:
        """Compute L_mix; with several mixers their sum, as they share no parameter.

        Args:
            rows: (B,) rows of the dictionary.
            target: (B,) targets of the batch.
            mixed: Output of the mixers for the batch.
        """
        sums, counts = [], []
        for number, (mixer, log_mix) in enumerate(zip(self.mixers, mixed.log_mix, strict=True)):
            taught = mixer.known(self.knowledge.taught(rows, target, number))
            sums.append(mixer.loss(log_mix, taught))
            counts.append((taught >= 0).sum())
        return global_means(sums, counts).sum()

    def fused(self, rows: Tensor, mixed: Mixed) -> Tensor:
        """Return the (B, C) predictions of the mixers, without gradient; held-out ones for labeled samples."""
        combined: Tensor = self.knowledge.combine(rows, [log_mix.detach().exp() for log_mix in mixed.log_mix])
        return combined

    @torch.no_grad()
    def keep(self, rows: Tensor, fused: Tensor, mixed: Mixed) -> None:
        """Store the predictions on a batch until the end of the epoch."""
        self.knowledge.keep(rows, fused)
        weights: Any = sum(log_weights.exp().sum(0) for log_weights in mixed.log_weights)
        self._weights = self._weights.to(weights) + weights

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Update the dictionary if the mixers improved, and the mean weights of the sources."""
        self.knowledge.update()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self._weights)
        self.mean_weights.copy_(self._weights / self._weights.sum())
        self._weights.zero_()
