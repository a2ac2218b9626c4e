"""Classes of an estimator, a store or a data set in another order than those of the expert or the pool."""

import functools
import warnings

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningDataModule
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, FoEFuserModule, OutputsDataModule, collect, diagnose
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


SORTED = ["Red", "blue", "green"]  # as ImageFolder sorts
POOL = ["blue", "green", "Red"]


class Folder(TensorDataset):
    """A data set with classes, as ImageFolder has."""

    classes = SORTED


class Own(LightningDataModule):
    """A data module of a user, without classes."""

    def __init__(self, subset: bool) -> None:
        super().__init__()
        dataset = Folder(torch.zeros(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
        self.dataset = Subset(dataset, range(6)) if subset else dataset

    def test_dataloader(self):
        return DataLoader(self.dataset, batch_size=3)


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("classes", [SORTED, POOL])
def test_collect_compares_those_of_the_data_set(subset, classes):
    pool = ExpertPool({"a": Expert(nn.Linear(4, 3), classes=POOL)}, classes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        collect(pool, Own(subset), splits=["test"], trainer=tiny.trainer())
    said = [str(each.message) for each in caught if str(each.message).startswith("classes:")]
    message = (
        "classes: the data set of the test split has Red, blue, green, the experts' pool blue, green, Red: targets "
        "count classes in this order; set classes of the ExpertPool to those of the data set"
    )
    assert said == [message] * (classes == POOL)


def outputs(names):
    """Outputs of experts that are correct by the classes SORTED, in a store with the classes POOL."""
    target = np.arange(90) % 3
    probabilities = {
        name: np.eye(len(classes))[[classes.index(SORTED[number]) for number in target]]
        for name, classes in names.items()
    }
    return ExpertOutputs.from_arrays({"train": {"probabilities": probabilities, "target": target}}, names, POOL)


def test_diagnose_names_the_order_of_the_task():
    found = diagnose(outputs({"a": POOL, "b": ["Red", "green", "blue"]})).findings
    assert [line for line in found if line.startswith("CLASS ORDER")] == [
        "CLASS ORDER: one order of the task's classes explains the errors of all experts: the targets count Red, blue, "
        "green, in this order: set classes of the ExpertPool to it, and collect again."
    ]


def test_diagnose_names_a_single_expert():
    found = diagnose(outputs({"a": POOL})).findings
    assert [line.split(" (")[0] for line in found if line.startswith("CLASS ORDER")] == ["CLASS ORDER: a"]
