"""Different states have different fingerprints, equal states equal ones, in any process."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import nn

from lightning_fusion import Expert, ExpertPool, collect
from lightning_fusion.errors import InputError
from lightning_fusion.experts.identity import UnknownStateError, state_digest

TWO = ["0", "1"]
GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(40, 3)), GENERATOR.integers(2, size=40)
SCALE = np.array([1.0])


class FromFile:
    """A network of another runtime: its arguments name a file."""

    def __init__(self, path):
        self.path = path

    def __call__(self, x):
        return torch.zeros(len(x), 2)


class Session(FromFile):
    def __init__(self, path=""):
        super().__init__(path)
        self.lock = threading.Lock()


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return torch.tensor(self.model.predict_proba(x.numpy()))


def uses_a_global(x):
    return x * SCALE


def print_of(network, **arguments):
    return Expert(network, classes=TWO, output="probabilities", **arguments).fingerprint


@pytest.mark.parametrize(
    "make",
    [
        LogisticRegression,
        partial(RandomForestClassifier, 3, random_state=0),
        partial(GradientBoostingClassifier, n_estimators=3, random_state=0),
        KNeighborsClassifier,
        partial(SVC, probability=False),
    ],
    ids=["logistic", "forest", "boosting", "neighbors", "svm"],
)
def test_estimators_are_their_fitted_state(make):
    one, again, other = make().fit(X, Y), make().fit(X, Y), make().fit(X, 1 - Y)
    assert state_digest(one) == state_digest(again) != state_digest(other)


def test_two_fits_behind_one_method_are_two_experts():
    one, other = LogisticRegression().fit(X, Y), LogisticRegression().fit(X, 1 - Y)
    assert print_of(one.predict_proba) != print_of(other.predict_proba)
    assert print_of(one.predict_proba) == print_of(LogisticRegression().fit(X, Y).predict_proba)
    assert print_of(Wrapper(one)) != print_of(Wrapper(other))
    assert print_of(Wrapper(one)) == print_of(Wrapper(LogisticRegression().fit(X, Y)))


def test_functions_are_their_code_and_what_they_use(monkeypatch):
    def scaled(by):
        return lambda x: x * by

    assert state_digest(scaled(2)) == state_digest(scaled(2)) != state_digest(scaled(3))
    assert state_digest(partial(np.full, fill_value=1)) != state_digest(partial(np.full, fill_value=2))
    assert state_digest(lambda x: x + 1) != state_digest(lambda x: x + 2)
    before = state_digest(uses_a_global)
    monkeypatch.setitem(globals(), "SCALE", np.array([2.0]))
    assert state_digest(uses_a_global) != before


def test_the_content_of_a_named_file_counts(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"one")
    one = print_of(FromFile(str(path)))
    assert print_of(FromFile(path)) != one  # a path is another argument than a text
    path.write_bytes(b"two")
    assert print_of(FromFile(str(path))) != one
    path.write_bytes(b"one")
    assert print_of(FromFile(str(path))) == one


def test_objects_that_contain_themselves():
    one, other = FromFile("a"), FromFile("a")
    one.me, other.me = one, other
    assert state_digest(one) == state_digest(other)


def test_version_counts_for_every_expert():
    net = nn.Linear(3, 2)
    assert print_of(net, version="1") != print_of(net, version="2")
    assert print_of(Session(), version="1") != print_of(Session(), version="2")


def test_a_state_that_cannot_be_read_is_named():
    with pytest.raises(UnknownStateError, match="lock"):
        state_digest(Session())
    assert "lock" in Expert(Session(), classes=TWO).unknown_state()
    assert Expert(Session(), classes=TWO, version="1").unknown_state() is None
    assert Expert(nn.Linear(3, 2), classes=TWO).unknown_state() is None


class Silent(nn.Module):
    """A module around a session that cannot be read."""

    def __init__(self):
        super().__init__()
        self.session = Session()
        self.session.predict = self.session

    def forward(self, x):
        return torch.full((len(x), 2), 0.5)


def test_a_module_around_what_cannot_be_read():
    assert "lock" in Expert(Silent(), classes=TWO).unknown_state()
    assert Expert(Silent(), classes=TWO, version="1").unknown_state() is None
    assert print_of(Silent(), version="1") != print_of(Silent(), version="2")


def test_a_state_nested_too_deeply_is_named():
    nested = []
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(UnknownStateError, match="nested too deeply"):
        state_digest(nested)


class TestStores:
    DATA = {"test": (torch.tensor(X), torch.tensor(Y))}

    def pool(self, network, **arguments):
        return ExpertPool({"a": Expert(network, classes=TWO, output="probabilities", **arguments)})

    def test_another_fit_is_collected_anew_or_rejected(self, tmp_path):
        one, other = LogisticRegression().fit(X, Y), LogisticRegression().fit(X, 1 - Y)
        collect(self.pool(one.predict_proba), self.DATA, tmp_path)
        collect(self.pool(one.predict_proba), self.DATA, tmp_path)  # the same: reused
        with pytest.raises(InputError, match="from another expert a"):
            collect(self.pool(other.predict_proba), self.DATA, tmp_path)
        found = collect(self.pool(other.predict_proba), self.DATA, tmp_path, overwrite=True)
        np.testing.assert_allclose(found.scattered("test")[:, 0], other.predict_proba(X), rtol=1e-6)

    def test_an_unknown_state_is_not_reused_without_a_version(self, tmp_path):
        class Remote(Session):
            def __call__(self, x):
                return torch.full((len(x), 2), 0.5)

        collect(self.pool(Remote()), self.DATA, tmp_path / "a")
        with pytest.raises(InputError, match=r"expert a, and whether it has changed .*lock.*set the expert's version"):
            collect(self.pool(Remote()), self.DATA, tmp_path / "a")
        collect(self.pool(Remote(), version="3"), self.DATA, tmp_path / "b")
        collect(self.pool(Remote(), version="3"), self.DATA, tmp_path / "b")
