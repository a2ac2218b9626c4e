import math

import pytest
import torch

from lightning_fusion.data.audio.augmentation import SpeechAugmentation
from lightning_fusion.errors import InputError


class TestAugmentation:
    def only(self, **shares):
        return SpeechAugmentation(**({"speed": 0.0, "reverb": 0.0, "noise": 0.0} | shares))

    def test_nothing_drawn_changes_nothing_and_the_input_is_left_alone(self):
        waveforms = torch.randn(8, 4000)
        assert torch.equal(self.only()(waveforms), waveforms)
        before = waveforms.clone()
        assert not torch.equal(SpeechAugmentation(speed=1, reverb=1, noise=1)(waveforms), waveforms)
        assert torch.equal(waveforms, before)

    @pytest.mark.parametrize("name", ["speed", "reverb", "noise"])
    def test_a_share_of_the_utterances_is_changed(self, name):
        waveforms = torch.randn(400, 2000)
        changed = (self.only(**{name: 0.3})(waveforms) != waveforms).any(1)
        assert 0.22 < changed.float().mean() < 0.38

    def test_noise_has_the_drawn_ratio(self):
        waveforms = torch.randn(300, 8000) * torch.rand(300, 1)
        noise = self.only(noise=1.0)(waveforms) - waveforms
        ratio = 10 * torch.log10(waveforms.square().mean(1) / noise.square().mean(1))
        assert 10 - 1e-3 < ratio.min() < 11
        assert 29 < ratio.max() < 30 + 1e-3
        assert ratio.mean() == pytest.approx(20, abs=1.5)

    @pytest.mark.parametrize(("factor", "expected_hz"), [(0.9, 900), (1.1, 1100)])
    def test_speed_shifts_a_tone(self, factor, expected_hz):
        tone = torch.sin(2 * math.pi * 1000 * torch.arange(16_000) / 16_000).repeat(3, 1)
        changed = SpeechAugmentation(speed=1.0, reverb=0.0, noise=0.0, speeds=[factor])(tone)
        assert (torch.fft.rfft(changed[:, :8000]).abs().argmax(1) * 2 == expected_hz).all()
        assert changed.shape == tone.shape

    def test_both_speeds_are_drawn_in_one_batch(self):
        tone = torch.sin(2 * math.pi * 1000 * torch.arange(16_000) / 16_000).repeat(20, 1)
        peaks = torch.fft.rfft(self.only(speed=1.0)(tone)[:, :8000]).abs().argmax(1) * 2
        assert set(peaks.tolist()) == {900, 1100}

    def test_a_room_rings_after_a_click_and_dies_at_its_reverberation_time(self):
        click = torch.zeros(40, 16_000)
        click[:, 1000] = 1
        wet = SpeechAugmentation(speed=0.0, noise=0.0, reverb=1.0, reverb_s=[0.3, 0.3], direct_db=[0.0, 0.0])(click)
        assert torch.allclose(wet[:, :1000], torch.zeros(()), atol=1e-5)  # nothing before its cause
        energy = wet[:, 1000:].square().mean(0)
        assert energy[1:].sum() / energy[0] == pytest.approx(1, abs=0.01)  # 0 dB direct-to-tail
        fall_db = 10 * torch.log10(energy[1:481].mean() / energy[1:][2400:2880].mean())
        assert fall_db == pytest.approx(30, abs=1.5)  # half of 60 dB after half the time
        assert wet.square().mean(1) == pytest.approx(click.square().mean(1), rel=1e-3)

    def test_silence_stays_finite(self):
        assert SpeechAugmentation(speed=1, reverb=1, noise=1)(torch.zeros(6, 4000)).isfinite().all()

    def test_one_seed_one_result(self):
        waveforms, results = torch.randn(8, 4000), []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.append(SpeechAugmentation()(waveforms))
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"noise": 1.5}, "noise is 1.5; expected a fraction"),
            ({"snr_db": [20, 5]}, r"snr_db is \[20, 5\]; expected \[lowest, highest\]"),
            ({"reverb_s": [0, 0.5]}, "reverb_s is"),
            ({"speeds": []}, "speeds is"),
            ({"speeds": [10]}, r"speeds is \[10\]; expected factors from 0.5 to 2"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            SpeechAugmentation(**arguments)
