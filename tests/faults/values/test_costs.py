"""Costs in another unit, and experts that cost nearly nothing, leave the decisions of a policy as they are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion.baselines import confidence_cascade, frugal_ml
from lightning_fusion.errors import InputError
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.frugal.prediction import FrugalCurve

pytestmark = pytest.mark.filterwarnings(
    "ignore:neighbors is", "ignore:the fuser of all", "ignore:.*samples queried every"
)


def problem(seed: int, rows: int = 120, experts: int = 4, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(rows, experts, classes) probabilities of experts that are right for some of the samples, and the targets."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=rows)
    logits = generator.normal(size=(rows, experts, classes))
    right = generator.random((rows, experts)) < 0.6
    logits += 3 * right[:, :, None] * np.eye(classes)[targets][:, None]
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(2, keepdims=True), targets


def named(outputs: np.ndarray) -> dict[str, torch.Tensor]:
    return {f"e{k}": torch.from_numpy(outputs[:, k]) for k in range(outputs.shape[1])}


def check_currency(seed: int, costs: list[float], scale: float, look_ahead: int) -> None:
    """Assert that all costs times ``scale``, with the trade-off divided by it, give the same decisions."""
    outputs, targets = problem(seed)
    known, queries = named(outputs), named(problem(seed + 100)[0])
    one = FrugalFoE(costs, 0.02, look_ahead=look_ahead).fit(known, targets)
    other = FrugalFoE([cost * scale for cost in costs], 0.02 / scale, look_ahead=look_ahead).fit(known, targets)
    first, second = one.predict(queries), other.predict(queries)
    assert torch.equal(first.queried, second.queried) and torch.equal(first.probabilities, second.probabilities)
    assert second.cost.tolist() == pytest.approx((first.cost * scale).tolist())


COSTS = st.lists(st.sampled_from([0.25, 0.5, 1.0, 3.0, 7.0]), min_size=4, max_size=4)


def test_dollars_give_the_same_policy():
    check_currency(0, [0.25, 3.0, 1.0, 1.0], 1e-4, look_ahead=1)


@pytest.mark.slow
@given(
    seed=st.integers(0, 50), costs=COSTS, scale=st.sampled_from([1e-5, 0.3, 1e4]), look_ahead=st.sampled_from([1, 2])
)
@settings(max_examples=12, deadline=None)
def test_another_currency_gives_the_same_policy(seed, costs, scale, look_ahead):
    check_currency(seed, costs, scale, look_ahead)


@pytest.mark.slow
def test_another_currency_gives_the_same_curve_and_budget():
    (outputs, targets), queries, costs, scale = problem(0), named(problem(100)[0]), [0.25, 3.0, 1.0, 1.0], 1e-4
    priced = [cost * scale for cost in costs]
    one, other = (
        FrugalFoE(given, trade_off).fit(named(outputs), targets)
        for given, trade_off in ((costs, 0.02), (priced, 200.0))
    )
    curves = one.curve(queries, targets), other.curve(queries, targets)
    assert curves[0].accuracy == curves[1].accuracy and len(set(curves[0].cost)) > 2
    assert curves[1].cost == pytest.approx([cost * scale for cost in curves[0].cost])
    tight = FrugalFoE(costs, budget=1.5).fit(named(outputs), targets).predict(queries)
    also_tight = FrugalFoE(priced, budget=1.5 * scale).fit(named(outputs), targets).predict(queries)
    assert torch.equal(tight.queried, also_tight.queried)


@pytest.mark.slow
@given(seed=st.integers(0, 50), costs=COSTS)
@settings(max_examples=12, deadline=None)
def test_a_nearly_free_expert_that_knows_nothing_changes_no_decision(seed, costs):
    outputs, targets = problem(seed)
    queries = problem(seed + 100)[0]
    constant = np.full((len(outputs), 1, outputs.shape[2]), 1 / outputs.shape[2])
    alone = FrugalFoE(costs, 0.02).fit(named(outputs), targets)
    joined = FrugalFoE([*costs, 1e-6], 0.02).fit(named(np.concatenate([outputs, constant], 1)), targets)
    assert alone.neighbors_ == joined.neighbors_ == 50
    first, second = alone.predict(named(queries)), joined.predict(named(np.concatenate([queries, constant], 1)))
    assert torch.equal(first.queried, second.queried[:, :4])
    assert torch.equal(first.probabilities, second.probabilities)


def test_dollars_do_not_make_all_samples_alike():
    outputs, targets = problem(3, rows=400)
    policy = FrugalFoE([3e-4, 1e-4, 1e-4, 1e-6], trade_off=20.0).fit(named(outputs), targets)
    assert policy.neighbors_ == 50
    assert len(policy.predict(named(problem(4, rows=400)[0])).queried.unique(dim=0)) > 4


@pytest.mark.parametrize("scale", [1e-5, 1e4])
def test_baselines_do_not_depend_on_the_currency(scale):
    (outputs, targets), queries, costs = problem(0), problem(1)[0], np.array([0.25, 3.0, 1.0, 1.0])
    for rule in (confidence_cascade, frugal_ml):
        one, other = (rule(queries, outputs, targets, costs * factor) for factor in (1, scale))
        assert [point.cost * scale for point in one] == pytest.approx([point.cost for point in other])
        for first, second in zip(one, other, strict=True):
            assert np.array_equal(first.predicted, second.predicted)


def test_many_neighbors_are_said():
    outputs, targets = problem(0)
    with pytest.warns(UserWarning, match="neighbors is 60 of 120 calibration samples.*set neighbors to 30 or less"):
        FrugalFoE(neighbors=60).fit(named(outputs), targets)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_queries": 5}, "min_queries is 5, but there are 4 experts"),
        ({"leave_one_out": "no"}, "leave_one_out is 'no'; expected true or false"),
    ],
)
def test_impossible_settings_raise(arguments, message):
    outputs, targets = problem(0)
    with pytest.raises(InputError, match=message):
        FrugalFoE(**arguments).fit(named(outputs), targets)


def test_a_curve_shows_small_costs():
    curve = FrugalCurve([0.02, 0.01], [0.86, 0.9], [1.234e-4, 2.5], [1.0, 2.0], [])
    assert repr(curve) == "FrugalCurve(0.02: 0.860 at 0.000123, 0.01: 0.900 at 2.50)"
