"""Costs in another unit, and experts that cost nearly nothing, leave the decisions of a policy as they are."""

import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fusion import Expert, ExpertOutputs
from lightning_fusion.baselines import confidence_cascade, frugal_ml
from lightning_fusion.costs import read_costs
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


class TestTradeOff:
    def test_costs_below_one_error_have_no_effect(self):
        outputs, targets = problem(0, rows=40)
        with pytest.warns(UserWarning, match=r"trade_off \* cost is 6e-06 for the most expensive expert, less"):
            FrugalFoE([3e-4, 1e-4, 1e-4, 1e-6]).fit(named(outputs), targets)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "the fuser of all|neighbors is|found no package")
            for arguments in ({"trade_off": 160.0}, {"trade_off": 0}, {"trade_off": None, "budget": 2e-4}):
                FrugalFoE([3e-4, 1e-4, 1e-4, 1e-6], **arguments).fit(named(outputs), targets)

    @pytest.mark.slow
    def test_none_beside_a_budget(self):
        outputs, targets = problem(0)
        one, other = (
            FrugalFoE(budget=2.0, **given).fit(named(outputs), targets) for given in ({"trade_off": None}, {})
        )
        assert one.trade_off_ == other.trade_off_
        assert repr(FrugalFoE(trade_off=None, budget=2.0)).startswith("FrugalFoE(\n  budget=2, not fitted")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"trade_off": None}, "trade_off and budget are both null; expected one of them"),
            ({"trade_off": 0.5, "budget": 2}, "trade_off is 0.5 and budget 2; expected one of them"),
        ],
    )
    def test_one_of_both(self, arguments, message):
        with pytest.raises(InputError, match=message):
            FrugalFoE(**arguments)

    @pytest.mark.parametrize("given", [["a"], [True], [0.1, float("nan")], [], 0.1j])
    def test_of_a_curve_are_numbers(self, given):
        outputs, targets = problem(0)
        with pytest.raises(InputError, match=r"trade_offs: found .*; expected numbers >= 0"):
            FrugalFoE().fit(named(outputs), targets).curve(named(outputs), targets, given)


NOT_COSTS = ["3", None, True, -1, float("nan"), float("inf"), np.array([1.0]), 1j, np.bool_(True), torch.tensor(True)]


@pytest.mark.parametrize("cost", NOT_COSTS)
def test_what_is_no_cost(cost):
    with pytest.raises(InputError, match=r"^cost is .*; expected a number >= 0$"):
        Expert(torch.nn.Linear(2, 2), classes=["a", "b"], cost=cost)
    for costs in ({"a": cost}, [cost]):
        with pytest.raises(InputError, match=r"^costs: found .* for expert .*; expected a number >= 0$"):
            read_costs(costs)


@pytest.mark.parametrize("cost", [2, 2.0, np.float32(2), np.int64(2), torch.tensor(2), np.array(2.0), Fraction(2)])
def test_numbers_of_any_kind_are_costs(cost):
    assert Expert(torch.nn.Linear(2, 2), classes=["a", "b"], cost=cost).cost == 2.0
    assert read_costs([cost]) == [2.0] and read_costs({"a": cost}) == {"a": 2.0}


class TestNamesOfCosts:
    def test_a_series_is_read_by_name(self):
        outputs, targets = problem(0)
        priced = pd.Series([3.0, 1.0, 4.0, 2.0], index=["e2", "e0", "e3", "e1"])
        assert FrugalFoE(priced).fit(named(outputs), targets).costs_ == [1.0, 2.0, 3.0, 4.0]
        assert FrugalFoE(priced.to_numpy()).fit(named(outputs), targets).costs_ == [3.0, 1.0, 4.0, 2.0]
        with pytest.raises(InputError, match=r"costs: found names .*; expected .* numbers in the order of the experts"):
            confidence_cascade(outputs, outputs, targets, priced)

    @pytest.mark.parametrize("given", [{1.0, 2.0}, "11", 1.0, [[1.0, 2.0]], np.ones((2, 2)), torch.tensor(1.0)])
    def test_without_an_order(self, given):
        with pytest.raises(InputError, match=r"^costs: found .*; expected"):
            read_costs(given)

    def test_a_name_of_another_case_is_suggested(self):
        outputs, targets = problem(0)
        costs = {"e0": 1.0, "e1": 1.0, "E2": 1.0, "e3": 1.0}
        with pytest.raises(InputError, match=r"none for e2 and one for E2, which is no expert; .* did you mean e2"):
            FrugalFoE(costs).fit(named(outputs), targets)

    @pytest.mark.parametrize("costs", [{"a": 1.0}, {"a": 1.0, "B": 2.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, [1.0]])
    def test_a_store_has_one_for_each_expert(self, costs):
        split = {"probabilities": {"a": [[0.9, 0.1]] * 3, "b": [[0.9, 0.1]] * 3}, "target": [0, 1, 1]}
        with pytest.raises(InputError, match=r"^costs: found"):
            ExpertOutputs.from_arrays({"val": split}, {"a": ["x", "y"], "b": ["x", "y"]}, costs=costs)


def test_a_curve_shows_small_costs():
    curve = FrugalCurve([0.02, 0.01], [0.86, 0.9], [1.234e-4, 2.5], [1.0, 2.0], [])
    assert repr(curve) == "FrugalCurve(0.02: 0.860 at 0.000123, 0.01: 0.900 at 2.50)"
