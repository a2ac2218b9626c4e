"""Sources that are fine-tuned on the labels."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.data.batch import num_samples
from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import take_rows
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.names import NamedModules
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.hat.fitted.base import ROWS, Evidence, FittedTeacher
from lightning_fusion.hat.mixer import aligned
from lightning_fusion.hat.sources import TINY


class FineTuned(FittedTeacher):
    """Average of the sources after each was fine-tuned on the labels.

    Copies of the sources stay in eval mode, so that neither dropout nor the statistics of batch normalization change on
    few samples (our choice). Copies of sources in 16-bit precision are in float32, in which AdamW is stable. Sources
    without weights in torch, and those whose outputs have no gradient, answer as they are.

    Args:
        pool: The sources.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        epochs: Passes over the labeled samples.
        rate: Learning rate of AdamW, which is annealed to 0.

    Attributes:
        untrained: Names of the sources whose outputs have no gradient, after :meth:`fit`.
    """

    def __init__(
        self, pool: ExpertPool, columns: Mapping[str, Sequence[int]], epochs: int = 20, rate: float = 1e-3
    ) -> None:
        super().__init__()
        self.sources = NamedModules({name: _in_float32(expert) for name, expert in pool.members.items()})
        self.columns = {name: list(columns[name]) for name in pool.names}
        self.epochs, self.rate = epochs, rate
        self.untrained: list[str] = []

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Fine-tune each source on the labeled samples of its classes.

        Raises:
            InputError: If the outputs of a fine-tuned source are not finite.
        """
        self.untrained = []
        for name, source in self.sources.items():
            places = torch.tensor(self.columns[name], device=target.device)
            known = (places[target] >= 0).nonzero().flatten()
            weights = [weight for weight in source.parameters() if weight.is_floating_point()]
            if not len(known) or not weights:
                continue
            if not descend(source, weights, take_rows(evidence.input, known), target[known], places, self, seed):
                self.untrained.append(name)
        return self

    @torch.no_grad()
    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) mean probabilities of the fine-tuned sources."""
        return torch.stack(list(self.answers(evidence.input).values())).mean(0)

    @torch.no_grad()
    def answers(self, input: Any) -> dict[str, Tensor]:
        """Return (N, C) probabilities of each fine-tuned source, by name, computed for 64 samples at a time.

        Raises:
            InputError: If they are not finite.
        """
        found = {}
        for name, source in self.sources.items():
            parts = [source(take_rows(input, rows)) for rows in torch.arange(num_samples(input) or 0).split(ROWS)]
            probabilities = torch.cat(parts)
            if not bool(probabilities.isfinite().all()):
                raise InputError(
                    f"teacher: the outputs of source {name} are NaN or infinite after it was fine-tuned; leave it out "
                    "of experts, or set teacher: stacking"
                )
            places = torch.tensor(self.columns[name], device=probabilities.device)
            found[name] = aligned(probabilities.clamp_min(TINY).log(), places).exp()
        return found


def _in_float32(expert: Expert) -> Expert:
    """Return a copy of an expert whose weights in 16-bit precision are in float32."""
    copied = copy.deepcopy(expert)
    half = any(weight.is_floating_point() and weight.element_size() < 4 for weight in copied.parameters())
    return copied.float() if half else copied


def descend(
    source: Expert, weights: list[nn.Parameter], input: Any, target: Tensor, places: Tensor, how: Any, seed: int
) -> bool:
    """Minimize the cross entropy of a source on labeled samples with AdamW, in batches of 64 samples.

    Returns whether its outputs have a gradient; if not, it stays as it is.

    Args:
        source: The source, which stays in eval mode.
        weights: Its weights.
        input: N inputs.
        target: (N,) classes of the target.
        places: (C,) the source's output of each class of the target, -1 if it lacks the class.
        how: Object with ``epochs`` and ``rate``.
        seed: Random seed of the order.
    """
    parts = math.ceil(len(target) / ROWS)
    optimizer = torch.optim.AdamW(weights, lr=how.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.epochs * parts)
    generator = torch.Generator().manual_seed(seed)
    source.requires_grad_(True)
    try:
        with torch.enable_grad():
            for _ in range(how.epochs):
                for rows in torch.randperm(len(target), generator=generator).chunk(parts):
                    optimizer.zero_grad()
                    scores = source.trainable_forward(take_rows(input, rows)).clamp_min(TINY).log()
                    if not scores.requires_grad:
                        return False
                    wanted = target[rows.to(target.device)]
                    F.nll_loss(aligned(scores, places), wanted).backward()
                    optimizer.step()
                    schedule.step()
    finally:
        source.requires_grad_(False)
    return True
