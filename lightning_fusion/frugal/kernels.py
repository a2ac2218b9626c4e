"""Inner loops of the neighbor search, compiled for CPUs (extra ``fast``).

Distances are float32 with a bound of their rounding error; candidates are compared in float64, from differences. The
neighbors are therefore those of float64, ordered by (distance, row). Squared distances are rounded to 41 significant
bits, so that equally distant rows are equal in whatever order the terms were added.

Processor time per query on one thread, with 5,000 calibration samples, 20 experts of 20 classes, 400 queries and empty
tables, at M = 10 and 50: 6.2 and 20 ms here; 7.9 and 29 ms with the same loops on float64 distances; 17 and 116 ms in
plain torch, float64 (docs/methods/frugal.md has all figures).
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from lightning_fusion.extras import require
from lightning_fusion.frugal.rounding import SPLIT

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(**how: Any) -> Callable[[_Function], _Function]:
    """Apply numba's ``njit`` and keep the type of the function."""
    decorate: Callable[[_Function], _Function] = require("numba", "fast").njit(**how)
    return decorate


_FOLD = 8  # entries per minimum: j, j + width / 8, ...


@compiled(nogil=True, cache=True)
def nearest_rows(
    distances: Any, members: Any, points: Any, known: Any, own: Any, unit: float, found: Any, last: Any
) -> None:  # pragma: no cover  (compiled, as everything here)
    """Find the nearest rows of some points, all on the same experts.

    Args:
        distances: (R, W) float32 squared distances, W a multiple of 64; beyond the N rows larger than all.
        members: (S,) int64 experts.
        points: (R, K, C) float64.
        known: (N, K, C).
        own: (R,) int64 rows that the points are themselves; -1 for none.
        unit: Rounding error of one operation in ``distances``.
        found: (R, count) int64, filled.
        last: (R,) float64 squared distance of the last, filled.
    """
    fine, coarse, near, terms, values, rows = _room(distances.shape[1], found.shape[1])
    for place in range(len(points)):
        here = distances[place]
        if own[place] >= 0:
            here[own[place]] = np.inf
        _search(here, members, points[place], known, own[place], unit, fine, coarse, near, terms, values, rows)
        for start in range(rows.shape[1]):
            found[place, start] = rows[0, start]
        last[place] = values[0, -1]


@compiled(nogil=True, cache=True)
def nearest_in_sets(
    distances: Any, slots: Any, sets: Any, place: Any, points: Any, known: Any, own: Any, unit: float, found: Any,
    last: Any,
) -> None:  # pragma: no cover  # fmt: skip
    """Find the nearest rows of some points, each on its own set of experts.

    Args:
        distances: (D, W) float32 squared distances from a point on one expert.
        slots: (R, K) int64 index of the distances of R points on each expert; read for members of the sets.
        sets: (Q, K) bool.
        place: (Q,) int64 index of the point of each query, ascending.
        points: (R, K, C) float64.
        known: (N, K, C).
        own: (R,) int64 rows that the points are themselves; -1 for none.
        unit: Rounding error of one operation in ``distances``.
        found: (Q, 1, count) int64, filled.
        last: (Q,) float64 squared distance of the last, filled.
    """
    fine, coarse, near, terms, values, rows = _room(distances.shape[1], found.shape[2])
    shared = np.empty(distances.shape[1], np.float32)
    for question in range(len(sets)):
        here = place[question]
        members = np.flatnonzero(sets[question])
        _add(distances, slots[here], members, own[here], shared)
        _search(shared, members, points[here], known, own[here], unit, fine, coarse, near, terms, values, rows)
        for start in range(rows.shape[1]):
            found[question, 0, start] = rows[0, start]
        last[question] = values[0, -1]


