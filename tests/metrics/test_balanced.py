import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from lightning_fusion.metrics import balanced_accuracy


def test_as_in_scikit_learn():
    generator = np.random.default_rng(0)
    targets = generator.choice(5, 200, p=[0.6, 0.2, 0.1, 0.1, 0.0])  # the last class has no row
    answers = generator.integers(0, 4, 200)
    assert balanced_accuracy(answers == targets, targets) == pytest.approx(balanced_accuracy_score(targets, answers))


def test_rows_that_are_right_with_a_probability():
    assert balanced_accuracy(np.array([0.5, 0.5, 1.0]), np.array([3, 3, 7])) == 0.75


def test_guessing_one_class_is_chance():
    targets = np.array([0] * 97 + [1] * 2 + [2])
    assert balanced_accuracy(targets == 0, targets) == pytest.approx(1 / 3)
