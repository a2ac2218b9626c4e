"""Nearest labelled rows in the space of any subset of the experts' outputs, exactly."""

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 2**20  # distances held at once: 4 MB
_PAD = 64


class SubsetNeighbours:
    """Finds the rows that are nearest to a point on the outputs of a subset S of the experts.

    Squared distances add over experts, D_S(x, n) = sum over k in S of ||f_k(x) - f_k(x_n)||^2, so one more expert is one
    more matrix product. Rows are ordered by (distance, row index). Products are taken in float32; where their rounding
    error could change which rows are nearest, these rows are done again in float64 (our choice: the answer is that of
    float64, at half its price).

    Args:
        outputs: (K, N, C) outputs of K experts on N labelled rows, zeros where an expert does not know a class.
    """

    def __init__(self, outputs: Tensor) -> None:
        self.num_experts, self.num_rows, _ = outputs.shape
        self.device = outputs.device
        self._outputs = outputs.transpose(0, 1)  # (N, K, C)
        squares = outputs.to(torch.float64).square().sum(2)
        sides = torch.cat([-2 * outputs, torch.ones_like(squares)[:, :, None], squares[:, :, None]], dim=2)
        pad = sides.new_zeros(self.num_experts, -self.num_rows % _PAD, sides.shape[2])
        pad[:, :, -1] = float("inf")
        self._sides = torch.cat([sides, pad], dim=1).transpose(1, 2).to(torch.float32).contiguous()  # (K, C + 2, N)
        self._largest = squares.amax(1)  # (K,)
        self._buffer = self._sides.new_empty(0)

    def nearest(
        self,
        base: Sequence[int],
        additions: Sequence[Sequence[int]],
        points: Tensor,
        count: int,
        own: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The nearest rows for several subsets that share their first experts.

        Args:
            base: Experts in every subset.
            additions: For each of A subsets, the experts it has beside ``base``.
            points: (K, R, C) outputs at R points; those of experts in no subset are not read.
            count: Rows to find.
            own: (R,) the row that each point is itself, which is no neighbour of its own; None for new points.

        Returns:
            (A, R, count) row indices, ordered by distance up to rounding, and (A, R) the squared distance of the last.
        """
        known, found = points.shape[1], len(additions)
        indices = torch.empty(found, known, count, dtype=torch.int64, device=points.device)
        last = torch.empty(found, known, dtype=torch.float32, device=points.device)
        held = max(1, _BLOCK // self._sides.shape[2])
        rows = max(1, min(known, held // min(found, 8)))
        subsets = max(1, held // rows)
        if len(self._buffer) < held:
            self._buffer = self._sides.new_empty(held, self._sides.shape[2])
        with torch.autocast(points.device.type, enabled=False):
            for start in range(0, known, rows):
                part = slice(start, start + rows)
                few = points[:, part]
                sides, squares = _augment(few)
                mine = None if own is None else own[part]
                shared = self._distances(None, base, sides)
                for first in range(0, found, subsets):
                    some = slice(first, first + subsets)
                    indices[some, part], last[some, part] = self._search(
                        shared, base, additions[some], few, sides, squares, count, mine
                    )
        return indices, last

    def _distances(
        self, shared: Tensor | None, experts: Sequence[int], sides: Tensor, out: Tensor | None = None
    ) -> Tensor | None:
        """``shared`` (R, N) and the squared distances of more experts, added up."""
        for number, expert in enumerate(experts):
            into = out if out is not None or not number else shared
            if shared is None:
                shared = torch.mm(sides[expert], self._sides[expert], out=into)
            else:
                shared = torch.addmm(shared, sides[expert], self._sides[expert], out=into)
        return shared

    def _search(
        self,
        shared: Tensor | None,
        base: Sequence[int],
        additions: Sequence[Sequence[int]],
        points: Tensor,
        sides: Tensor,
        squares: Tensor,
        count: int,
        own: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        rows, width = points.shape[1], self._sides.shape[2]
        flat = self._buffer[: len(additions) * rows]
        for place, added in zip(flat.split(rows), additions, strict=True):
            if added:
                self._distances(shared, added, sides, place)
            else:
                assert shared is not None
                place.copy_(shared)
        if own is not None:
            flat.scatter_(1, own.repeat(len(additions))[:, None], float("inf"))
        wanted = min(count + 1, width)
        values, indices = smallest(flat, wanted)
        indices, last = indices[:, :count], values[:, count - 1]
        margin = torch.stack([self._margin([*base, *added], squares) for added in additions]).flatten()
        unsure = values[:, count] - last <= margin
        if unsure.any():
            again = unsure.nonzero().flatten()
            edge = (last + margin)[again]
            suspect = flat[again] <= edge[:, None]
            for number, added in enumerate(additions):
                some = again // rows == number
                if some.any():
                    place = again[some]
                    indices[place] = self._exact([*base, *added], points[:, place % rows], suspect[some], count)
        return indices.view(len(additions), rows, count), last.view(len(additions), rows).clamp_min(0)

    def _exact(self, subset: Sequence[int], points: Tensor, suspect: Tensor, count: int) -> Tensor:
        """Order suspects by (distance in float64, row index).

        Args:
            subset: Experts.
            points: (K, R, C).
            suspect: (R, N) bool, rows that may be among the nearest.
            count: Of the nearest.
        """
        found = suspect.sum(1)
        widest = int(found.max())
        place = suspect.nonzero()[:, 1]  # ascending within each point
        order = torch.arange(widest, device=place.device)
        starts = found.cumsum(0) - found
        missing = order >= found[:, None]
        rows = place[(starts[:, None] + order).clamp_max(len(place) - 1)]  # (R, widest)
        result = []
        step = max(1, _BLOCK // max(1, widest * len(subset) * points.shape[2]))
        chosen = points[list(subset)].transpose(0, 1).to(torch.float64)  # (R, S, C)
        index = torch.tensor(list(subset), device=place.device)
        for first in range(0, len(rows), step):
            some = slice(first, first + step)
            theirs = self._outputs[rows[some][:, :, None], index]  # (r, widest, S, C)
            distances = (theirs - chosen[some][:, None]).square_().flatten(2).sum(2)
            distances.masked_fill_(missing[some], float("inf"))
            result.append(distances.argsort(dim=1, stable=True)[:, :count])
        return rows.gather(1, torch.cat(result))

    def _margin(self, subset: Sequence[int], squares: Tensor) -> Tensor:
        """(R,) twice the bound of the rounding error of a float32 distance: products, sums and the given numbers."""
        index = list(subset)
        terms = len(index) * self._sides.shape[1] + 6
        unit = 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8
        return 2 * terms * unit * 2 * (squares[index] + self._largest[index, None]).sum(0)


def _augment(points: Tensor) -> tuple[Tensor, Tensor]:
    """(K, R, C + 2), whose product with (-2 y, 1, |y|^2) is the squared distance, and (K, R) squared lengths."""
    squares = points.to(torch.float64).square().sum(2)
    ends = torch.stack([squares, torch.ones_like(squares)], dim=2)
    return torch.cat([points, ends], dim=2).to(torch.float32), squares


def smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The smallest entries of each row, in order: :func:`torch.topk` after leaving out blocks that hold none of them.

    If an entry is among the ``count`` smallest, so is the smallest of its block among the blocks' smallest.

    Args:
        values: (R, N).
        count: At most N.

    Returns:
        (R, count) values, ascending, and their positions; which of equal values are taken is not defined.

    Example:
        >>> smallest(torch.tensor([[3.0, 1.0, 2.0]]), 2)
        (tensor([[1., 2.]]), tensor([[1, 2]]))
    """
    rows, width = values.shape
    height = 8 if width >= 64 * count else 4
    blocks = width // height
    if width % height or blocks < 2 * count:
        found = values.topk(count, dim=1, largest=False)
        return found.values, found.indices
    stacked = values.view(rows, height, blocks)  # block b holds the entries b, b + blocks, ...
    _, chosen = smallest(stacked.amin(1), count)
    kept = stacked.gather(2, chosen[:, None, :].expand(-1, height, -1)).view(rows, -1)
    found = kept.topk(count, dim=1, largest=False)
    block = chosen.gather(1, found.indices % count)
    return found.values, block + found.indices // count * blocks
