"""Answers that name their classes are read by these names, and advice about wrong answers does not flatten them."""

import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny

from lightning_fusion import Expert, ExpertOutputs, FrugalFoE
from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import describe_invalid, query_rows

ROWS = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
CLASSES = ["Neg", "Pos"]
ANSWERS = {
    "a data frame": pd.DataFrame(ROWS, columns=[" Pos", "Neg"]),
    "a list of dicts": [{"Pos": float(pos), "Neg": float(neg)} for pos, neg in ROWS],
}


@pytest.mark.parametrize("kind", ANSWERS)
class TestNames:
    def test_of_arrays(self, kind):
        given = {"test": {"probabilities": {"a": ANSWERS[kind]}, "target": [1, 0]}}
        found = ExpertOutputs.from_arrays(given, {"a": CLASSES})
        assert np.array_equal(found["test"].probabilities["a"], ROWS[:, ::-1])
        with pytest.raises(
            InputError, match=r"split test: expert a: found the (columns|keys) Pos, Neg; expected no, yes"
        ):
            ExpertOutputs.from_arrays(given, {"a": ["no", "yes"]})

    def test_of_a_callable(self, kind):
        expert = Expert(lambda x: ANSWERS[kind], classes=CLASSES, output="probabilities")
        assert np.array_equal(expert(torch.zeros(2, 3)), ROWS[:, ::-1])
        with pytest.raises(InputError, match=r"returned rows with the (columns|keys) Pos, Neg; expected no, yes"):
            Expert(lambda x: ANSWERS[kind], classes=["no", "yes"])(torch.zeros(2, 3))

    def test_of_a_function_that_a_policy_asks(self, kind):
        rows = torch.arange(2)
        found = query_rows(lambda rows: ANSWERS[kind], rows, 2, "remote", classes=CLASSES)
        assert np.array_equal(found.float(), ROWS[:, ::-1])
        with pytest.raises(InputError, match="expert remote returned rows with the"):
            query_rows(lambda rows: ANSWERS[kind], rows, 2, "remote")


def test_a_policy_knows_the_classes_of_its_store():
    values = np.tile(ROWS, (10, 1))
    splits = {"train": {"probabilities": {"a": values, "b": values}, "target": [0, 1] * 10}}
    policy = FrugalFoE(neighbors=3).fit(ExpertOutputs.from_arrays(splits, dict.fromkeys("ab", CLASSES))["train"])
    named = policy.predict(lambda name, rows: pd.DataFrame(values[rows][:, ::-1], columns=["Pos", "Neg"]), 4)
    assert torch.equal(named.predicted, policy.predict(lambda name, rows: values[rows], 4).predicted)


def test_domains_and_masks_are_read_by_name_as_well():
    domain = pd.DataFrame({"y": [True, False], "x": [False, False]})
    missing = pd.DataFrame({"b": [False, True], "a": [False, False]})
    split = {"probabilities": {"a": ROWS, "b": ROWS}, "target": [0, 1], "domain": domain, "missing": missing}
    found = ExpertOutputs.from_arrays({"test": split}, dict.fromkeys("ab", CLASSES), domains=["x", "y"])["test"]
    assert found.domain.tolist() == [[False, True], [False, False]]
    assert found.missing.tolist() == [[False, False], [False, True]]


def test_columns_without_names_keep_their_order():
    frame = pd.DataFrame(ROWS)
    given = {"test": {"probabilities": {"a": frame}, "target": [1, 0]}}
    assert np.array_equal(ExpertOutputs.from_arrays(given, {"a": CLASSES})["test"].probabilities["a"], ROWS)
    assert np.array_equal(Expert(lambda x: frame, classes=CLASSES, output="probabilities")(torch.zeros(2, 1)), ROWS)


@pytest.mark.parametrize(
    "values, advice",
    [
        ([[0.33, 0.33, 0.33]], "divide each row by its sum"),
        ([[0.9, 0.7, 0.1]], "divide each row by its sum"),
        ([[90.0, 9.0, 1.0]], "divide each row by its sum"),
        ([[math.log(0.5), math.log(0.5), -math.inf]], "exponentiate"),
        ([[math.log(0.5), math.log(0.25), math.log(0.25)]], "exponentiate"),
        ([[0.0, 0.0, 0.0]], "a row of zeros"),
        ([[3.0, -1.0, 0.5]], "set its output to 'logits'"),
        ([[math.nan] * 3], "^returned NaN or None$"),
        ([[math.nan, 0.5, 0.5]], "^returned NaN or infinite outputs$"),
    ],
)
def test_advice_leads_to_the_right_values(values, advice):
    found = describe_invalid(torch.tensor(values))
    assert re.search(advice, found) and ("logits" in advice) == ("logits" in found)


class TestLogitsThatAreProbabilities:
    @pytest.mark.parametrize("answer", [[[0.9, 0.1], [0.2, 0.8], [0.9, 0.8]], [[0.33, 0.66]] * 3])
    def test_most_rows_are_a_warning(self, answer):
        expert = Expert(lambda x: answer, classes=CLASSES)
        with pytest.warns(UserWarning, match=r"output is 'logits'; [23] of 3 outputs .* divide each row by its sum"):
            expert(torch.zeros(3, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expert(torch.zeros(3, 1))

    def test_logits_are_none(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Expert(lambda x: [[0.9, 0.1], [2.0, 3.0], [0.5, 7.0]], classes=CLASSES)(torch.zeros(3, 1))
            Expert(tiny.Net(2), classes=CLASSES)(torch.randn(8, 4))


class TestAnswersOfCallables:
    def test_none_for_one_sample_is_a_missing_answer_of_every_class(self):
        expert = Expert(lambda x: [None], classes=CLASSES, output="probabilities")
        assert expert(torch.zeros(1, 3)).shape == (1, 2) and expert(torch.zeros(1, 3)).isnan().all()
        assert query_rows(lambda rows: [None], torch.arange(1), 2, "a", "skip").isnan().all()

    def test_none_among_dicts(self):
        expert = Expert(lambda x: [{"Pos": 1, "Neg": 0}, None], classes=CLASSES, output="probabilities")
        assert expert(torch.zeros(2, 3))[0].tolist() == [0, 1] and expert(torch.zeros(2, 3))[1].isnan().all()

    def test_a_wrapper_that_cannot_be_called(self):
        class Wrap:
            classes_ = ("Pos", "Neg")

            def predict_proba(self, x):
                return ROWS

        assert np.array_equal(Expert(Wrap(), classes=CLASSES)(torch.zeros(2, 1)), ROWS[:, ::-1])
        with pytest.raises(InputError, match="network: found a dict; expected a torch module, a function"):
            Expert({"a": 1}, classes=CLASSES)
