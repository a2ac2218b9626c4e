import numpy as np
import pytest
from reference import rules
from sklearn.neighbors import KNeighborsClassifier

from lightning_fusion.baselines import KNORAE, NearestNeighbors


def problem(seed: int, rows: int, blind: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Three experts of four classes with random skill; a blind one does not know class 0."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(4, size=rows)
    logits = generator.normal(size=(rows, 3, 4)) + 1.5 * (np.arange(4) == targets[:, None])[:, None]
    if blind:
        logits[:, 2, 0] = -np.inf
    exponents = np.exp(logits)
    return exponents / exponents.sum(2, keepdims=True), targets


@pytest.mark.parametrize("neighbors", [1, 3, 7, 50])
@pytest.mark.parametrize("seed", range(3))
def test_knora_eliminate_equals_the_literal_loop(neighbors, seed):
    (fitted, targets), (queries, _) = problem(seed, 40), problem(seed + 100, 25)
    expected = [rules.knora_eliminate(fitted, targets, query, neighbors) for query in queries]
    assert KNORAE(neighbors).fit(fitted, targets).predict(queries).tolist() == expected


def test_knora_eliminate_lets_all_vote_where_nobody_is_right_nearby():
    fitted = np.array([[[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]])
    assert KNORAE(1).fit(fitted, np.array([1])).predict(fitted).tolist() == [1]  # the third expert alone
    wrong = fitted[:, :2]
    assert KNORAE(1).fit(wrong, np.array([1])).predict(wrong).tolist() == [0]  # both vote


def test_nearest_neighbors_are_scikit_learns():
    (fitted, targets), (queries, _) = problem(0, 60), problem(1, 30)
    direct = KNeighborsClassifier(9, algorithm="brute").fit(fitted.reshape(60, -1), targets)
    assert np.array_equal(
        NearestNeighbors().fit(fitted, targets).predict(queries), direct.predict(queries.reshape(30, -1))
    )
    few = NearestNeighbors(9).fit(fitted[:4], targets[:4])
    assert few.model.n_neighbors == 4
