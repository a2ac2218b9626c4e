import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion.baselines import (
    FRUGAL_ML_TRADE_OFFS,
    BestSingle,
    CostPoint,
    MostConfident,
    SoftmaxAverage,
    best_static_subsets,
    confidence_cascade,
    exhaustive_subsets,
    frugal_ml,
    frugal_ml_strategy,
    least_expensive_correct,
    majority_class,
    oracle_selection,
    random_subsets,
    subset_point,
)
from lightning_fusion.errors import InputError

seeds = st.integers(0, 10_000)


def draw(seed: int, rows: int = 30, experts: int = 3, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Outputs on a grid of eighths, so that confidences and gains do tie; half of the experts know something."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=rows)
    outputs = generator.multinomial(8, np.full(classes, 1 / classes), (rows, experts)) / 8
    hint = np.eye(classes)[targets][:, None] * generator.integers(0, 2, (rows, experts, 1))
    return (outputs + hint) / (1 + hint.sum(2, keepdims=True)), targets


def prices_of(seed: int, experts: int) -> np.ndarray:
    """Halves from 0 to 2: sums are exact, some experts cost nothing or the same."""
    return np.random.default_rng(seed).integers(0, 5, experts) / 2


class Average:
    """The softmax average of a subset, judged on labeled rows."""

    def __init__(self, outputs: np.ndarray, targets: np.ndarray, queries: np.ndarray) -> None:
        self.outputs, self.targets, self.queries = outputs, targets, queries
        self.errors_asked: list[tuple[int, ...]] = []

    def error(self, subset: tuple[int, ...]) -> float:
        self.errors_asked.append(subset)
        return float((SoftmaxAverage().predict(self.outputs[:, list(subset)]) != self.targets).mean())

    def predict(self, subset: tuple[int, ...]) -> np.ndarray:
        return SoftmaxAverage().predict(self.queries[:, list(subset)])


def average(seed: int, experts: int) -> Average:
    return Average(*draw(seed, experts=experts), draw(seed + 1, rows=7, experts=experts)[0])


def table(errors: dict[tuple[int, ...], float]) -> SimpleNamespace:
    return SimpleNamespace(error=errors.__getitem__, predict=lambda subset: np.array([len(subset)]))


def mean_cost(point: CostPoint, prices: np.ndarray) -> float:
    """What the rows paid, one by one."""
    return sum(float(prices[k]) for row in point.queried for k in range(len(prices)) if row[k]) / len(point.queried)


# ---------------------------------------------------------------- asking nobody, subsets


def test_majority_class_is_the_lowest_of_the_most_frequent_classes():
    point = majority_class(np.array([3, 1, 3, 1, 0]), num_rows=4, num_experts=2)
    assert point.predicted.tolist() == [1] * 4
    assert (point.cost, point.num_queries, point.held_out_error) == (0.0, 0.0, pytest.approx(0.6))
    assert point.queried.shape == (4, 2) and not point.queried.any()
    assert point.accuracy(np.array([1, 3, 1, 1])) == 0.75


def test_the_point_of_all_experts_is_the_rule_on_all_of_them():
    fusion, prices = average(0, 4), np.array([1, 2, 0.5, 4])
    point = subset_point(fusion, range(4), prices)
    assert np.array_equal(point.predicted, SoftmaxAverage().predict(fusion.queries))
    assert (point.cost, point.num_queries, point.setting) == (7.5, 4.0, (0, 1, 2, 3))
    assert point.held_out_error == fusion.error((0, 1, 2, 3))
    assert subset_point(fusion, [2, 0], prices, held_out=False).setting == (0, 2)
    assert subset_point(fusion, [2, 0], prices, held_out=False).held_out_error is None


@pytest.mark.parametrize("experts, num_subsets", [(1, 1), (4, 3), (4, 50), (7, 5)])
def test_random_subsets_differ_and_there_are_as_many_as_asked_for(experts, num_subsets):
    fusion, prices = average(3, experts), prices_of(3, experts)
    points = random_subsets(fusion, prices, num_subsets, seed=1)
    subsets = [point.setting for point in points]
    assert len(set(subsets)) == len(subsets)
    for size in range(1, experts + 1):
        assert sum(len(subset) == size for subset in subsets) == min(num_subsets, math.comb(experts, size))
    for point in points:
        assert np.flatnonzero(point.queried[0]).tolist() == list(point.setting) == sorted(point.setting)
        assert point.cost == mean_cost(point, prices)
        assert np.array_equal(point.predicted, fusion.predict(point.setting))
    assert not fusion.errors_asked
    assert [point.setting for point in random_subsets(fusion, prices, num_subsets, seed=1)] == subsets


def test_random_subsets_depend_on_the_seed_and_leave_no_expert_out():
    fusion = average(0, 8)
    first, second = ([point.setting for point in random_subsets(fusion, [1] * 8, 3, seed=seed)] for seed in (0, 1))
    assert first != second
    seen = {k for seed in range(30) for p in random_subsets(fusion, [1] * 8, 1, seed=seed) if p.num_queries == 1
            for k in p.setting}  # fmt: skip
    assert seen == set(range(8))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_greedy_selection_with_equal_costs_takes_the_least_error_at_each_step(seed):
    fusion, chosen = average(seed, 4), ()
    points = best_static_subsets(fusion, [0.7] * 4)
    for size, point in enumerate(points, 1):
        left = [k for k in range(4) if k not in chosen]
        best = min(left, key=lambda k: (fusion.error(tuple(sorted((*chosen, k)))), k))
        chosen = tuple(sorted((*chosen, best)))
        assert point.setting == chosen
        assert point.held_out_error == fusion.error(chosen)
        assert (point.cost, point.num_queries) == (pytest.approx(0.7 * size), size)
        assert np.array_equal(point.predicted, fusion.predict(chosen))


def test_greedy_selection_with_costs_by_hand():
    errors = {(0,): 0.4, (1,): 0.5, (2,): 0.9, (0, 1): 0.2, (1, 2): 0.3, (0, 2): 0.3, (0, 1, 2): 0.25}
    costs = [5, 1, 0.5]
    # per cost: .6 / 5, .5 / 1, .1 / .5; then .3 / 5 of the first against .2 / .5 of the third; then a loss
    greedy = [point.setting for point in best_static_subsets(table(errors), costs)]
    assert greedy == [(1,), (1, 2), (0, 1, 2)]
    plain = best_static_subsets(table(errors), costs, per_cost=False)
    assert [point.setting for point in plain] == [(0,), (0, 1), (0, 1, 2)]
    assert [point.cost for point in plain] == [5, 6, 6.5]
    # against a guess that is wrong in half of the cases, only the first expert gains anything
    assert best_static_subsets(table(errors), costs, empty_error=0.5)[0].setting == (0,)


def test_greedy_ties_and_losses_go_to_the_cheaper_and_then_to_the_first():
    worse = {(0,): 0.1, (1,): 0.6, (2,): 0.6, (0, 1): 0.3, (0, 2): 0.3, (0, 1, 2): 0.4}
    assert [p.setting for p in best_static_subsets(table(worse), [1, 2, 1])] == [(0,), (0, 2), (0, 1, 2)]
    assert best_static_subsets(table(worse), [1, 2, 2])[1].setting == (0, 1)
    equal = {(0,): 0.1, (1,): 0.7, (0, 1): 0.1}  # .9 / 9 = .3 / 3, not in floating point
    assert best_static_subsets(table(equal), [9, 3])[0].setting == (1,)
    assert best_static_subsets(table(equal), [9e9, 3e9])[0].setting == (1,)
    fewest = {(0,): 0.1, (1,): 0.6, (2,): 0.6, (0, 1): 0.2, (0, 2): 0.3, (0, 1, 2): 0.4}
    assert best_static_subsets(table(fewest), [1, 9, 1])[1].setting == (0, 1)  # .1 / 9 < .2 / 1


def test_greedy_selection_asks_free_experts_that_help_first():
    errors = {(0,): 0.1, (1,): 0.8, (2,): 0.7, (1, 2): 0.7, (0, 2): 0.1, (0, 1, 2): 0.1}
    points = best_static_subsets(table(errors), [1, 0, 0])
    assert [point.setting for point in points] == [(2,), (0, 2), (0, 1, 2)]  # the second free one does not help


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 5))
def test_exhaustive_selection_is_the_front_of_all_subsets(seed, experts):
    fusion, prices = average(seed, experts), prices_of(seed, experts)
    subsets = [s for size in range(1, experts + 1) for s in itertools.combinations(range(experts), size)]
    points = exhaustive_subsets(fusion, prices)
    known = [(float(prices[list(s)].sum()), fusion.error(s), s) for s in subsets]
    for budget in {cost for cost, _, _ in known}:
        reached = [point for point in points if point.cost <= budget]
        assert reached[-1].held_out_error == min(error for cost, error, _ in known if cost <= budget)
    pairs = [(point.cost, point.held_out_error) for point in points]
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in itertools.pairwise(pairs))
    assert set(pairs) <= {(cost, error) for cost, error, _ in known}
    for point in points:
        equal = [s for cost, error, s in known if (cost, error) == (point.cost, point.held_out_error)]
        assert point.setting == min(equal, key=lambda s: (len(s), s))
        assert point.cost == mean_cost(point, prices)
    for rule in (True, False):
        for greedy in best_static_subsets(fusion, prices, per_cost=rule):
            reached = [point for point in points if point.cost <= greedy.cost]
            assert reached[-1].held_out_error <= greedy.held_out_error


