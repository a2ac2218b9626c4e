"""Nearest labelled rows in the space of any subset of the experts' outputs, exactly."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_BLOCK = 2**19  # numbers held at once: 4 MB
_DISTANCES = 2**22  # distances of some rows in every expert, held at once: 32 MB
_PAD = 64
_NOWHERE_NARROW = 1e36  # the same in float32
_NOWHERE = 1e300  # the distance of what is no neighbour; finite, since 0 * inf is no number


class SubsetNeighbours:
    """Finds the rows that are nearest to a point on the outputs of a subset S of the experts.

    Squared distances add over experts, D_S(x, n) = sum over k in S of ||f_k(x) - f_k(x_n)||^2, so one more expert is
    one more matrix product. Rows are ordered by (distance, row index), in float64; distances that rounding could have
    swapped are taken again from differences, so that equal rows are equal.

    Args:
        outputs: (K, N, C) outputs of K experts on N labelled rows, zeros where an expert does not know a class.
    """

    def __init__(self, outputs: Tensor) -> None:
        self.num_experts, self.num_rows, self.num_classes = outputs.shape
        self.device = outputs.device
        wide = outputs.to(torch.float64)
        squares = wide.square().sum(2)
        sides = torch.cat([-2 * wide, torch.ones_like(squares)[:, :, None], squares[:, :, None]], dim=2)
        whole = _PAD if self.num_rows < 2048 else 8 * _PAD  # blocks of blocks of whole size
        pad = sides.new_zeros(self.num_experts, whole - self.num_rows % whole, sides.shape[2])  # one at least
        pad[:, :, -1] = _NOWHERE
        self._sides = torch.cat([sides, pad], dim=1).transpose(1, 2).contiguous()  # (K, C + 2, padded N)
        self._rows = wide.transpose(0, 1).reshape(self.num_rows, -1)  # (N, K C)
        self._narrow = self._sides.to(torch.float32).clamp_max_(_NOWHERE_NARROW)
        self._largest = squares.amax(1).tolist()
        # by the size of S: how much float32 may change the difference of two distances in S + k, by the usual bound of
        # a product's rounding error (its terms are at most 4 |y|^2 together), sums and rounded inputs included
        unit = 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8
        most = squares.amax(1).sort(descending=True).values.cumsum(0)
        sizes = torch.arange(self.num_experts + 1, device=wide.device).clamp_max(self.num_experts - 1)
        self._narrow_margin = (8 * (self.num_classes + 7 + sizes) * unit * most[sizes]).to(torch.float32)
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
        known, found = points.shape[1], len(additions)
        indices = torch.empty(found, known, count, dtype=torch.int64, device=points.device)
        last = torch.empty(found, known, dtype=torch.float64, device=points.device)
        held = len(self._buffer)
        rows = max(1, min(known, held // min(found, 8)))
        subsets = max(1, held // rows)
        with torch.autocast(points.device.type, enabled=False):
            for start in range(0, known, rows):
                part = slice(start, start + rows)
                few = points[:, part].to(torch.float64)
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
            flat.scatter_(1, own.repeat(len(additions))[:, None], _NOWHERE)
        values, indices = smallest(flat, count + 1)
        indices, last = indices[:, :count], values[:, count - 1]
        margin = max(self._margin([*base, *added]) for added in additions)
        unsure = (values[:, count] - last <= margin) & (values[:, count] < _NOWHERE)
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
        members = points.new_zeros(self.num_experts)  # sums go over all experts, so that their order is always the same
        members[list(subset)] = 1
        chosen = points.transpose(0, 1)  # (R, K, C)
        step = max(1, _BLOCK // max(1, widest * self._rows.shape[1]))
        result = []
        for first in range(0, len(rows), step):
            some = slice(first, first + step)
            theirs = self._rows[rows[some]].view(-1, widest, self.num_experts, self.num_classes)
            distances = ((theirs - chosen[some][:, None]).square_().sum(3) * members).sum(2)
            distances.masked_fill_(missing[some], _NOWHERE)
            result.append(distances.argsort(dim=1, stable=True)[:, :count])
        return rows.gather(1, torch.cat(result))

    # --------------------------------------------------- supersets of many sets

    def supersets(self, bases: Tensor, own: Tensor, count: int, apart: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """The nearest rows of many rows, each in a set S of experts and in S with one more.

        Rows close in S are found first. A row that is not among them has D_(S + k) >= D_S >= the largest distance in
        the list: where the neighbours in S + k are nearer than that, they are the right ones; elsewhere all rows are
        searched. Distances of a row are computed once for all the sets it stands in, in float32; where their rounding
        could matter, the rows in question are compared again in float64.

        Args:
            bases: (Q, K) bool, a set S of experts each.
            own: (Q,) the row in question.
            count: Rows to find.
            apart: A row is no neighbour of its own.

        Yields:
            (q,) numbers of some of the Q questions, and (q, K, count) the nearest rows in S + k; in S itself where k is
            in S.
        """
        if max(self._largest) > 1e12 or count > self._narrow.shape[2] - 16:  # beyond float32, or nearly all rows
            return  # set by set, in float64, goes on
        order = own.argsort(stable=True)
        points, number = own[order].unique_consecutive(return_counts=True)
        ends = number.cumsum(0).tolist()
        width = self._narrow.shape[2]
        held = max(1, _DISTANCES // (self.num_experts * width))
        step = max(1, _BLOCK // width)
        with torch.autocast(own.device.type, enabled=False):
            for begin in range(0, len(points), held):
                some = points[begin : begin + held]
                rows = self._rows[some].view(len(some), self.num_experts, -1).transpose(0, 1)
                distances = torch.bmm(self._augment(rows).to(torch.float32), self._narrow)  # (K, r, padded N)
                if apart:
                    distances.scatter_(2, some[None, :, None].expand(self.num_experts, -1, 1), _NOWHERE_NARROW)
                asked = order[ends[begin - 1] if begin else 0 : ends[begin + len(some) - 1]]
                place = torch.arange(len(some), device=own.device).repeat_interleave(number[begin : begin + len(some)])
                for part in range(0, len(asked), step):
                    here = slice(part, part + step)
                    yield asked[here], self._in_supersets(bases[asked[here]], place[here], some, distances, count)

    def _in_supersets(self, bases: Tensor, place: Tensor, points: Tensor, distances: Tensor, count: int) -> Tensor:
        """(q, K, count) nearest rows for questions about a few points whose distances (K, r, N) are known.

        The questions about one point follow one another.
        """
        experts, known, width = distances.shape
        sizes = bases.sum(1)
        weights = bases.to(distances.dtype)
        shared = torch.cat([part @ distances[:, point] for point, part in _runs(place, weights)])
        close = min(width - 8, max(64, 512 // int(sizes.min()), 4 * count) // 8 * 8)
        values, lists = smallest(shared, close, ordered=False)
        reach = values.amax(1)
        offset = (torch.arange(experts, device=place.device) * known + place[:, None]) * width  # (q, K)
        total = distances.view(-1).take(offset[:, :, None] + lists[:, None])  # (q, K, P)
        total.masked_fill_(bases[:, :, None], 0.0)
        total += values[:, None]
        nearest, position = (part.view(len(bases), experts, -1) for part in smallest(total.view(-1, close), count + 1))
        indices = lists[:, None].expand(-1, experts, -1).gather(2, position[:, :, :count])
        last, edge = nearest[:, :, count - 1], nearest[:, :, count]
        margin = self._narrow_margin[sizes][:, None]
        unsure = ~((edge + margin < reach[:, None]) & (edge - last > margin))
        question, expert = unsure.nonzero().T
        step = max(1, _BLOCK // width)
        for begin in range(0, len(question), step):
            few, more = question[begin : begin + step], expert[begin : begin + step]
            whole = distances[more, place[few]]
            whole.masked_fill_(bases[few, more][:, None], 0.0)
            whole += shared[few]
            indices[few, more] = self._settle(whole, bases[few], more, points[place[few]], margin[few, 0], count)
        return indices

    def _settle(self, whole: Tensor, bases: Tensor, more: Tensor, points: Tensor, margin: Tensor, count: int) -> Tensor:
        """(u, count) nearest rows from all distances in float32, compared again in float64 where these are too close.

        Args:
            whole: (u, N) distances.
            bases: (u, K) bool, S.
            more: (u,) the expert k.
            points: (u,) rows.
            margin: (u,) how much rounding may change a difference of distances.
            count: Of the nearest.
        """
        values, found = smallest(whole, count + 1)
        close = (values[:, count] - values[:, count - 1] <= margin) & (values[:, count] < _NOWHERE_NARROW)
        result = found[:, :count].clone()
        again = close.nonzero().flatten()
        if not len(again):
            return result
        reach = values[again, count - 1] + margin[again]
        wider = min(count + 24, whole.shape[1] - 1)
        values, found = smallest(whole[again], wider + 1)
        fits = values[:, wider] > reach
        few = again[fits]
        if len(few):
            rows = found[fits, :wider].sort(1).values  # rising, so that equal distances keep the order of the rows
            real = rows < self.num_rows
            shape = len(few), wider, self.num_experts, self.num_classes
            apart = self._rows.index_select(0, rows.clamp_max(self.num_rows - 1).flatten()).view(shape)
            apart -= self._rows[points[few]].view(len(few), 1, *shape[2:])
            subset = bases[few].clone()
            subset[torch.arange(len(few), device=few.device), more[few]] = True
            exact = apart.square_().sum(3)
            exact = (exact * subset[:, None]).sum(2)
            far = ~real | (whole[few].gather(1, rows) >= _NOWHERE_NARROW)
            exact.masked_fill_(far, _NOWHERE)
            result[few] = rows.gather(1, exact.argsort(dim=1, stable=True)[:, :count])
        for number, limit in zip(again[~fits].tolist(), reach[~fits].tolist(), strict=True):
            mine = bases[number].clone()
            mine[more[number]] = True
            row = self._rows[points[number]].view(self.num_experts, 1, -1)
            result[number] = self._exact(
                mine.nonzero().flatten().tolist(), row, whole[number : number + 1] <= limit, count
            )[0]
        return result


def _runs(place: Tensor, values: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Runs of equal numbers, with their part of the values."""
    numbers, lengths = place.unique_consecutive(return_counts=True)
    return zip(numbers.tolist(), values.split(lengths.tolist()), strict=True)


