"""Caches of calibration samples for any set of experts, shared by all queries."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_fusion.frugal.neighbors import SubsetNeighbors
from lightning_fusion.frugal.planning import membership
from lightning_fusion.frugal.subset_fusers import SubsetFuser

OOD_RATIO = 2.0
"""Ratio of the k-distance of a sample to that of its neighbors above which it is out-of-distribution."""


class LossTables:
    """Held-out loss of F^T on each calibration sample for each set T, filled on demand.

    The loss does not depend on the query, so queries share it. Tables that exceed ``limit_bytes`` are cleared and
    filled again.

    Args:
        fuser: Fuser, attached to the calibration samples.
        targets: (N,) classes of the calibration samples.
        loss: ``zero_one`` or ``log``.
    """

    limit_bytes = 2**28

    def __init__(self, fuser: SubsetFuser, targets: Tensor, loss: str) -> None:
        self.fuser, self.targets, self.zero_one = fuser, targets, loss == "zero_one"
        dtype = torch.int8 if self.zero_one else torch.float64
        self.stored = torch.full((64, len(targets)), -1, dtype=dtype, device=targets.device)
        self.slots: dict[tuple[int, ...], int] = {}

    def __call__(self, base: Sequence[int], additions: Sequence[Sequence[int]], rows: Tensor) -> Tensor:
        """Return the (A,) + rows.shape float64 loss of F^T on samples, for T = ``base`` and each addition."""
        slots = torch.tensor(self._slots([tuple(sorted((*base, *added))) for added in additions]), device=rows.device)
        needed = rows.unique()
        unknown = self.stored[slots[:, None], needed] < 0  # (A, U)
        lacking = unknown.any(1)
        if lacking.any():
            which = lacking.nonzero().flatten().tolist()
            some = unknown[lacking].any(0)
            if unknown[lacking][:, some].float().mean() > 0.5:  # mostly the same rows: one search for all
                self._fill(base, [additions[number] for number in which], slots[lacking], needed[some])
            else:
                for number in which:
                    self._fill(base, [additions[number]], slots[number : number + 1], needed[unknown[number]])
        result = self.stored[slots[:, None], rows.flatten()].to(torch.float64)
        return result.view(len(slots), *rows.shape)

    def _slots(self, sets: Sequence[tuple[int, ...]]) -> list[int]:
        new = [found for found in dict.fromkeys(sets) if found not in self.slots]
        wanted = len(self.slots) + len(new)
        room = max(64, self.limit_bytes // (len(self.targets) * self.stored.element_size()))
        if wanted > room:  # clear, and fill again the needed entries
            self.slots, new, wanted = {}, list(dict.fromkeys(sets)), len(set(sets))
            self.stored.fill_(-1)
        if wanted > len(self.stored):
            size = max(wanted, min(room, 2 * len(self.stored)))
            more = self.stored.new_full((size - len(self.stored), self.stored.shape[1]), -1)
            self.stored = torch.cat([self.stored, more])
        for found in new:
            self.slots[found] = len(self.slots)
        return [self.slots[found] for found in sets]

    def prepare(self, requests: Sequence[tuple[tuple[int, ...], Tensor]], further: bool) -> None:
        """Fill the entries of several sets S at once: F^S or, with ``further``, F^(S + k) for every k.

        Args:
            requests: Sets of experts, and (R,) calibration samples of each.
            further: Whether one more expert is added to each set.
        """
        if not requests:
            return
        experts = self.fuser.num_experts
        wanted = [tuple(sorted({*base, k})) for base, _ in requests for k in (range(experts) if further else base[:1])]
        slots = torch.tensor(self._slots(wanted), device=self.targets.device).view(len(requests), -1)
        sets = torch.zeros(len(requests), experts, dtype=torch.bool, device=self.targets.device)
        numbers, lacking = [], []
        for number, (base, rows) in enumerate(requests):
            sets[number, list(base)] = True
            lacking.append(rows[(self.stored[slots[number][:, None], rows] < 0).any(0)])
            numbers.append(torch.full_like(lacking[-1], number))
        group, row = torch.cat(numbers), torch.cat(lacking)
        for some, distributions in self.fuser.held_out_many(sets[group], row, further):
            loss = self._loss(distributions.transpose(0, 1), self.targets[row[some]])  # (1 or K, q)
            self.stored[slots[group[some]].T, row[some]] = loss

    def _fill(self, base: Sequence[int], additions: Sequence[Sequence[int]], slots: Tensor, rows: Tensor) -> None:
        distributions = self.fuser.held_out(base, additions, rows)  # (A, U, C)
        self.stored[slots[:, None], rows] = self._loss(distributions, self.targets[rows])

    def _loss(self, distributions: Tensor, goal: Tensor) -> Tensor:
        """Return the (A, U) loss of (A, U, C) probabilities."""
        if self.zero_one:
            return (distributions.argmax(2) != goal).to(self.stored.dtype)
        share = distributions.gather(2, goal.expand(len(distributions), -1)[:, :, None])[:, :, 0].to(torch.float64)
        mixed = (1 - self.fuser.smoothing) * share + self.fuser.smoothing / distributions.shape[2]
        return -mixed.clamp_max(1).log()


class DistanceTables:
    """k-distances of the calibration samples in the space of each set of experts, filled on demand.

    Args:
        neighbors: Neighbor search in the calibration samples.
        outputs: (K, N, C) outputs on the calibration samples.
        count: k, at most N - 1.
    """

    def __init__(self, neighbors: SubsetNeighbors, outputs: Tensor, count: int) -> None:
        self.neighbors, self.outputs, self.count = neighbors, outputs, count
        self.stored: dict[tuple[int, ...], Tensor] = {}

    def ood(self, groups: Sequence[tuple[tuple[int, ...], Tensor]], voters: Tensor, last: Tensor) -> Tensor:
        """Return (R,) bool, whether the k-distance of a sample is more than twice that of its neighbors.

        The criterion is that of local outlier factors (Breunig et al., 2000).

        Args:
            groups: Sets of experts, and the samples (of R) that queried them.
            voters: (R, k) nearest calibration samples of each sample.
            last: (R,) squared distance of the farthest of them.
        """
        rows = self.outputs.shape[1]
        if (len(self.stored) + len(groups)) * 8 * rows > LossTables.limit_bytes:
            self.stored.clear()
        nothing = torch.full((rows,), math.nan, dtype=last.dtype)
        tables = [self.stored.setdefault(subset, nothing.to(last.device, copy=True)) for subset, _ in groups]
        nearest = [voters[some].unique() for _, some in groups]
        unknown = [near[table[near].isnan()] for table, near in zip(tables, nearest, strict=True)]
        counts = [len(lacking) for lacking in unknown]
        sets = membership([subset for subset, _ in groups], len(self.outputs), self.outputs.device)
        sets = sets.repeat_interleave(torch.tensor(counts, device=sets.device), dim=0)
        lacking = torch.cat(unknown)
        found = self.neighbors.each(sets, self.outputs[:, lacking], self.count, lacking)[1].sqrt()
        result = torch.empty(len(voters), dtype=torch.bool, device=voters.device)
        for (_, some), table, near, values in zip(groups, tables, unknown, found.split(counts), strict=True):
            table[near] = values
            result[some] = last[some].sqrt() > OOD_RATIO * table[voters[some]].mean(1) + 1e-3
        return result
