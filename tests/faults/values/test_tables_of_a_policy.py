"""FrugalFoE reads tables by the names of their columns and compares the labels of their rows."""

import numpy as np
import pandas as pd
import pytest
import torch

from lightning_fusion import FrugalFoE
from lightning_fusion.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:neighbors is", "ignore:the fuser of all", "ignore:trade_off")
CLASSES = ["Neg", "Pos"]
POS = np.random.default_rng(0).random((40, 2))
VALUES = {name: np.stack([1 - POS[:, k], POS[:, k]], 1) for k, name in enumerate("ab")}  # in the order of CLASSES
TARGETS = (POS.mean(1) > 0.5).astype(int)
NAMED = [CLASSES[number] for number in TARGETS]


def frame(name, order=CLASSES, index=None):
    return pd.DataFrame(VALUES[name], columns=CLASSES, index=index)[order]


def columns(name, order=CLASSES):
    return {column: frame(name)[column].to_list() for column in order}


def by_values():
    return FrugalFoE(neighbors=5).fit(VALUES, TARGETS)


def same(one, other):
    return all(torch.equal(first, second) for first, second in zip(one, other, strict=True))


@pytest.mark.parametrize("table", [frame, columns])
class TestNamesOfColumns:
    @pytest.mark.slow
    def test_of_one_order(self, table):
        policy = FrugalFoE(neighbors=5).fit({name: table(name) for name in "ab"}, TARGETS)
        assert policy.classes == CLASSES
        turned = {"a": table("a", CLASSES[::-1]), "b": table("b")}
        assert same(policy.predict(turned), by_values().predict(VALUES))
        assert policy.curve(turned, NAMED).accuracy == by_values().curve(VALUES, TARGETS).accuracy
        assert torch.equal(policy.fuse(["a"], turned), by_values().fuse(["a"], VALUES))
        assert same(
            policy.predict(lambda name, rows: pd.DataFrame(turned[name]).iloc[rows], 40), policy.predict(turned)
        )

    def test_of_several_orders(self, table):
        mixed = {"a": table("a", CLASSES[::-1]), "b": table("b")}
        with pytest.raises(InputError, match=r"the same classes in different orders.*give the names of the classes"):
            FrugalFoE().fit(mixed, TARGETS)
        policy = FrugalFoE(neighbors=5).fit(mixed, NAMED)
        assert policy.classes == CLASSES[::-1]
        expected, found = by_values().predict(VALUES), policy.predict(VALUES | mixed)
        assert torch.equal(found.probabilities.flip(1), expected.probabilities)
        assert torch.equal(found.queried, expected.queried)

    def test_of_other_classes(self, table):
        with pytest.raises(InputError, match=r"outputs: expert b has the .* Neg, Other; expected Neg, Pos"):
            other = {"Neg": columns("b")["Neg"], "Other": columns("b")["Pos"]}
            FrugalFoE().fit({"a": table("a"), "b": pd.DataFrame(other)}, TARGETS)
        with pytest.raises(InputError, match=r"columns have the names Neg, Pos, and the policy was fitted on"):
            by_values().predict({name: table(name) for name in "ab"})
        with pytest.raises(InputError, match=r"the columns of a have names, those of b have none"):
            FrugalFoE().fit({"a": table("a"), "b": VALUES["b"]}, TARGETS)


def test_a_dict_of_columns_is_an_answer():
    policy = FrugalFoE(neighbors=5).fit({name: frame(name) for name in "ab"}, TARGETS)

    def ask(name, rows):
        return {column: frame(name)[column].to_numpy()[rows] for column in ("Pos", "Neg")}

    assert same(policy.predict(ask, 40), by_values().predict(VALUES))
    with pytest.raises(InputError, match=r"expert . returned rows with the keys Pos, Neg; expected 0, 1"):
        by_values().predict(ask, 40)


def test_masks_are_read_by_name():
    mask = pd.DataFrame({"b": [True] + [False] * 39, "a": False})
    found = by_values().predict(VALUES, missing=mask)
    assert same(found, by_values().predict(VALUES, missing=mask[["a", "b"]].to_numpy()))


class TestRowLabels:
    LABELS = pd.Index([f"id{row}" for row in range(40)])

    def test_in_another_order(self):
        tables = {name: frame(name, index=self.LABELS) for name in "ab"}
        turned = pd.Series(TARGETS, index=self.LABELS)[::-1]
        with pytest.raises(InputError, match=r"rows of targets and of expert a have the same labels in another order"):
            FrugalFoE().fit(tables, turned)
        policy = FrugalFoE(neighbors=5).fit(tables, turned[::-1])
        with pytest.raises(InputError, match=r"rows of targets and of expert a have the same labels in another order"):
            policy.curve(tables, turned)
        with pytest.raises(InputError, match=r"rows of expert a and of expert b have the same labels in another order"):
            policy.predict(tables | {"b": tables["b"][::-1]})

    def test_of_other_rows(self):
        other = pd.Series(TARGETS, index=[f"id{row}" for row in range(1, 41)])
        with pytest.raises(
            InputError, match=r"rows of targets and of expert a have other labels; select the same rows"
        ):
            FrugalFoE().fit({name: frame(name, index=self.LABELS) for name in "ab"}, other)

    def test_numbered_rows_have_none(self):
        tables = {name: frame(name, index=self.LABELS) for name in "ab"}
        policy = FrugalFoE(neighbors=5).fit(tables, pd.Series(TARGETS))
        assert same(policy.predict(tables), by_values().predict(VALUES))