def test_more_than_ten_experts_are_too_many_for_all_subsets():
    fusion = average(0, 11)
    with pytest.raises(InputError, match=r"found 11 experts.*expected 10 at most, or use best_static_subsets"):
        exhaustive_subsets(fusion, [1] * 11)
    assert not fusion.errors_asked
    assert exhaustive_subsets(average(0, 10), [1] * 10)[-1].cost <= 10


# ---------------------------------------------------------------- the cascade


def cascade(outputs: np.ndarray, prices: np.ndarray, order: list[int], threshold: float) -> list[tuple]:
    """The loop: class and questions of each row."""
    answers = []
    for row in outputs:
        asked, best, label = [], -1.0, -1
        for k in order:
            asked.append(k)
            if row[k].max() > best:
                best, label = row[k].max(), int(row[k].argmax())
            if best > threshold:
                break
        answers.append((label, sorted(asked)))
    return answers


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 5))
def test_the_cascade_equals_the_loop(seed, experts):
    (known, targets), (queries, _) = draw(seed, experts=experts), draw(seed + 1, rows=12, experts=experts)
    prices = prices_of(seed, experts)
    hits = [sum(known[row, k].argmax() == targets[row] for row in range(30)) for k in range(experts)]
    order = sorted(
        range(experts),
        key=lambda k: (-math.inf, -hits[k], 0, k) if prices[k] == 0 else (-hits[k] / prices[k], 0, prices[k], k),
    )
    points = confidence_cascade(queries, known, targets, prices, num_thresholds=6)
    settings_ = [point.setting for point in points]
    assert settings_[0] == -math.inf and settings_[-1] == math.inf and settings_ == sorted(set(settings_))
    assert set(settings_[1:-1]) <= set(known.max(2).ravel().tolist())
    for point in points:
        expected = cascade(queries, prices, order, point.setting)
        assert point.predicted.tolist() == [label for label, _ in expected]
        assert [np.flatnonzero(row).tolist() for row in point.queried] == [asked for _, asked in expected]
        assert point.cost == pytest.approx(mean_cost(point, prices), rel=1e-12)
        held = cascade(known, prices, order, point.setting)
        wrong = sum(label != target for (label, _), target in zip(held, targets, strict=True))
        assert point.held_out_error == pytest.approx(wrong / 30)
    assert [p.cost for p in points] == sorted(p.cost for p in points)


