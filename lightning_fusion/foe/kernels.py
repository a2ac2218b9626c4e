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
def _keep(value: Any, row: int, values: Any, rows: Any, size: int) -> None:  # pragma: no cover  (compiled)
    """Insert into the first ``size`` entries, which are sorted by (value, row); the last one falls out."""
    place = size - 1
    while place > 0 and (values[place - 1] > value or (values[place - 1] == value and rows[place - 1] > row)):
        values[place], rows[place] = values[place - 1], rows[place - 1]
        place -= 1
    values[place], rows[place] = value, row


@njit(nogil=True, cache=True)
def _search(
    distances: Any,
    minima: Any,
    members: Any,
    num_members: int,
    point: Any,
    known: Any,
    own: int,
    unit: float,
    values: Any,
    rows: Any,
    exact: Any,
    found: Any,
) -> None:  # pragma: no cover  (compiled)
    """The rows nearest to one point on some experts, in order up to rounding.

    Args:
        distances: (W,) float32 squared distances, W a multiple of the segments; beyond the N rows larger than all.
        minima: (W / segments,) float32, those of the entries j, j + W / segments, ...
        members: Experts, ``num_members`` of them.
        num_members: |S|.
        point: (K, C) float64 outputs at the point.
        known: (N, K, C) float64 outputs on the rows.
        own: The row that the point is itself; -1 for none.
        unit: Rounding error of one operation in ``distances``.
        values: (count + 1,) float32 room.
        rows: (count + 1,) int64 room.
        exact: (count,) float64 room; its last entry becomes the squared distance of the last row.
        found: (count,) int64: the rows found.
    """
    count, width = len(found), len(minima)
    values[:] = np.inf
    rows[:] = -1
    for start in range(width):
        if minima[start] < values[count]:
            for row in range(start, len(distances), width):
                if distances[row] < values[count]:
                    _keep(distances[row], row, values, rows, count + 1)
    # a product of n terms is wrong by n units of the sum of their sizes, at most (|x| + |y|)^2 for each expert, and
    # |y| <= |x| + distance; so are rounded inputs and the sum over experts, and a difference has the errors of two
    edge, size = math.sqrt(max(0.0, values[count - 1])), 0.0
    for place in range(num_members):
        norm = 0.0
        for c in range(point.shape[1]):
            norm += point[members[place], c] ** 2
        size += (2 * math.sqrt(norm) + edge) ** 2
    margin = 4 * (point.shape[1] + 7 + num_members) * unit * size
    limit = values[count - 1] + margin
    if values[count] > limit:
        found[:] = rows[:count]
        exact[count - 1] = _distance(rows[count - 1], members, num_members, point, known)
        return
    exact[:] = np.inf
    for start in range(width):
        if minima[start] <= limit:
            for row in range(start, len(distances), width):
                if distances[row] <= limit and row < len(known) and row != own:
                    value = _distance(row, members, num_members, point, known)
                    if value < exact[count - 1] or (value == exact[count - 1] and row < found[count - 1]):
                        _keep(value, row, exact, found, count)


@njit(nogil=True, cache=True)
def _distance(
    row: int, members: Any, num_members: int, point: Any, known: Any
) -> float:  # pragma: no cover  (compiled)
    total = 0.0
    for place in range(num_members):
        for c in range(point.shape[1]):
            total += (point[members[place], c] - known[row, members[place], c]) ** 2
    return total


@njit(nogil=True, cache=True)
def _minima(distances: Any, minima: Any) -> None:  # pragma: no cover  (compiled)
    width = len(minima)
    for place in range(width):
        minima[place] = distances[place]
    for segment in range(1, _SEGMENTS):
        part = distances[segment * width : (segment + 1) * width]
        for place in range(width):
            minima[place] = min(minima[place], part[place])


@njit(nogil=True, cache=True)
def _sum(one: Any, other: Any, result: Any) -> None:  # pragma: no cover  (compiled)
    for place in range(len(result)):  # an expression on arrays would make a new one each time
        result[place] = one[place] + other[place]


@njit(nogil=True, cache=True)
def nearest_rows(
    distances: Any, members: Any, points: Any, known: Any, own: Any, unit: float, found: Any, last: Any
) -> None:  # pragma: no cover  (compiled)
    """The rows nearest to each of some points, all on the same experts.

    Args:
        distances: (R, W) float32.
        members: (S,) int64 experts.
        points: (R, K, C) float64.
        known: (N, K, C) float64.
        own: (R,) int64 rows that the points are themselves; -1 for none.
        unit: Rounding error of one operation in ``distances``.
        found: (R, count) int64, filled.
        last: (R,) float64 squared distance of the last, filled.
    """
    count = found.shape[1]
    minima = np.empty(distances.shape[1] // _SEGMENTS, np.float32)
    values, rows, exact = np.empty(count + 1, np.float32), np.empty(count + 1, np.int64), np.empty(count)
    for place in range(len(points)):
        if own[place] >= 0:
            distances[place, own[place]] = np.inf
        _minima(distances[place], minima)
        _search(
            distances[place], minima, members, len(members), points[place], known, own[place], unit, values, rows,
            exact, found[place],
        )  # fmt: skip
        last[place] = exact[count - 1]


@njit(nogil=True, cache=True)
def nearest_in_supersets(
    distances: Any, sets: Any, place: Any, own: Any, apart: bool, known: Any, unit: float, found: Any
) -> None:  # pragma: no cover  (compiled)
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
    shared, total = np.empty(width, np.float32), np.empty(width, np.float32)
    minima = np.empty(width // _SEGMENTS, np.float32)
    values, rows, exact = np.empty(count + 1, np.float32), np.empty(count + 1, np.int64), np.empty(count)
    members = np.empty(num_experts, np.int64)
    for question in range(len(sets)):
        here = place[question]
        excluded = own[here] if apart else -1
        shared[:] = 0
        size, first = 0, -1
        for expert in range(num_experts):
            if sets[question, expert]:
                _sum(shared, distances[expert, here], shared)
                members[size] = expert
                size += 1
        if apart:
            shared[excluded] = np.inf
        for expert in range(num_experts):
            if sets[question, expert]:
                if first >= 0:
                    found[question, expert] = found[question, first]
                    continue
                first = expert
                total[:] = shared
                number = size
            else:
                _sum(shared, distances[expert, here], total)
                members[size] = expert
                number = size + 1
            _minima(total, minima)
            _search(
                total, minima, members, number, known[own[here]], known, excluded, unit, values, rows, exact,
                found[question, expert],
            )  # fmt: skip
