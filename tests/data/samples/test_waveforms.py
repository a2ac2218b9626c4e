import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import data_files, models
from lightning import Trainer
from torch import nn

from lightning_fusion import Expert, ExpertModule, ExpertPool, collect
from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.data.normalization import preprocessor
from lightning_fusion.data.samples.waveforms import WaveformPreprocessing
from lightning_fusion.encoders import SmallSpeakerNet
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.transformers import TransformersExpert

transformers = pytest.importorskip("transformers")
torchaudio = pytest.importorskip("torchaudio")


def quiet(**more) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **more)


@pytest.fixture
def data(tmp_path) -> LabeledAudioDataModule:
    data_files.spoken_words(tmp_path / "words")
    return LabeledAudioDataModule(
        str(tmp_path / "words"),
        "{label}_{speaker}_{utterance}.wav",
        split_by="recording",
        sample_rate_hz=8000,
        crop_s=0.4,
        eval_crop_s=0.4,
        batch_size=16,
    )


@pytest.mark.slow
def test_a_model_of_waveforms_stands_beside_one_of_log_mel_features(tmp_path, data):
    module = ExpertModule(network=partial(SmallSpeakerNet, width=2), classes=data.classes)
    trainer = quiet(max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    own = Expert(module.network, str(tmp_path / "own.ckpt"))
    speech = TransformersExpert(
        models.speech_folder(tmp_path / "speech", ["zero", "one"]), rename={"zero": "0", "one": "1"}
    )
    alone = collect(ExpertPool({"own": own}), data, splits=["test"], trainer=quiet())
    with pytest.raises(InputError, match=r"expert speech: .* gives log-mel features: set frontend: waveform"):
        collect(ExpertPool({"own": own, "speech": speech}), data, splits=["test"], trainer=quiet())
    waveforms = data.variant(frontend="waveform")
    both = collect(ExpertPool({"own": own, "speech": speech}), waveforms, splits=["test"], trainer=quiet())
    np.testing.assert_allclose(both["test"].probabilities["own"], alone["test"].probabilities["own"], atol=1e-5)
    rows = waveforms.rows("test")
    given = [wave.numpy() for wave in rows[torch.arange(len(rows))].input]
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "speech")
    model = transformers.AutoModelForAudioClassification.from_pretrained(tmp_path / "speech").eval()
    resampled = [torch.from_numpy(wave) for wave in given]
    if extractor.sampling_rate != 8000:
        resampled = [torchaudio.functional.resample(wave, 8000, extractor.sampling_rate) for wave in resampled]
    prepared = extractor(
        [wave.numpy() for wave in resampled], sampling_rate=extractor.sampling_rate, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**prepared).logits.softmax(1)
    order = np.argsort(rows.rows.numpy())
    np.testing.assert_allclose(both["test"].probabilities["speech"], expected.numpy()[order], atol=1e-5)


def test_log_mel_features_of_another_rate_are_those_of_the_resampled_waveforms(data):
    expert = Expert(nn.Flatten(), classes=["0"], domains=None)
    expert.preprocessing = data.preprocessing | {"sample_rate_hz": 4000}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expert.convert_from(data.variant(frontend="waveform").preprocessing, "expert own")
    waveforms = data.variant(frontend="waveform").rows("test")[torch.arange(3)].input
    resampled = torchaudio.functional.resample(waveforms, 8000, 4000)
    torch.testing.assert_close(expert._prepared(waveforms), preprocessor(expert.preprocessing)(resampled))


class TestWaveforms:
    def test_resampled_and_normalized(self):
        waves = torch.sin(torch.arange(800) / 10).repeat(2, 1) * torch.tensor([[0.1], [0.5]]) + 0.2
        found = WaveformPreprocessing(8000, normalize=True)(waves)
        torch.testing.assert_close(found.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.std(1, correction=0), torch.ones(2), atol=1e-4, rtol=0)
        half = WaveformPreprocessing(4000)
        half.check({"frontend": "waveform", "sample_rate_hz": 8000})
        assert half(waves).shape == (2, 400)
        half.check(None)
        assert half(waves).shape == (2, 800)

    @pytest.mark.parametrize(
        "samples", [torch.zeros(2, 80, 9), torch.zeros(2, 9).long(), ["text"], {"a": torch.zeros(2, 3)}]
    )
    def test_others_are_named(self, samples):
        with pytest.raises(InputError, match=r"expected waveforms \(B, T\) of floating-point values"):
            WaveformPreprocessing(8000)(samples)

    def test_other_data_are_named(self):
        with pytest.raises(InputError, match="takes waveforms; the data module gives images: give the expert another"):
            WaveformPreprocessing(8000).check({"image_size": None})
        with pytest.raises(InputError, match="sample_rate_hz is 0"):
            WaveformPreprocessing(0)
