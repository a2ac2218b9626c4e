import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_fusion.data.targets import UNLABELED, as_targets
from lightning_fusion.errors import InputError

CLASSES = ["2", "10", "1"]


@pytest.mark.parametrize(
    "values",
    [
        [0, 2, 1],
        (0, 2, 1),
        [0.0, 2.0, 1.0],
        ["2", "1", "10"],
        np.array(["2", "1", "10"]),
        np.array(["2", "1", "10"], object),
        np.array([0, 2, 1], np.uint8),
        torch.tensor([0, 2, 1], dtype=torch.int32),
        torch.tensor([0.0, 2.0, 1.0], requires_grad=True),
        pd.Series([0, 2, 1], index=[5, 6, 7]),
        pd.Series(["2", "1", "10"]),
        pd.Series(["2", "1", "10"], dtype="category"),
    ],
    ids=[
        "list",
        "tuple",
        "floats",
        "texts",
        "str",
        "object",
        "uint8",
        "int32",
        "gradient",
        "series",
        "strings",
        "category",
    ],
)
def test_what_is_plain_is_read(values):
    found = as_targets(values, CLASSES)
    assert found.dtype == np.int64 and found.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    "values, message",
    [
        ([[0], [1]], r"found shape \(2, 1\).*targets\[:, 0\]"),
        ([[0, 1, 0], [1, 0, 0]], r"found shape \(2, 3\).*targets.argmax\(1\)"),
        ([[0.2, 0.3, 0.5]], r"found shape \(1, 3\); expected \(N,\) class numbers: several values"),
        (np.int64(1), r"found .*1.*; expected \(N,\)"),
        ([0.9, 1.2, 0.4, 1.9], r"found 0.4, 0.9, 1.2, 1.9 in row\(s\) 0, 1, 2, 3; expected whole numbers, 0 to 2"),
        ([0.0, float("nan")], r"found nan in row\(s\) 1"),
        ([0.0, float("inf")], r"found inf in row\(s\) 1"),
        ([0, 3], r"1 out of range, 3 in row\(s\) 1; the task has 3 classes \(0 to 2\)"),
        ([-1, 0], r"out of range, -1 in row\(s\) 0"),
        ([0, UNLABELED], r"out of range, -100 in row\(s\) 1"),
        ([True, False], r"truth values.*astype\(int\)"),
        (["2", "01"], r"found 01, which is none of the classes 2, 10, 1"),
        (["2", None], r"found None in row\(s\) 1 beside texts"),
        ([0, None], r"found 0, None in row\(s\) 0, 1; expected class numbers"),
        (pd.Series(["2", None]), r"row\(s\) 1 beside texts"),
        ([1j], r"complex128; expected class numbers or names"),
        ([[0], [1, 2]], r"list that makes no array"),
        ("2", r"found '2'; expected \(N,\)"),
        (None, r"found None; expected \(N,\)"),
    ],
)
def test_what_could_be_meant_otherwise_raises(values, message):
    with pytest.raises(InputError, match=message):
        as_targets(values, CLASSES)


def test_texts_need_names():
    with pytest.raises(InputError, match="found texts"):
        as_targets(["cat"], 3)


def test_unlabeled_samples_where_they_are_allowed():
    assert as_targets([0, UNLABELED], 1, unlabeled=True).tolist() == [0, UNLABELED]


def test_the_given_array_is_not_shared():
    given_ = np.array([0, 1])
    as_targets(given_, 2)[0] = 1
    assert given_[0] == 0


@given(st.permutations(CLASSES), st.lists(st.sampled_from(CLASSES), min_size=1, max_size=9))
def test_names_mean_the_same_in_any_order_of_the_classes(order, labels):
    assert [order[number] for number in as_targets(labels, order)] == labels
