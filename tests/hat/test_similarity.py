import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightning_fusion.hat.similarity import cosine, statistics_similarity


def test_euclid_and_jaccard_by_hand():
    pool = torch.tensor([[0.0, 4.0, 1.0, 7.0], [2.0, 8.0, 1.0, 7.0]])  # z-scores -1, 1; the last two say nothing
    target = torch.tensor([3.0, 2.0, 5.0, 7.0])  # z-scores 2, -2
    euclid = statistics_similarity(target, pool, "euclid")
    assert euclid.tolist() == pytest.approx([1 / (1 + math.sqrt(9 + 1)), 1 / (1 + math.sqrt(1 + 9))])
    assert statistics_similarity(target, pool, "jaccard").tolist() == [0.0, 0.5]  # {} and {0, 1} against {0}
    low = torch.tensor([-1.0, 0.0, 1.0, 7.0])
    assert statistics_similarity(low, pool, "jaccard").tolist() == [1.0, 0.0]  # two empty sets are alike


def test_one_source_has_no_direction():
    assert statistics_similarity(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 2.0]])).tolist() == [0.0]


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(np.float64, (5, 4), elements=st.integers(-3, 3).map(float)),
    arrays.arrays(np.float64, 4, elements=st.integers(-3, 3).map(float)),
    st.permutations(range(5)),
    st.sampled_from(["cosine", "euclid", "jaccard"]),
)
def test_order_and_unit_do_not_matter(pool, target, order, similarity):
    """The z-scores of a shuffled pool in other units are the same, up to rounding."""
    values = statistics_similarity(torch.tensor(target), torch.tensor(pool), similarity)
    bound = {"cosine": -1.0, "euclid": 0.0, "jaccard": 0.0}[similarity]
    assert bool(((values >= bound - 1e-9) & (values <= 1 + 1e-9)).all())
    scaled = statistics_similarity(torch.tensor(8 * target + 2), torch.tensor((8 * pool + 2)[list(order)]), similarity)
    np.testing.assert_allclose(scaled.numpy(), values.numpy()[list(order)], atol=1e-6)


def test_cosine_of_nothing_is_zero():
    assert cosine(torch.zeros(2), torch.ones(2)) == 0
