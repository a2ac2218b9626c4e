"""Experts that fail in a run on raw input follow the rule of collect: an error, or a missing answer."""

import math
import warnings

import pytest
import torch
from helpers import tiny

from lightning_fusion import (
    Expert,
    ExpertPool,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    OutputsDataModule,
    collect,
)
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError

CLASSES = ["cat", "dog"]


def fails(x):
    if bool((x[:, 0] > 0.8).any()):
        raise OSError("too long")
    return answer(x)


def has_gaps(x):
    return [None if row[0] > 0.8 else values for row, values in zip(x.tolist(), answer(x), strict=True)]


def answer(x):
    return [[1 - value, value] for value in x[:, 1].tolist()]


class Gaps(torch.nn.Module):
    def forward(self, x):
        found = torch.stack([1 - x[:, 1], x[:, 1]], 1)
        return found.masked_fill(x[:, :1] > 0.8, math.nan)


FAILURES = {"raises": (fails, "OSError: too long"), "None": (has_gaps, "NaN or None"), "a network": (Gaps(), "NaN")}
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "a network")) for kind in FAILURES]


def data():
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split, rows in (("train", 96), ("val", 48), ("test", 48)):
        x = torch.rand(rows, 3, generator=generator)
        splits[split] = x, (x[:, 1:].mean(1) > 0.5).long()
    return TensorDataModule(splits, CLASSES, batch_size=32)


def pool(network):
    other = Expert(lambda x: torch.stack([1 - x[:, 2], x[:, 2]], 1), classes=CLASSES, output="probabilities")
    return ExpertPool({"failing": Expert(network, classes=CLASSES, output="probabilities"), "other": other})


def fuser(experts=None, **arguments):
    torch.manual_seed(0)
    named = None if experts is not None else dict.fromkeys(("failing", "other"), CLASSES)
    return FoEFuserModule(experts, CLASSES if experts is None else None, named, **arguments)


def module(experts=None, **arguments):
    named = None if experts is not None else dict.fromkeys(("failing", "other"), CLASSES)
    return FrugalFoEModule(FrugalFoE(neighbors=10, **arguments), experts, CLASSES, named)


def run(model, source):
    """Fit, and return the metrics of the test split and the probabilities."""
    trainer = tiny.trainer(2)
    trainer.fit(model, source)
    metrics = trainer.test(model, source, verbose=False)[0]
    found = trainer.predict(model, source.test_dataloader())
    return metrics, torch.cat([batch["probabilities"] for batch in found])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
class TestRawInput:
    @pytest.mark.parametrize("make", [fuser, module])
    def test_fails_by_default(self, kind, make):
        network, reason = FAILURES[kind]
        with pytest.raises(InputError, match=rf"^expert failing .*{reason}.*; on_failure='skip' continues without it$"):
            tiny.trainer(1).fit(make(pool(network)), data())

    @pytest.mark.slow
    @pytest.mark.parametrize("make", [fuser, module])
    def test_continues_as_on_stored_outputs(self, kind, make):
        network = FAILURES[kind][0]
        raw = run(make(pool(network), on_failure="skip"), data())
        stored = collect(pool(network), data(), trainer=tiny.trainer(), on_failure="skip")
        cached = OutputsDataModule(stored, batch_size=32)
        options = {"on_failure": "skip"} if make is module else {}
        metrics, probabilities = run(make(**options), cached)
        assert raw[0] == pytest.approx(metrics) and 0 < stored["test"].missing.sum() < 48
        assert torch.allclose(raw[1], probabilities)


def test_failures_are_reported_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny.trainer(2).fit(fuser(pool(has_gaps), on_failure="skip"), data())
    (said,) = [str(each.message) for each in caught if "failing" in str(each.message)]
    lost = 2 * sum(int((data().rows(split).inputs[:, 0] > 0.8).sum()) for split in ("train", "val"))
    assert said.startswith(f"{lost} of 288 answers of expert failing are missing in fit: it returned NaN or None")


def test_an_expert_that_never_answers_raises():
    with pytest.raises(InputError, match=r"expert failing has no valid answer for any of the first \d+ samples"):
        tiny.trainer(1).fit(fuser(pool(lambda x: None), on_failure="skip"), data())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_failure": "ignore"}, "on_failure is 'ignore'"),
        ({"on_failure": "skip", "representation_dims": {"failing": 2, "other": 2}}, "a representation cannot be miss"),
    ],
)
def test_impossible_options(arguments, message):
    with pytest.raises(InputError, match=message):
        fuser(**arguments)
