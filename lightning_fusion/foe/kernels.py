"""The innermost loops of the search for neighbours, compiled for a CPU.

Distances come in float32, with a bound of their rounding error; wherever that could matter, candidates are compared
again in float64, from differences. So the neighbours are those of float64, ordered by (distance, row).
"""

import math
from typing import Any

import numpy as np
from numba import njit

_SEGMENTS = 8  # each entry of the minima stands for so many rows


@njit(nogil=True, cache=True)
def nearest_rows(
    distances: Any, members: Any, points: Any, known: Any, own: Any, unit: float, found: Any, last: Any
) -> None:  # pragma: no cover  (compiled, as everything here)
    """The rows nearest to each of some points, all on the same experts.

    Args:
        distances: (R, W) float32 squared distances, W a multiple of the segments; beyond the N rows larger than all.
        members: (S,) int64 experts.
        points: (R, K, C) float64.
        known: (N, K, C) float64.
        own: (R,) int64 rows that the points are themselves; -1 for none.
        unit: Rounding error of one operation in ``distances``.
        found: (R, count) int64, filled.
        last: (R,) float64 squared distance of the last, filled.
    """
    count, width = found.shape[1], distances.shape[1]
    nothing, minima = np.zeros(width, np.float32), np.empty(width // _SEGMENTS, np.float32)
    values, rows, exact = np.empty(count + 1, np.float32), np.empty(count + 1, np.int64), np.empty(count)
    lengths = np.empty(points.shape[1])
    for place in range(len(points)):
        if own[place] >= 0:
            distances[place, own[place]] = np.inf
        _lengths(points[place], lengths)
        rows[:] = -1
        _search(
            distances[place], nothing, minima, members, len(members), points[place], lengths, known, own[place], unit,
            values, rows, exact, found[place],
        )  # fmt: skip
        last[place] = exact[count - 1]


@njit(nogil=True, cache=True)
def nearest_in_supersets(
    distances: Any, sets: Any, place: Any, own: Any, apart: bool, known: Any, unit: float, found: Any
) -> None:  # pragma: no cover
    """The rows nearest to rows in S + k, for some sets S and every expert k; in S itself where k is in S.

    Args:
        distances: (K, R, W) float32 squared distances of R rows on each expert.
        sets: (Q, K) bool.
        place: (Q,) int64 which of the R rows is in question.
        own: (R,) int64 their numbers.
        apart: A row is no neighbour of its own.
        known: (N, K, C) float64.
        unit: Rounding error of one operation in ``distances``.
        found: (Q, K, count) int64, filled.
    """
    num_experts, _, width = distances.shape
    count = found.shape[2]
    shared, nothing = np.empty(width, np.float32), np.zeros(width, np.float32)
    minima = np.empty(width // _SEGMENTS, np.float32)
    values, rows, exact = np.empty(count + 1, np.float32), np.empty(count + 1, np.int64), np.empty(count)
    members, lengths = np.empty(num_experts, np.int64), np.empty(num_experts)
    for question in range(len(sets)):
        here = place[question]
        excluded, point = own[here] if apart else -1, known[own[here]]
        _lengths(point, lengths)
        shared[:] = 0
        size, first = 0, -1
        for expert in range(num_experts):
            if sets[question, expert]:
                part = distances[expert, here]
                for row in range(width):
                    shared[row] += part[row]
                members[size] = expert
                size += 1
        if apart:
            shared[excluded] = np.inf
        rows[:] = -1
        for expert in range(num_experts):
            if sets[question, expert]:
                if first >= 0:
                    found[question, expert] = found[question, first]
                    continue
                first, other, number = expert, nothing, size
            else:
                members[size] = expert
                other, number = distances[expert, here], size + 1
            _search(
                shared, other, minima, members, number, point, lengths, known, excluded, unit, values, rows, exact,
                found[question, expert],
            )  # fmt: skip


@njit(nogil=True, cache=True)
def _search(
    one: Any,
    other: Any,
    minima: Any,
    members: Any,
    size: int,
    point: Any,
    lengths: Any,
    known: Any,
    own: int,
    unit: float,
    values: Any,
    rows: Any,
    exact: Any,
    found: Any,
) -> None:  # pragma: no cover
    """The rows nearest to one point on some experts, in order up to rounding.

    Args:
        one: (W,) float32, and
        other: (W,) float32: the squared distances are their sums.
        minima: (W / segments,) float32 room for the minima of the entries j, j + W / segments, ...
        members: Experts, ``size`` of them.
        size: |S|.
        point: (K, C) float64 outputs at the point.
        lengths: (K,) float64 their lengths.
        known: (N, K, C) float64 outputs on the rows.
        own: The row that the point is itself; -1 for none.
        unit: Rounding error of one operation in the distances.
        values: (count + 1,) float32 room.
        rows: (count + 1,) int64 rows that may be near, or -1; replaced by those that are.
        exact: (count,) float64 room; its last entry becomes the squared distance of the last row.
        found: (count,) int64: the rows found.
    """
    count, width = len(found), len(minima)
    bound = np.float32(np.inf)  # no more than ``count`` + 1 rows are nearer than the farthest of so many
    if rows[count] >= 0:
        bound = np.float32(0)
        for place in range(count + 1):
            bound = max(bound, one[rows[place]] + other[rows[place]])
    for place in range(width):
        minima[place] = one[place] + other[place]
    for segment in range(1, _SEGMENTS):
        part, rest = one[segment * width : (segment + 1) * width], other[segment * width : (segment + 1) * width]
        for place in range(width):
            minima[place] = min(minima[place], part[place] + rest[place])
    values[:] = np.inf
    rows[:] = -1
    for start in range(width):
        if minima[start] <= bound:
            for row in range(start, len(one), width):
                value = one[row] + other[row]
                if value <= bound and value < values[count]:
                    _keep(value, row, values, rows, count + 1)
                    bound = min(bound, values[count])
    # a product of n terms is wrong by n units of the sum of their sizes, at most (|x| + |y|)^2 for each expert, and
    # |y| <= |x| + distance; so are rounded inputs and the sum over experts, and a difference has the errors of two
    edge, total = math.sqrt(max(0.0, values[count - 1])), 0.0
    for place in range(size):
        total += (2 * lengths[members[place]] + edge) ** 2
    limit = values[count - 1] + 2 * (point.shape[1] + 7 + size) * unit * total
    if values[count] > limit:
        found[:] = rows[:count]
        exact[count - 1] = _distance(rows[count - 1], members, size, point, known)
        return
    exact[:] = np.inf
    for start in range(width):
        if minima[start] <= limit:
            for row in range(start, len(one), width):
                if one[row] + other[row] <= limit and row < len(known) and row != own:
                    exactly = _distance(row, members, size, point, known)
                    if exactly < exact[count - 1] or (exactly == exact[count - 1] and row < found[count - 1]):
                        _keep(exactly, row, exact, found, count)


@njit(nogil=True, cache=True)
def _keep(value: Any, row: int, values: Any, rows: Any, size: int) -> None:  # pragma: no cover
    """Insert into the first ``size`` entries, which are sorted by (value, row); the last one falls out."""
    place = size - 1
    while place > 0 and (values[place - 1] > value or (values[place - 1] == value and rows[place - 1] > row)):
        values[place], rows[place] = values[place - 1], rows[place - 1]
        place -= 1
    values[place], rows[place] = value, row


@njit(nogil=True, cache=True)
def _distance(row: int, members: Any, size: int, point: Any, known: Any) -> float:  # pragma: no cover
    total = 0.0
    for place in range(size):
        for c in range(point.shape[1]):
            total += (point[members[place], c] - known[row, members[place], c]) ** 2
    return total


@njit(nogil=True, cache=True)
def _lengths(point: Any, lengths: Any) -> None:  # pragma: no cover
    for expert in range(len(lengths)):
        total = 0.0
        for c in range(point.shape[1]):
            total += point[expert, c] ** 2
        lengths[expert] = math.sqrt(total)
