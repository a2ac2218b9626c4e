"""Recordings of sound that are not what they seem: rates, phases, silence, and lengths."""

import csv
import warnings

import numpy as np
import pytest
import soundfile
import torch
from helpers import tiny
from torch import nn

from lightning_fusion import ExpertModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.errors import InputError

RATE = 8000


def tone(seconds=1.0, rate=RATE, pitch_hz=200.0):
    return 0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(round(seconds * rate)) / rate)


def recordings(root, **changed):
    """Two labels of four speakers, a second of a tone of its own each, except for the files that are given."""
    root.mkdir(exist_ok=True)
    for label in "ab":
        for speaker in range(4):
            name = f"{label}_{speaker}"
            samples, rate = changed.get(name, (tone(pitch_hz=200.0 + 10 * speaker + ord(label)), RATE))
            soundfile.write(root / f"{name}.wav", samples, rate, subtype="FLOAT")
    return root


def module(root, **arguments):
    defaults = {
        "val_speakers": ["2"],
        "test_speakers": ["3"],
        "sample_rate_hz": RATE,
        "crop_s": 1.0,
        "eval_crop_s": 1.0,
    }
    return LabeledAudioDataModule(
        str(root), "{label}_{speaker}.wav", **(defaults | {"frontend": "waveform", "batch_size": 8} | arguments)
    )


def said(data):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup()
        for split in ("train", "val", "test"):
            data.rows(split)
    return [str(one.message) for one in caught]


class TestPhases:
    @pytest.mark.parametrize("memory_limit_gb", [1.0, 0.0])
    @pytest.mark.parametrize(
        ("second", "canceled"),
        [(-1.0, True), (-0.9, True), (-0.7, False), (0.0, False), (1.0, False)],  # -0.9: 25 dB, -0.7: 15 dB
    )
    def test_channels_that_cancel_are_named(self, tmp_path, memory_limit_gb, second, canceled):
        both = np.stack([tone(), second * tone()], 1)
        found = said(module(recordings(tmp_path / "r", a_3=(both, RATE)), memory_limit_gb=memory_limit_gb))
        message = (
            "1 of 8 recordings have channels of opposite phase, whose mean is 20 dB or more below them: a_3.wav; "
            "invert one channel, or store only one"
        )
        assert (message in found) == canceled

    def test_silent_channels_do_not_cancel(self, tmp_path):
        found = said(module(recordings(tmp_path / "r", a_3=(np.zeros((RATE, 2)), RATE))))
        assert found == ["1 of 8 recordings are silent (below -60 dB of full scale): a_3.wav; remove them"]


class TestRates:
    def test_upsampling_is_said_once_with_names(self, tmp_path):
        root = recordings(tmp_path / "r", a_0=(tone(rate=16_000), 16_000))
        data = module(root, sample_rate_hz=16_000)
        assert said(data) == [
            "7 of 8 recordings have a lower sample rate (8000 Hz) than sample_rate_hz 16000 and are upsampled, "
            "without content above half their rate: a_1.wav, a_2.wav, a_3.wav and 4 more; set "
            "sample_rate_hz to 8000 to avoid it"
        ]
        assert said(data) == said(data.variant(batch_size=2)) == []

    def test_downsampling_is_no_invention(self, tmp_path):
        assert said(module(recordings(tmp_path / "r"), sample_rate_hz=4000)) == []


class TestSilence:
    @pytest.mark.parametrize("memory_limit_gb", [1.0, 0.0])
    @pytest.mark.parametrize(
        ("samples", "silent"),
        [(0 * tone(), True), (0 * tone() + 0.3, True), (1e-3 * tone(), True), (1e-2 * tone(), False)],
    )
    def test_is_named(self, tmp_path, memory_limit_gb, samples, silent):
        found = said(module(recordings(tmp_path / "r", b_1=(samples, RATE)), memory_limit_gb=memory_limit_gb))
        message = "1 of 8 recordings are silent (below -60 dB of full scale): b_1.wav; remove them"
        assert (message in found) == silent

    def test_a_pause_is_not(self, tmp_path):
        """Recordings on disk are examined in their middle, and as a whole where that is silent."""
        pause = np.concatenate([tone(), np.zeros(6 * RATE), tone()])
        found = said(module(recordings(tmp_path / "r", b_1=(pause, RATE)), memory_limit_gb=0.0))
        assert not any("silent" in message for message in found)


