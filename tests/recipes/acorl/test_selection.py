import math

import numpy as np
import pytest

from lightning_fusion import ExpertOutputs
from lightning_fusion.acorl.forecast import Forecast
from lightning_fusion.recipes.acorl.arms import by_strength, study_arms
from lightning_fusion.recipes.acorl.selection import Criterion, choose_strength

NAMES = ["plain", "ACoRL 0.3", "ACoRL 1"]
AGREES = Forecast(r2=0.1, accuracy=0.9, shifted=0.1, other=math.nan, chance=0.1, samples=20)
OBJECTS = Forecast(r2=0.5, accuracy=0.9, shifted=0.8, other=math.nan, chance=0.1, samples=20)


def samples(rights: list[int]) -> Criterion:
    """Twenty samples, of which the pools with the first member, always unsure, get so many right."""
    target = np.arange(20) % 2
    answers = {"first": np.full((20, 2), 0.5)}
    for name, right in zip(NAMES, rights, strict=True):
        answers[name] = np.eye(2)[np.where(np.arange(20) < right, target, 1 - target)]
    split = {"probabilities": answers, "target": target}
    return Criterion(ExpertOutputs.from_arrays({"val": split}, {name: ["a", "b"] for name in answers}), np.arange(20))


@pytest.mark.parametrize(
    ("rights", "forecast", "chosen"),
    [
        ([5, 9, 12], AGREES, 2),
        ([5, 9, 9], AGREES, 1),
        ([9, 9, 9], AGREES, 0),
        ([9, 5, 3], AGREES, 0),
        ([5, 9, 12], OBJECTS, 0),
    ],
)
def test_the_best_strength_on_shifted_samples_is_chosen_unless_the_forecast_objects(rights, forecast, chosen):
    found = choose_strength({name: ["first", name] for name in NAMES}, forecast, samples(rights))
    assert found.arm == NAMES[chosen]
    if forecast is AGREES:
        parts = ", ".join(f"{name} {right / 20:.2f}" for name, right in zip(NAMES, rights, strict=True))
        assert found.reason == f"accuracy of the pool: {parts}"
    else:
        assert found.reason.endswith("experts 0.90 as trained, 0.80 shifted: they do not live on a cue that breaks")


def test_strengths_are_compared_among_arms_that_are_else_alike():
    arms = study_arms([1.0, 0.3], 20.0, 10.0, 1.6)
    weighed = ["error reweighting", "ACoRL 0.3 + error reweighting", "ACoRL 1 + error reweighting"]
    assert by_strength(arms) == {"plain": NAMES, "error reweighting": weighed}
    assert by_strength({name: arms[name] for name in ("plain", "error diversity", "ACoRL 1, joint")}) == {}