@compiled(nogil=True, cache=True)
def nearest_in_supersets(
    distances: Any, slots: Any, sets: Any, place: Any, points: Any, known: Any, own: Any, unit: float, found: Any,
    last: Any,
) -> None:  # pragma: no cover  # fmt: skip
    """Find the nearest rows of some points in S + k, for sets S and every expert k; in S itself if k is in S.

    A row is no nearer in S + k than in S: rows are compared in the order of their distances in S, roughly, until these
    are larger than those of the rows that were found.

    Args:
        distances: (D, W) float32 squared distances from a point on one expert.
        slots: (R, K) int64 index of the distances of R points on each expert; read for members of the sets.
        sets: (Q, K) bool.
        place: (Q,) int64 index of the point of each query, ascending.
        points: (R, K, C) float64.
        known: (N, K, C).
        own: (R,) int64 rows that the points are themselves; -1 for none.
        unit: Rounding error of one operation in ``distances``.
        found: (Q, K, count) int64, filled.
        last: (Q,) float64 squared distance of the last in S, filled.
    """
    num_rows, num_experts, _ = known.shape
    count = found.shape[2]
    fine, coarse, near, terms, least, some = _room(distances.shape[1], count)
    shared = np.empty(distances.shape[1], np.float32)
    values, rows = np.empty((num_experts, count)), np.empty((num_experts, count), np.int64)
    sums, edges = np.empty(num_experts), np.empty(num_experts)  # in S + k: of one row; of the last that was found
    seen, parts = np.full(num_rows, -1), np.empty((num_rows, num_experts))  # the last point; on each expert alone
    for question in range(len(sets)):
        here = place[question]
        members, point = np.flatnonzero(sets[question]), points[here]
        _add(distances, slots[here], members, own[here], shared)
        _fold(shared, fine)
        _fold(fine, coarse)
        _rounding(members, point, unit, terms)
        for expert in range(num_experts):
            edges[expert] = np.inf
            for start in range(count):
                rows[expert, start], values[expert, start] = num_rows, np.inf
        for member in members[1:]:  # the first one represents all of S
            edges[member] = -1.0
        low, high = -np.inf, _threshold(fine, coarse, count, least, some)
        while True:
            for start in range(_collect(shared, fine, coarse, low, high, near)):
                row = near[start]
                if row >= num_rows or row == own[here]:
                    continue
                if seen[row] != here:
                    seen[row] = here
                    _measure(row, point, known, parts)
                base, closer = 0.0, False
                for member in members:
                    base += parts[row, member]
                for expert in range(num_experts):
                    sums[expert] = _rounded(base + parts[row, expert])
                for member in members:
                    sums[member] = _rounded(base)
                for expert in range(num_experts):
                    closer |= sums[expert] <= edges[expert]
                if closer:
                    for expert in range(num_experts):
                        if sums[expert] <= edges[expert]:
                            _keep(sums[expert], row, values, rows, expert)
                            edges[expert] = values[expert, -1]
            farthest = edges[0]
            for expert in range(1, num_experts):
                farthest = max(farthest, edges[expert])
            farthest += _slack(farthest, terms)
            if farthest <= high:
                break
            low, high = high, min(farthest, max(1.5 * high, farthest / 4))
        for expert in range(num_experts):
            number = members[0] if sets[question, expert] else expert
            for start in range(count):
                found[question, expert, start] = rows[number, start]
        last[question] = values[members[0], -1]