def test_equal_accuracies_per_cost_are_a_tie_whatever_their_last_digit():
    """12 hits of 30 for 2 and 9 of 30 for 1.5 are worth the same: the cheaper is queried first."""
    targets = np.zeros(30, int)
    right = np.array([[row < 12, row < 9] for row in range(30)])
    known = np.where(right[:, :, None], [0.75, 0.25], [0.25, 0.75])
    point = confidence_cascade(known[:1], known, targets, [2, 1.5], thresholds=[-1])[0]
    assert point.queried.tolist() == [[False, True]]


def test_a_threshold_above_one_asks_everyone_and_one_below_all_asks_the_first():
    (known, targets), (queries, _) = draw(0, experts=4), draw(1, rows=9, experts=4)
    low, high = confidence_cascade(queries, known, targets, [1, 1, 1, 1], thresholds=[-1, 1.5])
    assert (high.cost, high.num_queries) == (4.0, 4.0) and high.queried.all()
    assert low.cost == 1.0
    assert np.array_equal(low.predicted, BestSingle().fit(known, targets).predict(queries))
    # what everyone gives is the most confident answer, up to ties between experts
    confidence = np.sort(queries.max(2), axis=1)
    clear = confidence[:, -1] > confidence[:, -2]
    assert clear.any()
    assert np.array_equal(high.predicted[clear], MostConfident().predict(queries)[clear])


