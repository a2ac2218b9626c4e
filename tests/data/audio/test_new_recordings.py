"""Recordings without labels, for prediction."""

import csv
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import tiny
from helpers.recording_trees import RATE, folders

from lightning_fusion import Expert, ExpertModule
from lightning_fusion.acorl.verification import ACoRLVerificationModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.encoders import SmallSpeakerNet
from lightning_fusion.errors import InputError
from lightning_fusion.verification.metrics import trial_scores

HOW = {"sample_rate_hz": RATE, "eval_crop_s": 0.5, "num_mels": 20, "batch_size": 2}
SLOPE = np.linspace(-0.4, 0.4, RATE)
network = partial(SmallSpeakerNet, num_mels=20, width=4, embedding_dim=4)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


@pytest.fixture
def new(tmp_path) -> Path:
    """Recordings of a second, of a tenth at half the rate, and a silent one, in folders of any depth; and a text."""
    root = tmp_path / "new"
    for name, values, rate in (
        ("a/long.wav", SLOPE, RATE),
        ("a/b/short.flac", np.linspace(-0.5, 0.5, RATE // 20), RATE // 2),
        ("silent.wav", np.zeros(RATE // 2), RATE),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, values, rate, subtype="FLOAT" if name.endswith("wav") else None)
    os.symlink(root / "silent.wav", root / "z.wav")  # in training one recording could be in two splits
    (root / "notes.txt").write_text("none of them has a label")
    return root


@pytest.mark.parametrize("limit", [4.0, 0.0], ids=["in memory", "on disk"])
def test_every_recording_is_a_sample_of_testing(new, limit):
    data = LabeledAudioDataModule("gone", "{speaker}/{label}.wav", memory_limit_gb=limit, predict_root=str(new), **HOW)
    data.prepare_data()
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert [batch.input.shape for batch in batches] == [(2, RATE // 2)] * 2
    assert torch.cat([batch.index for batch in batches]).tolist() == [0, 1, 2, 3]
    assert {int(target) for batch in batches for target in batch.target} == {-100}
    found = data.new_samples
    names = ["a/b/short.flac", "a/long.wav", "silent.wav", "z.wav"]
    assert found.origins(torch.arange(4)).columns() == {"file": names, "start_s": [0.0, 0.25, 0.0, 0.0]}
    np.testing.assert_allclose(batches[0].input[1], SLOPE[RATE // 4 : 3 * RATE // 4], rtol=1e-6)
    assert found.notes(torch.arange(3)) == [
        f"0.10 s repeated to 0.5 s, recorded at {RATE // 2} Hz", "the middle 0.5 s of 1.00 s", "silent",
    ]  # fmt: skip


def test_parts_and_unreadable_files_have_rows_and_a_file_one(new, tmp_path):
    (new / "bad.wav").write_text("no audio")
    (new / "empty.ogg").touch()
    data = LabeledAudioDataModule(
        "gone", "{speaker}/{label}.wav", test_segments=2, predict_root=str(new), **(HOW | {"eval_crop_s": 0.1})
    )
    module = ExpertModule(network, classes=["no", "yes"])
    with pytest.warns(
        UserWarning, match=r"2 of 6 audio files cannot be read and have no prediction: .*bad\.wav \(form"
    ):
        tiny.trainer(callbacks=[PredictionWriter(str(tmp_path / "p.csv"))]).predict(module, datamodule=data)
    rows = table(tmp_path / "p.csv")
    assert [row["file"] for row in rows] == [
        *["a/b/short.flac"] * 2, *["a/long.wav"] * 2, "bad.wav", "empty.ogg", *["silent.wav"] * 2, *["z.wav"] * 2,
    ]  # fmt: skip
    assert [row["start_s"] for row in rows[2:6]] == ["0.2", "0.7", "", ""]
    assert [bool(row["prediction"]) for row in rows[2:6]] == [True, True, False, False]
    of_file = {row["file"]: row for row in table(tmp_path / "p_files.csv")}
    assert of_file["bad.wav"]["windows"] == "0" and "empty" in of_file["empty.ogg"]["note"]
    assert of_file["silent.wav"]["note"].startswith("silent")
    mean = np.mean([float(row["yes"]) for row in rows[2:4]])
    assert float(of_file["a/long.wav"]["yes"]) == pytest.approx(mean, abs=1e-6)


def test_folders_without_recordings(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    data = folders(tmp_path, predict_root=str(tmp_path))
    with pytest.raises(InputError, match=r"predict_root: found no audio file in .*; expected .* \.wav, found a\.txt"):
        data.predict_dataloader()
    (tmp_path / "a.wav").write_text("x")
    with pytest.raises(InputError, match=r"predict_root: .* has no sample that can be read; .*a\.wav \(format"):
        data.variant().predict_dataloader()


class TestTrials:
    @pytest.fixture
    def pairs(self, new):
        (new / "bad.wav").write_text("no audio")
        path = new.parent / "pairs.txt"
        path.write_text("a/long.wav silent.wav\n1 a/b/short.flac a/long.wav\n\nbad.wav a/long.wav\n")
        return path

    @pytest.mark.filterwarnings("ignore:1 of 5 audio files cannot be read")
    def test_are_scored_by_the_pair(self, new, pairs, tmp_path):
        torch.manual_seed(0)
        expert = Expert(network(2), classes=["anna", "ben"], features="embedding")
        module = ACoRLVerificationModule(network, {"first": expert}, classes=["anna", "ben"])
        data = folders(tmp_path / "gone", predict_root=str(new), predict_trials=str(pairs))
        trainer = tiny.trainer(callbacks=[PredictionWriter(str(tmp_path / "p.csv"))])
        parts = trainer.predict(module, datamodule=data)
        rows = table(tmp_path / "p_trials.csv")
        assert [(row["enrol"], row["test"]) for row in rows] == [
            ("a/long.wav", "silent.wav"), ("a/b/short.flac", "a/long.wav"), ("bad.wav", "a/long.wav"),
        ]  # fmt: skip
        own = torch.cat([part["embedding"] for part in parts])  # of short, long, silent
        expected = trial_scores(own, torch.tensor([[1, 2], [0, 1]]))
        for row, score in zip(rows, expected.tolist(), strict=False):
            assert float(row["new"]) == pytest.approx(score, abs=2e-6)
            assert float(row["score"]) == pytest.approx((float(row["new"]) + float(row["first"])) / 2, abs=2e-6)
        assert rows[2]["score"] == rows[2]["first"] == ""
        assert {"anna", "ben"} < set(table(tmp_path / "p.csv")[0])

    def test_lists_that_cannot_be_read(self, new, tmp_path):
        def data(text: str | None, **how):
            (tmp_path / "t.txt").write_text(text or "")
            return folders(tmp_path, **({"predict_root": str(new), "predict_trials": str(tmp_path / "t.txt")} | how))

        for text, message in (
            ("a/long.wav", "line 1: found 'a/long.wav'; expected 'enrol test'"),
            ("\n", "is empty; expected 'enrol test' in each line"),
            ("x.wav a/long.wav", r"names 1 file\(s\) that are not under .*new: x\.wav; .*, as in a/b/short\.flac"),
        ):
            with pytest.raises(InputError, match=f"predict_trials: .*t.txt,? {message}"):
                data(text).new_trials  # noqa: B018
        for how, message in (
            ({"predict_root": None}, "predict_trials names new recordings; set predict_root"),
            ({"test_segments": 2}, "predict_trials names whole recordings; set test_segments: 1"),
        ):
            with pytest.raises(InputError, match=message):
                data("a b", **how)