@compiled(nogil=True, cache=True)
def _room(width: int, count: int) -> Any:  # pragma: no cover
    """Arrays that :func:`_search` writes: minima, minima of minima, near rows, terms of the slack, (1, count) results.

    Results are rows of a matrix, because returning a view is more expensive than using it.
    """
    return (
        np.empty(width // _FOLD, np.float32), np.empty(width // _FOLD**2, np.float32), np.empty(width, np.int64),
        np.empty(3), np.empty((1, count)), np.empty((1, count), np.int64),
    )  # fmt: skip


@compiled(nogil=True, cache=True)
def _add(distances: Any, slots: Any, members: Any, own: int, shared: Any) -> None:  # pragma: no cover
    """Sum the (W,) distances of the members."""
    for row in range(len(shared)):
        shared[row] = 0
    for expert in members:
        part = distances[slots[expert]]
        for row in range(len(shared)):
            shared[row] += part[row]
    if own >= 0:
        shared[own] = np.inf


@compiled(nogil=True, cache=True)
def _search(
    distances: Any, members: Any, point: Any, known: Any, own: int, unit: float, fine: Any, coarse: Any, near: Any,
    terms: Any, values: Any, rows: Any,
) -> None:  # pragma: no cover  # fmt: skip
    """Fill (1, count) squared distances and rows with the nearest of one point."""
    _fold(distances, fine)
    _fold(fine, coarse)
    _rounding(members, point, unit, terms)
    bound = _threshold(fine, coarse, values.shape[1], values, rows)
    for start in range(values.shape[1]):
        values[0, start], rows[0, start] = np.inf, len(known)
    for start in range(_collect(distances, fine, coarse, -np.inf, bound + _slack(bound, terms), near)):
        row = near[start]
        if row < len(known) and row != own:
            total = 0.0
            for expert in members:
                for c in range(point.shape[1]):
                    total += (point[expert, c] - known[row, expert, c]) ** 2
            total = _rounded(total)
            if total <= values[0, -1]:
                _keep(total, row, values, rows, 0)


@compiled(nogil=True, cache=True)
def _fold(values: Any, minima: Any) -> None:  # pragma: no cover
    """(W / 8,) minima of the entries j, j + W / 8, ..."""
    width = len(minima)
    a, b, c, d = values[:width], values[width:], values[2 * width :], values[3 * width :]
    e, f, g, h = values[4 * width :], values[5 * width :], values[6 * width :], values[7 * width :]
    for place in range(width):  # all at once, and by comparisons: twice as fast as min() part by part
        least = a[place]
        least = b[place] if b[place] < least else least
        least = c[place] if c[place] < least else least
        least = d[place] if d[place] < least else least
        least = e[place] if e[place] < least else least
        least = f[place] if f[place] < least else least
        least = g[place] if g[place] < least else least
        minima[place] = h[place] if h[place] < least else least


@compiled(nogil=True, cache=True)
def _threshold(fine: Any, coarse: Any, count: int, values: Any, rows: Any) -> float:  # pragma: no cover
    """Return an upper bound of at least ``count`` entries, from as many minima."""
    level = coarse if len(coarse) > 4 * count else fine
    if len(level) < count:
        return np.inf
    for place in range(values.shape[1]):
        values[0, place] = np.inf
    for place in range(len(level)):
        if level[place] < values[0, -1]:
            _keep(level[place], place, values, rows, 0)
    found: float = values[0, -1]
    return found


@compiled(nogil=True, cache=True)
def _collect(values: Any, fine: Any, coarse: Any, low: float, high: float, near: Any) -> int:  # pragma: no cover
    """Count the entries in (low, high], and write their positions to ``near``."""
    number = 0
    for start in range(len(coarse)):
        if coarse[start] <= high:
            for block in range(start, len(fine), len(coarse)):
                if fine[block] <= high:
                    for row in range(block, len(values), len(fine)):
                        if low < values[row] <= high:
                            near[number] = row
                            number += 1
    return number


@compiled(nogil=True, cache=True)
def _rounding(members: Any, point: Any, unit: float, terms: Any) -> None:  # pragma: no cover
    """(3,) coefficients for :func:`_slack`."""
    terms[0] = terms[1] = terms[2] = 0
    for expert in members:
        square = 0.0
        for c in range(point.shape[1]):
            square += point[expert, c] ** 2
        terms[0] += 4 * square
        terms[1] += 4 * math.sqrt(square)
        terms[2] += 1
    units = 2 * (point.shape[1] + 7 + len(members)) * unit
    terms[0], terms[1], terms[2] = terms[0] * units, terms[1] * units, terms[2] * units


@compiled(nogil=True, cache=True)
def _slack(value: float, terms: Any) -> float:  # pragma: no cover
    """Return the maximum excess of a float32 squared distance over this value for a row that is not farther.

    A product of n terms is wrong by n units of the sum of their sizes, at most (|x| + |y|)^2 for each expert, and |y|
    <= |x| + distance; so are rounded inputs and the sum over experts, and a difference has the errors of two.
    """
    edge = math.sqrt(max(0.0, value))
    slack: float = terms[0] + edge * (terms[1] + edge * terms[2])
    return slack


@compiled(nogil=True, cache=True, inline="always")
def _rounded(value: float) -> float:  # pragma: no cover
    """Return a number rounded to 41 significant bits (Veltkamp's splitting); not for fast math."""
    split = SPLIT * value
    found: float = split - (split - value)
    return found


@compiled(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _measure(row: int, point: Any, known: Any, parts: Any) -> None:  # pragma: no cover
    """Fill (K,) squared distances between a point and a row, on each expert."""
    for expert in range(point.shape[0]):
        total = 0.0
        for c in range(point.shape[1]):
            difference = point[expert, c] - known[row, expert, c]
            total += difference * difference
        parts[row, expert] = total


@compiled(nogil=True, cache=True, inline="always")
def _keep(value: float, row: int, values: Any, rows: Any, line: int) -> None:  # pragma: no cover
    """Insert into a line sorted by (value, row), if it comes before the last entry, which is dropped."""
    place = values.shape[1]
    while place > 0 and (
        values[line, place - 1] > value or (values[line, place - 1] == value and rows[line, place - 1] > row)
    ):
        place -= 1
        if place + 1 < values.shape[1]:
            values[line, place + 1], rows[line, place + 1] = values[line, place], rows[line, place]
    if place < values.shape[1]:
        values[line, place], rows[line, place] = value, row
