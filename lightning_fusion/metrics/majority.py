"""Accuracy of a constant answer, the level of chance."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

_FEWEST = 30
"""Samples below which an accuracy is not compared with that of a constant answer (our choice)."""
_ONE_SIDED = 1.645
"""Quantile of the normal distribution at 95 %."""


class MajorityAccuracy(Metric):
    """Accuracy of the most frequent class as the answer to every sample.

    Args:
        num_classes: Number of classes.

    Attributes:
        num_samples: Number of samples at the last computation.

    Example:
        >>> metric = MajorityAccuracy(3)
        >>> metric.update(torch.tensor([0, 2, 2, 1]))
        >>> metric.compute(), metric.num_samples
        (tensor(0.5000), 4)
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_samples = 0
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, target: Tensor) -> None:
        """Update the state with a batch of (B,) targets."""
        self.counts = self.counts + torch.bincount(target, minlength=len(self.counts))

    def compute(self) -> Tensor:
        """Return the accuracy."""
        total = self.counts.sum()
        self.num_samples = int(total)
        return (self.counts.max() / total).float()


def chance_warning(accuracy: float, majority: float, num_samples: int) -> str | None:
    """Return a warning about a validation accuracy that is not significantly above chance; None for others.

    The accuracy is compared with that of a constant answer by a one-sided test at 5 %. An accuracy with less than half
    of the errors of the constant answer is above chance in any case: where few samples are of another class, no
    accuracy is significantly above it.

    Args:
        accuracy: Accuracy of a model.
        majority: Accuracy of a constant answer on the same samples.
        num_samples: Number of samples; below 30 there is no warning.

    Example:
        >>> chance_warning(0.26, 0.25, 400)
        'the validation accuracy 0.260 is at chance level: a constant answer has 0.250 on the same 400 samples; ...'
        >>> chance_warning(0.5, 0.25, 400), chance_warning(0.25, 0.25, 10), chance_warning(1.0, 57 / 59, 59)
        (None, None, None)
    """
    margin = _ONE_SIDED * math.sqrt(majority * (1 - majority) / max(1, num_samples))
    bound = majority + min(margin, (1 - majority) / 2)
    if num_samples < _FEWEST or accuracy > bound:
        return None
    return (
        f"the validation accuracy {accuracy:.3f} is at chance level: a constant answer has {majority:.3f} on the same "
        f"{num_samples} samples; train longer, change the learning rate, or check labels and preprocessing"
    )
