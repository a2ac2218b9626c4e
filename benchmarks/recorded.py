"""Recorded outputs as CIFAR-100 gives them: 100 fine classes in 20 super-classes, and experts that know 30 of them."""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

CLASSES, FINE = 20, 100
PEAK, LEAN, HABIT, HARD, NOISE = 7.0, 2.5, 2.2, 1.8, 0.6
"""Logits: of the right class where an expert knows the fine one, and where it does not; spread of what it takes each
unknown class for; noise that all experts share, as some images are hard; noise of each."""


@dataclass
class Recorded:
    """What every expert says about some rows.

    Attributes:
        outputs: (N, 20) float32 softmax by expert.
        targets: (N,) super-classes.
    """

    outputs: dict[str, np.ndarray]
    targets: np.ndarray

    def __getitem__(self, rows: slice | np.ndarray) -> "Recorded":
        """Some of the rows."""
        return Recorded({name: values[rows] for name, values in self.outputs.items()}, self.targets[rows])


def recorded(rows: int, experts: int = 20, seed: int = 0) -> Recorded:
    """Outputs of experts that know one fine class of each super-class and ten more, and confuse the others."""
    random = np.random.default_rng(seed)
    fine = random.integers(FINE, size=rows)
    targets = fine // (FINE // CLASSES)
    right = np.eye(CLASSES)[targets]
    hard = random.normal(0, HARD, (rows, CLASSES))
    outputs = {}
    for number in range(experts):
        known = np.zeros(FINE, dtype=bool)
        known[np.arange(0, FINE, 5) + random.integers(5, size=CLASSES)] = True
        known[random.choice(np.flatnonzero(~known), 10, replace=False)] = True
        habits = random.normal(0, HABIT, (FINE, CLASSES))
        logits = np.where(known[fine, None], PEAK * right, LEAN * right + habits[fine])
        logits += hard + random.normal(0, NOISE, (rows, CLASSES))
        outputs[f"expert_{number}"] = softmax(logits, axis=1).astype(np.float32)
    return Recorded(outputs, targets)
