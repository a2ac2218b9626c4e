from functools import cache, partial

import numpy as np
import pytest
import torch
from helpers import tiny
from reference import frugal

from lightning_fusion.errors import InputError
from lightning_fusion.frugal.neighbors import SubsetNeighbors
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.frugal.risk import ParametricRisk
from lightning_fusion.frugal.subset_fusers import KNNFuser, MaskedMLPFuser, masked_input, perceptron

pytestmark = [
    pytest.mark.filterwarnings("ignore:neighbors is"),
    pytest.mark.filterwarnings("ignore:the fuser of all experts"),
    pytest.mark.filterwarnings("ignore:.*samples queried every expert"),
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer"),
]
SMALL = partial(MaskedMLPFuser, hidden=(64,), epochs=120)


def problem(rows: int = 300, seed: int = 0, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, N, C) outputs and targets: expert 0 knows two thirds of the rows, expert 1 the rest, expert 2 nothing."""
    generator = np.random.default_rng(seed)
    target = generator.integers(classes, size=rows)
    hard = generator.random(rows) < 1 / 3
    logits = 0.5 * generator.normal(size=(3, rows, classes))
    for expert, knows in enumerate((~hard, hard)):
        logits[expert] += 5 * knows[:, None] * np.eye(classes)[target]
    return torch.from_numpy(tiny.softmax(logits)).float(), torch.from_numpy(target)


def attached(fuser, outputs, targets, leave_one_out: bool = True):
    fuser.attach(SubsetNeighbors(outputs), outputs, targets, leave_one_out)
    fuser.fit()
    return fuser


def quick(make):
    """The same family, hardly trained."""
    return KNNFuser() if make is KNNFuser else MaskedMLPFuser(hidden=(8,), epochs=10)


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch):
    """A third of the steps suffices for these problems."""
    monkeypatch.setattr("lightning_fusion.frugal.subset_fusers._MIN_STEPS", 150)


@pytest.fixture
def few_steps(monkeypatch, fewer_steps):
    """Where it does not matter what a perceptron has learned."""
    monkeypatch.setattr("lightning_fusion.frugal.subset_fusers._MIN_STEPS", 20)


@cache
def fitted(make):
    """A fuser of the problem, which no test changes."""
    return attached(make(), *problem())


@pytest.mark.parametrize(
    "make", [pytest.param(KNNFuser, id="knn"), pytest.param(SMALL, id="perceptron", marks=pytest.mark.slow)]
)
class TestEveryFuser:
    @pytest.mark.slow
    def test_gives_probabilities(self, make):
        fuser, outputs = fitted(make), problem()[0]
        answer, held = fuser.predict([0, 2], outputs[:, :50]), fuser.held_out([0], [(2,), (1,)], torch.arange(20))
        assert (answer.shape, held.shape) == ((50, 3), (2, 20, 3))
        for part in (answer, held):
            torch.testing.assert_close(part.sum(-1), torch.ones(part.shape[:-1]))

    def test_does_not_read_experts_that_were_not_asked(self, make):
        fuser, outputs = fitted(make), problem()[0]
        other = outputs.clone()
        other[1] = outputs[1].flip(0)
        assert torch.equal(fuser.predict([2, 0], other), fuser.predict([0, 2], outputs))
        assert not torch.equal(fuser.predict([0, 1], other), fuser.predict([0, 1], outputs))

    def test_is_better_the_more_experts_it_reads(self, make):
        fuser, (queries, goal) = fitted(make), problem(seed=1)
        found = [float((fuser.predict(s, queries).argmax(1) == goal).double().mean()) for s in ([2], [0], [0, 1])]
        majority = float(goal.bincount().max()) / len(goal)
        assert found[0] < majority + 0.1
        assert found[1] > majority + 0.2
        assert found[2] > max(0.9, found[1] + 0.1)

    @pytest.mark.usefixtures("few_steps")
    def test_a_row_does_not_teach_what_is_said_about_it(self, make):
        outputs, targets = problem(90)
        expected = attached(quick(make), outputs, targets).held_out([0], [(), (1,), (2, 1)], torch.arange(90))
        for row in (3, 40):
            other = targets.clone()
            other[row] = (targets[row] + 1) % 3
            fuser = attached(quick(make), outputs, other)
            said = fuser.held_out([0], [(), (1,), (2, 1)], torch.tensor([row]))
            torch.testing.assert_close(said[:, 0], expected[:, row], rtol=0, atol=1e-6)
            everywhere = fuser.held_out([0], [(), (1,), (2, 1)], torch.arange(90))
            assert (everywhere - expected).abs().max() > 1e-4  # but others

    @pytest.mark.slow
    def test_held_out_answers_to_random_labels_are_no_better_than_chance(self, make):
        generator = torch.Generator().manual_seed(0)
        outputs = 4 * torch.rand(3, 200, 4, generator=generator)
        targets = torch.randint(2, (200,), generator=generator)
        fuser = attached(make(), outputs, targets)
        held = (fuser.held_out([0, 1, 2], [()], torch.arange(200))[0].argmax(1) == targets).double().mean()
        seen = (fuser.predict([0, 1, 2], outputs).argmax(1) == targets).double().mean()
        assert abs(held - 0.5) < 0.12
        assert seen > held + 0.05

    @pytest.mark.usefixtures("few_steps")
    def test_the_same_twice(self, make):
        outputs, targets = problem(90)
        one, other = (attached(quick(make), outputs, targets).held_out([0], [(1,)], torch.arange(90)) for _ in range(2))
        assert torch.equal(one, other)

    @pytest.mark.usefixtures("few_steps")
    def test_classes_without_rows_are_not_answered(self, make):
        outputs, targets = problem(300)
        outputs = torch.cat([outputs, torch.zeros(3, 300, 2)], 2)
        answer = attached(quick(make), outputs, targets + 1).predict([0, 1], outputs)
        assert answer[:, [0, 4]].max() < 1e-6
        two = attached(make(), outputs, (targets == 2).long() * 3 + 1)
        assert set(two.predict([0, 1], outputs).argmax(1).tolist()) == {1, 4}


class TestKNNFuser:
    @pytest.mark.parametrize("leave_one_out", [True, False])
    @pytest.mark.parametrize("voters", [1, 4, 9])
    def test_equals_the_votes_of_the_definition(self, leave_one_out, voters):
        generator = torch.Generator().manual_seed(voters)
        outputs = torch.randint(0, 5, (3, 50, 3), generator=generator, dtype=torch.float64) / 4
        targets = torch.randint(0, 3, (50,), generator=generator)
        fuser = attached(KNNFuser(voters), outputs, targets, leave_one_out)
        reference = frugal.Frugal(outputs.numpy(), targets.numpy(), [1.0] * 3, 0.02, 10, voters)
        said = fuser.held_out([1], [(), (2,), (2, 0)], torch.arange(50))
        for number, subset in enumerate(([1], [1, 2], [0, 1, 2])):
            for row in range(50):
                own = row if leave_one_out else None
                expected = reference.vote(subset, outputs[:, row].numpy(), own)
                np.testing.assert_allclose(said[number, row].numpy(), expected, atol=1e-6)

    def test_without_leaving_out_a_row_votes_for_itself(self):
        outputs, targets = torch.rand(2, 40, 3, dtype=torch.float64), torch.arange(40) % 3
        fuser = attached(KNNFuser(1), outputs, targets, leave_one_out=False)
        assert (fuser.held_out([0], [()], torch.arange(40))[0].argmax(1) == targets).all()


class TestMaskedMLPFuser:
    @pytest.mark.parametrize("arguments", [{"folds": 1}, {"epochs": 0}])
    def test_impossible_arguments(self, arguments):
        with pytest.raises(InputError, match=r"MaskedMLPFuser: found \d+ folds and \d+ epochs"):
            MaskedMLPFuser(**arguments)

    def test_too_few_rows_or_classes(self):
        with pytest.raises(InputError, match="found 2 rows for 3 folds"):
            FrugalFoE(fuser=SMALL()).fit({"a": torch.rand(2, 2)}, torch.arange(2))
        with pytest.raises(InputError, match=r"found one class \(1\) among 20 rows"):
            FrugalFoE(fuser=SMALL()).fit({"a": torch.rand(30, 2)}, torch.ones(30, dtype=torch.int64))

    @pytest.mark.slow
    @pytest.mark.usefixtures("few_steps")
    def test_no_weights_are_left_to_train(self):
        outputs, targets = problem(60)
        policy = FrugalFoE(fuser=quick(SMALL), risk=ParametricRisk((4,), 4)).fit(
            dict(zip("abc", outputs, strict=True)), targets
        )
        assert not any(parameter.requires_grad for parameter in policy.parameters())
        assert len(list(policy.parameters())) > 0

    @pytest.mark.slow
    @pytest.mark.parametrize(("loss", "trade_off"), [("zero_one", 0.05), ("log", 0.2)])
    def test_a_policy_asks_the_second_expert_where_the_first_does_not_know(self, loss, trade_off):
        outputs, targets = problem()
        queries, goal = problem(seed=1)
        names = ("first", "second", "third")
        policy = FrugalFoE(trade_off=trade_off, fuser=SMALL(), loss=loss, neighbors=30)
        policy.fit(dict(zip(names, outputs, strict=True)), targets)
        answer = policy.predict(dict(zip(names, queries, strict=True)))
        assert (answer.probabilities.argmax(1) == goal).double().mean() > 0.85
        assert answer.cost.mean() < 2
        assert answer.queried[:, 2].double().mean() < 0.3


class TestParametricRisk:
    @pytest.mark.slow
    def test_asks_the_second_expert_where_the_first_does_not_know(self):
        outputs, targets = problem(600)
        queries, goal = problem(seed=1)
        names = ("first", "second", "third")
        policy = FrugalFoE(trade_off=0.05, risk=ParametricRisk()).fit(dict(zip(names, outputs, strict=True)), targets)
        answer = policy.predict(dict(zip(names, queries, strict=True)))
        assert (answer.probabilities.argmax(1) == goal).double().mean() > 0.9
        assert answer.cost.mean() < 2
        unknown = queries[0].max(1).values < 0.7
        assert answer.queried[unknown, 1].double().mean() > 0.9
        assert answer.queried[~unknown, 1].double().mean() < 0.2

    @pytest.mark.slow
    def test_its_estimates_are_the_errors_it_was_shown(self):
        outputs, targets = problem(600)
        policy = FrugalFoE(risk=ParametricRisk())
        policy.fit(dict(zip("abc", outputs, strict=True)), targets)
        looked = policy.risk.look([0], outputs, None)
        estimate = (policy.risk.total(looked, [0], [(), (1,), (2,)]) / policy.neighbors_).mean(0)
        expected = [policy.error(subset) for subset in (["a"], ["a", "b"], ["a", "c"])]
        np.testing.assert_allclose(estimate.numpy(), expected, atol=0.06)

    @pytest.mark.parametrize("experts", [1, 2])
    def test_few_experts(self, experts):
        outputs, targets = problem(80)
        given = dict(zip("ab"[:experts], outputs, strict=False))
        answer = FrugalFoE(risk=ParametricRisk(hidden=(8,), states=8)).fit(given, targets).predict(given)
        assert answer.queried[:, 0].all()
        assert (answer.risk >= 0).all()
        assert (answer.risk <= 1).all()

    def test_the_same_twice(self):
        outputs, targets = problem(80)
        given = dict(zip("abc", outputs, strict=True))
        one, other = (
            FrugalFoE(risk=ParametricRisk(hidden=(8,), states=8)).fit(given, targets).predict(given) for _ in range(2)
        )
        assert all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


def test_masked_input_is_zero_where_nobody_was_asked():
    points = torch.arange(1.0, 13.0).view(2, 2, 3)
    assert masked_input(points, [0]).tolist() == [[1, 2, 3, 0, 0, 0, 1, 0], [4, 5, 6, 0, 0, 0, 1, 0]]


def test_a_perceptron_ends_without_relu():
    assert [type(layer).__name__ for layer in perceptron([3, 4, 2])] == ["Linear", "ReLU", "Linear"]
