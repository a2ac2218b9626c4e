"""Queries of remote experts cost money: none is made in vain, and messages say what another run pays for."""

import pytest
import torch
from helpers import tiny

from lightning_fusion import Expert, ExpertPool, collect
from lightning_fusion.errors import InputError

CLASSES = ["cat", "dog"]
STATE = {"calls": 0}


def counting(x: torch.Tensor) -> torch.Tensor:
    STATE["calls"] += 1
    return torch.full((len(x), 2), 0.5)


class Service:
    """A function that fails on the samples of some numbers."""

    def __init__(self, *fails: int) -> None:
        self.fails, self.calls = torch.tensor(fails), 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if torch.isin(x[:, 0].long(), self.fails).any():
            raise NameError("name 'promt' is not defined")
        return torch.full((len(x), 2), 0.5)


def data(rows: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {"test": (torch.arange(float(rows))[:, None], torch.arange(rows) % 2)}


def pool_of(function, version: str = "v1") -> ExpertPool:
    return ExpertPool({"api": Expert(function, classes=CLASSES, output="probabilities", version=version)})


def ask(model: str):
    """Functions of one factory, which have the same code."""
    share = {"gpt-4o": 0.875, "claude": 0.25, "llama": 0.625}[model]
    return lambda x: torch.tensor([[share, 1 - share]]).repeat(len(x), 1)


def test_functions_of_one_factory_and_version_are_different_experts(tmp_path, recwarn):
    def shares(*names: str, **versions: str) -> list[float]:
        experts = {
            name: Expert(ask(name), classes=CLASSES, output="probabilities", version=versions.get(name, "v1"))
            for name in names
        }
        found = collect(ExpertPool(experts), data(4), tmp_path, trainer=tiny.trainer())["test"]
        return [found.probabilities[name][0, 0].item() for name in names]

    assert shares("gpt-4o", "claude") == [0.875, 0.25]
    with pytest.raises(InputError, match="llama has the code and the version of gpt-4o, whose answers are"):
        shares("claude", "llama")
    assert shares("claude", "llama", llama="v2") == [0.25, 0.625]
    assert shares("gpt-4o", "llama", llama="v2") == [0.875, 0.625]  # gpt-4o has left, and returns
    assert not any("same weights" in str(each.message) for each in recwarn)


@pytest.mark.parametrize("retries", [0, 2])
def test_an_expert_that_fails_on_its_first_samples_stops_the_run(retries, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    service = Service(*range(600))
    with pytest.raises(InputError, match=r"expert api has no valid answer for any of the first 256 samples: it failed"):
        collect(pool_of(service), data(600), trainer=tiny.trainer(), on_failure="skip", retries=retries)
    assert service.calls == 2 * 256 - 1 + retries  # the first batch alone, halved once


def test_an_expert_that_fails_later_continues(tmp_path):
    service = Service(*range(256, 260))
    with pytest.warns(UserWarning, match="answers of expert api are missing: 4 of 260 in test; it failed with NameErr"):
        found = collect(pool_of(service), data(260), tmp_path, trainer=tiny.trainer(), on_failure="skip")
    assert found["test"].missing.sum() == 4
    service.calls = 0
    with pytest.warns(UserWarning, match=r"4 of 260 in test; they stay missing: retry_missing .*queries these again"):
        collect(pool_of(service), data(260), tmp_path, trainer=tiny.trainer(), on_failure="skip", retries=2)
    assert service.calls == 0


def test_a_function_with_a_counter_is_reported_once_it_has_run(tmp_path):
    pool = pool_of(counting, version="")
    with pytest.warns(UserWarning, match=r"state of expert\(s\) api has changed .* a function .* needs version="):
        collect(pool, data(4), tmp_path, trainer=tiny.trainer())
    with pytest.raises(InputError, match=r"another expert api: .* a function whose variables change needs version="):
        collect(pool, data(4), tmp_path, trainer=tiny.trainer())


def test_a_version_replaces_the_state(tmp_path, recwarn):
    collect(pool_of(counting), data(4), tmp_path, trainer=tiny.trainer())
    collect(pool_of(counting), data(4), tmp_path, trainer=tiny.trainer())
    assert not [warning for warning in recwarn if "state of expert" in str(warning.message)]
