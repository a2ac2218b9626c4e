"""A run of collect that a failing expert interrupts."""

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
