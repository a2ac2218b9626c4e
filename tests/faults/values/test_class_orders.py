"""The order of an estimator's classes counts wherever the estimator is, or the network is reported."""

import functools
import warnings

import numpy as np
import pytest
import torch
from helpers import tiny
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from lightning_fusion import Expert, ExpertOutputs, FoEFuserModule, OutputsDataModule
from lightning_fusion.errors import InputError

ORDER = ["1", "2", "10"]  # scikit-learn sorts them: 1, 10, 2
Y = np.random.default_rng(0).integers(3, size=120)
X = 3 * np.eye(3)[Y] + np.random.default_rng(1).normal(size=(120, 3))
MODEL = LogisticRegression().fit(X, np.array(ORDER)[Y])


def accuracy(expert: Expert) -> float:
    return float((expert(torch.tensor(X)).argmax(1).numpy() == Y).mean())


@pytest.mark.parametrize(
    "wrap",
    [functools.partial, functools.lru_cache, lambda call: functools.partial(functools.partial(call))],
    ids=["partial", "lru_cache", "partial of partial"],
)
def test_known_wrappers_are_seen_through(wrap):
    plain, wrapped = (Expert(each, classes=ORDER) for each in (MODEL.predict_proba, wrap(MODEL.predict_proba)))
    assert wrapped.output == "probabilities" and accuracy(wrapped) == accuracy(plain) > 0.9


class Holder:
    def __init__(self):
        self.models = {"one": MODEL}

    def __call__(self, x):
        return self.models["one"].predict_proba(x)


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.inner.model = MODEL

    def forward(self, x):
        return torch.tensor(self.inner.model.predict_proba(x.numpy()))


def closes_over(model):
    return lambda x: model.predict_proba(x)


@pytest.mark.parametrize("network", [closes_over(MODEL), lambda x: MODEL.predict_proba(x), Holder(), Module()])
def test_other_wrappers_are_reported(network):
    with pytest.warns(
        UserWarning, match="calls a LogisticRegression whose classes are 1, 10, 2.* are read as 1, 2, 10"
    ):
        Expert(network, classes=ORDER, output="probabilities")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = Expert(network, classes=["1", "10", "2"], output="probabilities")
        Expert(network, classes=["a", "b", "c"], output="probabilities")  # names of its own
    assert sorted(own.classes) == sorted(ORDER)


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: make_pipeline(StandardScaler(), model)])
def test_votes_of_pairs_are_no_outputs_of_classes(wrap):
    model = wrap(SVC(decision_function_shape="ovo")).fit(X, np.array(ORDER)[Y])  # three pairs of three classes
    with pytest.raises(InputError, match="has a column per pair of classes; expected a column per class"):
        Expert(model.decision_function, classes=ORDER)
    two = wrap(SVC()).fit(X, Y > 0)
    with pytest.raises(InputError, match=r"has one column for its two classes; .*: use predict_proba$"):
        Expert(two.decision_function)


def test_a_store_of_another_order_says_which():
    def store(names):
        split = {"probabilities": {"a": np.full((6, 3), 1 / 3)}, "target": [0, 1, 2] * 2}
        return ExpertOutputs.from_arrays(dict.fromkeys(("train", "val"), split), {"a": names}, ORDER)

    fuser = FoEFuserModule(expert_classes={"a": ORDER}, classes=ORDER)
    with pytest.raises(InputError, match=r"in memory has the classes 10, 2, 1 of expert a; .* for 1, 2, 10, in this"):
        tiny.trainer(1).fit(fuser, OutputsDataModule(store(ORDER[::-1])))