def smallest(values: Tensor, count: int, ordered: bool = True) -> tuple[Tensor, Tensor]:
    """The smallest entries of each row, in order: :func:`torch.topk` after leaving out blocks that hold none of them.

    If an entry is among the ``count`` smallest, so is the smallest of its block among the blocks' smallest.

    Args:
        values: (R, N).
        count: At most N.
        ordered: Sort what is found.

    Returns:
        (R, count) values, ascending if ``ordered``, and their positions; which of equal values are taken is open.

    Example:
        >>> smallest(torch.tensor([[3.0, 1.0, 2.0]]), 2)
        (tensor([[1., 2.]]), tensor([[1, 2]]))
    """
    rows, width = values.shape
    height = 8 if width >= 64 * count else 4
    blocks = width // height
    if width % height or blocks < 2 * count:
        found = values.topk(count, dim=1, largest=False, sorted=ordered)
        return found.values, found.indices
    stacked = values.view(rows, height, blocks)  # block b holds the entries b, b + blocks, ...
    _, chosen = smallest(stacked.amin(1), count, ordered=False)
    kept = stacked.gather(2, chosen[:, None, :].expand(-1, height, -1)).view(rows, -1)
    found = kept.topk(count, dim=1, largest=False, sorted=ordered)
    block = chosen.gather(1, found.indices % count)
    return found.values, block + found.indices // count * blocks
