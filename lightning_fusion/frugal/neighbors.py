"""Exact nearest neighbors in the space of the outputs of any subset of experts."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from lightning_fusion.extras import installed
from lightning_fusion.frugal.rounding import rounded

_BLOCK = 2**19  # distances held at once in float64: 4 MB
_HELD = 2**23  # distances held at once in float32: 32 MB
_PAD = 64
_NOWHERE = 1e300  # the distance of excluded rows; finite, because 0 * inf is NaN
_NOWHERE_NARROW = 1e36  # the same in float32
_LARGEST = 1e12  # maximum squared length of outputs for float32


class SubsetNeighbors:
    """Nearest-neighbor search on the outputs of a subset S of the experts.

    Squared distances add over experts, D_S(x, n) = sum over k in S of ||f_k(x) - f_k(x_n)||^2, so one more expert is
    one more matrix product. Rows are ordered by (distance, row index), in float64; distances that rounding could have
    swapped are taken again from differences and rounded (:mod:`~lightning_fusion.frugal.rounding`), so that equally
    distant rows are equal. On a CPU with numba (extra ``fast``)
    products are in float32 and the search is compiled (:mod:`~lightning_fusion.frugal.kernels`); elsewhere, and for
    outputs too large for float32, everything is in float64, in plain torch. The neighbors are the same.

    Args:
        outputs: (K, N, C) outputs of K experts on N labeled samples, zero for classes an expert does not have.
    """

    def __init__(self, outputs: Tensor) -> None:
        self.num_experts, self.num_rows, self.num_classes = outputs.shape
        self.device = outputs.device
        self._rows = outputs.to(torch.float64).transpose(0, 1).contiguous()  # (N, K, C)
        self._largest = self._rows.square().sum(2).amax(0).tolist()
        self.compiled = self.device.type == "cpu" and installed("numba") and max(self._largest) <= _LARGEST

    def _sides(self, dtype: torch.dtype, nowhere: float) -> Tensor:
        """(K, C + 2, padded N): (-2 y, 1, |y|^2), whose product with (x, |x|^2, 1) is the squared distance."""
        wide = self._rows.transpose(0, 1)
        squares = wide.square().sum(2)
        sides = torch.cat([-2 * wide, torch.ones_like(squares)[:, :, None], squares[:, :, None]], dim=2)
        whole = _PAD if self.num_rows < 2048 else 8 * _PAD  # blocks of blocks of whole size
        pad = sides.new_zeros(self.num_experts, whole - self.num_rows % whole, sides.shape[2])  # one at least
        pad[:, :, -1] = nowhere
        return torch.cat([sides, pad], dim=1).transpose(1, 2).to(dtype).contiguous()

    @cached_property
    def _wide(self) -> Tensor:
        return self._sides(torch.float64, _NOWHERE)

    @cached_property
    def _narrow(self) -> Tensor:
        return self._sides(torch.float32, _NOWHERE_NARROW)

    @cached_property
    def _compact(self) -> Tensor:
        """(N, K, C) in float32 if that is exact."""
        narrow = self._rows.to(torch.float32)
        return narrow if torch.equal(narrow.to(torch.float64), self._rows) else self._rows

    @cached_property
    def _buffer(self) -> Tensor:
        return self._wide.new_empty(max(1, _BLOCK // self._wide.shape[2]), self._wide.shape[2])

    def nearest(
        self,
        base: Sequence[int],
        additions: Sequence[Sequence[int]],
        points: Tensor,
        count: int,
        own: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Find the nearest rows for several subsets that share their first experts.

        Args:
            base: Experts in every subset.
            additions: For each of A subsets, its experts in addition to ``base``.
            points: (K, R, C) outputs at R points; those of experts in no subset are not read.
            count: Number of rows to find.
            own: (R,) row of each point, which is excluded from its neighbors; ``None`` for new points.

        Returns:
            (A, R, count) row indices, ordered by distance up to rounding, and (A, R) the squared distance of the last.
        """
        known, found = points.shape[1], len(additions)
        points = points.to(torch.float64)
        indices = torch.empty(found, known, count, dtype=torch.int64, device=points.device)
        last = torch.empty(found, known, dtype=torch.float64, device=points.device)
        with torch.autocast(points.device.type, enabled=False):
            if self._trusts(points):
                self._nearest_narrow(base, additions, points, own, indices, last)
                return indices, last
            held = len(self._buffer)
            rows = max(1, min(known, held // min(found, 8)))
            subsets = max(1, held // rows)
            for start in range(0, known, rows):
                part = slice(start, start + rows)
                few = points[:, part]
                sides = _augment(few)
                mine = None if own is None else own[part]
                shared = _add(None, base, sides, self._wide)
                for first in range(0, found, subsets):
                    some = slice(first, first + subsets)
                    indices[some, part], last[some, part] = self._search(
                        shared, base, additions[some], few, sides, count, mine
                    )
        return indices, last

    # ------------------------------------------------------------- compiled

    def _nearest_narrow(
        self,
        base: Sequence[int],
        additions: Sequence[Sequence[int]],
        points: Tensor,
        own: Tensor | None,
        indices: Tensor,
        last: Tensor,
    ) -> None:
        """Fill indices (A, R, count) and last (A, R)."""
        from lightning_fusion.frugal import kernels  # compiles, or loads from the cache

        rows = max(1, _BLOCK // self._narrow.shape[2])
        mine = (torch.full((points.shape[1],), -1) if own is None else own).numpy()
        members = [torch.tensor([*base, *added]).numpy() for added in additions]
        for start in range(0, points.shape[1], rows):
            part = slice(start, start + rows)
            few = points[:, part]
            sides = _augment(few).to(torch.float32)
            shared = _add(None, base, sides, self._narrow)
            room = sides.new_empty(few.shape[1], self._narrow.shape[2])
            for number, added in enumerate(additions):
                distances = _add(shared, added, sides, self._narrow, room) if added else shared
                assert distances is not None
                kernels.nearest_rows(
                    distances.numpy(),
                    members[number],
                    few.transpose(0, 1).contiguous().numpy(),
                    self._compact.numpy(),
                    mine[part],
                    _unit(),
                    indices[number, part].numpy(),
                    last[number, part].numpy(),
                )

    def each(self, sets: Tensor, points: Tensor, count: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Find the nearest rows of many points, each on its own set of experts.

        Args:
            sets: (R, K) bool, one member at least.
            points: (K, R, C) outputs at R points; those of experts in no set are not read.
            count: Number of rows to find.
            own: (R,) row of each point, which is excluded from its neighbors; ``None`` for new points.

        Returns:
            (R, count) row indices, ordered by distance up to rounding, and (R,) the squared distance of the last.
        """
        found = torch.empty(len(sets), count, dtype=torch.int64, device=self.device)
        last = torch.empty(len(sets), dtype=torch.float64, device=self.device)
        if self._trusts(points):
            for some, rows, distances in self._in_sets(sets, torch.arange(len(sets)), points, own, count, False):
                found[some], last[some] = rows[:, 0], distances
            return found, last
        different, inverse = sets.unique(dim=0, return_inverse=True)
        for number, members in enumerate(different):
            some = (inverse == number).nonzero().flatten()
            subset = members.nonzero().flatten().tolist()
            rows, distances = self.nearest(subset, [()], points[:, some], count, None if own is None else own[some])
            found[some], last[some] = rows[0], distances[0]
        return found, last

    def supersets(
        self, sets: Tensor, rows: Tensor, count: int, apart: bool, further: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Find the nearest rows of many rows, each in a set S of experts, or in S with one more, on a CPU.

        Distances of a row are computed once for all of its sets.

        Args:
            sets: (Q, K) bool, a set S of experts each, one member at least.
            rows: (Q,) row of each set.
            count: Number of rows to find.
            apart: Exclude a row from its own neighbors.
            further: Search in S + k for each expert k instead.

        Yields:
            (q,) indices of some of the Q pairs, and the nearest rows: (q, 1, count) in S or, if ``further``,
            (q, K, count) in S + k; in S itself if k is in S. Nothing if the search is not compiled.
        """
        if self.compiled:
            own = torch.arange(self.num_rows) if apart else None
            for some, found, _ in self._in_sets(sets, rows, self._rows.transpose(0, 1), own, count, further):
                yield some, found

    def _trusts(self, points: Tensor) -> bool:
        """Whether float32 suffices for these points."""
        return self.compiled and (not points.shape[1] or float(points.double().square().sum(2).amax()) <= _LARGEST)

    def _in_sets(
        self, sets: Tensor, place: Tensor, points: Tensor, own: Tensor | None, count: int, further: bool
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Search for points (K, R, C) selected by ``place`` (Q,); yields the distances of the last rows as well."""
        from lightning_fusion.frugal import kernels

        order = place.argsort(stable=True)
        which, times = place[order].unique_consecutive(return_counts=True)
        ends = [0, *times.cumsum(0).tolist()]
        held = max(1, _HELD // (self.num_experts * self._narrow.shape[2]))
        for begin in range(0, len(which), held):
            some = which[begin : begin + held]
            some_sets = order[ends[begin] : ends[begin + len(some)]]
            here, theirs = torch.arange(len(some)).repeat_interleave(times[begin : begin + len(some)]), sets[some_sets]
            needed = torch.zeros(self.num_experts, len(some), dtype=torch.bool)
            needed.T.index_put_((here,), theirs, accumulate=True)
            slots = (needed.flatten().cumsum(0) - 1).view(needed.shape).T.contiguous()
            few = points[:, some].to(torch.float64)
            sides = _augment(few).to(torch.float32)
            distances = sides.new_empty(int(needed.sum()), self._narrow.shape[2])
            with torch.autocast("cpu", enabled=False):
                for expert, part in enumerate(distances.split(needed.sum(1).tolist())):
                    torch.mm(sides[expert, needed[expert]], self._narrow[expert], out=part)
            found = torch.empty(len(some_sets), self.num_experts if further else 1, count, dtype=torch.int64)
            last = torch.empty(len(some_sets), dtype=torch.float64)
            mine = torch.full_like(some, -1) if own is None else own[some]
            search = kernels.nearest_in_supersets if further else kernels.nearest_in_sets
            search(
                distances.numpy(),
                slots.numpy(),
                theirs.numpy(),
                here.numpy(),
                few.transpose(0, 1).contiguous().numpy(),
                self._compact.numpy(),
                mine.numpy(),
                _unit(),
                found.numpy(),
                last.numpy(),
            )
            yield some_sets, found, last

    # ------------------------------------------------------------ in float64

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
                _add(shared, added, sides, self._wide, place)
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
        return (16 * terms * 2.0**-53 + 2.0**-38) * float(sum(self._largest[expert] for expert in subset))

    def _exact(self, subset: Sequence[int], points: Tensor, suspect: Tensor, count: int) -> Tensor:
        """(R, count) the nearest of some suspects, by (sum of squared differences, row index).

        Args:
            subset: Experts.
            points: (K, R, C).
            suspect: (R, N) bool, rows that may be among the nearest.
            count: Number of nearest neighbors.
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
        step = max(1, _BLOCK // max(1, widest * self.num_experts * self.num_classes))
        result = []
        for first in range(0, len(rows), step):
            some = slice(first, first + step)
            theirs = self._rows[rows[some]].view(-1, widest, self.num_experts, self.num_classes)
            distances = rounded(((theirs - chosen[some][:, None]).square_().sum(3) * members).sum(2))
            distances.masked_fill_(missing[some], _NOWHERE)
            result.append(distances.argsort(dim=1, stable=True)[:, :count])
        return rows.gather(1, torch.cat(result))


def _augment(points: Tensor) -> Tensor:
    """(K, R, C + 2), whose product with (-2 y, 1, |y|^2) is the squared distance."""
    squares = points.square().sum(2)
    return torch.cat([points, squares[:, :, None], torch.ones_like(squares)[:, :, None]], dim=2)


def _add(
    shared: Tensor | None, experts: Sequence[int], sides: Tensor, others: Tensor, out: Tensor | None = None
) -> Tensor | None:
    """(R, padded N) ``shared`` and the squared distances of more experts, added up."""
    for number, expert in enumerate(experts):
        into = out if out is not None or not number else shared
        if shared is None:
            shared = torch.mm(sides[expert], others[expert], out=into)
        else:
            shared = torch.addmm(shared, sides[expert], others[expert], out=into)
    return shared


def _unit() -> float:
    """The rounding error of a float32 product's terms."""
    return 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8


def smallest(values: Tensor, count: int, ordered: bool = True) -> tuple[Tensor, Tensor]:
    """Return the smallest entries of each row: :func:`torch.topk` after skipping blocks that contain none of them.

    If an entry is among the ``count`` smallest, so is the smallest of its block among the blocks' smallest.

    Args:
        values: (R, N).
        count: At most N.
        ordered: Sort the entries.

    Returns:
        (R, count) values, ascending if ``ordered``, and their positions; the choice among equal values is undefined.

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
    stacked = values.view(rows, height, blocks)  # block b contains the entries b, b + blocks, ...
    _, chosen = smallest(stacked.amin(1), count, ordered=False)
    kept = stacked.gather(2, chosen[:, None, :].expand(-1, height, -1)).view(rows, -1)
    found = kept.topk(count, dim=1, largest=False, sorted=ordered)
    block = chosen.gather(1, found.indices % count)
    return found.values, block + found.indices // count * blocks
