"""A student that trusts its sources less and less."""

from typing import Any

from torch import Tensor

from lightning_fusion import HaTJointModule


class Fading(HaTJointModule):
    """The injection fades over the training; passes on whatever the library's module takes."""

    def __init__(self, half: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.half = half

    def strength(self) -> Tensor | float:
        return super().strength() * 0.5 ** (self.progress / self.half)
