"""Measurement of the cost of experts."""

import statistics
import time
from collections.abc import Mapping
from typing import Any, Literal

import torch

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.pool import ExpertPool


def measure_costs(
    pool: ExpertPool,
    input: Any,
    kind: Literal["flops", "latency"] = "flops",
    relative: bool = True,
    repeats: int = 5,
) -> dict[str, float]:
    """Measure the cost per sample of each expert.

    Args:
        pool: Pool of experts.
        input: Representative batch, on the device of the experts.
        kind: ``flops``: floating-point operations, by torch's counter; ``latency``: wall time in seconds, the median of
            ``repeats`` runs after a warm-up. Latency per sample depends on the batch size.
        relative: Divide by the mean over experts, so that the mean cost is 1 and trade-offs are comparable.
        repeats: Number of latency measurements.

    Returns:
        Cost by expert.

    Raises:
        InputError: If torch counts no operation of an expert (a plain callable), or all costs are 0.

    Example:
        >>> from torch import nn
        >>> from lightning_fusion import Expert
        >>> networks = {"a": nn.Linear(4, 2), "b": nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))}
        >>> pool = ExpertPool({name: Expert(network, classes=["cat", "dog"]) for name, network in networks.items()})
        >>> measure_costs(pool, torch.zeros(8, 4), relative=False)
        {'a': 16.0, 'b': 72.0}
    """
    if kind not in ("flops", "latency"):
        raise InputError(f"kind is {kind!r}; expected flops or latency")
    rows = _length(input)
    if not rows:
        raise InputError("input: found no samples; expected a batch of at least one")
    measure = _flops if kind == "flops" else _latency
    costs = {name: measure(expert, input, repeats) / rows for name, expert in pool.members.items()}
    free = [name for name, cost in costs.items() if not cost > 0]
    if free:
        raise InputError(
            f"costs: torch counts no operation of expert(s) {shorten(free)}; measure latency, or give costs"
        )
    if relative:
        mean = statistics.fmean(costs.values())
        costs = {name: cost / mean for name, cost in costs.items()}
    return costs


def _length(input: Any) -> int:
    return _length(next(iter(input.values()))) if isinstance(input, Mapping) else len(input)


def _flops(expert: torch.nn.Module, input: Any, repeats: int) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        expert(input)
    return float(counter.get_total_flops())


def _latency(expert: torch.nn.Module, input: Any, repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        _wait()
        start = time.perf_counter()
        expert(input)
        _wait()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
