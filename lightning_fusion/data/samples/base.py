"""Base class of an expert's own preprocessing of raw samples."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_fusion.data.image.files import ORIGINAL


class SamplePreprocessing(nn.Module):
    """Preprocessing of raw samples, which replaces that of the data module for one expert.

    An expert with such a ``preprocess`` gets samples as they were recorded, and the preprocessing of its training is
    applied to them once. A subclass names what it takes, and checks that the data module gives it.
    """

    takes: ClassVar[str] = "samples as recorded"

    def check(self, found: Mapping[str, Any] | None) -> None:
        """Check that a data module gives the samples that this preprocessing takes; called before a run.

        Args:
            found: Preprocessing of the data module; ``None`` where it is not known.

        Raises:
            InputError: If it gives other samples; the message says which key to change.
        """

    def forward(self, samples: Any) -> Any:
        """Map a batch of raw samples to the input of the network."""
        raise NotImplementedError(f"{type(self).__name__} must implement forward(samples)")


def described_samples(found: Mapping[str, Any]) -> str:
    """Describe the samples of a data module by its preprocessing, for messages.

    Example:
        >>> described_samples({"frontend": "log_mel"}), described_samples({"image_size": 32, "mean": [0.5]})
        ('log-mel features', 'images of 32 pixels')
    """
    if "image_size" in found:
        size = found["image_size"]
        return "images" if size in (None, ORIGINAL) else f"images of {size} pixels"
    if "frontend" in found:
        return "log-mel features" if found["frontend"] == "log_mel" else "waveforms"
    return "tokens of texts" if "tokenizer" in found else "rows of values"


def device_of(samples: Any) -> torch.device:
    """Return the device of a batch of samples; the CPU for samples that are no tensors."""
    first = samples if isinstance(samples, Tensor) else next(iter(samples), None)
    return first.device if isinstance(first, Tensor) else torch.device("cpu")
