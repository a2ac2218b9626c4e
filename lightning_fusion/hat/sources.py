"""Outputs of frozen sources on the target's samples, computed or cached."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_fusion.data.base import Batch
from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.hat.knowledge import find_rows

_TINY = 1e-12


class Answer(NamedTuple):
    """Outputs of all sources on a batch.

    Attributes:
        representations: (B, D_i) by source.
        scores: (B, C_i) log-probabilities by source; None where heads of the mixer's own make them.
    """

    representations: dict[str, Tensor]
    scores: dict[str, Tensor] | None


def run_sources(pool: ExpertPool, input: Any, with_scores: bool) -> Answer:
    """Run every source on a batch.

    Args:
        pool: The sources.
        input: A batch.
        with_scores: Whether their own probabilities are needed.
    """
    if not with_scores:
        return Answer(pool.representations(input), None)
    probabilities, representations = pool.forward_with_representations(input)
    return Answer(representations, {name: value.clamp_min(_TINY).log() for name, value in probabilities.items()})


class SourceTable:
    """Outputs of frozen sources on all samples of a split, computed once, in ascending order of sample indices.

    Args:
        pool: The sources.
        batches: All samples, on the device where the answers are to stay.
        with_scores: As for :func:`run_sources`.

    Example:
        >>> from lightning_fusion import Expert
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> pool = ExpertPool({"a": Expert(network, classes=["cat", "dog"], features="0")})
        >>> samples = Batch(torch.rand(6, 4), torch.zeros(6), torch.zeros(6, 0), torch.arange(6) * 10)
        >>> table = SourceTable(pool, [samples], with_scores=False)
        >>> table(table.rows(torch.tensor([50, 0]))).representations["a"].shape
        torch.Size([2, 3])
    """

    def __init__(self, pool: ExpertPool, batches: Iterable[Batch], with_scores: bool) -> None:
        indices: list[Tensor] = []
        parts: list[Tensor] = []
        widths: list[dict[str, int]] = []
        for batch in batches:
            representations, scores = run_sources(pool, batch.input, with_scores)
            both: list[Mapping[str, Tensor]] = [representations] if scores is None else [representations, scores]
            widths = [{name: value.shape[1] for name, value in part.items()} for part in both]
            indices.append(batch.index)
            parts.append(torch.cat([value for part in both for value in part.values()], 1))
        self.index, order = torch.cat(indices).sort()
        self.values = torch.cat(parts)[order]  # side by side: one look-up for all sources
        self.widths = widths

    def rows(self, index: Tensor) -> Tensor:
        """(B,) rows of samples by their numbers (B,).

        Raises:
            InputError: If a number is none of the table's; on a GPU, where that would wait, it is not looked at.
        """
        rows, strange = find_rows(self.index, index)
        if strange.device.type == "cpu" and bool(strange.any()):
            wrong = int(index[strange][0])
            raise InputError(f"sample number {wrong} has no answer of the sources; Batch.index must not change")
        return rows

    def __call__(self, rows: Tensor) -> Answer:
        """The answers to the samples in some rows (B,)."""
        parts = iter(self.values[rows].split([width for part in self.widths for width in part.values()], 1))
        found = [{name: next(parts) for name in part} for part in self.widths]
        return Answer(found[0], found[1] if len(found) > 1 else None)
