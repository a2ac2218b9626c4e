"""Whom FrugalFoE asks: deciding against the loop that follows the paper literally, how its cost grows, its memory."""

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from measuring import Result, Times, clock, resident_mb
from recorded import CLASSES, Recorded, recorded
from sklearn.neighbors import KNeighborsClassifier

from lightning_fusion.frugal.neighbors import SubsetNeighbors
from lightning_fusion.frugal.policy import FrugalFoE

VALIDATION, QUERIES, SAMPLE, REPEATS = 5_000, 1_000, 8, 3
"""Rows; queries that are decided; those of them that the literal loop decides; rounds at M = 10."""
TRADE_OFF, VOTERS = 0.02, 9
SETTINGS = {10: 2, 50: 1}
"""Fewest experts to ask, by M: the authors ask two in any case."""
TARGETS = {10: 1 / 40, 50: 1 / 10}


def policy(neighbors: int) -> FrugalFoE:
    return FrugalFoE(trade_off=TRADE_OFF, neighbors=neighbors, min_queries=SETTINGS[neighbors], fuser_neighbors=VOTERS)


# ------------------------------------------------------------------ the literal loop


class Literal:
    """The search as the paper states it, one query after the other: every kNN fuser that is compared is refitted.

    Args:
        rows: Validation rows.
        neighbors: M.
        refit: ``scikit-learn``, or ``numpy`` for the same in a few array operations.
        early: Do not try further experts where F^S errs too rarely for any of them to pay (our rule too; the paper
            compares first).
    """

    def __init__(self, rows: Recorded, neighbors: int, refit: str, early: bool = False) -> None:
        self.outputs, self.targets = list(rows.outputs.values()), rows.targets
        self.neighbors, self.early = neighbors, early
        self.voters = {"scikit-learn": self._scikit_learn, "numpy": self._numpy}[refit]
        self.start = 0

    def fit(self) -> "Literal":
        """Find the first expert; costs are equal."""
        everyone = np.arange(len(self.targets))
        self.start = int(np.argmin([self.errors([k], everyone) for k in range(len(self.outputs))]))
        return self

    def decide(self, query: list[np.ndarray]) -> tuple[frozenset[int], int]:
        """The experts that are queried for one sample, of which (C,) outputs are known, and the answer."""
        queried, price = [self.start], TRADE_OFF * self.neighbors
        while True:
            order = self._order(queried, query)
            near = order[: self.neighbors]
            now = self.errors(queried, near)
            others = [k for k in range(len(self.outputs)) if k not in queried]
            must = len(queried) < SETTINGS[self.neighbors]
            if not others or (self.early and not must and now < price - 1e-6):
                break
            after = [self.errors([*queried, k], near) for k in others]
            best = int(np.argmin(after))
            if not must and now - after[best] < price - 1e-6:
                break
            queried.append(others[best])
        return frozenset(queried), int(np.bincount(self.targets[order[:VOTERS]], minlength=CLASSES).argmax())

    def _order(self, queried: list[int], query: list[np.ndarray]) -> np.ndarray:
        """The nearest rows on the outputs of the experts that were queried."""
        known = np.concatenate([self.outputs[k] for k in queried], axis=1)
        apart = known - np.concatenate([query[k] for k in queried])
        return np.argsort(np.einsum("nd,nd->n", apart, apart), kind="stable")

    def errors(self, subset: list[int], rows: np.ndarray) -> int:
        """Held-out errors of the kNN fuser of a subset on some validation rows."""
        features = np.concatenate([self.outputs[k] for k in subset], axis=1)
        votes = self.targets[self.voters(features, rows)]
        said = (votes[:, :, None] == np.arange(CLASSES)).sum(1).argmax(1)
        return int((said != self.targets[rows]).sum())

    def _scikit_learn(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        model = KNeighborsClassifier(VOTERS, algorithm="brute").fit(features, self.targets)
        found = model.kneighbors(features[rows], VOTERS + 1, return_distance=False)
        others = found != rows[:, None]
        others[others.all(1), -1] = False  # as near as the row itself
        return found[others].reshape(len(rows), VOTERS)

    def _numpy(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        distances = np.einsum("nd,nd->n", features, features) - 2 * features[rows] @ features.T
        distances[np.arange(len(rows)), rows] = np.inf
        return np.argpartition(distances, VOTERS - 1, axis=1)[:, :VOTERS]


# ------------------------------------------------------------------ decisions


@contextlib.contextmanager
def timed_search() -> Iterator[dict[str, float]]:
    """CPU seconds in the search for neighbors: of the queries, and of validation rows, which fills the tables."""
    spent = {"queries": 0.0, "tables": 0.0}
    each = SubsetNeighbors.each

    def timed_each(self: SubsetNeighbors, sets: Any, points: Any, count: int, own: Any = None) -> Any:
        begin = time.process_time()
        found = each(self, sets, points, count, own)
        spent["queries" if own is None else "tables"] += time.process_time() - begin
        return found

    many = SubsetNeighbors.supersets

    def supersets(self: SubsetNeighbors, *args: Any) -> Iterator[Any]:
        found = many(self, *args)
        while True:
            begin = time.process_time()
            part = next(found, None)
            spent["tables"] += time.process_time() - begin
            if part is None:
                return
            yield part

    SubsetNeighbors.each = timed_each  # type: ignore[method-assign]
    SubsetNeighbors.supersets = supersets  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        SubsetNeighbors.each = each  # type: ignore[method-assign]
        SubsetNeighbors.supersets = many  # type: ignore[method-assign]


def decisions(neighbors: int, repeats: int) -> list[Result]:
    """FrugalFoE with empty tables, then on other queries, against the literal loop on a sample of the same queries."""
    data = recorded(VALIDATION + 2 * QUERIES)
    known = data[:VALIDATION]
    batches = [data[VALIDATION : VALIDATION + QUERIES], data[VALIDATION + QUERIES :]]
    answers = [policy(neighbors).fit(known.outputs, known.targets).predict(batches[0].outputs)]
    queried = answers[0].queried.numpy()
    # the middle of each eighth of the queries, ordered by the number of experts that are queried: as long as the others
    sample = np.argsort(queried.sum(1), kind="stable")[QUERIES // SAMPLE // 2 :: QUERIES // SAMPLE]
    said = answers[0].probabilities.argmax(1).numpy()
    expected = [(frozenset(np.flatnonzero(queried[row]).tolist()), int(said[row])) for row in sample]
    queries = [[values[row] for values in batches[0].outputs.values()] for row in sample]
    loops = {
        "scikit-learn refits": Literal(known, neighbors, "scikit-learn"),
        "NumPy refits": Literal(known, neighbors, "numpy"),
        "NumPy refits, stops early": Literal(known, neighbors, "numpy", early=True),
    }
    starts = {name: clock(loop.fit) for name, loop in loops.items()}
    ours: dict[str, list[Times]] = {"cold": [], "warm": []}
    theirs: dict[str, list[Times]] = {name: [] for name in loops}
    shares: list[dict[str, float]] = []
    for loop in loops.values():
        loop.decide(queries[0])
    fresh = policy(neighbors)
    for _ in range(repeats):
        for name, loop in loops.items():
            decided: list[Any] = []
            theirs[name].append(clock(lambda: decided.extend(map(loop.decide, queries))))  # noqa: B023
            wrong = sum(one != other for one, other in zip(decided, expected, strict=True))
            assert not wrong, f"{name}, M = {neighbors}: {wrong} of {SAMPLE} decisions differ"  # the same work
        fresh = policy(neighbors)

        def cold(fresh: FrugalFoE = fresh) -> None:
            fresh.fit(known.outputs, known.targets).predict(batches[0].outputs)

        with timed_search() as spent:
            ours["cold"].append(clock(cold))
            shares.append({what: seconds / ours["cold"][-1].cpu for what, seconds in spent.items()})
        ours["warm"].append(clock(partial(fresh.predict, batches[1].outputs)))
    results = []
    for state, target in (("cold", TARGETS[neighbors]), ("warm", None)):
        for name in loops:
            begin = starts[name].cpu if state == "cold" else 0.0
            ratios = [
                mine.cpu / (begin + loop.cpu * QUERIES / SAMPLE)
                for mine, loop in zip(ours[state], theirs[name], strict=True)
            ]
            middle = statistics.median(ratios)
            per_query = [
                statistics.median(side) / count * 1e3
                for side, count in (
                    ([one.cpu for one in ours[state]], QUERIES),
                    ([one.cpu for one in theirs[name]], SAMPLE),
                )
            ]
            what = (
                f"CPU time of {QUERIES:,} decisions, M = {neighbors}, {state} tables{', fit' * (state == 'cold')} / "
                f"loop with {name}: {per_query[0]:.2f} / {per_query[1]:.0f} ms a query, {1 / middle:.0f} x"
            )
            goal = target if name == "scikit-learn refits" else None
            results.append(Result("frugal", what, middle, goal, min(ratios), max(ratios)))
    for what in ("queries", "tables"):
        found = [share[what] for share in shares]
        meaning = {"queries": "nearest rows of the queries", "tables": "voters of validation rows (filling of tables)"}
        text = f"share of that CPU time, M = {neighbors}, cold tables: {meaning[what]}"
        results.append(Result("frugal", text, statistics.median(found), None, min(found), max(found)))
    fused = fresh.fuse(fresh.names, batches[0].outputs).argmax(1).numpy()
    for who, guess in (
        (f"{queried.sum(1).mean():.2f} of {len(known.outputs)} experts queried", said),
        ("all queried", fused),
    ):
        accuracy = float((guess == batches[0].targets).mean())
        results.append(Result("frugal", f"share of right answers, M = {neighbors}, {who}", accuracy))
    return results


# ------------------------------------------------------------------ growth


def growth(repeats: int) -> list[Result]:
    """CPU time of decisions with more validation rows, experts or queries, M = 10, tables filled by other queries."""
    sizes = {"rows": (2_500, 5_000, 10_000), "experts": (5, 10, 20), "queries": (250, 500, 1_000)}
    plain = {"rows": VALIDATION, "experts": 20, "queries": QUERIES}
    times: dict[tuple[str, int], list[float]] = {}
    runs: dict[tuple[str, int], Callable[[], object]] = {}
    queried: dict[tuple[str, int], float] = {}
    for what, values in sizes.items():
        for value in values:
            case = plain | {what: value}
            data = recorded(case["rows"] + 2 * QUERIES, case["experts"])
            known, others = data[: case["rows"]], data[case["rows"] : case["rows"] + QUERIES]
            queries = data[case["rows"] + QUERIES :][: case["queries"]]
            fitted = policy(10).fit(known.outputs, known.targets)
            queried[what, value] = float(fitted.predict(others.outputs).queried.sum(1).double().mean())
            runs[what, value] = partial(fitted.predict, queries.outputs)
            times[what, value] = [clock(runs[what, value]).cpu]  # fills what these queries need beside
    warm: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for repeat in range(repeats):
        for key in list(runs)[:: -1 if repeat % 2 else 1]:
            warm[key].append(clock(runs[key]).cpu)
    results = []
    names = {"rows": "validation rows", "experts": "experts", "queries": "queries at once"}
    for what, values in sizes.items():
        for few, many in pairwise(values):
            for label, table in (("other queries filled the tables", times), ("full tables", warm)):
                ratios = [one / other for one, other in zip(table[what, many], table[what, few], strict=True)]
                means = f"{queried[what, many]:.1f} / {queried[what, few]:.1f} queried"
                text = f"CPU time of predict, {many:,} {names[what]} / {few:,}, {label} ({means}); linear: 2"
                results.append(Result("frugal", text, statistics.median(ratios), None, min(ratios), max(ratios)))
    return results


# ------------------------------------------------------------------ memory


def report_memory(neighbors: int, rows: int) -> None:
    """Fit and decide in this process and print its memory before and at the peak, in MB."""
    data = recorded(rows + QUERIES)
    known, queries = data[:rows], data[rows:]
    before = resident_mb("VmRSS")
    policy(neighbors).fit(known.outputs, known.targets).predict(queries.outputs)
    print(json.dumps({"before": before, "peak": resident_mb("VmHWM")}))


def memory(rows: int = 10_000) -> list[Result]:
    """Peak memory of a process that fits and decides: what that adds, and all of it."""
    results = []
    for neighbors in SETTINGS:
        command = [sys.executable, __file__, str(neighbors), str(rows)]
        child = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(child.stdout.splitlines()[-1])
        what = f"{rows:,} rows, 20 experts, {QUERIES:,} queries, M = {neighbors} / 1 GB"
        grown, peak = ((found["peak"] - less) * 2**20 / 1e9 for less in (found["before"], 0))
        results.append(Result("frugal", f"memory that fit and predict take at their peak, {what}", grown, 1.0))
        results.append(Result("frugal", f"peak memory of that process, libraries and outputs included, {what}", peak))
    return results


def measure() -> list[Result]:
    """Decisions, growth and memory."""
    return [*decisions(10, REPEATS), *decisions(50, 1), *growth(REPEATS), *memory()]


if __name__ == "__main__":
    report_memory(int(sys.argv[1]), int(sys.argv[2]))
