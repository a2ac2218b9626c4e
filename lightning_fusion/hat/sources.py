"""Outputs of frozen sources on target samples, computed or cached."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_fusion.data.batch import Batch
from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.hat.knowledge import find_rows

TINY = 1e-12
"""Smallest probability whose logarithm is taken."""


class Answer(NamedTuple):
    """Outputs of all sources on a batch.

    Attributes:
        representations: (B, D_i) representations by source.
        scores: (B, C_i) log-probabilities by source; ``None`` if the mixer has trainable heads.
    """

    representations: dict[str, Tensor]
    scores: dict[str, Tensor] | None


def run_sources(pool: ExpertPool, input: Any, with_scores: bool) -> Answer:
    """Run every source on a batch.

    Args:
        pool: The sources.
        input: A batch.
        with_scores: Return the sources' log-probabilities as well.
    """
    if not with_scores:
        return Answer(_trainable(pool.representations(input)), None)
    probabilities, representations = pool.forward_with_representations(input)
    return Answer(
        _trainable(representations), {name: value.clamp_min(TINY).log() for name, value in probabilities.items()}
    )


def _trainable(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return values that autograd may store: those of networks in inference mode are copied."""
    return {name: value.clone() if value.is_inference() else value for name, value in values.items()}


class SourceTable:
    """Cached outputs of frozen sources on all samples of a split, in ascending order of sample numbers.

    Args:
        pool: The sources.
        batches: Batches of all samples, on the device of the cache.
        with_scores: Store the sources' log-probabilities as well.

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
        self.values = torch.cat(parts)[order]  # concatenated: one look-up for all sources
        self.widths = widths

    def rows(self, index: Tensor) -> Tensor:
        """Return the (B,) rows of samples by their numbers (B,).

        Raises:
            InputError: If a number is not in the table; not checked on a GPU, to avoid a synchronization.
        """
        rows, strange = find_rows(self.index, index)
        if strange.device.type == "cpu" and bool(strange.any()):
            wrong = int(index[strange][0])
            raise InputError(f"sample number {wrong} has no cached outputs; Batch.index must not change between epochs")
        return rows

    def __call__(self, rows: Tensor) -> Answer:
        """Return the outputs of the samples in rows (B,)."""
        parts = iter(self.values[rows].split([width for part in self.widths for width in part.values()], 1))
        found = [{name: next(parts) for name in part} for part in self.widths]
        return Answer(found[0], found[1] if len(found) > 1 else None)


class SourceOutputs:
    """Outputs of frozen sources on batches: those of cached splits are looked up, others are computed.

    Args:
        pool: The sources.
        with_scores: Return the sources' log-probabilities as well.

    Attributes:
        tables: Cached outputs by split.

    Example:
        >>> from lightning_fusion import Expert
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> pool = ExpertPool({"a": Expert(network, classes=["cat", "dog"], features="0")})
        >>> samples = Batch(torch.rand(6, 4), torch.zeros(6), torch.zeros(6, 0), torch.arange(6) * 10)
        >>> outputs = SourceOutputs(pool, with_scores=False)
        >>> outputs.cache("train", [samples])
        >>> outputs.of(samples, "train").representations["a"].equal(outputs(samples.input).representations["a"])
        True
    """

    def __init__(self, pool: ExpertPool, with_scores: bool) -> None:
        self.pool, self.with_scores = pool, with_scores
        self.tables: dict[str, SourceTable] = {}

    def cache(self, split: str, batches: Iterable[Batch]) -> None:
        """Run the sources on all samples of a split, on the device of the batches."""
        self.tables[split] = SourceTable(self.pool, batches, self.with_scores)

    def __call__(self, input: Any) -> Answer:
        """Run the sources on a batch of input."""
        return run_sources(self.pool, input, self.with_scores)

    def of(self, batch: Batch, split: str, rows: Tensor | None = None) -> Answer:
        """Return the outputs on a batch of a split, cached ones where there are any.

        Args:
            batch: The batch.
            split: Name of its split.
            rows: (B,) rows of the cached samples, if they are known.
        """
        if split not in self.tables:
            return self(batch.input)
        table = self.tables[split]
        return table(table.rows(batch.index) if rows is None else rows)