class TestLengths:
    def test_short_ones_are_repeated_or_padded(self, tmp_path):
        root = recordings(tmp_path / "r", a_3=(np.array([0.1, 0.2, 0.3] * 1000), RATE))
        for memory_limit_gb in (1.0, 0.0):
            repeated, padded = (
                module(root, short=short, memory_limit_gb=memory_limit_gb) for short in ("repeat", "pad")
            )
            rows = [next(iter(data.test_dataloader())).input[0] for data in (repeated, padded)]
            np.testing.assert_allclose(rows[0][2999:3002], [0.3, 0.1, 0.2], rtol=1e-6)
            np.testing.assert_allclose(rows[1][2999:3002], [0.3, 0.0, 0.0], rtol=1e-6)
            assert torch.equal(rows[0][:3000], rows[1][:3000]) and not rows[1][3000:].any()

    def test_training_crops_too(self, tmp_path):
        root = recordings(tmp_path / "r", a_0=(tone(0.5), RATE))
        (batch,) = module(root, short="pad").train_dataloader()
        ends = batch.input[:, RATE // 2 :].abs().amax(1)
        assert (ends == 0).sum() == 1 and torch.equal(batch.index[ends == 0], torch.tensor([0]))

    @pytest.mark.parametrize(
        ("short", "how"), [("repeat", r"repeated \(short: pad fills them with zeros\)"), ("pad", "padded with zeros")]
    )
    def test_are_said(self, tmp_path, short, how):
        root = recordings(tmp_path / "r", a_3=(tone(0.5), RATE))
        with pytest.warns(
            UserWarning, match=rf"^1 of 2 test recordings are shorter than eval_crop_s \(1 s\): they are {how}$"
        ):
            module(root, short=short).rows("test")

    def test_are_part_of_the_preprocessing(self, tmp_path):
        data = module(recordings(tmp_path / "r"))
        assert data.preprocessing["short"] == "repeat"
        assert data.variant(short="pad").fingerprint("test") != data.fingerprint("test")
        with pytest.raises(InputError, match="short is 'cut'; expected repeat, pad"):
            data.variant(short="cut")


def test_predictions_note_what_is_wrong_with_a_file(tmp_path):
    both = np.stack([tone(), -tone()], 1)
    root = recordings(tmp_path / "r", a_2=(both, RATE), b_2=(tone(3), RATE), a_3=(0 * tone(0.25), RATE))
    data = module(root, val_speakers=["1"], test_speakers=["2", "3"])

    class Loudness(nn.Sequential):
        def __init__(self, classes):
            super().__init__(nn.Linear(RATE, classes))

    path = tmp_path / "predictions.csv"
    trainer = tiny.trainer(callbacks=[PredictionWriter(str(path))])
    trainer.predict(ExpertModule(Loudness, classes=["a", "b"]), datamodule=data)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {data.layout.names[int(row["index"])]: row["note"] for row in rows} == {
        "a_2.wav": "silent, channels of opposite phase",
        "a_3.wav": "silent, 0.25 s repeated to 1 s",
        "b_2.wav": "the middle 1 s of 3.00 s",
        "b_3.wav": "",
    }


def test_what_exceeds_full_scale_is_said(tmp_path):
    files = recordings(tmp_path, a_0=(6 * tone(), RATE), b_1=(2.2 * tone(), RATE))  # 3.0 and 1.1 at most
    with pytest.warns(UserWarning, match=r"1 of 8 recordings exceed full scale by more than 2 dB .*: a_0.wav; divide"):
        module(files).setup()
