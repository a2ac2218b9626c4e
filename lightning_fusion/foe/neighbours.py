"""Nearest labelled rows in the space of any subset of the experts' outputs, exactly."""

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 2**19  # numbers held at once: 4 MB
_PAD = 64


class SubsetNeighbours:
    """Finds the rows that are nearest to a point on the outputs of a subset S of the experts.

    Squared distances add over experts, D_S(x, n) = sum over k in S of ||f_k(x) - f_k(x_n)||^2, so one more expert is
    one more matrix product. Rows are ordered by (distance, row index), in float64; distances that rounding could have
    swapped are taken again from differences, so that equal rows are equal.

    A search for many supersets S + k of one S looks among the rows close in S first. A row that is not among them has
    D_(S + k) >= D_S >= the largest distance in the list: where the neighbours that were found are nearer than that,
    they are the right ones, and elsewhere all rows are searched.

    Args:
        outputs: (K, N, C) outputs of K experts on N labelled rows, zeros where an expert does not know a class.
    """

    def __init__(self, outputs: Tensor) -> None:
        self.num_experts, self.num_rows, self.num_classes = outputs.shape
        self.device = outputs.device
        wide = outputs.to(torch.float64)
        squares = wide.square().sum(2)
        sides = torch.cat([-2 * wide, torch.ones_like(squares)[:, :, None], squares[:, :, None]], dim=2)
        pad = sides.new_zeros(self.num_experts, _PAD - self.num_rows % _PAD, sides.shape[2])  # one at least
        pad[:, :, -1] = float("inf")
        self._sides = torch.cat([sides, pad], dim=1).transpose(1, 2).contiguous()  # (K, C + 2, padded N)
        self._rows = wide.transpose(0, 1).reshape(self.num_rows, -1)  # (N, K C)
        self._ones = wide.new_ones(self.num_classes)
        self._largest = squares.amax(1).tolist()
        self._buffer = wide.new_empty(max(1, _BLOCK // self._sides.shape[2]), self._sides.shape[2])

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
        with torch.autocast(points.device.type, enabled=False):
            points = points.to(torch.float64)
            close = max(64, 384 // max(1, len(base)), 4 * count)
            if (
                len(base) > 1
                and len(additions) > 3
                and 4 * close < self.num_rows
                and all(len(more) == 1 for more in additions)
            ):
                return self._among_close(base, [more[0] for more in additions], points, count, own, close)
            return self._among_all(base, additions, points, count, own)

    # ------------------------------------------------------------- all the rows

    def _among_all(
        self, base: Sequence[int], additions: Sequence[Sequence[int]], points: Tensor, count: int, own: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Search all rows."""
        known, found = points.shape[1], len(additions)
        indices = torch.empty(found, known, count, dtype=torch.int64, device=points.device)
        last = torch.empty(found, known, dtype=torch.float64, device=points.device)
        held = len(self._buffer)
        rows = max(1, min(known, held // min(found, 8)))
        subsets = max(1, held // rows)
        for start in range(0, known, rows):
            part = slice(start, start + rows)
            few = points[:, part]
            sides = self._augment(few)
            mine = None if own is None else own[part]
            shared = self._add(None, base, sides)
            for first in range(0, found, subsets):
                some = slice(first, first + subsets)
                indices[some, part], last[some, part] = self._search(
                    shared, base, additions[some], few, sides, count, mine
                )
        return indices, last

    def _augment(self, points: Tensor) -> Tensor:
        """(K, R, C + 2), whose product with (-2 y, 1, |y|^2) is the squared distance."""
        squares = points.square().sum(2)
        return torch.cat([points, squares[:, :, None], torch.ones_like(squares)[:, :, None]], dim=2)

    def _add(
        self, shared: Tensor | None, experts: Sequence[int], sides: Tensor, out: Tensor | None = None
    ) -> Tensor | None:
        """(R, padded N) ``shared`` and the squared distances of more experts, added up."""
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
        count: int,
        own: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        rows = points.shape[1]
        flat = self._buffer[: len(additions) * rows]
        for place, added in zip(flat.split(rows), additions, strict=True):
            if added:
                self._add(shared, added, sides, place)
            else:
                assert shared is not None
                place.copy_(shared)
        if own is not None:
            flat.scatter_(1, own.repeat(len(additions))[:, None], float("inf"))
        values, indices = smallest(flat, count + 1)
        indices, last = indices[:, :count], values[:, count - 1]
        margin = max(self._margin([*base, *added]) for added in additions)
        unsure = values[:, count] - last <= margin
        if unsure.any():
            again = unsure.nonzero().flatten()
            suspect = flat[again] <= (last[again] + margin)[:, None]
            for number, added in enumerate(additions):
                some = again // rows == number
                if some.any():
                    place = again[some]
                    indices[place] = self._exact([*base, *added], points[:, place % rows], suspect[some], count)
        return indices.view(len(additions), rows, count), last.view(len(additions), rows).clamp_min(0)

    def _margin(self, subset: Sequence[int]) -> float:
        """Twice the bound of the rounding error of a squared distance, for points no longer than the rows."""
        terms = len(subset) * (self.num_classes + 2) + 2
        return 16 * terms * 2.0**-53 * sum(self._largest[expert] for expert in subset)

    def _exact(self, subset: Sequence[int], points: Tensor, suspect: Tensor, count: int) -> Tensor:
        """(R, count) the nearest of some suspects, by (sum of squared differences, row index).

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
        index = torch.tensor(list(subset), device=place.device)
        chosen = points[index].transpose(0, 1)  # (R, S, C)
        step = max(1, _BLOCK // max(1, widest * self._rows.shape[1]))
        result = []
        for first in range(0, len(rows), step):
            some = slice(first, first + step)
            theirs = self._rows[rows[some]].view(-1, widest, self.num_experts, self.num_classes)[:, :, index]
            distances = (theirs - chosen[some][:, None]).square_().flatten(2).sum(2)
            distances.masked_fill_(missing[some], float("inf"))
            result.append(distances.argsort(dim=1, stable=True)[:, :count])
        return rows.gather(1, torch.cat(result))

    # ---------------------------------------------------------- the close rows

    def _among_close(
        self, base: Sequence[int], extra: Sequence[int], points: Tensor, count: int, own: Tensor | None, close: int
    ) -> tuple[Tensor, Tensor]:
        """Search the rows close in ``base``, and all rows where these do not suffice."""
        known, found = points.shape[1], len(extra)
        indices = torch.empty(known, found, count, dtype=torch.int64, device=points.device)
        last = torch.empty(known, found, dtype=torch.float64, device=points.device)
        sure = torch.empty(known, found, dtype=torch.bool, device=points.device)
        margin = self._margin([*base, *extra])
        base_index, extra_index = (torch.tensor(list(part), device=points.device) for part in (base, extra))
        held, step = len(self._buffer), max(1, _BLOCK // (close * self._rows.shape[1]))
        for start in range(0, known, held):
            block = slice(start, min(start + held, known))
            shared = self._add(None, base, self._augment(points[:, block]))
            assert shared is not None
            if own is not None:
                shared.scatter_(1, own[block, None], float("inf"))
            values, lists = smallest(shared, close + 1)
            reach, lists = values[:, close], lists[:, :close]
            for first in range(0, len(lists), step):
                part = slice(start + first, min(start + first + step, block.stop))
                here = slice(first, first + step)
                theirs = self._rows.index_select(0, lists[here].flatten()).view(
                    -1, close, self._rows.shape[1]
                )  # (r, P, K C)
                theirs -= points[:, part].transpose(0, 1).reshape(-1, 1, theirs.shape[2])
                single = theirs.square_().view(-1, self.num_classes) @ self._ones
                single = single.view(*theirs.shape[:2], self.num_experts)
                total = single[:, :, base_index].sum(2, keepdim=True) + single[:, :, extra_index]
                nearest = total.transpose(1, 2).topk(count + 1, dim=2, largest=False)  # (r, A, count + 1)
                edge = nearest.values[:, :, count]
                last[part] = nearest.values[:, :, count - 1]
                sure[part] = (edge + margin < reach[here, None]) & (edge - last[part] > margin)
                theirs_index = lists[here][:, None].expand(-1, found, -1)
                indices[part] = theirs_index.gather(2, nearest.indices[:, :, :count])
        indices, last = indices.transpose(0, 1), last.transpose(0, 1)
        self._search_unsure(base, extra, points, count, own, sure.T, indices, last)
        return indices, last

    def _search_unsure(
        self,
        base: Sequence[int],
        extra: Sequence[int],
        points: Tensor,
        count: int,
        own: Tensor | None,
        sure: Tensor,
        indices: Tensor,
        last: Tensor,
    ) -> None:
        """Fill in place, from all rows, the pairs (A, R) that are not ``sure``."""
        unsure = ~sure
        subsets, rows = unsure.any(1).nonzero().flatten(), unsure.any(0).nonzero().flatten()
        if not len(rows):
            return
        pairs = int(unsure.sum())
        groups = [(subsets, rows)]
        if len(subsets) * len(rows) > max(64, 2 * pairs):  # few of all combinations: one search for each subset
            groups = [(number[None], unsure[number].nonzero().flatten()) for number in subsets]
        for some, places in groups:
            mine = None if own is None else own[places]
            more = [(extra[number],) for number in some.tolist()]
            indices[some[:, None], places], last[some[:, None], places] = self._among_all(
                base, more, points[:, places], count, mine
            )


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
