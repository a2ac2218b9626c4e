import numpy as np
import pytest

from lightning_fusion.baselines import BASELINES, Baseline
from lightning_fusion.baselines.checks import check_baselines
from lightning_fusion.errors import InputError


class Scores(Baseline):
    """Gives probabilities instead of classes."""

    def predict(self, outputs):
        return outputs.mean(1)


class Fractions(Baseline):
    def predict(self, outputs):
        return outputs.max((1, 2))


class Number(Baseline):
    """Predicts by one expert."""

    def __init__(self, number):
        self.number = number

    def predict(self, outputs):
        return outputs[:, self.number].argmax(1)


@pytest.mark.parametrize("size", [(1, 2), (5, 100)])
def test_the_library_s_own_pass(size):
    check_baselines(BASELINES, *size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Scores, r"baselines: mine: predictions have shape \(64, 3\); expected \(64,\), a class per sample"),
        (Fractions, "baselines: mine: predictions: found .*expected whole numbers, 0 to 2"),
    ],
)
def test_predictions_that_are_no_classes_raise(make, message):
    with pytest.raises(InputError, match=message):
        check_baselines({"mine": make}, 2, 3)


def test_a_baseline_s_own_exception_names_it():
    with pytest.raises(IndexError) as caught:
        check_baselines({"expert 9": lambda: Number(9)}, 5, 3)
    assert caught.value.__notes__ == ["This is the baseline 'expert 9' on random outputs (64, 5, 3) (N, K, C)."]
    check_baselines({"expert 4": lambda: Number(np.int64(4))}, 5, 3)
