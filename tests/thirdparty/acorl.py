"""A dissimilarity, a projection and a schedule of somebody else, and a module whose experts count unalike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_fusion import ACoRLModule
from lightning_fusion.acorl.dissimilarity import CenteredCosine
from lightning_fusion.schedules import Schedule


class Whitened(CenteredCosine):
    """The cosine after every feature was divided by a power of its size."""

    def __init__(self, num_features: int, num_classes: int, power: float = 1.0) -> None:
        super().__init__(num_features, num_classes)
        self.power = power

    def measure(self, projected: Tensor, representation: Tensor, target: Tensor) -> Tensor:
        size = representation.abs().mean(0).clamp_min(1e-3) ** self.power
        return super().measure(projected, representation / size, target)


class Bottleneck(nn.Sequential):
    """A projection through a few numbers."""

    def __init__(self, num_inputs: int, num_outputs: int, width: int = 3) -> None:
        super().__init__(nn.Linear(num_inputs, width), nn.Tanh(), nn.Linear(width, num_outputs))


@dataclass
class Late(Schedule):
    """Nothing first, everything afterwards."""

    begin: float = 0.5
    strength: float = 1.0

    def __call__(self, progress: float) -> float:
        return self.strength * (progress >= self.begin)


class Weighted(ACoRLModule):
    """Some experts count more than others; passes on whatever the library's module takes."""

    def __init__(self, weights: dict[str, float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weights = weights or {}

    def complementarity(
        self, z: Tensor, representations: Mapping[str, Tensor], target: Tensor, strength: float
    ) -> dict[str, Tensor]:
        found = super().complementarity(z, representations, target, strength)
        return {name: self.weights.get(name, 1.0) * value for name, value in found.items()}
