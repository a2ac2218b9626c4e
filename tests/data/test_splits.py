from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import rules

from lightning_fusion.data.splits import draw_class_subsets, stratified_sessions, stratified_split
from lightning_fusion.errors import InputError


class TestStratifiedSessions:
    @pytest.mark.slow
    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
    def test_every_scope_has_its_shares(self, count, num_classes, scopes, seed):
        generator = np.random.default_rng(seed)
        counts = generator.integers(1, 9, (count * scopes, max(2, num_classes)))
        scope = np.repeat(np.arange(scopes) * 7, count)
        split = stratified_sessions(counts, scope, 0.1, 0.2, seed)
        for number in range(scopes):
            tests = min(max(round(0.2 * count), 1), count - 1)
            vals = min(max(round(0.1 * count), 1), count - tests - 1)
            assert np.bincount(split[scope == number * 7], minlength=3).tolist() == [count - tests - vals, vals, tests]

    @pytest.mark.parametrize("seed", range(10))
    def test_a_rare_class_stays_in_training_and_shares_are_near(self, seed):
        counts = np.random.default_rng(seed).integers(5, 15, (20, 3))
        counts[:, 2] = 0
        counts[7, 2] = 4
        split = stratified_sessions(counts, np.zeros(20), 0.1, 0.2, seed)
        assert split[7] == 0
        shares = counts[split == 2].sum(0)[:2] / counts.sum(0)[:2]
        np.testing.assert_allclose(shares, 0.2, atol=0.06)

    def test_sessions_of_one_class_are_drawn_class_by_class_and_empty_ones_train(self):
        counts = np.repeat([[3, 0], [0, 3], [0, 0]], [20, 10, 5], axis=0)
        split = stratified_sessions(counts, np.zeros(35), 0.1, 0.2, seed=3)
        assert [
            np.bincount(split[part], minlength=3).tolist() for part in (slice(20), slice(20, 30), slice(30, 35))
        ] == [
            [14, 2, 4],
            [7, 1, 2],
            [5, 0, 0],
        ]

    def test_is_a_function_of_the_seed(self):
        counts = np.random.default_rng(0).integers(1, 9, (30, 3))
        one, same, other = (stratified_sessions(counts, np.zeros(30), 0.1, 0.2, seed).tolist() for seed in (1, 1, 2))
        assert one == same != other


class TestStratifiedSplit:
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 3), max_size=40), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]), st.integers(0, 9))
    def test_holds_out_the_share_of_every_stratum(self, strata, share, seed):
        kept, held = stratified_split(np.array(strata, int), share, seed)
        assert sorted([*kept, *held]) == list(range(len(strata)))
        counts = Counter(strata[row] for row in held)
        assert {stratum: counts[stratum] for stratum in set(strata)} == rules.split(strata, share)

    def test_is_a_function_of_the_seed(self):
        strata = np.arange(100) % 5
        one, same, other = (stratified_split(strata, 0.3, seed)[1].tolist() for seed in (1, 1, 2))
        assert one == same != other


class TestDrawClassSubsets:
    @pytest.mark.parametrize("seed", range(5))
    def test_covers_every_class_with_equal_subsets(self, seed):
        member = draw_class_subsets(10, 5, 4, seed=seed)
        assert member.sum(0).tolist() == [4] * 5
        assert member.any(1).all()

    @pytest.mark.parametrize("seed", range(5))
    def test_each_domain_has_a_class_of_each_group(self, seed):
        groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
        member = draw_class_subsets(9, 4, 5, groups, seed)
        assert member.sum(0).tolist() == [5] * 4
        for group in range(3):
            assert member[groups == group].any(0).all()

    def test_first_picks_of_a_group_are_uniform(self):
        groups = np.repeat(np.arange(2), 3)
        counts = sum(draw_class_subsets(6, 30, 2, groups, seed).sum(1) for seed in range(40))
        assert np.abs(counts - 400).max() < 5 * np.sqrt(400 * 2 / 3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((10, 2, 4), "2 domains of 4 classes cannot cover 10 classes"),
            ((4, 3, 5), "3 domains of 5 classes cannot cover 4"),
            ((4, 3, 2, np.arange(4)), "one of each of the 4 super-classes"),
        ],
    )
    def test_refuses_what_cannot_be_covered(self, arguments, message):
        with pytest.raises(InputError, match=message):
            draw_class_subsets(*arguments)
