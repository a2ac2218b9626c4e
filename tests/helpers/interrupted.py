"""Runs of collect that a failing expert interrupts, or that are killed."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers import tiny
from lightning_fusion import Expert, ExpertOutputs, ExpertPool, collect
from lightning_fusion.data.tensors import TensorDataModule

ROWS = 12


class Service:
    """Answers all samples but the last ones."""

    fails = True

    def __init__(self) -> None:
        self.queried = 0

    def __call__(self, x: Tensor) -> Tensor:
        if self.fails and x.max() == ROWS - 1:
            raise RuntimeError("the service is down")
        self.queried += len(x)
        return torch.cat([x, 1 - x], 1).softmax(1)


def run(folder: Path, service: Service, **arguments: Any) -> ExpertOutputs:
    data = {"test": (torch.arange(float(ROWS))[:, None], torch.arange(ROWS) % 2, torch.zeros(ROWS, 0))}
    pool = ExpertPool({"a": Expert(service, classes=["x", "y"], output="probabilities", version="1")})
    module = TensorDataModule(data, ["x", "y"], [], batch_size=4)
    return collect(pool, module, folder, ["test"], trainer=tiny.trainer(), **arguments)


def stop_half_way(folder: Path) -> None:
    """Replace a store with the outputs of another pool, and stop at the third batch of the second expert."""
    pool, calls = tiny.pool(1), []
    network = pool.experts["b"].network
    forward = network.forward

    def slow(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            Path("half-way").touch()
            time.sleep(300)
        return forward(x)

    network.forward = slow
    collect(pool, tiny.data(), folder, trainer=tiny.trainer(), overwrite=True)


SAMPLES = {"train": 20, "test": 12}


def samples(rows: dict[str, int] = SAMPLES, batch_size: int = 4) -> TensorDataModule:
    """Samples whose value is unique over all splits."""
    first = {"train": 0.0, "val": 500.0, "test": 1000.0}
    parts = {
        split: (first[split] + torch.arange(float(count))[:, None], torch.arange(count) % 2, torch.zeros(count, 0))
        for split, count in rows.items()
    }
    return TensorDataModule(parts, ["cat", "dog"], [], batch_size=batch_size)


def answer(x: Tensor, shift: float) -> Tensor:
    """Probabilities of a remote expert."""
    share = 0.25 + 0.5 * torch.sin(x[:, 0] + shift) ** 2
    return torch.stack([share, 1 - share], 1)


class Logged:
    """Writes each sample that it is queried for into a log, and may pause before the answer on sample 1004 is kept."""

    def __init__(self, log: Path, shift: float, pause_s: float) -> None:
        self.log, self.shift, self.pause_s = log, shift, pause_s

    def __call__(self, x: Tensor) -> Tensor:
        with open(self.log, "a", encoding="utf-8") as file:
            file.write("".join(f"{self.shift} {value}\n" for value in x[:, 0].tolist()))
        if self.pause_s and 1004.0 in x[:, 0].tolist():
            Path("half-way").touch()
            time.sleep(self.pause_s)
        return answer(x, self.shift)


def collect_logged(folder: Path, pause_s: float = 0.0, processes: int = 1) -> None:
    """Collect the outputs of two logged experts into ``folder / "store"``; the second may pause."""
    services = {"a": Logged(folder / "log", 0.0, 0.0), "b": Logged(folder / "log", 1.0, pause_s)}
    experts = {
        name: Expert(service, classes=["cat", "dog"], output="probabilities", version=name)
        for name, service in services.items()
    }
    trainer = tiny.trainer(**({"devices": processes, "strategy": "ddp"} if processes > 1 else {}))
    collect(ExpertPool(experts, ["cat", "dog"]), samples(), folder / "store", list(SAMPLES), trainer=trainer)
