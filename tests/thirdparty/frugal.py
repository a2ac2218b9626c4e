"""A policy's parts by somebody else, and a module that adds a figure."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_fusion import FrugalFoEModule
from lightning_fusion.frugal.risk import KNNRisk
from lightning_fusion.frugal.subset_fusers import SubsetFuser


class Average(SubsetFuser):
    """The mean of what was said, in which the last expert asked may count more."""

    def __init__(self, last: float = 1.0) -> None:
        super().__init__()
        self.last = last

    def _mean(self, subset: Sequence[int], points: Tensor) -> Tensor:
        weights = torch.tensor([1.0] * (len(subset) - 1) + [self.last])
        return (points[list(subset)] * weights[:, None, None]).sum(0) / weights.sum()

    def predict(self, subset: Sequence[int], points: Tensor) -> Tensor:
        return self._mean(sorted(subset), points)

    def held_out(self, base: Sequence[int], additions: Sequence[Sequence[int]], rows: Tensor) -> Tensor:
        points = self._outputs[:, rows]
        return torch.stack([self._mean(sorted([*base, *added]), points) for added in additions])


class Wary(KNNRisk):
    """Takes every loss for larger than it is."""

    def __init__(self, factor: float = 1.5) -> None:
        super().__init__()
        self.factor = factor

    def total(self, looked: Tensor, base: Sequence[int], additions: Sequence[Sequence[int]]) -> Tensor:
        return self.factor * super().total(looked, base, additions)


class Counting(FrugalFoEModule):
    """Logs how many samples it tested."""

    def __init__(self, unit: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_rows", self.unit * len(batch.target), on_step=False, on_epoch=True, reduce_fx="sum")
        super().test_step(batch, batch_idx)
