"""Two ways of doing one thing, measured side by side."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Prepare = Callable[[], Callable[[], object]]
"""Builds what is not measured and returns what is."""


@dataclass
class Result:
    """One line of the table.

    Attributes:
        name: Name of the benchmark.
        compared: What is divided by what.
        ratio: Median over the repeats; a ratio of wall times unless ``compared`` says otherwise.
        target: Largest acceptable ratio; None where the number is only reported.
        low: Smallest ratio of a repeat.
        high: Largest ratio of a repeat.
        cpu_ratio: The same of processor time, all threads together; waiting threads spin, so it is coarser.
    """

    name: str
    compared: str
    ratio: float
    target: float | None = None
    low: float | None = None
    high: float | None = None
    cpu_ratio: float | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.ratio <= self.target

    @classmethod
    def of_pairs(
        cls, name: str, compared: str, ours: list["Times"], theirs: list["Times"], target: float | None = None
    ) -> "Result":
        """The median of the ratios of neighboring runs, so that a slow minute of the machine hits both sides."""
        wall = [one.wall / other.wall for one, other in zip(ours, theirs, strict=True)]
        cpu = [one.cpu / other.cpu for one, other in zip(ours, theirs, strict=True)]
        return cls(name, compared, statistics.median(wall), target, min(wall), max(wall), statistics.median(cpu))


@dataclass
class Times:
    """Seconds on the wall and of the processor."""

    wall: float
    cpu: float

    def __sub__(self, other: "Times") -> "Times":
        return Times(self.wall - other.wall, self.cpu - other.cpu)


def clock(run: Callable[[], object]) -> Times:
    """Time one call."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Times(time.perf_counter() - wall, time.process_time() - cpu)


def interleave(sides: dict[str, Prepare], repeats: int) -> dict[str, list[Times]]:
    """Time the sides in turn, each once unmeasured first; every other round runs backwards."""
    for prepare in sides.values():
        prepare()()
    times: dict[str, list[Times]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in list(sides)[:: -1 if repeat % 2 else 1]:
            times[name].append(clock(sides[name]()))
    return times


def resident_mb(key: str) -> float:
    """Memory of this process, ``VmRSS`` now or ``VmHWM`` at its peak, in MB."""
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith(key)
    )
    return int(line.split()[1]) / 1024
