"""Two experts that answer differently have two fingerprints, wherever the difference is."""

import importlib
import sys
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from lightning_fusion import Expert
from lightning_fusion.experts.identity import state_digest

X = np.random.default_rng(0).normal(size=(20, 2))
ONE, OTHER = (LogisticRegression().fit(X, X[:, column] > 0) for column in (0, 1))
LOW = 0.5


def renamed(function):
    function.__qualname__ = "same"
    return function


def inner(factor):
    """Functions of equal names, with another function inside; the factor is a constant of its code."""
    scope: dict = {}
    exec(f"def made(x):\n    return [(lambda v: v * {factor})(v) for v in x]", globals(), scope)
    return scope["made"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x.exp(), lambda x: x.abs()),
        (lambda x: np.sin(x), lambda x: np.cos(x)),
        (inner(2), inner(3)),
    ],
    ids=["method", "function of a module", "function inside"],
)
def test_code_is_more_than_its_operations(one, other):
    assert state_digest(renamed(one)) != state_digest(renamed(other))


def test_globals_of_functions_inside(monkeypatch):
    def above(x):
        return [value > LOW for value in x]

    before = state_digest(above)
    assert state_digest(above) == before
    monkeypatch.setitem(globals(), "LOW", 0.7)
    assert state_digest(above) != before


class Wrapper(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.state, self.activation, self.count = state, functional.relu, 0

    def forward(self, x):
        self.count += 1
        return self.linear(x)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([ONE], [OTHER]),
        ({"a": (1, ONE)}, {"a": (1, OTHER)}),
        ({"scale": X}, {"scale": X + 1}),
        (1.0, 2.0),
        (ONE.predict_proba, OTHER.predict_proba),
        (partial(ONE.predict_proba), partial(OTHER.predict_proba)),
        (lambda x: ONE.predict_proba(x), lambda x: OTHER.predict_proba(x)),
    ],
    ids=["list", "nested", "arrays", "temperature", "method", "partial", "function"],
)
def test_what_a_module_holds(one, other):
    torch.manual_seed(0)
    first = Wrapper(one)
    second, again = Wrapper(other), Wrapper(one)
    second.load_state_dict(first.state_dict())
    again.load_state_dict(first.state_dict())
    prints = [Expert(each, classes=["a", "b"]) for each in (first, second, again)]
    prints[0](torch.zeros(3, 2))  # counters are no state
    found = [expert.fingerprint for expert in prints]
    assert found[0] == found[2] != found[1]
    assert prints[0].unknown_state() is None


class TestModulesOfTheUser:
    """What functions read from other modules of the user's own code is part of their fingerprint."""

    ASK = """
import numpy
import settings
from helper import scaled


def ask(texts):
    return [[settings.HIGH, 1 - settings.HIGH] for _ in texts]


def scaling(texts):
    return scaled(texts)


def scaling_by_module(texts):
    return settings.helper.scaled(texts)


def reading(texts):
    return settings.session, numpy.array(texts)
"""

    @pytest.fixture
    def load(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        names = ("ask_of_user", "settings", "helper")

        def made(high: str = "0.9", factor: int = 2):
            for name in names:
                sys.modules.pop(name, None)
            importlib.invalidate_caches()
            (tmp_path / "ask_of_user.py").write_text(self.ASK)
            settings = f"import helper\nimport threading\nHIGH = {high}\nsession = threading.Lock()\n"
            (tmp_path / "settings.py").write_text(settings)
            (tmp_path / "helper.py").write_text(
                f"FACTOR = {factor}\n\n\ndef scaled(texts):\n    return texts * FACTOR\n"
            )
            return importlib.import_module("ask_of_user")

        monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files of one second and size are one to the cache
        yield made
        for name in names:
            sys.modules.pop(name, None)

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("ask", {"high": "0.8"}),
            ("scaling", {"factor": 3}),
            ("scaling_by_module", {"factor": 3}),
        ],
    )
    def test_a_change_counts(self, name, change, load):
        before = state_digest(getattr(load(), name))
        assert state_digest(getattr(load(), name)) == before
        assert state_digest(getattr(load(**change), name)) != before

    def test_arrays_and_values_that_cannot_be_read(self, load):
        found = [state_digest(load(f"__import__('numpy').arange({count})").ask) for count in (2, 2, 3)]
        assert found[0] == found[1] != found[2]
        assert state_digest(load().reading) == state_digest(load("1").reading)  # a lock, which is left out

    def test_functions_that_call_one_another_end(self):
        scope: dict = {}
        calls = ", ".join(f"f{number}(x)" for number in range(20))
        lines = [f"def f{number}(x):\n    return [{calls}, {number}]" for number in range(20)]
        exec("\n".join(lines), scope)
        assert state_digest(scope["f19"]) == state_digest(scope["f19"])
