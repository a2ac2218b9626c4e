import numpy as np
from sklearn.linear_model import LogisticRegression

from lightning_fusion.baselines import LogisticStacking


def problem(seed: int, rows: int, blind: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Three experts of four classes with random skill; a blind one does not know class 0."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(4, size=rows)
    logits = generator.normal(size=(rows, 3, 4)) + 1.5 * (np.arange(4) == targets[:, None])[:, None]
    if blind:
        logits[:, 2, 0] = -np.inf
    exponents = np.exp(logits)
    return exponents / exponents.sum(2, keepdims=True), targets


def test_stacking_is_scikit_learns_logistic_regression():
    (fitted, targets), (queries, _) = problem(0, 80), problem(1, 30)
    direct = LogisticRegression(C=0.5, max_iter=1000).fit(fitted.reshape(80, -1), targets)
    assert np.array_equal(
        LogisticStacking(0.5).fit(fitted, targets).predict(queries), direct.predict(queries.reshape(30, -1))
    )


def test_stacking_leaves_out_what_an_expert_does_not_know():
    (fitted, targets), (queries, _) = problem(0, 80, blind=True), problem(1, 30, blind=True)
    stacking = LogisticStacking().fit(fitted, targets)
    assert stacking.model.coef_.shape == (4, 11)
    known = np.delete(np.arange(12), 8)
    direct = LogisticRegression(max_iter=1000).fit(fitted.reshape(80, -1)[:, known], targets)
    assert np.array_equal(stacking.predict(queries), direct.predict(queries.reshape(30, -1)[:, known]))


def test_stacking_of_a_single_class_answers_that_class():
    fitted, _ = problem(0, 5)
    assert LogisticStacking().fit(fitted, np.full(5, 2)).predict(fitted).tolist() == [2] * 5