def test_the_cascade_asks_what_is_right_most_often_per_cost_first():
    known = np.array([[[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]], [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]])
    targets = np.array([0, 0])  # accuracies 1, .5, 0
    first = lambda costs: confidence_cascade(known, known, targets, costs, thresholds=[0])[0].queried[0].tolist()  # noqa: E731
    assert first([1, 1, 1]) == [True, False, False]
    assert first([3, 1, 1]) == [False, True, False]  # 1 / 3 < .5 / 1
    assert first([2, 1, 1]) == [False, True, False]  # equal rates: the cheaper one
    assert first([2, 1, 0]) == [False, False, True]  # nothing to pay
    assert first([0, 1, 0]) == [True, False, False]
    known = known[:, ::-1]
    assert first([0, 1, 0]) == [False, False, True]  # of those that cost nothing the one that is right


def test_a_confidence_equal_to_the_threshold_does_not_exceed_it():
    known = np.array([[[0.75, 0.25], [0.5, 0.5]]])
    points = confidence_cascade(known, known, np.array([0]), [1, 1], thresholds=[0.75, 0.74])
    assert [point.cost for point in points] == [2, 1]


# ---------------------------------------------------------------- FrugalML


def brute_force(outputs: np.ndarray, targets: np.ndarray, prices: np.ndarray, trade_off: float) -> float:
    """The largest accuracy - trade_off * cost of any base, any add-on per label and any threshold per label."""
    rows, experts, classes = outputs.shape
    answers, confidence = outputs.argmax(2), outputs.max(2)
    best = -math.inf
    for base in range(experts):
        value = 0.0
        for label in range(classes):
            mine = [n for n in range(rows) if answers[n, base] == label]
            choices = []
            for add_on, cut in itertools.product(range(experts), [-1.0, *confidence[:, base], 2.0]):
                total = 0.0
                for n in mine:
                    asks = confidence[n, base] < cut
                    who = add_on if asks else base
                    pays = prices[base] + (prices[add_on] if asks and add_on != base else 0)
                    total += (answers[n, who] == targets[n]) - trade_off * pays
                choices.append(total)
            value += max(choices)
        best = max(best, value / rows)
    return best


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0]), st.integers(1, 3), st.integers(1, 9))
def test_the_frugal_ml_strategy_is_optimal(seed, trade_off, experts, rows):
    outputs, targets = draw(seed, rows=rows, experts=experts)
    prices = prices_of(seed, experts)
    strategy = frugal_ml_strategy(outputs, targets, prices, trade_off)
    assert strategy.objective == pytest.approx(brute_force(outputs, targets, prices, trade_off), abs=1e-9)
    predicted, asked = strategy.decide(outputs)  # what it promises is what it does
    got = (predicted == targets).mean() - trade_off * (asked @ prices).mean()
    assert got == pytest.approx(strategy.objective, abs=1e-9)
    assert (asked.sum(1) <= 2).all() and asked[:, strategy.base].all()


def test_frugal_ml_decides_as_its_paper_says():
    (known, targets), (queries, _) = draw(11, rows=60), draw(12, rows=25)
    prices, trade_off = np.array([0.5, 1, 2]), 0.05
    strategy = frugal_ml_strategy(known, targets, prices, trade_off)
    assert (strategy.add_ons >= 0).any()  # or the test says nothing
    (point,) = frugal_ml(queries, known, targets, prices, trade_offs=[trade_off])
    several = 0
    for n, row in enumerate(queries):
        label, asked = int(row[strategy.base].argmax()), {strategy.base}
        if row[strategy.base].max() < strategy.thresholds[label]:
            asked.add(int(strategy.add_ons[label]))
            label = int(row[strategy.add_ons[label]].argmax())
        several += len(asked) == 2
        assert point.predicted[n] == label
        assert set(np.flatnonzero(point.queried[n])) == asked
    assert several
    assert point.cost == pytest.approx(mean_cost(point, prices))
    assert point.setting == trade_off
    assert point.held_out_error == (strategy.decide(known)[0] != targets).mean()


