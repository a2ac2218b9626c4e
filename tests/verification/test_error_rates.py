import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from lightning_fusion.errors import InputError
from lightning_fusion.verification.error_rates import bootstrap_eer, equal_error_rate, error_curve, min_dcf

INF = math.inf
TRIALS = st.lists(
    st.tuples(st.sampled_from([-INF, -30.0, -0.5, 0.0, 0.1, 0.5, 7.0, INF]), st.booleans()), min_size=2, max_size=30
).filter(lambda trials: len({same for _, same in trials}) == 2)


def draw(
    trials: int = 400, seed: int = 0, apart: float = 1.5, same: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores far outside [0, 1], a third of the trials of one speaker unless they are given."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.rand(trials, generator=generator) < 0.3 if same is None else same
    return torch.randn(trials, generator=generator) + apart * same, same


def naive(scores: list[float], same: list[bool]) -> list[tuple[float, float, float]]:
    """Threshold, false alarms and misses at every distinct score by counting, one threshold after the other."""
    curve = []
    for threshold in [*sorted(set(scores)), None]:
        accepted = [threshold is not None and score >= threshold for score in scores]
        alarms = sum(yes and not kind for yes, kind in zip(accepted, same, strict=True))
        missed = sum(not yes and kind for yes, kind in zip(accepted, same, strict=True))
        curve.append((INF if threshold is None else threshold, alarms / same.count(False), missed / same.count(True)))
    return curve


def naive_eer(curve: list[tuple[float, float, float]]) -> float:
    """The point of the broken line on the diagonal, by trying each piece."""
    for (_, alarm, miss), (_, next_alarm, next_miss) in itertools.pairwise(curve):
        if miss <= alarm and next_miss >= next_alarm:
            share = (alarm - miss) / (alarm - miss + next_miss - next_alarm)
            return miss + share * (next_miss - miss)
    raise AssertionError("the lines do not cross")


class TestErrorCurve:
    @pytest.mark.slow
    @settings(max_examples=150, deadline=None)
    @given(TRIALS)
    def test_equals_counting_ties_included(self, trials):
        scores, same = [score for score, _ in trials], [kind for _, kind in trials]
        expected = naive(scores, same)
        values = torch.tensor(scores, dtype=torch.float64), torch.tensor(same)
        curve = error_curve(*values)
        np.testing.assert_array_equal(curve.threshold.numpy(), [point[0] for point in expected])
        np.testing.assert_allclose(curve.false_alarm.numpy(), [point[1] for point in expected], atol=1e-15)
        np.testing.assert_allclose(curve.miss.numpy(), [point[2] for point in expected], atol=1e-15)
        assert equal_error_rate(*values).item() == pytest.approx(naive_eer(expected), abs=1e-12)
        cost = min(0.05 * 2 * miss + 0.95 * alarm for _, alarm, miss in expected) / 0.1
        assert min_dcf(*values, p_target=0.05, c_miss=2).item() == pytest.approx(cost, abs=1e-12)
        turned = torch.randperm(len(scores))
        assert equal_error_rate(values[0][turned], values[1][turned]) == equal_error_rate(*values)

    @pytest.mark.parametrize("decimals", [None, 1])
    def test_equals_scikit_learn_and_a_root_finder(self, decimals):
        scores, same = draw(3000)
        scores = scores if decimals is None else scores.round(decimals=decimals)
        false_alarm, hits, _ = roc_curve(same.numpy(), scores.numpy(), drop_intermediate=False)
        rate = brentq(lambda x: 1 - x - interp1d(false_alarm, hits)(x), 0, 1)
        assert 0.15 < rate < 0.3
        assert equal_error_rate(scores, same).item() == pytest.approx(rate, abs=2e-4 if decimals is None else 1e-9)
        cost = (0.01 * (1 - hits) + 0.99 * false_alarm).min() / 0.01
        assert min_dcf(scores, same).item() == pytest.approx(cost, rel=1e-12)

    def test_by_hand(self):
        # one speaker: 4, 3, 1; two: 3, 2, 1, 0. At threshold 2 half of the others pass and a third of the pairs is
        # missed, at 3 a quarter and a third: the lines meet at a third.
        scores = torch.tensor([4, 3, 1, 3, 2, 1, 0])
        same = torch.tensor([1, 1, 1, 0, 0, 0, 0])
        curve = error_curve(scores, same)
        assert curve.threshold.tolist() == [0, 1, 2, 3, 4, INF]
        assert curve.false_alarm.tolist() == [1, 0.75, 0.5, 0.25, 0, 0]
        assert curve.miss.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
        assert curve.equal_error_rate().item() == pytest.approx(1 / 3)
        assert curve.min_dcf().item() == pytest.approx(2 / 3)  # threshold 4
        assert curve.min_dcf(p_target=0.5).item() == pytest.approx(1 / 4 + 1 / 3)  # threshold 3

    def test_the_ends(self):
        same = torch.tensor([True, True, False])
        assert equal_error_rate(torch.tensor([2.0, 3.0, 1.0]), same) == 0
        assert equal_error_rate(torch.tensor([1.0, 0.0, 2.0]), same) == 1
        assert equal_error_rate(torch.ones(3), same) == 0.5
        assert min_dcf(torch.ones(3), same) == min_dcf(torch.tensor([1.0, 0.0, 2.0]), same) == 1

    def test_a_rising_function_of_the_scores_changes_nothing(self):
        scores, same = draw(500)
        for changed in (scores * 100 - 7, scores.double().exp(), scores.double().sigmoid()):
            assert equal_error_rate(changed, same) == equal_error_rate(scores, same)
            assert min_dcf(changed, same) == min_dcf(scores, same)

    def test_float16_scores_and_kinds_as_numbers(self):
        scores, same = draw(300)
        scores = scores.half()
        assert equal_error_rate(scores, same.float()) == equal_error_rate(scores.double(), same)
        assert equal_error_rate(scores.requires_grad_(), same).dtype == torch.float64


def plain_bootstrap(scores, same, groups, repeats: int, seed: int) -> tuple[float, float]:
    """The same draws; each trial is written down as often as it counts."""
    rng = np.random.default_rng(seed)
    people = sorted(set(groups.flatten().tolist()))
    rates = []
    for drawn in rng.multinomial(len(people), np.full(len(people), 1 / len(people)), size=repeats):
        often = dict(zip(people, drawn.tolist(), strict=True))
        rows = []
        for row, (one, other) in enumerate(groups.tolist()):
            rows += [row] * (often[one] if one == other else often[one] * often[other])
        if 0 < same[rows].sum() < len(rows):
            rates.append(equal_error_rate(scores[rows], same[rows]).item())
    return tuple(np.quantile(rates, [0.025, 0.975]))


class TestBootstrap:
    @pytest.mark.parametrize("decimals", [0, 6])
    def test_equals_repeated_rows(self, decimals, monkeypatch):
        groups = torch.combinations(torch.arange(24)) // 4 * 10
        same = groups[:, 0] == groups[:, 1]
        scores = draw(len(same), apart=2.0, same=same)[0].round(decimals=decimals)
        found = bootstrap_eer(scores, same, groups, repeats=60, seed=4)
        assert found == pytest.approx(plain_bootstrap(scores, same, groups, 60, 4), abs=1e-9)
        assert found[0] < equal_error_rate(scores, same) < found[1]
        monkeypatch.setattr("lightning_fusion.verification.error_rates._CELLS", 2000)  # several blocks of draws
        parts = bootstrap_eer(scores, same, groups, repeats=60, seed=4)
        assert 0 < parts[0] < parts[1] < 1
        assert parts == pytest.approx(found)

    def test_trials_of_few_people_are_worth_little(self):
        scores, same = draw(2000)
        few = torch.where(same[:, None], torch.randint(8, (2000, 1)).expand(-1, 2), torch.tensor([0, 1]))
        few[~same] = (torch.randint(8, (2000, 1)) + torch.tensor([0, 1]))[~same] % 8
        scores = scores + 0.8 * torch.randn(8)[few[:, 0]]  # some people are easy
        many = torch.where(same[:, None], torch.arange(2000)[:, None], torch.arange(4000).view(2000, 2) + 2000)
        narrow, wide = (bootstrap_eer(scores, same, groups, repeats=200) for groups in (many, few))
        assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])


