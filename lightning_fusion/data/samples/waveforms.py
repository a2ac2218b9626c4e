"""Preprocessing of waveforms."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_fusion.data.samples.base import SamplePreprocessing, described_samples
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import require


class WaveformSamples(SamplePreprocessing):
    """Base class of preprocessing that takes waveforms, which are resampled to the rate of the training.

    A subclass implements :meth:`prepare`.

    Args:
        sample_rate_hz: Sample rate of the training.
    """

    takes: ClassVar[str] = "waveforms"

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        if sample_rate_hz < 1:
            raise InputError(f"sample_rate_hz is {sample_rate_hz}; expected at least 1 Hz")
        self.sample_rate_hz = sample_rate_hz
        self._given_hz = sample_rate_hz  # of the data

    def check(self, found: Mapping[str, Any] | None) -> None:
        """Check that the data module gives waveforms, and take their sample rate."""
        self._given_hz = self.sample_rate_hz
        if not found:
            return
        if found.get("frontend") != "waveform":
            way = "set frontend: waveform of the data module"
            if "frontend" not in found:
                way = "give the expert another preprocess, or other data"
            raise InputError(
                f"preprocess: {type(self).__name__} takes waveforms; the data module gives {described_samples(found)}: "
                f"{way}"
            )
        self._given_hz = found["sample_rate_hz"]

    def prepare(self, waveforms: Tensor) -> Any:
        """Map (B, T) float32 waveforms at ``sample_rate_hz`` to the input of the network."""
        raise NotImplementedError(f"{type(self).__name__} must implement prepare(waveforms)")

    def forward(self, samples: Any) -> Any:
        """Map (B, T) waveforms in [-1, 1] to network input.

        Raises:
            InputError: If the samples are anything else.
        """
        if not isinstance(samples, Tensor) or samples.ndim != 2 or not samples.is_floating_point():
            found = (
                f"{str(samples.dtype)[6:]} {tuple(samples.shape)}"
                if isinstance(samples, Tensor)
                else (
                    f"a dict of {shorten(samples)}" if isinstance(samples, Mapping) else f"a {type(samples).__name__}"
                )
            )
            raise InputError(f"input: found {found}; expected waveforms (B, T) of floating-point values")
        waveforms = samples.float()
        if self._given_hz != self.sample_rate_hz:
            resample = require("torchaudio", "audio").functional.resample
            waveforms = resample(waveforms, self._given_hz, self.sample_rate_hz)
        return self.prepare(waveforms)


class WaveformPreprocessing(WaveformSamples):
    """Resample waveforms, and normalize each of them.

    Args:
        sample_rate_hz: Sample rate of the training.
        normalize: Subtract the mean of each waveform, and divide by its standard deviation.

    Example:
        >>> WaveformPreprocessing(8000, normalize=True)(torch.tensor([[0.0, 1.0]]))
        tensor([[-1.0000,  1.0000]])
    """

    def __init__(self, sample_rate_hz: int, normalize: bool = False) -> None:
        super().__init__(sample_rate_hz)
        self.normalize = normalize

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"sample_rate_hz={self.sample_rate_hz}, normalize={self.normalize}"

    def prepare(self, waveforms: Tensor) -> Tensor:
        """Return (B, T) float32 waveforms."""
        if not self.normalize:
            return waveforms
        variance, mean = torch.var_mean(waveforms, dim=1, correction=0, keepdim=True)
        return (waveforms - mean) / torch.sqrt(variance + 1e-7)
