import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion.errors import InputError
from lightning_fusion.metrics import area_under_cost_curve, risk_coverage


def test_the_area_by_hand():
    # 0 to 1: from .2 to .6, area .4; 1 to 3: from .6 to .8, area 1.4; 3 to 4: held at .8
    assert area_under_cost_curve([0, 1, 3], [0.2, 0.6, 0.8], 4) == pytest.approx((0.4 + 1.4 + 0.8) / 4)
    assert area_under_cost_curve([3, 0, 1], [0.8, 0.2, 0.6], 4) == pytest.approx(2.6 / 4)  # in any order
    assert area_under_cost_curve([0, 1, 3], [0.2, 0.6, 0.8], 2) == pytest.approx((0.4 + 0.65) / 2)  # cut at .7
    assert area_under_cost_curve([0], [0.3], 7) == pytest.approx(0.3)
    assert area_under_cost_curve([0, 2, 2], [0.2, 0.4, 0.8], 4) == pytest.approx((0.8 + 1.2) / 4)  # .6 at cost 2
    assert area_under_cost_curve([0, 0], [0.2, 0.4], 1) == pytest.approx(0.3)
    assert area_under_cost_curve([0, 2, 1], [0.5, 0.5, 0.1], 2) == pytest.approx(0.3)  # a dip is not hidden


def curves(seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    generator = np.random.default_rng(seed)
    costs = np.append(0, generator.integers(0, 12, generator.integers(0, 8))) / 2
    return generator.permutation(costs), generator.random(len(costs)), float(generator.integers(1, 10))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_the_area_is_the_mean_accuracy_over_budgets(seed):
    costs, accuracies, total = curves(seed)
    means = {cost: accuracies[costs == cost].mean() for cost in sorted(set(costs))}
    # knots lie on multiples of a half, so the midpoint rule with cells of an eighth is exact
    budgets = np.arange(1 / 16, total, 1 / 8)
    expected = np.interp(budgets, list(means), list(means.values())).mean()
    area = area_under_cost_curve(costs, accuracies, total)
    assert area == pytest.approx(expected, abs=1e-12)
    assert accuracies.min() - 1e-12 <= area <= accuracies.max() + 1e-12
    assert area_under_cost_curve(costs * 1e9, accuracies, total * 1e9) == pytest.approx(area)
    assert area_under_cost_curve(costs, np.ones_like(costs), total) == pytest.approx(1.0, abs=1e-15)


def test_tensors_and_lists_do_as_well():
    costs, accuracies = [0.0, 1.0], [0.25, 0.75]
    assert area_under_cost_curve(torch.tensor(costs), torch.tensor(accuracies, requires_grad=True), 1) == 0.5
    curve = risk_coverage(torch.tensor([0.5, 0.25]), torch.tensor([True, False]))
    assert curve.error.tolist() == [0.0, 0.5]


def naive(risk: list[float], wrong: list[bool]) -> tuple[list[float], list[float], list[float], float]:
    """The definition: for each threshold, the samples up to it; for the area, each sample's own threshold."""

    def error(threshold: float) -> float:
        answered = [w for r, w in zip(risk, wrong, strict=True) if r <= threshold]
        return sum(answered) / len(answered)

    thresholds = sorted(set(risk))
    coverage = [sum(r <= threshold for r in risk) / len(risk) for threshold in thresholds]
    area = sum(error(r) for r in risk) / len(risk)
    return thresholds, coverage, [error(threshold) for threshold in thresholds], area


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 2.0, math.inf]), st.booleans()), min_size=1, max_size=30))
def test_risk_coverage_equals_the_definition_ties_included(pairs):
    risk, wrong = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    thresholds, coverage, error, area = naive(risk, wrong)
    curve = risk_coverage(np.array(risk), np.array(wrong))
    assert curve.threshold.tolist() == thresholds
    assert curve.coverage == pytest.approx(coverage, abs=1e-12)
    assert curve.error == pytest.approx(error, abs=1e-12)
    assert curve.area == pytest.approx(area, abs=1e-12)
    assert curve.coverage[-1] == 1 and curve.error[-1] == pytest.approx(np.mean(wrong))


def test_risk_coverage_by_hand():
    curve = risk_coverage([0.3, 0.1, 0.2], [1, 0, 0])
    assert curve.threshold.tolist() == [0.1, 0.2, 0.3]
    assert curve.error.tolist() == pytest.approx([0, 0, 1 / 3])
    assert curve.area == pytest.approx(1 / 9)
    assert risk_coverage([0.1, 0.3, 0.2], [1, 0, 0]).area == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)  # the worst order
    assert risk_coverage([0.5] * 3, [1, 0, 0]).area == pytest.approx(1 / 3)  # no order at all: the plain error


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: area_under_cost_curve([], [], 1), r"costs: found shape \(0,\)"),
        (lambda: area_under_cost_curve([[0]], [1], 1), r"costs: found shape \(1, 1\)"),
        (lambda: area_under_cost_curve([0, 1], [1], 1), "found 2 costs and 1 accuracies"),
        (lambda: area_under_cost_curve([0, math.nan], [1, 1], 1), "costs: found 1 NaN"),
        (lambda: area_under_cost_curve([0], [math.nan], 1), "accuracies: found 1 NaN"),
        (lambda: area_under_cost_curve([0, -1], [1, 1], 1), "costs: expected finite numbers >= 0"),
        (lambda: area_under_cost_curve([0, math.inf], [1, 1], 1), "costs: expected finite numbers >= 0"),
        (lambda: area_under_cost_curve([0], [58.9], 1), "accuracies: found 58.9 to 58.9; expected fractions"),
        (lambda: area_under_cost_curve([0], [-0.1], 1), "accuracies: found -0.1"),
        (lambda: area_under_cost_curve([1, 2], [1, 1], 2), "the least expensive point costs 1.0; add one of cost 0"),
        (lambda: area_under_cost_curve([0], [1], 0), "total_cost is 0"),
        (lambda: area_under_cost_curve([0], [1], math.inf), "total_cost is inf"),
        (lambda: area_under_cost_curve([0], [1], math.nan), "total_cost is nan"),
        (lambda: risk_coverage([], []), r"risk: found shape \(0,\)"),
        (lambda: risk_coverage([0.1, math.nan], [0, 1]), "risk: found 1 NaN"),
        (lambda: risk_coverage([0.1], [0, 1]), "found 1 risks and 2 entries"),
        (lambda: risk_coverage([0.1, 0.2], [0, 2]), "wrong: expected True and False"),
        (lambda: risk_coverage([0.1, 0.2], [[0, 1]]), r"wrong: found shape \(1, 2\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