def test_frugal_ml_by_hand():
    # the base says 0 with confidence .9 .8 .7 .6, right about the first two; the add-on is right about the last two
    base = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]
    other = [[0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.1, 0.9]]
    outputs, targets = np.stack([base, other], axis=1), np.array([0, 0, 1, 1])
    strategy = frugal_ml_strategy(outputs, targets, [1, 1], 0.5)
    assert (strategy.base, strategy.add_ons.tolist()) == (0, [1, -1])
    assert strategy.thresholds.tolist() == [0.8, -math.inf]  # below .8 the add-on is asked
    assert strategy.objective == pytest.approx(1 - 0.5 * 1.5)
    never = frugal_ml_strategy(outputs, targets, [1, 1], 1.0)  # a gain equal to the price: fewer questions
    assert never.add_ons.tolist() == [-1, -1] and never.thresholds.tolist() == [-math.inf] * 2
    assert never.objective == pytest.approx(0.5 - 1)
    always = frugal_ml_strategy(outputs[2:], targets[2:], [1, 3], 0.1)
    assert (always.base, always.add_ons.tolist()) == (1, [-1, -1])  # the right one alone is best: 1 - .3 against 1 - .4
    # unequal labels: a base that never says 1 leaves that label to itself
    assert never.decide(np.array([[[0.0, 1.0], [1.0, 0.0]]]))[0].tolist() == [1]


def test_frugal_ml_keeps_none_where_the_add_on_is_always_better():
    # the base errs wherever it says 0, and is right about the row that it calls 1
    base, other = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]], [[0.1, 0.9], [0.1, 0.9], [0.9, 0.1]]
    strategy = frugal_ml_strategy(np.stack([base, other], axis=1), np.array([1, 1, 1]), [0, 4], 0.01)
    assert (strategy.base, strategy.add_ons.tolist()) == (0, [1, -1])
    assert strategy.thresholds.tolist() == [math.inf, -math.inf]
    assert strategy.decide(np.array([[[1.0, 0.0], [0.2, 0.8]]]))[0].tolist() == [1]  # however sure


def test_frugal_ml_does_not_part_rows_of_one_confidence():
    outputs = np.array([[[0.75, 0.25], [0.1, 0.9]], [[0.75, 0.25], [0.1, 0.9]], [[0.75, 0.25], [0.1, 0.9]]])
    strategy = frugal_ml_strategy(outputs, np.array([1, 0, 0]), [0, 0], 0.0)
    assert strategy.add_ons.tolist() == [-1, -1] and strategy.base == 0
    assert strategy.objective == pytest.approx(2 / 3)


def test_frugal_ml_prefers_the_cheaper_of_equal_add_ons():
    base, right = [[0.6, 0.4], [0.9, 0.1]], [[0.2, 0.8], [0.8, 0.2]]
    outputs = np.stack([base, right, right], axis=1)
    assert frugal_ml_strategy(outputs, np.array([1, 0]), [1, 3, 2], 0.0).base == 2  # right everywhere, no add-on
    outputs[1, 1:] = [[0.1, 0.9]] * 2  # now the others err on the second row
    strategy = frugal_ml_strategy(outputs, np.array([1, 0]), [1, 3, 2], 0.0)
    assert (strategy.base, strategy.add_ons.tolist()) == (0, [2, -1])


def test_frugal_ml_asks_a_dearer_add_on_where_that_spends_less():
    # both add-ons set the first row right; the cheap one has to be asked about the second as well
    base = [[0.6, 0.4], [0.7, 0.3], [0.8, 0.2]]
    cheap = [[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]]
    dear = [[0.2, 0.8], [0.6, 0.4], [0.2, 0.8]]
    outputs = np.stack([base, cheap, dear], axis=1)
    targets = np.array([1, 1, 0])
    choose = lambda costs: frugal_ml_strategy(outputs, targets, costs, 0.0)  # noqa: E731
    strategy = choose([0, 2, 3])
    assert (strategy.base, strategy.add_ons.tolist(), strategy.thresholds.tolist()) == (0, [2, -1], [0.7, -math.inf])
    strategy = choose([0, 1, 3])
    assert (strategy.base, strategy.add_ons.tolist(), strategy.thresholds.tolist()) == (0, [1, -1], [0.8, -math.inf])
    assert choose([0, 1.5, 3]).add_ons.tolist() == [2, -1]  # 3 either way: fewer questions