GOOD, KINDS = torch.tensor([0.5, -2.0, 3.0]), torch.tensor([True, False, True])
PAIRS = torch.tensor([[0, 1], [1, 2], [0, 0]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: equal_error_rate(GOOD * math.nan, KINDS), "scores: found 3 NaN; expected none"),
        (lambda: equal_error_rate(GOOD[:2], KINDS), r"same has shape \(3,\), scores has 2 rows"),
        (lambda: equal_error_rate(GOOD[None], KINDS), r"scores has shape \(1, 3\); expected \(trials,\)"),
        (lambda: equal_error_rate(GOOD, KINDS | True), "found 3 trials of one speaker and 0 of two"),
        (lambda: min_dcf(GOOD, KINDS & False), "found 0 trials of one speaker and 3 of two"),
        (lambda: error_curve(GOOD[:0], KINDS[:0]), "found 0 trials of one speaker and 0 of two"),
        (lambda: error_curve(GOOD, torch.tensor([0, 1, 2])), "same: expected True and False, or 0 and 1"),
        (lambda: min_dcf(GOOD, KINDS, p_target=1.0), "p_target is 1.0"),
        (lambda: min_dcf(GOOD, KINDS, c_miss=0), "c_miss is 0; expected a finite number > 0"),
        (lambda: min_dcf(GOOD, KINDS, c_false_alarm=math.inf), "c_false_alarm is inf"),
        (lambda: bootstrap_eer(GOOD, KINDS, PAIRS[:2]), "found 3 scores and 2 rows of groups"),
        (lambda: bootstrap_eer(GOOD, KINDS, PAIRS), "1 trials of one speaker lie in two groups, the first at row 0"),
        (lambda: bootstrap_eer(GOOD, KINDS, PAIRS * 0, repeats=0), "repeats is 0"),
        (
            lambda: bootstrap_eer(GOOD[1:], KINDS[1:], torch.tensor([[0, 1], [2, 2]]), repeats=1, seed=1),
            "none of 1 draws of 3 speakers has trials of both kinds",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
