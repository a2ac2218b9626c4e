"""FrugalFoE as its definition reads, one sample at a time, to be compared with the fast one."""

import itertools
import math

import numpy as np

TIE = 1e-6


def nearest(table: np.ndarray, point: np.ndarray, count: int, own: int | None = None) -> list[int]:
    """The rows of an (N, D) table that are nearest to a point, ordered by (distance in float64, row index)."""
    distances = ((table.astype(np.float64) - point.astype(np.float64)) ** 2).sum(1)
    return [int(row) for row in np.argsort(distances, kind="stable") if row != own][:count]


def default_neighbors(rows: int) -> int:
    """M = min(N - 1, 50), whatever the costs."""
    return min(rows - 1, 50)


class Frugal:
    """The rules of one fitted policy.

    Args:
        outputs: (K, N, C) of the validation rows.
        targets: (N,) their classes.
        costs: (K,).
        trade_off: Lambda.
        neighbors: M.
        voters: Number of voters of the kNN vote.
        min_queries: Experts to ask in any case.
        leave_one_out: A validation row does not vote for itself.
        loss: zero_one or log.
        depth: How many experts are planned ahead.
    """

    def __init__(
        self, outputs, targets, costs, trade_off, neighbors, voters=9, min_queries=1, leave_one_out=True,
        loss="zero_one", depth=1,
    ):  # fmt: skip
        self.outputs, self.targets, self.costs, self.trade_off = outputs, targets, costs, trade_off
        self.neighbors, self.voters, self.min_queries = neighbors, voters, min_queries
        self.leave_one_out, self.log, self.depth = leave_one_out, loss == "log", depth
        self.experts, self.rows, self.classes = outputs.shape
        self.seen: dict = {}

    def search(self, asked, point, count, own=None):
        """N(x; S): on the outputs of the experts that were asked, side by side."""
        table = np.concatenate([self.outputs[k] for k in sorted(asked)], axis=1)
        return nearest(table, np.concatenate([point[k] for k in sorted(asked)]), count, own)

    def vote(self, asked, point, own=None):
        """F^S(x): the share of the votes for each class."""
        votes = np.bincount(self.targets[self.search(asked, point, self.voters, own)], minlength=self.classes)
        return votes / self.voters

    def loss(self, asked, row):
        """loss(F^S(f_S(x_m)), y_m) of a validation row."""
        key = (frozenset(asked), row)
        if key not in self.seen:
            shares = self.vote(asked, self.outputs[:, row], row if self.leave_one_out else None)
            target = self.targets[row]
            mixed = 1 / (self.voters + 1)  # of the uniform distribution, so that no logarithm is infinite
            log = -math.log((1 - mixed) * shares[target] + mixed / self.classes)
            self.seen[key] = log if self.log else int(shares.argmax() != target)
        return self.seen[key]

    def error(self, asked, rows):
        return sum(self.loss(asked, row) for row in rows)

    def price(self, more, rows):
        return self.trade_off * math.fsum(self.costs[k] for k in more) * len(rows)

    def choose(self, options, asked, rows):
        """The set of least error and price; among equals the cheaper, then the first."""
        score = {more: self.error({*asked, *more}, rows) + self.price(more, rows) for more in options}
        least = min(score.values())
        ties = [more for more in options if score[more] <= least + TIE]
        return min(ties, key=lambda more: (math.fsum(self.costs[k] for k in more), more))

    def next(self, asked, rows, broken=()):
        """The set to plan with, and the one of it to ask."""
        free = [k for k in range(self.experts) if k not in asked and k not in broken]
        options = [more for size in range(1, self.depth + 1) for more in itertools.combinations(free, size)]
        plan = self.choose(options, asked, rows)
        return plan, self.choose([(k,) for k in plan], asked, rows)[0]

    def start(self, broken=()):
        """The same rule with M = N, for nothing is known yet."""
        return self.next((), range(self.rows), broken)[1]

    def answer(self, point, own=None, broken=()):
        """Experts in the order in which they are asked, class probabilities, estimated risk, cost."""
        asked = [self.start(broken)]
        while True:
            rows = self.search(asked, point, self.neighbors, own)
            now = self.error(asked, rows)
            if len(asked) + len(broken) == self.experts:
                break
            plan, expert = self.next(asked, rows, broken)
            gain = now - self.error({*asked, *plan}, rows)
            if gain < self.price(plan, rows) - TIE and len(asked) >= self.min_queries:
                break
            asked.append(expert)
        return asked, self.vote(asked, point), now / len(rows), math.fsum(self.costs[k] for k in asked)