def test_frugal_ml_without_a_price_is_never_below_the_best_expert_on_its_own_rows():
    outputs, targets = draw(5, rows=80, experts=4, classes=5)
    points = frugal_ml(outputs, outputs, targets, [1, 2, 3, 4])
    assert [p.setting for p in points] == [t / 2.5 for t in FRUGAL_ML_TRADE_OFFS]
    best = (outputs.argmax(2) == targets[:, None]).mean(0).max()
    assert points[-1].setting == 0 and 1 - points[-1].held_out_error >= best
    assert [p.accuracy(targets) for p in points] == pytest.approx([1 - p.held_out_error for p in points])
    assert [p.cost for p in points] == sorted(p.cost for p in points)  # an optimum never spends less at a lower price
    scaled = frugal_ml(outputs, outputs, targets, [1e9, 2e9, 3e9, 4e9])
    assert [p.cost for p in scaled] == pytest.approx([1e9 * p.cost for p in points])
    assert all(np.array_equal(a.queried, b.queried) for a, b in zip(points, scaled, strict=True))


def test_free_experts_do_not_break_the_default_trade_offs():
    outputs, targets = draw(5)
    points = frugal_ml(outputs, outputs, targets, [0, 0, 0])
    assert len(points) == len(FRUGAL_ML_TRADE_OFFS)
    assert {point.cost for point in points} == {0.0}


# ---------------------------------------------------------------- the oracle


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 5))
def test_the_oracle_asks_the_cheapest_right_expert(seed, experts):
    outputs, targets = draw(seed, rows=12, experts=experts)
    prices = prices_of(seed, experts)
    point = least_expensive_correct(outputs, targets, prices)
    for n, row in enumerate(outputs):
        right = [k for k in range(experts) if row[k].argmax() == targets[n]]
        chosen = min(right or range(experts), key=lambda k: (prices[k], k))
        assert np.flatnonzero(point.queried[n]).tolist() == [chosen]
        assert point.predicted[n] == row[chosen].argmax()
    assert np.array_equal(point.predicted == targets, oracle_selection(outputs, targets))
    assert point.accuracy(targets) == oracle_selection(outputs, targets).mean()
    assert point.cost == pytest.approx(mean_cost(point, prices)) and point.num_queries == 1
    for other in frugal_ml(outputs, outputs, targets, prices):
        assert point.accuracy(targets) >= other.accuracy(targets)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_one_row_one_expert_one_class(kind):
    outputs, targets = np.ones((1, 1, 1), kind), np.array([0])
    fusion = Average(outputs, targets, outputs)
    points = [
        majority_class(targets, 1, 1),
        *random_subsets(fusion, [2]),
        *best_static_subsets(fusion, [2]),
        *exhaustive_subsets(fusion, [2]),
        *confidence_cascade(outputs, outputs, targets, [2]),
        *frugal_ml(outputs, outputs, targets, [2]),
        least_expensive_correct(outputs, targets, [2]),
    ]
    assert [point.accuracy(targets) for point in points] == [1.0] * len(points)
    assert [point.cost for point in points] == [0.0] + [2.0] * (len(points) - 1)


def test_nothing_given_is_changed():
    (known, targets), (queries, truth) = draw(0), draw(1)
    costs = np.array([1.0, 0.5, 2.0])
    given_ = (known, targets, queries, truth, costs)
    kept = [array.copy() for array in given_]
    confidence_cascade(queries, known, targets, costs)
    frugal_ml(queries, known, targets, costs)
    least_expensive_correct(queries, truth, costs)
    best_static_subsets(Average(known, targets, queries), costs)
    assert all(np.array_equal(*pair) for pair in zip(kept, given_, strict=True))


