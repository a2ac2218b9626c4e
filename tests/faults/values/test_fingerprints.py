"""Two experts that answer differently have two fingerprints, wherever the difference is."""

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
