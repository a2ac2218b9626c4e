"""Problems that are small enough to be solved in a moment."""

from typing import Any

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor, nn

from lightning_fusion import Expert, ExpertOutputs, ExpertPool
from lightning_fusion.data.tensors import TensorDataModule

CLASSES = ["cat", "dog", "owl"]
EXPERT_CLASSES = {"a": ["cat", "dog"], "b": ["owl", "dog"]}
DOMAINS = ["x", "y"]
ROWS = {"train": 24, "val": 9, "test": 11}


class Net(nn.Module):
    """Four numbers in, logits out; with batch norm and dropout where they matter."""

    def __init__(self, num_classes: int, hidden: int = 5, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(4, hidden), nn.BatchNorm1d(hidden) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.body(input))


class LinearFuser(nn.Module):
    """A fuser that is not the house's own."""

    def __init__(self, num_inputs: int, num_outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.linear = nn.Linear(num_inputs, num_outputs)

    def forward(self, outputs: Tensor) -> Tensor:
        return self.scale * self.linear(outputs)


class CountingNet(nn.Module):
    """Counts how many rows it was asked about."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net, self.rows = Net(num_classes), 0

    def forward(self, input: Tensor) -> Tensor:
        self.rows += len(input)
        return self.net(input)


def experts(seed: int = 0, norm: bool = True, features: str | None = None) -> dict[str, Expert]:
    """Two experts that know two of three classes each."""
    torch.manual_seed(seed)
    return {
        name: Expert(Net(2, norm=norm), classes=classes, domains=[domain], features=features)
        for (name, classes), domain in zip(EXPERT_CLASSES.items(), DOMAINS, strict=True)
    }


def pool(seed: int = 0, **arguments: Any) -> ExpertPool:
    return ExpertPool(experts(seed, **arguments), CLASSES)


def tensors(seed: int = 0, rows: dict[str, int] = ROWS) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """For each split inputs (N, 4), targets (N,) and memberships (N, 2): cats are x, owls y, dogs both."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for split, count in rows.items():
        target = torch.randint(3, (count,), generator=generator)
        input = torch.randn(count, 4, generator=generator) + target[:, None]
        result[split] = (input, target, torch.stack([target != 2, target != 0], 1))
    return result


def data(seed: int = 0, batch_size: int = 4, rows: dict[str, int] = ROWS) -> TensorDataModule:
    return TensorDataModule(tensors(seed, rows), CLASSES, DOMAINS, batch_size=batch_size)


def outputs(seed: int = 0, rows: dict[str, int] = ROWS) -> ExpertOutputs:
    """Outputs of two experts that are right more often than not on what they know."""
    generator = np.random.default_rng(seed)
    splits = {}
    for split, count in rows.items():
        target = generator.integers(3, size=count)
        splits[split] = {
            "probabilities": {
                name: softmax(2.0 * (np.array([CLASSES.index(c) for c in classes]) == target[:, None]) + noise)
                for (name, classes), noise in zip(
                    EXPERT_CLASSES.items(), generator.normal(size=(2, count, 2)), strict=True
                )
            },
            "target": target,
            "domain": np.stack([target != 2, target != 0], 1),
        }
    owned = {"a": ["x"], "b": ["y"]}
    return ExpertOutputs.from_arrays(splits, EXPERT_CLASSES, CLASSES, DOMAINS, owned)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def trainer(epochs: int = 1, **arguments: Any) -> Trainer:
    """A Trainer that writes nothing and says nothing."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(max_epochs=epochs, **(quiet | arguments))


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have bit-identical weights."""
    left, right = one.state_dict(), other.state_dict()
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)
