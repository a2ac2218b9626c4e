import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import rules

from lightning_fusion.baselines import (
    BASELINES,
    BestSingle,
    MajorityVote,
    MostConfident,
    SoftmaxAverage,
    oracle_expert,
    oracle_selection,
)


def draw(seed: int, rows: int = 30, experts: int = 3, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Outputs on a grid of eighths, so that votes and means do tie."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(8, np.full(classes, 1 / classes), (rows, experts)) / 8, generator.integers(
        classes, size=rows
    )


def test_best_single_answers_as_the_expert_that_was_right_most_often():
    outputs, targets = draw(0)
    hits = [sum(outputs[row, k].argmax() == targets[row] for row in range(30)) for k in range(3)]
    best = hits.index(max(hits))
    fitted = BestSingle().fit(outputs, targets)
    assert fitted.best == best
    other, _ = draw(1)
    assert np.array_equal(fitted.predict(other), other[:, best].argmax(1))


def test_the_first_of_equally_good_experts_is_the_best_single():
    outputs = np.array([[[1, 0], [0, 1], [0, 1]], [[1, 0], [1, 0], [1, 0]]], float)
    assert BestSingle().fit(outputs, np.array([1, 0])).best == 1


def test_average_and_most_confident_by_hand():
    outputs = np.array([[[0.5, 0.3, 0.2], [0.0, 0.6, 0.4]], [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]])
    assert SoftmaxAverage().predict(outputs).tolist() == [1, 2]  # means .25 .45 .3 and .4 .15 .45
    assert MostConfident().predict(outputs).tolist() == [1, 2]  # .6 and .8
    assert MostConfident().predict(outputs[:, ::-1]).tolist() == [1, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_majority_vote_equals_the_loop_ties_included(seed):
    outputs, _ = draw(seed)
    expected = [rules.vote([int(k.argmax()) for k in row], row.mean(0)) for row in outputs]
    assert MajorityVote().predict(outputs).tolist() == expected


def test_a_tied_vote_goes_to_the_larger_mean_and_then_to_the_lower_class():
    assert MajorityVote().predict(np.array([[[0.6, 0.4], [0.1, 0.9]], [[0.75, 0.25], [0.25, 0.75]]])).tolist() == [1, 0]


def test_oracles_equal_the_loops():
    outputs, targets = draw(3)
    expert_targets = np.random.default_rng(3).random((30, 3)) < 0.5
    some, known = [], []
    for row in range(30):
        right = [outputs[row, k].argmax() == targets[row] for k in range(3)]
        mine = [right[k] for k in range(3) if expert_targets[row, k]]
        some.append(any(right))
        known.append(sum(mine) / len(mine) if mine else 0.0)
    assert oracle_selection(outputs, targets).tolist() == some
    assert oracle_expert(outputs, targets, expert_targets) == pytest.approx(known)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_gives_one_class_per_row_and_leaves_its_input_alone(name):
    (outputs, targets), (others, _) = draw(4), draw(5, rows=7)
    kept = outputs.copy(), targets.copy(), others.copy()
    prediction = BASELINES[name]().fit(outputs, targets).predict(others)
    assert prediction.shape == (7,)
    assert set(prediction) <= set(range(4))
    assert all(np.array_equal(*pair) for pair in zip(kept, (outputs, targets, others), strict=True))


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_survives_one_row_and_one_expert(name):
    outputs = np.array([[[0.2, 0.8]]])
    assert BASELINES[name]().fit(outputs, np.array([1])).predict(outputs).tolist() == [1]
