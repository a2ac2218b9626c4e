"""Teacher of the student: mixers of the sources, and the knowledge dictionary."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.hat.heads import copy_heads
from lightning_fusion.hat.knowledge import KnowledgeDictionary
from lightning_fusion.hat.mixer import Mixer, global_means
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
    """Mixers of frozen sources and the :class:`~lightning_fusion.KnowledgeDictionary` that they fill.

    Args:
        pool: The sources; they are not submodules of the teacher.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        num_classes: C, number of classes of the target.
        sizes: ``own``, the size of z_t; ``sources``, the size of z_i by source; ``heads``, the name of each source's
            head, of which the mixers train copies; empty if the sources' outputs are used.
        mixing: ``attention``, ``static`` (one learned weight for each source) or ``uniform``.
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
        mixing: Literal["attention", "static", "uniform"] = "attention",
        dim: int = 32,
        temperature: float = 1.0,
        update_rule: Literal["gt", "ge"] = "gt",
        accuracy_source: Literal["train", "holdout", "crossfit"] = "train",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sizes, self.num_classes = dict(sizes), num_classes
        self.update_rule, self.accuracy_source, self.seed = update_rule, accuracy_source, seed
        widths = {name: sizes["sources"][name] for name in pool.names}
        mixers = []
        for _ in range(_FOLDS if accuracy_source == "crossfit" else 1):
            heads = copy_heads(pool.members, sizes["heads"]) if sizes["heads"] else None
            mixers.append(Mixer(sizes["own"], widths, heads, columns, num_classes, dim, temperature, mixing))
        self.mixers: Any = nn.ModuleList(mixers)
        self.knowledge: Any = None
        self.register_buffer("mean_weights", torch.full((len(widths),), 1 / len(widths)))
        self._weights = torch.zeros(len(widths))  # state of one epoch and process

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
        rules: Any = (self.update_rule, self.accuracy_source, _FOLDS, self.seed)
        made = KnowledgeDictionary(index, self.num_classes, target, *rules)
        if self.knowledge is None or not self.knowledge.is_of(made.index, made.target):
            self.knowledge = made
        self._weights.zero_()

    def known(self, target: Tensor) -> Tensor:
        """Return the (B,) targets, -100 for unlabeled samples and for classes that no source has."""
        known: Tensor = self.mixers[0].known(target)
        return known

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