GOOD, LABELS = np.full((4, 2, 3), 1 / 3), np.array([0, 1, 2, 0])
MUTE = SimpleNamespace(error=lambda subset: 0.5, predict=lambda subset: np.array([0]))
SPOILT = GOOD.copy()
SPOILT[2, 1, 0] = np.nan


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: majority_class(np.array([], int), 3), r"train_targets: found none"),
        (lambda: majority_class(np.array([0.5]), 3), "train_targets: found 0.5 in row"),
        (lambda: majority_class(LABELS, 0), "num_rows is 0"),
        (lambda: majority_class(LABELS, 2).accuracy(LABELS), r"targets: found shape \(4,\) for 2 predicted"),
        (lambda: subset_point(MUTE, [], [1, 1]), r"subset is \(\)"),
        (lambda: subset_point(MUTE, [0, 0], [1, 1]), r"subset is \(0, 0\)"),
        (lambda: subset_point(MUTE, [2], [1, 1]), r"subset is \(2,\); expected distinct indices of experts, 0 to 1"),
        (lambda: random_subsets(MUTE, [1, 1], 0), "num_subsets is 0"),
        (lambda: random_subsets(MUTE, [[1, 1]]), r"costs: found \[1, 1\] for expert number 0; expected a number"),
        (lambda: random_subsets(MUTE, []), "costs: found none; expected"),
        (lambda: best_static_subsets(MUTE, [1, -1]), "costs: found -1 for expert number 1; expected a number >= 0"),
        (lambda: exhaustive_subsets(MUTE, [1, np.inf]), "costs: found inf for expert number 1; expected a number >= 0"),
        (lambda: best_static_subsets(MUTE, [1], empty_error=-1), "empty_error is -1"),
        (lambda: best_static_subsets(table({(0,): math.nan}), [1]), r"error of \(0,\) is nan"),
        (lambda: exhaustive_subsets(table({(0,): math.inf}), [1]), r"error of \(0,\) is inf"),
        (
            lambda: random_subsets(SimpleNamespace(predict=lambda subset: np.ones((2, 2))), [1]),
            r"predictions of \(0,\): found shape \(2, 2\)",
        ),
        (lambda: confidence_cascade(GOOD[:, :1], GOOD, LABELS, [1, 1]), r"outputs: found \(K, C\) = \(1, 3\)"),
        (lambda: confidence_cascade(GOOD, GOOD, LABELS[:3], [1, 1]), "validation_targets: found 3 for 4 samples"),
        (lambda: confidence_cascade(GOOD, GOOD, LABELS, [1]), "costs: found 1 for 2 experts"),
        (lambda: confidence_cascade(SPOILT, GOOD, LABELS, [1, 1]), r"outputs: found NaN or infinite.* row\(s\) 2"),
        (lambda: confidence_cascade(GOOD, SPOILT, LABELS, [1, 1]), "validation_outputs: found NaN"),
        (lambda: confidence_cascade(GOOD, GOOD, LABELS, [1, 1], num_thresholds=0), "num_thresholds is 0"),
        (lambda: confidence_cascade(GOOD, GOOD, LABELS, [1, 1], thresholds=[]), "thresholds: found none"),
        (lambda: confidence_cascade(GOOD, GOOD, LABELS, [1, 1], thresholds=[math.nan]), "thresholds: found nan"),
        (lambda: frugal_ml(GOOD[:0], GOOD, LABELS, [1, 1]), r"outputs: found shape \(0, 2, 3\)"),
        (
            lambda: frugal_ml(GOOD, GOOD, LABELS + 1, [1, 1]),
            r"validation_targets: 1 out of range, 3 in row\(s\) 2; the task has 3 classes \(0 to 2\)",
        ),
        (lambda: frugal_ml(GOOD, GOOD, LABELS - 1, [1, 1]), "validation_targets: 2 out of range, -1 in row"),
        (lambda: frugal_ml(GOOD, GOOD, LABELS, [1, 1], trade_offs=[-0.1]), "trade_off is -0.1"),
        (lambda: frugal_ml_strategy(GOOD, LABELS, [1, 1], math.nan), "trade_off is nan"),
        (lambda: least_expensive_correct(GOOD, LABELS[:, None], [1, 1]), r"targets: found shape \(4, 1\)"),
        (lambda: least_expensive_correct(GOOD[0], LABELS, [1, 1]), r"outputs: found shape \(2, 3\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
