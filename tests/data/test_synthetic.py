import math

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_curve
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from lightning_fusion.data import synthetic
from lightning_fusion.data.audio.features import LogMel
from lightning_fusion.data.audio.trials import draw_trials
from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
from lightning_fusion.data.synthetic import synthetic_images, synthetic_motion, synthetic_voices


def spectra(pixels):
    """Magnitudes of the Fourier transform of the mean channel: they do not depend on the phase."""
    return np.abs(np.fft.rfft2(pixels.mean(1))).reshape(len(pixels), -1)[:, 1:]


def test_the_same_seed_gives_the_same_images_and_another_does_not():
    first, again, other = (synthetic_images(rows=3, seed=seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 0.9, 1.0), (1.0, 0.0, 0.2)])
def test_shift_is_a_dial_of_how_far_a_model_of_one_domain_carries_to_the_next(shift, least, most):
    pixels, labels, domains = synthetic_images(rows=30, shift=shift)
    features = spectra(pixels)
    model = KNeighborsClassifier(5).fit(features[domains == 0], labels[domains == 0])
    held = synthetic_images(rows=30, shift=shift, seed=1)[0]
    assert (model.predict(spectra(held)[domains == 0]) == labels[domains == 0]).mean() > 0.9
    assert least <= (model.predict(features[domains == 1]) == labels[domains == 1]).mean() <= most


def test_the_twin_is_a_source_of_the_data_module():
    data = SyntheticImageDataModule(role="fuser", fuser_fraction=0.2, batch_size=16)
    assert data.classes == [f"class_{c}" for c in range(4)]
    assert data.domains == [f"style_{d}" for d in range(4)]
    rows = {split: data.rows(split) for split in ("train", "val", "test")}
    expert = data.variant(role="expert", domain="style_2")
    batch = expert.rows("train")[torch.arange(len(expert.rows("train")))]
    assert batch.input.shape[1:] == (3, 16, 16)
    assert batch.domain.tolist() == [[False, False, True, False]] * len(batch.domain)
    used = torch.cat([part.rows for part in rows.values()] + [expert.rows(s).rows for s in ("train", "val")])
    assert len(used.unique()) == len(used)


def equal_error_rate(scores, same):
    false_alarm, hit, _ = roc_curve(same, scores)
    at = np.abs(false_alarm - (1 - hit)).argmin()
    return (false_alarm[at] + 1 - hit[at]) / 2


class TestVoices:
    def test_the_same_seed_gives_the_same_voices_and_another_does_not(self):
        first, again, other = (synthetic_voices(2, 2, duration_s=0.3, seed=seed)[0] for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert first.dtype == np.float32
        assert np.abs(first).max(1).min() > 0.1
        assert np.abs(first).max() <= 1

    def test_more_speakers_and_utterances_leave_the_others_as_they_are(self):
        few = synthetic_voices(2, 2, duration_s=0.3)[0].reshape(2, 2, -1)
        many = synthetic_voices(3, 4, duration_s=0.3)[0].reshape(3, 4, -1)
        assert np.array_equal(many[:2, :2], few)

    def test_a_voice_has_its_pitch(self):
        waveforms, speakers, _ = synthetic_voices(8, 1, duration_s=2.0, session=0.0)
        for waveform, speaker in zip(waveforms, speakers.tolist(), strict=True):
            pitch_hz = synthetic._Voice(np.random.default_rng([0, speaker])).pitch_hz
            frames = np.lib.stride_tricks.sliding_window_view(waveform, 1024)[::512] * np.hanning(1024)
            cepstrum = np.fft.irfft(np.log(np.abs(np.fft.rfft(frames, 2048)) + 1e-3))
            lags = np.arange(16_000 // 350, 16_000 // 60)
            found_hz = np.median(16_000 / lags[cepstrum[:, lags].argmax(1)])
            assert abs(math.log2(found_hz / pitch_hz)) < 0.2  # a semitone or two of melody

    @pytest.mark.slow
    def test_who_speaks_is_not_trivial_and_can_be_learned_for_speakers_never_heard(self):
        waveforms, speakers, _ = synthetic_voices(60, 6, duration_s=2.0, sample_rate_hz=8000)
        with torch.no_grad():
            features = LogMel(8000, 40)(torch.from_numpy(waveforms))
        covariance = torch.einsum("bmt,bnt->bmn", features, features) / features.shape[-1]
        statistics = covariance[:, *torch.triu_indices(40, 40)].numpy()
        unseen = speakers >= 40
        trials = draw_trials(np.arange(unseen.sum()), speakers[unseen], np.arange(unseen.sum()), 10**6, seed=0)
        plain = StandardScaler().fit(statistics[~unseen])
        learned = make_pipeline(
            StandardScaler(), LinearDiscriminantAnalysis("eigen", shrinkage="auto", n_components=20)
        )
        learned.fit(statistics[~unseen], speakers[~unseen])
        rates = []
        for model in (plain, learned):
            unit = normalize(model.transform(statistics[unseen]))
            scores = (unit[trials.pairs[:, 0]] * unit[trials.pairs[:, 1]]).sum(1)
            rates.append(equal_error_rate(scores, trials.same))
        assert rates[0] > 0.25
        assert 0.03 < rates[1] < 0.8 * rates[0]


class TestMotion:
    def test_devices_record_a_session_together_and_people_do_not(self):
        motion = synthetic_motion(num_people=2, sessions=3, segment_s=2.0)
        assert motion.samples.shape == (12, 400, 6) and motion.samples.dtype == np.float32
        for person in range(2):
            for session in range(3):
                rows = np.flatnonzero((motion.person == person) & (motion.session == session))
                assert motion.device[rows].tolist() == [0, 1]
                assert np.array_equal(*motion.activities[rows])
                assert sorted(motion.activities[rows[0], ::100]) == [0, 1, 2, 3]
        again, other = (
            synthetic_motion(2, sessions=3, segment_s=2.0),
            synthetic_motion(2, sessions=3, segment_s=2.0, seed=1),
        )
        assert np.array_equal(motion.samples, again.samples) and not np.array_equal(motion.samples, other.samples)
        assert np.array_equal(synthetic_motion(1, sessions=1, segment_s=2.0).samples, motion.samples[:2])

    def test_it_stands_on_the_ground_and_keeps_its_length_when_turned(self):
        for strength in (0.0, 1.0):
            motion = synthetic_motion(num_devices=1, heterogeneity=strength, noise=0.0, segment_s=20.0)
            rest = [motion.samples[motion.activities == number].mean(0)[:3] for number in range(4)]
            np.testing.assert_allclose(np.linalg.norm(rest, axis=1), 9.81, rtol=0.05 if strength == 0 else 0.5)

    @pytest.mark.parametrize(("strength", "least", "most"), [(0.0, 0.9, 1.0), (1.0, 0.0, 0.8)])
    def test_heterogeneity_is_a_dial_of_how_far_a_model_of_one_domain_carries(self, strength, least, most):
        motion = synthetic_motion(heterogeneity=strength)
        windows = motion.samples.reshape(len(motion.samples), -1, 100, 6)
        facts = np.concatenate([windows.mean(2), windows.std(2)], -1)
        labels = motion.activities[:, ::100]
        own = (motion.person == 0) & (motion.device == 0)
        model = make_pipeline(StandardScaler(), KNeighborsClassifier(5))
        model.fit(facts[own].reshape(-1, 12), labels[own].reshape(-1))
        others = motion.person != 0
        assert least <= model.score(facts[others].reshape(-1, 12), labels[others].reshape(-1)) <= most
