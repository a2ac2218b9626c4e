import copy
import json
import math
import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from helpers import sealed, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import frugal

from lightning_fusion import ExpertOutputs, collect
from lightning_fusion.errors import InputError
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.frugal.risk import ParametricRisk
from lightning_fusion.frugal.state import digest_of
from lightning_fusion.frugal.subset_fusers import KNNFuser, MaskedMLPFuser
from lightning_fusion.frugal.tables import LossTables
from lightning_fusion.store import ArrayStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:neighbors is"),
    pytest.mark.filterwarnings("ignore:the fuser of all experts"),
    pytest.mark.filterwarnings("ignore:trade_off . cost is"),
    pytest.mark.filterwarnings("ignore:.*samples queried every expert"),
    pytest.mark.filterwarnings("ignore:.*samples are out-of-distribution"),
]


class OwnFuser(KNNFuser):
    """A fuser that is not the house's own."""


@pytest.fixture
def few_steps(monkeypatch):
    """Where it does not matter what a perceptron has learned."""
    monkeypatch.setattr("lightning_fusion.frugal.subset_fusers._MIN_STEPS", 20)


def named(stacked) -> dict:
    """Outputs by expert from (K, N, C)."""
    return {f"e{number}": values for number, values in enumerate(stacked)}


def specialists(rows: int = 240, seed: int = 0, experts: int = 4, classes: int = 4) -> tuple[dict, torch.Tensor]:
    """Experts that each know one class more than they know others, so that several are needed; float32."""
    generator = np.random.default_rng(seed)
    target = generator.integers(classes, size=rows)
    logits = generator.normal(size=(experts, rows, classes))
    for expert in range(experts):
        knows = (target == expert % classes) | (generator.random(rows) < 0.3)
        logits[expert] += 3 * knows[:, None] * np.eye(classes)[target]
    return named(torch.from_numpy(tiny.softmax(logits)).float()), torch.from_numpy(target)


def digits(rows: int = 240, seed: int = 0, count: int = 3) -> tuple[dict, torch.Tensor]:
    """Each expert knows one binary digit of the class: all must be asked."""
    target = np.random.default_rng(seed).integers(2**count, size=rows)
    outputs = [np.eye(2**count)[(target >> place) & 1] for place in range(count)]
    return named(torch.from_numpy(np.stack(outputs)).float()), torch.from_numpy(target)


def asker(outputs: dict, calls: list | None = None):
    def ask(name, rows):
        if calls is not None:
            calls.append((name, rows.tolist()))
        return outputs[name][rows]

    return ask


def same(one, other) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


