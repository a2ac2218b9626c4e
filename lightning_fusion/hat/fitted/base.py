"""Base class of fitted teachers, and what they are fitted on."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from lightning_fusion.data.splits import stratified_folds
from lightning_fusion.experts.answers import take_rows
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.hat.mixer import aligned
from lightning_fusion.hat.sources import run_sources

FLOOR = 1e-4
"""Smallest probability whose logarithm a teacher reads: beyond it, small samples tell nothing."""
FOLDS = 3
ROWS = 64  # of a step of gradient descent


class Evidence(NamedTuple):
    """Outputs of the sources on N samples of the target.

    Attributes:
        input: N preprocessed inputs.
        log_probabilities: (N, S, C) of the target's classes, by source; about -1e30 for classes that it lacks.
        representations: (N, D_1 + ... + D_S) concatenated representations.
    """

    input: Any
    log_probabilities: Tensor
    representations: Tensor

    def take(self, rows: Tensor) -> "Evidence":
        """Return the samples in rows (B,)."""
        return Evidence(take_rows(self.input, rows), self.log_probabilities[rows], self.representations[rows])


@torch.no_grad()
def evidence_of(pool: ExpertPool, columns: Mapping[str, Sequence[int]], input: Any, count: int) -> Evidence:
    """Run the sources on samples, 64 at a time.

    Args:
        pool: The sources; each names its ``features``.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        input: Preprocessed input of the samples.
        count: N, number of samples.
    """
    parts = []
    for rows in torch.arange(count).split(ROWS):
        answer = run_sources(pool, take_rows(input, rows), with_scores=True)
        assert answer.scores is not None
        scores = [
            aligned(found, torch.tensor(list(columns[name]), device=found.device))
            for name, found in answer.scores.items()
        ]
        parts.append((torch.stack(scores, 1), torch.cat(list(answer.representations.values()), 1)))
    return Evidence(input, *(torch.cat(part) for part in zip(*parts, strict=True)))


class FittedTeacher(nn.Module):
    """Base class of models of the sources' outputs that are fitted on labeled samples of the target.

    Weights need no gradient after :meth:`fit`; the fitted state is in the ``state_dict``.
    """

    @abstractmethod
    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Fit on labeled samples.

        Args:
            evidence: Outputs of the sources on N labeled samples.
            target: (N,) classes.
            seed: Random seed.
        """

    def convert_from(self, found: Mapping[str, Any] | None) -> None:
        """Convert the input of fine-tuned sources as :meth:`ExpertPool.convert_from` does that of the sources."""
        for part in self.modules():
            if isinstance(part, Expert):
                part.convert_from(found, None)

    @abstractmethod
    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) float32 probabilities of the target's classes."""


def folds_of(target: Tensor, seed: int) -> Tensor:
    """Return the (N,) fold of each labeled sample: three stratified folds, fewer where there are fewer samples."""
    fold = stratified_folds(target.cpu().numpy(), min(FOLDS, len(target)), seed)
    return torch.from_numpy(fold).to(target.device)


def likelihood_of(probabilities: Tensor, target: Tensor) -> Tensor:
    """Return (N,) float64 probabilities of the classes in target (N,), at least :data:`FLOOR`."""
    return probabilities.double().gather(1, target[:, None])[:, 0].clamp_min(FLOOR)
