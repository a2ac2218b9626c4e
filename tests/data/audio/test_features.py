import numpy as np
import pytest
import torch
from scipy.signal import get_window

from lightning_fusion.data.audio.features import LogMel


def log_mel_by_hand(waveform, rate, bands, low_hz=20.0):
    """One utterance with NumPy: frames, Hann window, FFT of 512, triangles on the HTK mel scale, logarithm, mean."""
    window, hop = round(0.025 * rate), round(0.01 * rate)
    padded = np.pad(waveform.astype(np.float64), 256, mode="reflect")
    taper = np.zeros(512)
    taper[(512 - window) // 2 : (512 + window) // 2] = get_window("hann", window)
    frames = np.stack([padded[at : at + 512] * taper for at in range(0, len(padded) - 511, hop)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(mel(low_hz), mel(rate / 2), bands + 2) / 2595) - 1)
    bins = np.linspace(0, rate / 2, 257)[:, None]
    rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges)[1:]
    logarithm = np.log(np.maximum(power @ np.maximum(0, np.minimum(rising, falling)), 1e-6)).T
    return logarithm - logarithm.mean(1, keepdims=True)


class TestLogMel:
    @pytest.mark.parametrize(("rate", "bands"), [(16_000, 80), (8000, 40)])
    def test_against_numpy(self, rate, bands):
        waveforms = torch.randn(11, rate) * torch.linspace(0, 1, rate)
        found = LogMel(rate, bands)(waveforms)
        for row in (0, 9):  # of different chunks
            expected = log_mel_by_hand(waveforms[row].numpy(), rate, bands)
            np.testing.assert_allclose(found[row], expected, atol=2e-3)

    def test_no_band_is_empty_at_low_rates(self):
        assert (LogMel(8000, 80).mel.mel_scale.fb.sum(0) > 0).all()

    def test_a_constant_color_and_level_fall_out(self):
        waveforms = torch.randn(2, 8000)
        torch.testing.assert_close(LogMel()(0.1 * waveforms), LogMel()(waveforms), rtol=0, atol=1e-4)

    def test_silence_is_finite(self):
        assert LogMel()(torch.zeros(2, 4000)).abs().max() < 1e-5

    def test_a_rate_with_a_long_window(self):
        assert LogMel(48_000)(torch.randn(1, 48_000)).shape == (1, 80, 101)
