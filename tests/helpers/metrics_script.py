"""What one of several processes adds to metrics in ``metrics/test_gathering.py``."""

import json
from pathlib import Path

import torch
from torch import Tensor, distributed

from lightning_fusion.metrics import LinearCKA
from lightning_fusion.verification.metrics import Verification

PARTS = [[[0, 1, 2, 3, 4], [5, 6]], [[7, 8, 9], [0]]]
"""Samples per process and batch: as many as they are not, and one repeated by a distributed sampler."""
PAIRS = torch.tensor([[0, 5], [1, 6], [2, 7], [3, 8], [4, 9], [0, 6], [1, 5], [2, 8], [9, 3]])
SAME = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 0])


def representations() -> tuple[Tensor, Tensor]:
    """(10, 4) and (10, 3), whose pairs i and i + 5 resemble each other."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(5, 4, generator=generator).repeat(2, 1)
    return tuple((base + 0.9 * torch.randn(10, 4, generator=generator))[:, :width].contiguous() for width in (4, 3))


def figures(parts: list[list[int]]) -> dict[str, float | list[float]]:
    """What the metrics say after some batches, gathered over the processes there are."""
    x, y = representations()
    verification, alignment = Verification(num_members=2), LinearCKA(4, 3)
    verification.set_trials(PAIRS, SAME)
    for part in parts:
        verification.update([x[part], y[part]], torch.tensor(part))
        alignment.update(x[part], y[part])
    found = {"cka": alignment.compute().item()}
    found |= {name: value.tolist() for name, value in verification.compute().items()}
    assert len(verification.index) == 1 + len(parts)  # after the gathering, a process has its own rows again
    idle = Verification()  # only process 0 has rows
    idle.set_trials(PAIRS, SAME)
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        idle.update([x], torch.arange(10))
    return found | {"idle": idle.compute()["eer"].item()}


def work() -> None:
    """Write the figures of this process, which is one of several."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    Path(f"{rank}.json").write_text(json.dumps(figures(PARTS[rank])))
    distributed.destroy_process_group()
