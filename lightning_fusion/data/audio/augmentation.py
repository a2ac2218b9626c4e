"""Augmentation of batches of speech, on the device."""

import math
from collections.abc import Callable, Sequence

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn

from lightning_fusion.errors import InputError
from lightning_fusion.extras import require


class SpeechAugmentation(nn.Module):
    """Random speed, reverberation and noise for every utterance of a batch; needs no recorded noise (our choice).

    Applied in this order:

    - *Speed* (Ko et al., Interspeech 2015): resampled by a factor drawn from ``speeds``, which shifts the pitch too.
      Utterances that become too short are repeated. The speaker label does not change.
    - *Reverberation*: a direct sound and a tail of Gaussian noise that decays exponentially (Polack's model), with a
      drawn reverberation time (-60 dB) and direct-to-tail ratio. The utterance keeps its power.
    - *Noise*: Gaussian, with a spectrum that falls by 0 to 6 dB per octave, at a drawn signal-to-noise ratio.

    It helps with many speakers and long training, or on noisy recordings; a small network that is trained briefly
    does worse with it on clean recordings.

    Draws come from torch's global generators: parameters from the CPU generator, noise from that of the device.

    Args:
        sample_rate_hz: Sample rate of the waveforms; the data module's.
        speed: Fraction of the utterances with changed speed.
        reverb: Fraction of the utterances with reverberation.
        noise: Fraction of the utterances with added noise.
        speeds: Speed factors to draw from; 1.1 is faster and higher.
        reverb_s: Shortest and longest reverberation time.
        direct_db: Lowest and highest ratio of direct sound to tail.
        snr_db: Lowest and highest signal-to-noise ratio.

    Raises:
        InputError: If a fraction is outside [0, 1], or a range is empty.

    Example:
        >>> SpeechAugmentation(noise=1.0)(torch.rand(4, 16000)).shape
        torch.Size([4, 16000])
    """

    def __init__(
        self,
        sample_rate_hz: int = 16_000,
        speed: float = 0.3,
        reverb: float = 0.3,
        noise: float = 0.3,
        speeds: Sequence[float] = (0.9, 1.1),
        reverb_s: Sequence[float] = (0.1, 0.6),
        direct_db: Sequence[float] = (0.0, 10.0),
        snr_db: Sequence[float] = (10.0, 30.0),
    ) -> None:
        super().__init__()
        for name, share in {"speed": speed, "reverb": reverb, "noise": noise}.items():
            if not 0 <= share <= 1:
                raise InputError(f"{name} is {share}; expected a fraction of the utterances, from 0 to 1")
        for name, ends in {"reverb_s": reverb_s, "direct_db": direct_db, "snr_db": snr_db}.items():
            if len(ends) != 2 or ends[0] > ends[1] or (name == "reverb_s" and ends[0] <= 0):
                raise InputError(f"{name} is {list(ends)}; expected [lowest, highest]")
        if not speeds or not all(0.5 <= factor <= 2 for factor in speeds):
            raise InputError(f"speeds is {list(speeds)}; expected factors from 0.5 to 2, such as [0.9, 1.1]")
        self.sample_rate_hz = sample_rate_hz
        self.speed, self.reverb, self.noise = speed, reverb, noise
        self.speeds, self.reverb_s, self.direct_db, self.snr_db = speeds, reverb_s, direct_db, snr_db

    def forward(self, waveforms: Tensor) -> Tensor:
        """Augment (B, T) waveforms; the result has the same shape."""
        changed = waveforms.clone()
        factors = torch.randint(len(self.speeds), (len(changed),))
        who = torch.rand(len(changed)) < self.speed
        for number, factor in enumerate(self.speeds):
            self._change(changed, who & (factors == number), lambda part, factor=factor: _respeed(part, factor))  # type: ignore[misc]
        self._change(changed, torch.rand(len(changed)) < self.reverb, self._room)
        self._change(changed, torch.rand(len(changed)) < self.noise, self._background)
        return changed

    @staticmethod
    def _change(waveforms: Tensor, who: Tensor, change: Callable[[Tensor], Tensor]) -> None:
        if who.any():
            rows = who.nonzero().squeeze(1).to(waveforms.device)
            waveforms[rows] = change(waveforms[rows])

    def _room(self, waveforms: Tensor) -> Tensor:
        decay = _uniform(self.reverb_s, waveforms) * self.sample_rate_hz
        time = torch.arange(round(self.reverb_s[1] * self.sample_rate_hz), device=waveforms.device)
        tail = torch.randn(len(waveforms), len(time), device=waveforms.device)
        tail = tail * torch.exp(-3 * math.log(10) * time / decay)  # an amplitude of 1/1000 is -60 dB
        tail[:, 0] = 0
        direct = 10 ** (_uniform(self.direct_db, waveforms) / 20)
        response = tail / tail.norm(dim=1, keepdim=True).clamp_min(1e-12)
        response[:, :1] = direct
        length = next_fast_len(waveforms.shape[1] + len(time) - 1, real=True)
        wet = torch.fft.irfft(torch.fft.rfft(waveforms, length) * torch.fft.rfft(response, length), length)
        wet = wet[:, : waveforms.shape[1]]
        result: Tensor = wet * (_rms(waveforms) / _rms(wet).clamp_min(1e-12))
        return result

    def _background(self, waveforms: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(torch.randn_like(waveforms))
        octave = torch.arange(1, spectrum.shape[1] + 1, device=waveforms.device).log2()
        slope_db = _uniform((0.0, 6.0), waveforms)
        noise = torch.fft.irfft(spectrum * 10 ** (-slope_db * octave / 20), n=waveforms.shape[1])
        wanted = _rms(waveforms) * 10 ** (-_uniform(self.snr_db, waveforms) / 20)
        result: Tensor = waveforms + noise * (wanted / _rms(noise).clamp_min(1e-12))
        return result


def _uniform(ends: Sequence[float], waveforms: Tensor) -> Tensor:
    """Draw (B, 1) values between two ends, on the CPU to avoid synchronizing the device."""
    return (ends[0] + (ends[1] - ends[0]) * torch.rand(len(waveforms), 1)).to(waveforms.device)


def _rms(waveforms: Tensor) -> Tensor:
    return waveforms.square().mean(1, keepdim=True).sqrt()


def _respeed(waveforms: Tensor, factor: float) -> Tensor:
    length = waveforms.shape[1]
    changed = require("torchaudio.functional", "audio").resample(waveforms, round(100 * factor), 100)
    result: Tensor = changed.repeat(1, -(-length // changed.shape[1]))[:, :length]
    return result
