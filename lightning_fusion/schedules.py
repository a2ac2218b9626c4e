"""Schedules: functions from training progress in [0, 1] to a float.

Progress is derived from the trainer's step count, so a resumed run continues the schedule. A schedule is plain data and
can be part of a checkpoint and of a YAML, by ``class_path``.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

from lightning_fusion.errors import InputError


class Schedule(ABC):
    """Base class of schedules; subclasses are frozen dataclasses."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the value at ``progress``, 0 at the first step and 1 after the last."""


class _Finite(Schedule):
    def __post_init__(self) -> None:
        """Raise InputError for a value that is no finite number."""
        for field in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            if not math.isfinite(value := getattr(self, field.name)):
                raise InputError(f"{type(self).__name__}: {field.name} is {value}; expected a finite number")


@dataclass(frozen=True)
class Constant(_Finite):
    """Constant value.

    Args:
        value: Value of every step.

    Example:
        >>> Constant(0.3)(0.5)
        0.3
    """

    value: float = 1.0

    def __call__(self, progress: float) -> float:
        """Return the value."""
        return self.value


@dataclass(frozen=True)
class Linear(_Finite):
    """Linear warm-up or decay over a part of the training, constant before and after it.

    Args:
        start: Value up to progress ``begin``.
        end: Value from progress ``until`` on.
        begin: Progress at which the line begins.
        until: Progress at which it ends.

    Example:
        >>> margin = Linear(0.0, 0.2, begin=0.1, until=0.5)
        >>> [round(margin(progress), 3) for progress in (0.0, 0.3, 0.8)]
        [0.0, 0.1, 0.2]
    """

    start: float = 0.0
    end: float = 1.0
    begin: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.begin < self.until <= 1:
            raise InputError(f"Linear: begin is {self.begin}, until {self.until}; expected 0 <= begin < until <= 1")

    def __call__(self, progress: float) -> float:
        """Return the value at ``progress``."""
        share = min(1.0, max(0.0, (progress - self.begin) / (self.until - self.begin)))
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class DANNRamp(_Finite):
    """Sigmoid ramp from 0 to nearly ``maximum``: maximum * (2 / (1 + exp(-steepness * progress)) - 1).

    Source: Ganin and Lempitsky, Unsupervised Domain Adaptation by Backpropagation, ICML 2015, section 4.1.

    Args:
        maximum: Limit, reached to 1 part in 10,000 at progress 1.
        steepness: 10 in the paper.

    Example:
        >>> ramp = DANNRamp(2.0)
        >>> ramp(0.0), round(ramp(0.1), 3), round(ramp(1.0), 3)
        (0.0, 0.924, 2.0)
    """

    maximum: float = 1.0
    steepness: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steepness <= 0:
            raise InputError(f"DANNRamp: steepness is {self.steepness}; expected a number above 0")

    def __call__(self, progress: float) -> float:
        """Return the value at ``progress``."""
        return self.maximum * math.tanh(self.steepness * progress / 2)  # the same, and exact for large steepness
