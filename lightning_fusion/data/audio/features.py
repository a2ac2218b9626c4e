"""Log-mel features of batches of speech, on the device."""

import math

import torch
from torch import Tensor, nn

from lightning_fusion.extras import require


class LogMel(nn.Module):
    """Log-mel features with the mean over time of each utterance subtracted.

    Subtracting the mean removes the constant frequency response of microphone and room, which is additive in the
    logarithm. Windows of 25 ms every 10 ms are usual in speaker verification.

    Args:
        sample_rate_hz: Sample rate of the waveforms.
        num_mels: M, number of mel bands between ``low_hz`` and half the sample rate.
        window_s: Length of the analysis window.
        hop_s: Step between windows.
        low_hz: Lower edge of the first band.
        floor: Smallest power, so that the logarithm of silence is finite.

    Example:
        >>> LogMel(num_mels=40)(torch.rand(3, 16000)).shape
        torch.Size([3, 40, 101])
    """

    _CHUNK = 4
    """Utterances that a CPU transforms at once: spectra of two seconds, 0.4 MB each, fit into a cache of 2 MB."""

    def __init__(
        self,
        sample_rate_hz: int = 16_000,
        num_mels: int = 80,
        window_s: float = 0.025,
        hop_s: float = 0.01,
        low_hz: float = 20.0,
        floor: float = 1e-6,
    ) -> None:
        super().__init__()
        window = round(window_s * sample_rate_hz)
        self.floor = floor
        self.mel = require("torchaudio.transforms", "audio").MelSpectrogram(
            sample_rate_hz,
            n_fft=max(512, 2 ** math.ceil(math.log2(window))),  # finer bins than the window's at low rates
            win_length=window,
            hop_length=round(hop_s * sample_rate_hz),
            f_min=low_hz,
            n_mels=num_mels,
        )

    def forward(self, waveforms: Tensor) -> Tensor:
        """Map (B, T) waveforms to (B, M, frames)."""
        if torch.compiler.is_compiling() or waveforms.is_cuda or len(waveforms) <= self._CHUNK:
            return self._features(waveforms)
        return torch.cat([self._features(part) for part in waveforms.split(self._CHUNK)])

    def raw(self, waveforms: Tensor) -> Tensor:
        """Return log-mel features (B, M, frames) without subtracting the mean."""
        result: Tensor = self.mel(waveforms).clamp_min_(self.floor).log_()
        return result

    def _features(self, waveforms: Tensor) -> Tensor:
        features = self.raw(waveforms)
        return features - features.mean(-1, keepdim=True)
