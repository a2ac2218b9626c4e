import math

import pytest

from lightning_fusion.errors import InputError
from lightning_fusion.schedules import Constant, DANNRamp, Linear


@pytest.mark.parametrize("progress", [0.0, 0.03, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("maximum", [0.1, 1.0, -3.0])
def test_the_ramp_is_the_papers_formula(progress, maximum):
    assert DANNRamp(maximum)(progress) == pytest.approx(maximum * (2 / (1 + math.exp(-10 * progress)) - 1), abs=1e-12)


def test_a_very_steep_ramp_does_not_overflow():
    assert DANNRamp(1.0, steepness=1e6)(1.0) == 1.0


@pytest.mark.parametrize(
    ("progress", "value"), [(0.0, 2.0), (0.25, 2.0), (0.5, 1.0), (0.75, 0.0), (1.0, 0.0), (1.2, 0.0)]
)
def test_a_line_is_level_outside_its_part(progress, value):
    assert Linear(2.0, 0.0, begin=0.25, until=0.75)(progress) == pytest.approx(value)


def test_values_are_python_floats():
    assert all(type(schedule(0.3)) is float for schedule in (Constant(), Linear(), DANNRamp()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Linear(begin=0.5, until=0.5), "begin is 0.5, until 0.5"),
        (lambda: Linear(until=1.5), "until 1.5"),
        (lambda: DANNRamp(steepness=0), "steepness is 0"),
        (lambda: DANNRamp(float("nan")), "maximum is nan"),
        (lambda: Constant(float("inf")), "value is inf"),
    ],
)
def test_what_is_no_schedule_is_rejected(build, message):
    with pytest.raises(InputError, match=message):
        build()
