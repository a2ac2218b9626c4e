"""The fuser network of FoE as a teacher."""

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_fusion.foe.fusers import MLPFuser
from lightning_fusion.hat.fitted.base import ROWS, Evidence, FittedTeacher


class FoE(FittedTeacher):
    """Fuser network of FoE on the sources' probabilities (:class:`~lightning_fusion.FoEFuserModule` trains it in full).

    Args:
        num_sources: S.
        num_classes: C.
        epochs: Passes over the labeled samples, in batches of 64.
        rate: Learning rate of Adam.
    """

    def __init__(self, num_sources: int, num_classes: int, epochs: int = 100, rate: float = 1e-3) -> None:
        super().__init__()
        self.num_inputs, self.num_classes, self.epochs, self.rate = num_sources * num_classes, num_classes, epochs, rate
        self.network = MLPFuser(self.num_inputs, num_classes, (64, 64)).float().requires_grad_(False)

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Train the fuser."""
        values = evidence.log_probabilities.exp().flatten(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MLPFuser(self.num_inputs, self.num_classes, (64, 64)).to(values)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.rate, weight_decay=1e-2)
        generator = torch.Generator().manual_seed(seed)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for rows in torch.randperm(len(target), generator=generator).split(ROWS):
                    optimizer.zero_grad()
                    F.cross_entropy(network(values[rows]), target[rows]).backward()
                    optimizer.step()
        self.network.load_state_dict(network.state_dict())
        return self

    @torch.no_grad()
    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) probabilities of the fuser."""
        logits: Tensor = self.network(evidence.log_probabilities.exp().flatten(1))
        return logits.softmax(1)