@st.composite
def problems(draw, most_experts: int = 8, depth: int = 1):
    """Outputs on a dyadic grid, with duplicates and ties, of experts that are right more often than not."""
    experts, rows, classes = draw(st.integers(2, most_experts)), draw(st.integers(12, 60)), draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = 2 ** draw(st.integers(0, 4))
    asked = draw(st.integers(1, 6))
    targets = generator.integers(classes, size=rows + asked)
    signal = draw(st.sampled_from([0.0, 0.5, 1.0])) * (generator.random((experts, rows + asked, 1)) < 0.6)
    values = signal * np.eye(classes)[targets] + 0.6 * generator.random((experts, rows + asked, classes))
    outputs = np.round(values.clip(0, 1) * levels) / levels
    if draw(st.booleans()):  # few distinct rows, with labels of their own
        outputs[:, :rows] = outputs[:, generator.integers(max(2, rows // 4), size=rows)]
    if draw(st.booleans()):  # two experts that say the same
        outputs[-1] = outputs[0]
    outputs[:, rows:][:, ::2] = outputs[:, :rows][:, : (asked + 1) // 2]
    costs = {
        "unit": np.ones(experts),
        "zero": np.zeros(experts),
        "some zero": generator.integers(0, 2, size=experts),
        "equal": np.full(experts, 0.5),
        "unequal": generator.integers(0, 9, size=experts) / 4,
    }[draw(st.sampled_from(["unit", "zero", "some zero", "equal", "unequal"]))]
    arguments = {
        "trade_off": draw(st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.02, 0.05, 0.1, 0.125, 0.25, 0.5])),
        "neighbors": draw(st.sampled_from([None, 1, 2, 5, 10, 12])),
        "fuser_neighbors": draw(st.sampled_from([9, 9, 1, 2, 4])),
        "min_queries": draw(st.integers(1, min(3, experts))),
        "leave_one_out": draw(st.booleans()),
        "look_ahead": draw(st.integers(1, experts)) if depth > 1 else 1,
    }
    return outputs[:, :rows], targets[:rows], outputs[:, rows:], [float(cost) for cost in costs], arguments


def definition(outputs, targets, costs, arguments) -> frugal.Frugal:
    """The literal definition of a problem."""
    neighbors = arguments["neighbors"] or frugal.default_neighbors(len(targets))
    return frugal.Frugal(
        outputs, targets, costs, arguments["trade_off"], neighbors, arguments.get("fuser_neighbors", 9),
        arguments.get("min_queries", 1), arguments.get("leave_one_out", True), depth=arguments.get("look_ahead", 1),
    )  # fmt: skip


def check(problem, by_function: bool) -> None:
    """Asked, whom in which order, probabilities, risk and cost are those of the definition."""
    outputs, targets, queries, costs, arguments = problem
    policy = FrugalFoE(costs, **arguments).fit(named(outputs), targets)
    reference = definition(outputs, targets, costs, arguments)
    assert policy.neighbors_ == reference.neighbors
    calls: list = []
    if by_function:
        known = named(torch.from_numpy(queries))
        answer = policy.predict(asker(known, calls), num_rows=queries.shape[1])
    else:
        answer = policy.predict(named(queries))
    for place in range(queries.shape[1]):
        order, shares, risk, cost = reference.answer(queries[:, place])
        assert answer.queried[place].nonzero().flatten().tolist() == sorted(order)
        np.testing.assert_allclose(answer.probabilities[place].numpy(), shares, atol=1e-6)
        assert answer.probabilities[place].argmax() == shares.argmax()
        assert float(answer.risk[place]) == pytest.approx(risk, abs=1e-12)
        assert float(answer.cost[place]) == pytest.approx(cost, abs=1e-12)
        if by_function:
            assert [name for name, rows in calls if place in rows] == [f"e{expert}" for expert in order]
    if by_function:
        assert all(rows and rows == sorted(set(rows)) for _, rows in calls)


class TestDecisions:
    @pytest.mark.slow
    @given(problems())
    @settings(max_examples=60, deadline=None)
    def test_known_outputs_are_decided_as_defined(self, problem):
        check(problem, by_function=False)

    @pytest.mark.slow
    @given(problems())
    @settings(max_examples=40, deadline=None)
    def test_each_expert_is_asked_once_for_just_the_rows_that_need_it(self, problem):
        check(problem, by_function=True)

    @pytest.mark.slow
    @given(problems(most_experts=5, depth=5), st.booleans())
    @settings(max_examples=40, deadline=None)
    def test_planning_ahead_is_as_defined(self, problem, by_function):
        check(problem, by_function)

    @pytest.mark.parametrize("loss", ["zero_one", "log"])
    @pytest.mark.parametrize("leave_one_out", [True, False])
    def test_real_outputs_are_decided_as_defined(self, loss, leave_one_out):
        outputs, targets = specialists(150)
        queries, _ = specialists(30, seed=1)
        costs = [1.0, 0.5, 0.0, 2.0]
        policy = FrugalFoE(costs, 0.05, loss=loss, leave_one_out=leave_one_out, min_queries=2, neighbors=25)
        answer = policy.fit(outputs, targets).predict(queries)
        stacked, asked = (np.stack([v.numpy() for v in part.values()]).astype(float) for part in (outputs, queries))
        reference = frugal.Frugal(stacked, targets.numpy(), costs, 0.05, 25, 9, 2, leave_one_out, loss)
        for place in range(30):
            order, shares, risk, _ = reference.answer(asked[:, place])
            assert answer.queried[place].nonzero().flatten().tolist() == sorted(order)
            assert float(answer.risk[place]) == pytest.approx(risk, abs=1e-5)
            np.testing.assert_allclose(answer.probabilities[place].numpy(), shares, atol=1e-6)
        assert len(answer.queried.unique(dim=0)) > 2

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["grid", "one-hot", "real"])
    def test_many_rows_are_decided_as_defined(self, kind):
        known, targets = specialists(560, experts=8)
        asked, _ = specialists(6, seed=1, experts=8)
        outputs, queries = (torch.stack(list(part.values())).double() for part in (known, asked))
        if kind != "real":
            levels = 1 if kind == "one-hot" else 8
            outputs, queries = ((levels * part).round() / levels for part in (outputs, queries))
        policy = FrugalFoE(trade_off=0.01, min_queries=4, neighbors=20).fit(named(outputs), targets)
        answer = policy.predict(named(queries))
        reference = frugal.Frugal(outputs.numpy(), targets.numpy(), [1.0] * 8, 0.01, 20, 9, 4)
        for place in range(6):
            order, shares, risk, _ = reference.answer(queries[:, place].numpy())
            assert answer.queried[place].nonzero().flatten().tolist() == sorted(order)
            np.testing.assert_allclose(answer.probabilities[place].numpy(), shares, atol=1e-6)
            assert float(answer.risk[place]) == pytest.approx(risk)

    def test_the_authors_setting(self):
        outputs, targets = specialists(120)
        queries, _ = specialists(25, seed=1)
        arguments = {"neighbors": 10, "min_queries": 2, "leave_one_out": False}
        answer = FrugalFoE(trade_off=0.02, **arguments).fit(outputs, targets).predict(queries)
        stacked, asked = (np.stack([v.numpy() for v in part.values()]) for part in (outputs, queries))
        reference = frugal.Frugal(stacked, targets.numpy(), [1.0] * 4, 0.02, 10, 9, 2, False)
        assert answer.queried.sum(1).min() == 2
        for place in range(25):
            assert answer.queried[place].nonzero().flatten().tolist() == sorted(reference.answer(asked[:, place])[0])

    def test_only_a_plan_of_two_sees_what_two_experts_know_together(self):
        target = torch.arange(200) % 4
        bits = [torch.eye(2)[target % 2], torch.eye(2)[target // 2], torch.full((200, 2), 0.5)]
        outputs, goal = named(torch.stack(bits)), (target % 2) ^ (target // 2)
        greedy, planned = (FrugalFoE(look_ahead=depth).fit(outputs, goal).predict(outputs) for depth in (1, 2))
        assert greedy.queried.sum(1).unique().tolist() == [1]
        assert planned.queried.all(0).tolist() == [True, True, False]
        assert (planned.probabilities.argmax(1) == goal).all()

    @pytest.mark.parametrize("look_ahead", [1, 2])
    @pytest.mark.parametrize(
        ("costs", "order"),
        [([2, 2, 2], ["e0"]), ([2, 1, 2], ["e1"]), ([2, 2, 1], ["e2"]), ([0, 2, 1], ["e0"]), ([3, 1, 1], ["e1"])],
    )
    def test_ties_go_to_the_cheaper_expert_then_to_the_first(self, costs, order, look_ahead):
        """At a trade-off of 0 nothing but the tie rule tells twins apart, nor the two bits of an exclusive or."""
        target = torch.arange(120) % 4
        twins, goal = named(torch.eye(4)[target].repeat(3, 1, 1)), target
        policy = FrugalFoE(costs, 0.0, look_ahead=look_ahead).fit(twins, goal)
        policy.predict(asker(twins, calls := []), num_rows=120)
        assert [name for name, _ in calls][:1] == order
        bits = named(torch.stack([torch.eye(2)[target % 2], torch.eye(2)[target // 2], torch.full((120, 2), 0.5)]))
        policy = FrugalFoE(costs, 0.0, look_ahead=2).fit(bits, (target % 2) ^ (target // 2))
        policy.predict(asker(bits, calls := []), num_rows=120)
        alone = {name: policy.error([name]) for name in ("e0", "e1")}
        first = min(("e0", "e1"), key=lambda name: (alone[name], costs[int(name[1])], name))
        assert [name for name, _ in calls][:1] == [first]

    def test_costs_by_name_and_in_order_are_the_same(self):
        outputs, targets = specialists()
        costs = [0.5, 2.0, 1.0, 0.25]
        one = FrugalFoE(costs).fit(outputs, targets).predict(outputs)
        for other in (dict(zip(reversed(list(outputs)), reversed(costs), strict=True)), np.array(costs)):
            assert same(one, FrugalFoE(other).fit(outputs, targets).predict(outputs))

    def test_the_order_of_the_given_outputs_does_not_matter(self):
        outputs, targets = specialists()
        policy = FrugalFoE().fit(outputs, targets)
        assert same(policy.predict(outputs), policy.predict(dict(reversed(outputs.items()))))

    def test_more_samples_than_are_decided_together(self):
        outputs, targets = specialists(100)
        many, _ = specialists(5000, seed=2)
        policy = FrugalFoE(neighbors=10).fit(outputs, targets)
        answer, calls = policy.predict(asker(many, calls := []), num_rows=5000), calls
        few = policy.predict({name: values[4000:4300] for name, values in many.items()})
        assert torch.equal(answer.queried[4000:4300], few.queried)
        assert torch.equal(answer.risk[4000:4300], few.risk)
        for number, name in enumerate(outputs):
            rows = [row for called, some in calls if called == name for row in some]
            assert sorted(rows) == answer.queried[:, number].nonzero().flatten().tolist()

    @pytest.mark.parametrize("kinds", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
    def test_outputs_of_another_precision_than_the_validation_rows(self, kinds):
        generator = torch.Generator().manual_seed(0)
        values = torch.randint(0, 9, (3, 80, 3), generator=generator) / 8
        policy = FrugalFoE(trade_off=0.01).fit(named(values.to(kinds[0])), torch.arange(80) % 3)
        expected = policy.predict(named(values.to(kinds[0])))
        assert same(expected, policy.predict(asker(named(values.to(kinds[1]))), num_rows=80))
        assert same(expected, policy.predict(named(values.to(kinds[1]))))

    @pytest.mark.parametrize("known", [True, False])
    def test_no_samples_have_no_answers(self, known):
        outputs, targets = specialists()
        policy = FrugalFoE().fit(outputs, targets)
        if known:
            answer = policy.predict({name: values[:0] for name, values in outputs.items()})
        else:
            answer = policy.predict(asker(outputs, calls := []), num_rows=0)
            assert calls == []
        assert [tuple(part.shape) for part in answer] == [(0, 4), (0, 4), (0,), (0,), (0,), (0,)]

    @pytest.mark.slow
    def test_a_small_table_gives_the_same_answers(self, monkeypatch):
        outputs, targets = specialists(160, experts=12, classes=12)
        whole = FrugalFoE(trade_off=0.002, min_queries=4, neighbors=10).fit(outputs, targets)
        expected = whole.predict(outputs)
        assert len(whole.calibration.losses.slots) > 128
        monkeypatch.setattr(LossTables, "limit_bytes", 1)
        small = FrugalFoE(trade_off=0.002, min_queries=4, neighbors=10).fit(outputs, targets)
        assert same(expected, small.predict(outputs))
        assert len(small.calibration.losses.slots) <= 64

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["real", "grid"])
    @pytest.mark.parametrize("arguments", [{}, {"look_ahead": 2}, {"loss": "log"}, {"budget": 2.0}], ids=str)
    def test_decisions_without_numba_are_the_same(self, monkeypatch, kind, arguments):
        known, targets = specialists(400, experts=6)
        asked, _ = specialists(200, seed=1, experts=6)
        if kind == "grid":
            known, asked = ({name: (8 * v).round() / 8 for name, v in part.items()} for part in (known, asked))
        compiled = FrugalFoE(**arguments).fit(known, targets)
        assert compiled.calibration.neighbors.compiled
        expected = compiled.predict(asked)
        monkeypatch.setitem(sys.modules, "numba", None)
        plain = FrugalFoE(**arguments).fit(known, targets)
        assert not plain.calibration.neighbors.compiled
        assert plain.trade_off_ == compiled.trade_off_
        found = plain.predict(asked)
        torch.testing.assert_close(found.risk, expected.risk, rtol=0, atol=1e-12)  # sums in another order
        assert same(expected, found._replace(risk=expected.risk))
        assert len(expected.queried.unique(dim=0)) > 2

    @pytest.mark.slow
    def test_what_was_asked_before_does_not_matter(self):
        outputs, targets = specialists()
        policy = FrugalFoE().fit(outputs, targets)
        first = policy.predict(outputs)
        policy.curve(outputs, targets)
        assert same(first, policy.predict(outputs))


class TestDefaults:
    @pytest.mark.parametrize(("rows", "expected"), [(240, 50), (51, 50), (30, 29)])
    @pytest.mark.parametrize("arguments", [{}, {"trade_off": 0.0}, {"costs": [1.0, 0.5, 0.0, 1e-6]}, {"budget": 2.0}])
    def test_the_default_number_of_neighbors_depends_on_the_samples_alone(self, rows, expected, arguments):
        outputs, targets = specialists(rows)
        assert FrugalFoE(**arguments).fit(outputs, targets).neighbors_ == expected

    @pytest.mark.parametrize("rows", [40, 64])
    def test_all_rows_may_be_neighbors(self, rows):
        outputs, targets = specialists(rows)
        policy = FrugalFoE(neighbors=rows).fit(outputs, targets)
        answer = policy.predict(outputs)
        assert len(answer.queried.unique(dim=0)) == 1  # the same rows for all, so the same decisions
        subset = [name for name, asked in zip(outputs, answer.queried[0].tolist(), strict=True) if asked]
        assert answer.risk.tolist() == pytest.approx([policy.error(subset)] * rows)


class TestBudget:
    @pytest.mark.parametrize("budget", [1.0, 1.3, 2.0, 3.3])
    @pytest.mark.slow
    def test_the_mean_cost_on_validation_rows_keeps_it(self, budget):
        outputs, targets = specialists()
        policy = FrugalFoE([1.0, 1.25, 1.5, 1.0], budget=budget).fit(outputs, targets)
        stacked = np.stack([values.numpy() for values in outputs.values()])

        def cost(trade_off):
            reference = frugal.Frugal(stacked, targets.numpy(), policy.costs_, trade_off, 50)
            return np.mean([reference.answer(stacked[:, row], own=row)[3] for row in range(240)])

        assert cost(policy.trade_off_) <= budget
        assert cost(policy.trade_off_ / 1.02) > budget

    def test_enough_for_all_asks_as_if_questions_were_free(self):
        outputs, targets = specialists()
        policy = FrugalFoE(budget=4.0).fit(outputs, targets)
        assert policy.trade_off_ == 0
        assert same(policy.predict(outputs), FrugalFoE(trade_off=0.0).fit(outputs, targets).predict(outputs))

    def test_less_than_the_least_expensive_expert_is_rejected(self):
        outputs, targets = specialists()
        with pytest.raises(InputError, match=r"budget is 0.4, but 1 expert\(s\) cost 0.5 at least"):
            FrugalFoE([0.5, 2, 1, 1], budget=0.4).fit(outputs, targets)
        with pytest.raises(InputError, match=r"budget is 1.4, but 2 expert\(s\) cost 1.5 at least"):
            FrugalFoE([0.5, 2, 1, 1], budget=1.4, min_queries=2).fit(outputs, targets)
        assert FrugalFoE([0.5, 2, 1, 1], budget=0.5).fit(outputs, targets).predict(outputs).queried[:, 0].all()

    @pytest.mark.parametrize("rows", [40, 64])
    def test_all_rows_but_its_own_may_be_neighbors(self, rows):
        outputs, targets = specialists(rows)
        policy = FrugalFoE(budget=1.5, neighbors=rows - 1).fit(outputs, targets)
        assert policy.predict(outputs).risk.max() <= 1
        with pytest.raises(InputError, match=f"neighbors is {rows}, but there are {rows - 1} calibration samples"):
            FrugalFoE(budget=1.5, neighbors=rows).fit(outputs, targets)


class TestLoss:
    def test_log_loss_is_that_of_the_held_out_vote(self):
        outputs, targets = specialists(60)
        policy = FrugalFoE(loss="log").fit(outputs, targets)
        stacked = np.stack([values.numpy() for values in outputs.values()])
        reference = frugal.Frugal(stacked, targets.numpy(), [1.0] * 4, 0.02, 10, loss="log")
        for subset in (["e1"], ["e2", "e0"], list(outputs)):
            numbers = [int(name[1]) for name in subset]
            expected = reference.error(numbers, range(60)) / 60
            assert policy.error(subset) == pytest.approx(expected, rel=1e-5)

    def test_zero_one_loss_is_the_share_of_errors(self):
        outputs, targets = specialists(60)
        policy = FrugalFoE().fit(outputs, targets)
        stacked = np.stack([values.numpy() for values in outputs.values()])
        reference = frugal.Frugal(stacked, targets.numpy(), [1.0] * 4, 0.02, 10)
        assert policy.error(["e3", "e1"]) == pytest.approx(reference.error([1, 3], range(60)) / 60)

    def test_fuse_answers_from_the_named_experts(self):
        outputs, targets = specialists(60)
        queries, _ = specialists(7, seed=1)
        policy = FrugalFoE().fit(outputs, targets)
        stacked, asked = (np.stack([v.numpy() for v in part.values()]) for part in (outputs, queries))
        reference = frugal.Frugal(stacked, targets.numpy(), [1.0] * 4, 0.02, 10)
        expected = [reference.vote([1, 2], asked[:, place]) for place in range(7)]
        np.testing.assert_allclose(policy.fuse(["e2", "e1"], queries).numpy(), expected, atol=1e-6)
        with pytest.raises(InputError, match="subset: found z; expected some of the experts e0, e1, e2, e3, each once"):
            policy.fuse(["z"], queries)

    def test_an_output_of_no_expert_is_rejected(self):
        outputs, targets = specialists(60)
        with pytest.raises(InputError, match="expert"):
            FrugalFoE().fit(outputs, targets).error([])


class TestCurve:
    @pytest.mark.slow
    def test_equals_a_prediction_at_each_trade_off(self):
        outputs, targets = specialists()
        queries, goal = specialists(100, seed=1)
        policy = FrugalFoE(neighbors=50).fit(outputs, targets)
        curve = policy.curve(queries, goal, [0.02, 0.3, 0.0, 0.02])
        assert curve.trade_off == [0.3, 0.02, 0.0]
        for number, trade_off in enumerate(curve.trade_off):
            answer = FrugalFoE(trade_off=trade_off, neighbors=50).fit(outputs, targets).predict(queries)
            assert same(curve.predictions[number], answer)
            assert curve.accuracy[number] == pytest.approx((answer.probabilities.argmax(1) == goal).double().mean())
            assert curve.cost[number] == pytest.approx(float(answer.cost.mean()))
            assert curve.num_queries[number] == pytest.approx(float(answer.queried.sum(1).double().mean()))
        assert curve.cost[0] < curve.cost[1] < curve.cost[2]
        assert curve.accuracy[0] < curve.accuracy[1]

    @pytest.mark.parametrize("prices", [[], [-0.1, 0.2], [math.nan], [math.inf]])
    def test_impossible_trade_offs_are_rejected(self, prices):
        outputs, targets = specialists(60)
        with pytest.raises(InputError, match=r"trade_offs: found .*expected numbers >= 0"):
            FrugalFoE().fit(outputs, targets).curve(outputs, targets, prices)

    def test_needs_targets(self):
        outputs, targets = specialists(60)
        with pytest.raises(InputError, match="targets: found none"):
            FrugalFoE().fit(outputs, targets).curve(outputs)


class TestSigns:
    @pytest.mark.slow
    def test_abstains_where_the_risk_is_larger(self):
        outputs, targets = specialists()
        answer = FrugalFoE(abstain_above=0.1).fit(outputs, targets).predict(outputs)
        assert 0 < answer.abstained.sum() < 240
        assert torch.equal(answer.abstained, answer.risk > 0.1)
        wrong = answer.probabilities.argmax(1) != targets
        assert wrong[answer.abstained].double().mean() > wrong[~answer.abstained].double().mean()
        doubt = 1 - answer.probabilities.max(1).values
        other = FrugalFoE(abstain_above=0.1, abstain_by="probability").fit(outputs, targets).predict(outputs)
        assert torch.equal(other.abstained, doubt > 0.1) and not torch.equal(other.abstained, answer.abstained)
        never = FrugalFoE().fit(outputs, targets).predict(outputs)
        assert not never.abstained.any()
        assert torch.equal(never.probabilities, answer.probabilities)

    def far_and_near(self) -> tuple[FrugalFoE, dict, dict]:
        def rows(count, seed):
            generator = np.random.default_rng(seed)
            target = generator.integers(3, size=count)
            logits = 3 * np.eye(3)[target] + 0.3 * generator.normal(size=(2, count, 3))
            return named(torch.from_numpy(tiny.softmax(logits)).float()), torch.from_numpy(target)

        outputs, targets = rows(300, 0)
        odd = torch.tensor([0.5, 0.5, 0.0]).repeat(2, 150, 1)
        return FrugalFoE().fit(outputs, targets), rows(150, 1)[0], named(odd)

    @pytest.mark.filterwarnings("default:.*samples are out-of-distribution")
    def test_samples_unlike_the_validation_rows_are_far(self):
        policy, near, odd = self.far_and_near()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert policy.predict(near).ood.double().mean() < 0.1
        with pytest.warns(
            UserWarning, match="100.0% of 150 samples are out-of-distribution, far from the calibration set"
        ):
            assert policy.predict(odd).ood.all()
        with warnings.catch_warnings():  # too few samples to say so
            warnings.simplefilter("error")
            few = policy.predict({name: values[:99] for name, values in odd.items()})
        assert few.ood.all()

    def test_validation_rows_that_are_all_alike(self):
        outputs = named(torch.tensor([0.25, 0.75]).repeat(3, 120, 1))
        policy = FrugalFoE().fit(outputs, torch.ones(120, dtype=torch.int64))
        assert not policy.predict(outputs).ood.any()
        assert policy.predict({name: values.flip(1)[:5] for name, values in outputs.items()}).ood.all()

    @pytest.mark.filterwarnings("default:.*samples queried every expert")
    def test_asking_everyone_is_said(self):
        outputs, targets = digits()
        policy = FrugalFoE(trade_off=0.02).fit(outputs, targets)
        with pytest.warns(UserWarning, match="100.0% of 240 samples queried every expert: the trade-off is too small"):
            assert policy.predict(outputs).queried.all()

    @pytest.mark.filterwarnings("default:the fuser of all experts")
    def test_a_fuser_below_its_best_expert_is_said(self):
        target = torch.arange(60) % 6
        noise = torch.rand(3, 60, 6, generator=torch.Generator().manual_seed(0))
        outputs = {"good": torch.eye(6)[target]} | {f"noise{n}": 20 * values for n, values in enumerate(noise)}
        with pytest.warns(
            UserWarning, match=r"the fuser of all experts \(0.\d+ right\) is below expert good alone \(1.0"
        ):
            FrugalFoE().fit(outputs, target)
        outputs, targets = specialists()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FrugalFoE().fit(outputs, targets)

    @pytest.mark.filterwarnings("default:trade_off . cost is")
    def test_a_price_that_nothing_can_save_is_said(self):
        outputs, targets = specialists()
        with pytest.warns(UserWarning, match=r"trade_off \* cost is 2 for the least expensive expert: none saves over"):
            policy = FrugalFoE([100.0] * 4).fit(outputs, targets)
        assert policy.predict(outputs).queried.sum(1).unique().tolist() == [1]


FAMILIES = {
    "knn": {},
    "other voters": {"fuser": partial(KNNFuser, 5)},
    "own": {"fuser": OwnFuser},
    "perceptron": {"fuser": partial(MaskedMLPFuser, hidden=(8,), epochs=4)},
    "parametric": {"risk": partial(ParametricRisk, hidden=(8,), states=12)},
    "both": {
        "fuser": partial(MaskedMLPFuser, hidden=(), epochs=3, folds=2),
        "risk": partial(ParametricRisk, hidden=(8, 4), states=12, rows=20),
    },
}


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
class TestFiles:
    @pytest.mark.slow
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.usefixtures("few_steps")
    def test_a_saved_policy_answers_alike(self, tmp_path, family):
        outputs, targets = specialists(90)
        queries, _ = specialists(40, seed=1)
        parts = {name: make() for name, make in FAMILIES[family].items()}
        costs = {"e0": 1, "e1": 0.5, "e2": 2.0, "e3": 1.0}
        policy = FrugalFoE(costs, 0.05, abstain_above=0.2, abstain_by="probability", min_queries=2, **parts).fit(
            outputs, targets
        )
        policy.save(tmp_path / "deep" / "policy")
        again = FrugalFoE.load(tmp_path / "deep" / "policy")
        assert (type(again.fuser), type(again.risk)) == (type(policy.fuser), type(policy.risk))
        assert same(policy.predict(queries), again.predict(queries))
        assert again.metadata() == policy.metadata()
        assert policy.curve(outputs, targets, [0.1]).cost == again.curve(outputs, targets, [0.1]).cost

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "arguments",
        [
            {"budget": 2.0},
            {"loss": "log", "neighbors": 12},
            {"look_ahead": 2, "leave_one_out": False, "on_failure": "skip"},
            {"costs": [np.float32(1), np.int64(2), 0, 1.5], "neighbors": np.int64(12)},
        ],
    )
    def test_all_arguments_come_back(self, tmp_path, arguments):
        outputs, targets = specialists(90)
        policy = FrugalFoE(**arguments).fit(outputs, targets)
        policy.save(tmp_path)
        again = FrugalFoE.load(tmp_path)
        assert again.metadata() == policy.metadata()
        assert same(policy.predict(outputs), again.predict(outputs))

    def saved(self, folder, seed: int = 0) -> FrugalFoE:
        policy = FrugalFoE().fit(*specialists(90, seed))
        policy.save(folder)
        return policy

    def test_a_policy_is_replaced(self, tmp_path):
        self.saved(tmp_path, 0)
        policy = self.saved(tmp_path, 1)
        assert FrugalFoE.load(tmp_path).metadata() == policy.metadata()

    def test_a_folder_cannot_be_a_file(self, tmp_path):
        (tmp_path / "taken").write_text("")
        with pytest.raises(InputError, match=r"policy: .*taken is a file; name a folder"):
            self.saved(tmp_path / "taken")

    @pytest.mark.parametrize("name", ["manifest.json", "data-*/0.bin"])
    @pytest.mark.parametrize("share", [0.3, 0.99, None])
    def test_a_truncated_or_missing_file_is_rejected(self, tmp_path, name, share):
        self.saved(tmp_path)
        (file,) = tmp_path.glob(name)
        content = file.read_bytes()
        file.unlink()
        if share is not None:
            file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"policy: .* is damaged|policy: found no manifest.json in"):
            FrugalFoE.load(tmp_path)

    def test_metadata_of_another_policy_are_rejected(self, tmp_path):
        self.saved(tmp_path / "a", 0)
        self.saved(tmp_path / "b", 1)
        other = json.loads((tmp_path / "a" / "manifest.json").read_text())["metadata"]
        sealed.edit(tmp_path / "b" / "manifest.json", lambda manifest: manifest | {"metadata": other})
        with pytest.raises(InputError, match="are not those that its metadata describes"):
            FrugalFoE.load(tmp_path / "b")

    def change(self, folder, change):
        """Change the metadata of a policy, as its author could."""
        arrays = {name: torch.from_numpy(np.array(values)) for name, values in ArrayStore(folder, "policy").items()}

        def changed(manifest):
            metadata = change(manifest["metadata"])
            return manifest | {"metadata": metadata | {"digest": digest_of(arrays, metadata)}}

        sealed.edit(folder / "manifest.json", changed)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": 7}, "has format 7; this version reads 2"),
            ({"arguments": {"color": "red"}}, "is damaged .*color"),
            ({"arguments": {"trade_off": -1}}, "trade_off is -1"),
            ({"names": None}, "entries of another type"),
            ({"fuser": {}}, "is damaged .*class_path"),
            ({"fuser": {"class_path": "lightning_fusion.errors.InputError", "init_args": {}}}, "no imported fuser"),
            ({"fuser": {"class_path": "lightning_fusion.nowhere.Fuser", "init_args": {}}}, "no imported fuser"),
            ({"fuser": {"class_path": "builtins.print", "init_args": {}}}, "no imported fuser"),
            ({"fuser": {"class_path": "lightning_fusion.frugal.risk.KNNRisk", "init_args": {}}}, "policy: "),
            ({"risk": {"class_path": "lightning_fusion.frugal.risk.RiskEstimator", "init_args": {}}}, "is damaged"),
            (
                {"fuser": {"class_path": "lightning_fusion.frugal.subset_fusers.KNNFuser", "init_args": {"k": 3}}},
                "damaged",
            ),
        ],
    )
    def test_metadata_that_do_not_fit_are_rejected(self, tmp_path, change, message):
        self.saved(tmp_path)
        self.change(tmp_path, lambda facts: facts | change)
        with pytest.raises(InputError, match=message):
            FrugalFoE.load(tmp_path)

    @pytest.mark.parametrize("text", ["[]", "null", "3", '"text"', "\udcff"])
    def test_metadata_of_another_shape_are_rejected(self, tmp_path, text):
        self.saved(tmp_path)
        (tmp_path / "manifest.json").write_text(text, errors="surrogateescape")
        with pytest.raises(InputError, match="policy: "):
            FrugalFoE.load(tmp_path)

    def test_a_foreign_class_is_rejected_and_not_imported(self, tmp_path, monkeypatch):
        (tmp_path / "foreign_fuser_module.py").write_text(
            "from lightning_fusion.frugal.subset_fusers import KNNFuser\nclass Foreign(KNNFuser): pass\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        tmp_path = tmp_path / "policy"
        self.saved(tmp_path)
        fuser = {"class_path": "foreign_fuser_module.Foreign", "init_args": {"neighbors": 9}}
        self.change(tmp_path, lambda facts: facts | {"fuser": fuser})
        with pytest.raises(InputError, match=r"names foreign_fuser_module\.Foreign, which is no imported fuser"):
            FrugalFoE.load(tmp_path)
        assert "foreign_fuser_module" not in sys.modules
        import foreign_fuser_module

        assert type(FrugalFoE.load(tmp_path).fuser) is foreign_fuser_module.Foreign

    def test_a_policy_is_asked_about_its_own_experts(self, tmp_path):
        self.saved(tmp_path)
        policy, (outputs, _) = FrugalFoE.load(tmp_path), specialists(20)
        others = {f"x{name}" if name == "e0" else name: values for name, values in outputs.items()}
        with pytest.raises(InputError, match=r"fitted with the experts e0, .*; found xe0, .*; they differ in e0, xe0"):
            policy.predict(others)
        with pytest.raises(InputError, match="they differ in e3"):
            policy.predict({name: outputs[name] for name in ("e0", "e1", "e2")})
        with pytest.raises(InputError, match="was fitted on 4 classes; found 3"):
            policy.predict({name: values[:, :3] for name, values in outputs.items()})


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
class TestRefit:
    @pytest.mark.slow
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.usefixtures("few_steps")
    def test_forgets_the_first_data(self, family):
        outputs, targets = specialists(90)
        others, goal = specialists(120, seed=3, experts=3)
        policy, fresh = (FrugalFoE(**{name: make() for name, make in FAMILIES[family].items()}) for _ in range(2))
        policy.fit(outputs, targets).predict(outputs)
        assert same(policy.fit(others, goal).predict(others), fresh.fit(others, goal).predict(others))
        assert policy.names == ["e0", "e1", "e2"]

    @pytest.mark.parametrize(
        ("rows", "message"), [(15, "neighbors is 20, but there are 15"), (21, "fuser_neighbors is 21 for 21")]
    )
    def test_one_that_fails_leaves_the_policy_as_it_was_or_unfitted(self, rows, message):
        outputs, targets = specialists(90)
        expected, policy = (FrugalFoE(neighbors=20, fuser_neighbors=21).fit(outputs, targets) for _ in range(2))
        with pytest.raises(InputError, match=message):
            policy.fit(*specialists(rows, seed=3))
        try:
            after = policy.predict(outputs)
        except InputError as error:
            assert "not fitted" in str(error)
        else:
            assert same(expected.predict(outputs), after)
            assert policy.metadata() == expected.metadata()

    def test_an_unfitted_policy_says_so(self, tmp_path):
        for use in (partial(FrugalFoE().predict, {}), partial(FrugalFoE().save, tmp_path), FrugalFoE().metadata):
            with pytest.raises(InputError, match="is not fitted; call fit"):
                use()


def store(costs=None, seed: int = 0, rows: int = 60) -> ExpertOutputs:
    """Two experts that know two of three classes each, on splits val and test."""
    made = tiny.outputs(seed, {"val": rows, "test": 30})
    splits = {
        name: {"probabilities": split.probabilities, "target": split.target} for name, split in made.splits.items()
    }
    return ExpertOutputs.from_arrays(splits, tiny.EXPERT_CLASSES, tiny.CLASSES, costs=costs)


class TestStores:
    def test_a_split_equals_its_arrays(self):
        outputs = store({"a": 3.0, "b": 0.5})
        policy = FrugalFoE(trade_off=0.05).fit(outputs["val"])
        assert policy.costs_ == [3.0, 0.5]
        arrays = {
            split: dict(zip("ab", outputs.scattered(split).transpose(1, 0, 2), strict=True)) for split in outputs.splits
        }
        plain = FrugalFoE([3.0, 0.5], 0.05).fit(arrays["val"], outputs["val"].target)
        answer = policy.predict(outputs["test"])
        assert same(answer, plain.predict(arrays["test"]))
        assert same(answer, policy.predict(arrays["test"]))
        assert 0 < answer.queried[:, 0].sum() < 30 or answer.queried[:, 1].all()
        curve = policy.curve(outputs["test"], trade_offs=[0.05])
        assert curve.accuracy[0] == float((answer.probabilities.argmax(1).numpy() == outputs["test"].target).mean())

    def test_given_costs_win_over_stored_ones(self):
        assert FrugalFoE({"b": 1, "a": 2}).fit(store({"a": 3.0, "b": 0.5})["val"]).costs_ == [2.0, 1.0]
        assert FrugalFoE().fit(store()["val"]).costs_ == [1.0, 1.0]

    def test_survives_a_store_on_disk_and_a_file(self, tmp_path):
        outputs = collect(
            tiny.pool(), tiny.data(rows={"train": 8, "val": 50, "test": 30}), tmp_path / "store", trainer=tiny.trainer()
        )
        policy = FrugalFoE(neighbors=10).fit(outputs["val"])
        policy.save(tmp_path / "policy")
        opened = ExpertOutputs.open(tmp_path / "store")
        assert same(policy.predict(outputs["test"]), FrugalFoE.load(tmp_path / "policy").predict(opened["test"]))

    def test_other_experts_and_classes_are_rejected(self, tmp_path):
        rows = {"train": 8, "val": 50, "test": 30}
        one, other = (collect(tiny.pool(seed), tiny.data(rows=rows), trainer=tiny.trainer()) for seed in (0, 1))
        policy = FrugalFoE(neighbors=10).fit(one["val"])
        with pytest.raises(InputError, match="was trained with expert a of fingerprint"):
            policy.predict(other["test"])
        policy.save(tmp_path)
        with pytest.raises(InputError, match="was trained with expert a of fingerprint"):
            FrugalFoE.load(tmp_path).predict(other["test"])
        assert len(policy.predict(store()["test"]).cost) == 30  # predictions from elsewhere have no fingerprint
        turned = ExpertOutputs.from_arrays(
            {"test": {"probabilities": store()["test"].probabilities, "target": store()["test"].target}},
            tiny.EXPERT_CLASSES,
            tiny.CLASSES[::-1],
        )
        with pytest.raises(InputError, match="was fitted on the classes cat, dog, owl; found owl, dog, cat"):
            policy.predict(turned["test"])


def broken(outputs: dict, name: str, row: int | None = None, column: int = 0, value: float = math.nan) -> dict:
    """A copy in which an expert says NaN in one row, or everywhere."""
    copy = {key: values.clone() for key, values in outputs.items()}
    copy[name][slice(None) if row is None else row, column] = value
    return copy


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"trade_off": -0.1}, "trade_off is -0.1; expected a number >= 0"),
            ({"trade_off": math.nan}, "trade_off is nan"),
            ({"trade_off": math.inf}, "trade_off is inf"),
            ({"budget": 0}, "budget is 0; expected a number > 0"),
            ({"budget": math.nan}, "budget is nan"),
            ({"neighbors": 0}, "neighbors is 0; expected at least 1"),
            ({"fuser_neighbors": 0}, "fuser_neighbors is 0"),
            ({"look_ahead": 0}, "look_ahead is 0"),
            ({"min_queries": 0}, "min_queries is 0; expected at least 1"),
            ({"loss": "hinge"}, "loss is 'hinge'"),
            ({"on_failure": "ignore"}, "on_failure is 'ignore'; expected raise or skip"),
            ({"abstain_above": -1.0}, "abstain_above is -1.0"),
            ({"abstain_by": "luck"}, "abstain_by is 'luck'; expected risk or probability"),
            ({"abstain_above": math.nan}, "abstain_above is nan"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            FrugalFoE(**arguments)

    @pytest.mark.parametrize(
        ("costs", "message"),
        [
            ({"e0": 1, "e1": 1, "e2": 1}, "costs: found none for e3; the experts are e0, e1, e2, e3"),
            ({"e0": 1, "e1": 1, "e2": 1, "z": 1}, "none for e3 and one for z, which is no expert"),
            ([1, 1, 1], r"costs: found 3 for 4 experts \(e0, e1, e2, e3\)"),
            ([1, 1, -1, 1], "costs: found -1 for expert number 2; expected a number >= 0"),
            ([1, math.nan, 1, 1], "costs: found nan for expert number 1"),
            ({"e0": math.inf, "e1": 1, "e2": 1, "e3": 1}, "costs: found inf for expert e0"),
        ],
    )
    def test_costs(self, costs, message):
        with pytest.raises(InputError, match=message):
            FrugalFoE(costs).fit(*specialists(60))

    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            (
                torch.arange(60) % 5,
                r"targets: 12 out of range, 4 in row\(s\) 4, 9, 14, 19, 24 and 7 more; .* classes \(0 to 3\)",
            ),
            (torch.arange(60) % 4 - 1, r"targets: 15 out of range, -1 in row\(s\) 0, 4"),
            (torch.zeros(59, dtype=torch.int64), "targets: found 59 for 60 samples"),
            (torch.zeros(60, 4, dtype=torch.int64), r"targets: found shape \(60, 4\)"),
            (torch.full((60,), 0.5), r"targets: found 0.5 in row\(s\) 0, 1"),
            (np.zeros(60, bool), "targets: found truth values"),
            (None, "targets: found none"),
        ],
    )
    def test_targets(self, targets, message):
        with pytest.raises(InputError, match=message):
            FrugalFoE().fit(specialists(60)[0], targets)

    @pytest.mark.parametrize("kind", ["list", "numpy", "uint8", "read-only"])
    def test_targets_of_any_integers_will_do(self, kind):
        outputs, targets = specialists(60)
        frozen = targets.numpy().copy()
        frozen.flags.writeable = False
        given = {"list": targets.tolist(), "numpy": targets.numpy(), "uint8": targets.byte(), "read-only": frozen}[kind]
        expected = FrugalFoE().fit(outputs, targets).predict(outputs)
        assert same(expected, FrugalFoE().fit(outputs, given).predict(outputs))

    def test_rows(self):
        outputs, targets = specialists(8)
        with pytest.raises(InputError, match="neighbors is 9, but there are 8 calibration samples"):
            FrugalFoE(neighbors=9).fit(outputs, targets)
        with pytest.raises(InputError, match="fuser_neighbors is 9 for 8 calibration samples; expected at most 7"):
            FrugalFoE().fit(outputs, targets)
        with pytest.raises(InputError, match="expected at most 7"):
            FrugalFoE(fuser_neighbors=8).fit(outputs, targets)
        FrugalFoE(fuser_neighbors=8, leave_one_out=False).fit(outputs, targets).predict(outputs)
        for count in (0, 1):
            few = {name: values[:count] for name, values in outputs.items()}
            with pytest.raises(InputError, match=rf"found {count} calibration sample\(s\)"):
                FrugalFoE(fuser_neighbors=1).fit(few, targets[:count])

    def test_outputs(self):
        outputs, targets = specialists(60)
        with pytest.raises(InputError, match=r"outputs: expert e1 has NaN, infinite or huge values in row\(s\) 7"):
            FrugalFoE().fit(broken(outputs, "e1", 7), targets)
        with pytest.raises(InputError, match=r"expert e2 has NaN, infinite or huge"):
            FrugalFoE().fit(broken(outputs, "e2", 7, value=math.inf), targets)
        with pytest.raises(InputError, match=r"expert e3 has shape \(60, 3\), the first one \(60, 4\)"):
            FrugalFoE().fit(outputs | {"e3": outputs["e3"][:, :3]}, targets)
        with pytest.raises(InputError, match=r"expert e3 has shape \(59, 4\)"):
            FrugalFoE().fit(outputs | {"e3": outputs["e3"][:59]}, targets)
        for nothing in ({}, [outputs["e0"]], None):
            with pytest.raises(InputError, match=r"outputs: found \w+; expected {expert: \(N, C\)}"):
                FrugalFoE().fit(nothing, targets)

    def test_how_many_are_asked_about(self):
        outputs, targets = specialists(60)
        policy = FrugalFoE().fit(outputs, targets)
        for count in (None, -1):
            with pytest.raises(
                InputError, match=r"num_rows is .*; a function that queries experts requires the number of samples"
            ):
                policy.predict(asker(outputs), num_rows=count)
        with pytest.raises(InputError, match="num_rows is 3, but the outputs have 60 rows"):
            policy.predict(outputs, num_rows=3)
        with pytest.raises(InputError, match="ask is a list; expected outputs by expert, or a function"):
            policy.predict([outputs["e0"]], num_rows=60)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (lambda values: values[:-1], r"returned outputs of shape \(59, 4\) for 60 row\(s\); expected \(60, 4\)"),
            (lambda values: values.repeat(2, 1), r"shape \(120, 4\) for 60 row\(s\)"),
            (lambda values: values[:, :3], r"shape \(60, 3\)"),
            (lambda values: values[0], r"shape \(4,\)"),
            (lambda values: None, "expert e. returned NoneType that makes no array of numbers"),
            (lambda values: "text", "expert e. returned str that makes no array of numbers"),
            (lambda values: values * 0 - 3, "expert e. returned outputs that are not probabilities for row"),
            (lambda values: values * 0 + 1e6, "expert e. returned outputs that are not probabilities for row"),
            (lambda values: 2 * values, r"are not probabilities for row.*\(sum 2; expected 1 within 0\.001\)"),
            (lambda values: values.log(), "expert e. returned outputs that are not probabilities"),
        ],
        ids=["fewer rows", "more rows", "fewer classes", "one row", "nothing", "text", "-3", "1e6", "sum 2", "logs"],
    )
    @pytest.mark.filterwarnings("ignore:expert e")
    def test_an_invalid_answer(self, wrong, message):
        outputs, targets = specialists(60)
        policy = FrugalFoE().fit(outputs, targets)

        def ask(name, rows):
            return wrong(outputs[name][rows])

        with pytest.raises(InputError, match=message):
            policy.predict(ask, num_rows=60)
        policy.on_failure = "skip"
        with pytest.warns(UserWarning, match="every expert failed"):
            assert policy.predict(ask, num_rows=60).abstained.all()

    def test_answers_may_be_arrays_or_lists(self):
        outputs, targets = specialists(60)
        policy = FrugalFoE().fit(outputs, targets)
        expected = policy.predict(outputs)
        assert same(expected, policy.predict(lambda name, rows: outputs[name][rows].numpy(), num_rows=60))
        assert same(expected, policy.predict(lambda name, rows: outputs[name][rows].tolist(), num_rows=60))

    def test_too_many_sets_to_plan_with(self):
        outputs, targets = specialists(60, experts=20)
        with pytest.raises(InputError, match=r"look_ahead is 20: 1048575 sets of 20 experts"):
            FrugalFoE(look_ahead=20).fit(outputs, targets).predict(outputs)

    @pytest.mark.parametrize("arguments", [{"loss": "log"}, {"look_ahead": 2}])
    def test_a_parametric_risk_sees_errors_one_expert_ahead(self, arguments):
        risk = ParametricRisk(hidden=(4,), states=4)
        with pytest.raises(InputError, match=r"ParametricRisk (predicts errors|predicts one expert ahead)"):
            FrugalFoE(risk=risk, **arguments).fit(*specialists(60)).predict(specialists(60)[0])


class TestFailures:
    def fitted(self, on_failure: str, **arguments):
        outputs, targets = specialists(120)
        policy = FrugalFoE(on_failure=on_failure, neighbors=20, **arguments).fit(outputs, targets)
        return policy, specialists(40, seed=1)[0]

    def start(self, policy, queries) -> str:
        return policy.names[int(policy.predict(queries).queried.sum(0).argmax())]

    def test_an_expert_that_raises_is_named_with_its_rows(self):
        policy, queries = self.fitted("raise")
        start = self.start(policy, queries)

        def ask(name, rows):
            raise RuntimeError("out of memory")

        with pytest.raises(
            InputError,
            match=rf"expert {start} failed on 40 row\(s\) \(0, 1, 2, 3, 4 and 35 more\) with RuntimeError: out of mem",
        ) as caught:
            policy.predict(ask, num_rows=40)
        assert isinstance(caught.value.__cause__, RuntimeError)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_an_expert_that_says_nan_is_named_with_its_rows(self, value):
        policy, queries = self.fitted("raise")
        wrong = broken(queries, self.start(policy, queries), 17, value=value)
        message = r"expert e\d returned NaN or infinite outputs for row\(s\) 17; on_failure='skip'"
        with pytest.raises(InputError, match=message):
            policy.predict(wrong)
        with pytest.raises(InputError, match=message):
            policy.predict(asker(wrong), num_rows=40)

    @pytest.mark.parametrize("min_queries", [1, 3])
    def test_rows_with_nan_go_on_with_the_others(self, min_queries):
        policy, queries = self.fitted("skip", min_queries=min_queries)
        start, expected = self.start(policy, queries), policy.predict(queries)
        number = int(start[1])
        wrong = broken(queries, start, slice(3, 6))
        with pytest.warns(UserWarning, match=rf"expert {start} failed on 3 row\(s\): continued with the others"):
            answer = policy.predict(wrong)
        sound = [row for row in range(40) if row not in (3, 4, 5)]
        for left, right in zip(answer, expected, strict=True):
            assert torch.equal(left[sound], right[sound])
        assert not answer.queried[3:6, number].any()
        assert (answer.queried.sum(1) >= min_queries).all()
        assert answer.probabilities.sum(1).allclose(torch.ones(40))
        assert torch.equal(answer.cost, answer.queried.sum(1).double())
        known, targets = specialists(120)
        reference = frugal.Frugal(
            np.stack([v.numpy() for v in known.values()]), targets.numpy(), [1.0] * 4, 0.02, 20, 9, min_queries
        )
        points = np.stack([v.numpy() for v in queries.values()])
        for row in (3, 4, 5):
            order, shares, risk, _ = reference.answer(points[:, row], broken=(number,))
            assert answer.queried[row].nonzero().flatten().tolist() == sorted(order)
            np.testing.assert_allclose(answer.probabilities[row].numpy(), shares, atol=1e-6)
            assert float(answer.risk[row]) == pytest.approx(risk)

    @pytest.mark.parametrize("name", ["e0", "e1", "e2", "e3"])
    def test_an_expert_that_raises_is_as_if_it_said_nan(self, name):
        policy, queries = self.fitted("skip", min_queries=2)
        calls: list = []

        def ask(asked, rows):
            calls.append(asked)
            if asked == name:
                raise RuntimeError("no power")
            return queries[asked][rows]

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            answer = policy.predict(ask, num_rows=40)
        messages = [str(warning.message) for warning in said]
        if name in calls:
            assert f"expert {name} failed with RuntimeError: no power" in messages
            assert any(message.startswith(f"expert {name} failed on") for message in messages)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert same(answer, policy.predict(broken(queries, name)))
        assert not answer.queried[:, int(name[1])].any()

    def test_the_first_expert_to_ask_is_replaced(self):
        policy, queries = self.fitted("skip")
        start = self.start(policy, queries)
        with pytest.warns(UserWarning, match=rf"expert {start} failed on 40 row\(s\)"):
            answer = policy.predict(broken(queries, start))
        assert not answer.queried[:, int(start[1])].any()
        assert answer.queried.all(0).sum() == 1

    @pytest.mark.filterwarnings("ignore:expert e")
    def test_where_everyone_fails_there_is_no_answer(self):
        policy, queries = self.fitted("skip")
        for name in policy.names:
            queries = broken(queries, name, slice(8, 10))
        with pytest.warns(UserWarning, match=r"every expert failed on row\(s\) 8, 9: abstained"):
            answer = policy.predict(queries)
        assert answer.abstained.nonzero().flatten().tolist() == [8, 9]
        assert not answer.queried[8:10].any() and (answer.cost[8:10] == 0).all() and (answer.risk[8:10] == 1).all()
        shares = torch.bincount(policy.targets, minlength=4) / len(policy.targets)
        torch.testing.assert_close(answer.probabilities[8], shares)

        def ask(name, rows):
            raise OSError("gone")

        with pytest.warns(UserWarning, match=r"every expert failed on row\(s\) 0, 1, 2, 3, 4 and 35 more"):
            assert policy.predict(ask, num_rows=40).abstained.all()

    def test_what_the_user_stops_is_not_skipped(self):
        policy, _ = self.fitted("skip")

        def ask(name, rows):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            policy.predict(ask, num_rows=40)


class TestServing:
    """What a policy in a server meets."""

    @pytest.mark.slow
    def test_threads_get_the_answers_of_one(self):
        outputs, targets = specialists(300)
        queries, _ = specialists(300, seed=1)
        policy = FrugalFoE(trade_off=0.01).fit(outputs, targets)
        expected = FrugalFoE(trade_off=0.01).fit(outputs, targets).predict(queries)
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(lambda _: policy.predict(queries), range(8)):
                assert same(expected, answer)

    def test_copies_decide_alike(self):
        outputs, targets = specialists(80)
        policy = FrugalFoE().fit(outputs, targets)
        for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy).half()):
            assert same(policy.predict(outputs), other.predict(outputs))

    def test_inference_mode_leaves_nothing_behind(self):
        outputs, targets = specialists(120)
        with torch.inference_mode():
            policy = FrugalFoE(trade_off=0.01).fit(outputs, targets)
            policy.predict({name: values[:10] for name, values in outputs.items()})
        assert same(policy.predict(outputs), FrugalFoE(trade_off=0.01).fit(outputs, targets).predict(outputs))

    def test_the_targets_are_its_own(self):
        outputs, targets = specialists(80)
        policy = FrugalFoE().fit(outputs, targets)
        expected = policy.predict(outputs)
        targets.zero_()
        assert same(expected, policy.predict(outputs))

    def test_a_fuser_serves_one_policy(self):
        outputs, targets = specialists(80)
        others, answers = specialists(90, seed=2)
        shared = KNNFuser(9)
        policy = FrugalFoE(fuser=shared).fit(outputs, targets)
        expected = policy.predict(outputs)
        FrugalFoE(fuser=shared).fit(others, answers)
        assert same(expected, policy.predict(outputs))

    @pytest.mark.slow
    @pytest.mark.parametrize("neighbors", [10, 100])
    def test_answers_do_not_depend_on_the_batch_or_on_numba(self, neighbors, monkeypatch):
        generator = np.random.default_rng(0)
        shares = generator.multinomial(20, [0.25] * 4, size=(5, 160)) / 20  # float64 fractions: many equal distances
        outputs = {f"e{k}": torch.from_numpy(values) for k, values in enumerate(shares)}
        targets = torch.from_numpy(generator.integers(4, size=160))
        queries = {name: values[:16] for name, values in outputs.items()}
        whole = FrugalFoE(trade_off=0.005, neighbors=neighbors).fit(outputs, targets).predict(queries)
        fresh = FrugalFoE(trade_off=0.005, neighbors=neighbors).fit(outputs, targets)
        single = [fresh.predict({name: v[row : row + 1] for name, v in queries.items()}) for row in reversed(range(16))]
        assert torch.equal(whole.queried, torch.cat([answer.queried for answer in reversed(single)]))
        monkeypatch.setattr("lightning_fusion.frugal.neighbors.installed", lambda name: False)
        plain = FrugalFoE(trade_off=0.005, neighbors=neighbors).fit(outputs, targets).predict(queries)
        assert torch.equal(whole.queried, plain.queried) and torch.equal(whole.risk, plain.risk)

    def test_printing_is_short(self):
        outputs, targets = specialists(80)
        policy = FrugalFoE().fit(outputs, targets)
        assert "4 experts, fitted on 80 rows" in repr(policy) and "not fitted" in repr(FrugalFoE())
        assert repr(policy.predict(outputs)).startswith("FrugalPrediction(80 samples, mean cost ")
        assert repr(policy.curve(outputs, targets, [0.1])).startswith("FrugalCurve(0.1: ")
