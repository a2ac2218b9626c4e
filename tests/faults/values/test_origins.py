"""Every predicted row names its file and line, or its file and time."""

import csv

import numpy as np
import pytest
import soundfile
import torch
from helpers.image_trees import draw_tree
from helpers.text_tables import ROWS, delimited, table
from lightning import LightningModule, Trainer

from lightning_fusion import Expert, ExpertPool, FoEFuserModule, OutputsDataModule, SensorDataModule, collect
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.sensor.uci_har import UCIHARDataModule
from lightning_fusion.data.views.role import RoleDataModule


class Constant(LightningModule):
    """Predicts the first class."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def predict_step(self, batch, batch_idx):
        return {"index": batch.index, "probabilities": torch.eye(len(self.classes))[[0] * len(batch.index)]}


def predictions(data, path, model=None):
    """The rows of ``predictions.csv`` of the test split."""
    data.setup("test")
    written = path / "written" / "predictions.csv"
    writer = PredictionWriter(str(written))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    data.predict_dataloader = data.test_dataloader
    Trainer(callbacks=[writer], enable_checkpointing=False, **quiet).predict(model or Constant(data.classes), data)
    with open(written, newline="") as file:
        return list(csv.DictReader(file))


def test_texts_name_file_and_line(tmp_path):
    rows = [("", "good", "a"), *ROWS[:40], (" ", "bad", "b"), *ROWS[40:]]
    root = table(tmp_path / "t.csv", rows)
    data = delimited(root, unreadable="drop")
    content = (tmp_path / "t.csv").read_text().split("\n")
    found = predictions(data, tmp_path)
    texts = data.read()
    for row, text in zip(found, data.rows("test"), strict=True):
        line = content[int(row["line"]) - 1].split(",")
        assert row["file"] == root and line[1] == data.classes[text.target]
        assert line[0] == ROWS[int(row["index"])][0]
    assert len(texts.texts) == 82


def test_a_store_keeps_them(tmp_path):
    data = delimited(table(tmp_path / "t.csv", [("", "good", "a"), *ROWS]), unreadable="drop")

    class Bag(torch.nn.Module):
        def forward(self, input):
            return torch.zeros(len(input["input_ids"]), 2)

    pool = ExpertPool({name: Expert(Bag(), classes=data.classes) for name in "ab"})
    outputs = collect(pool, data, tmp_path / "store")
    for stored in (outputs, outputs.save(tmp_path / "copy")):
        cached = OutputsDataModule(stored)
        fuser = FoEFuserModule(**stored.fuser_arguments())
        assert [row["line"] for row in predictions(cached, tmp_path, fuser)] == [
            str(index + 3) for index in outputs["test"].index
        ]


def test_images_name_their_file(tmp_path):
    data = DomainImageDataModule(str(draw_tree(tmp_path / "tree", ["clinic", "home"], ["cat", "dog"])))
    files = [str(file.path) for file in data.layout.files]
    for view in (data, RoleDataModule(data, role="fuser")):
        assert all(row["file"] == files[int(row["index"])] for row in predictions(view, tmp_path))


def test_recordings_name_file_and_time(tmp_path):
    for n in range(40):
        path = tmp_path / f"{'ab'[n % 2]}_{'xy'[n // 2 % 2]}_{n}.wav"
        soundfile.write(path, np.full(4000, n / 99), 4000, subtype="FLOAT")
    data = LabeledAudioDataModule(
        str(tmp_path),
        "{label}_{speaker}_{take}.wav",
        split_by="recording",
        sample_rate_hz=4000,
        eval_crop_s=0.25,
        test_segments=2,
        frontend="waveform",
    )
    found = predictions(data, tmp_path)
    assert sorted({float(row["start_s"]) for row in found}) == [0.125, 0.625]
    dataset = data.rows("test")
    inputs = dict(zip(dataset.rows.tolist(), dataset[torch.arange(len(dataset))].input[:, 0].tolist(), strict=True))
    for row in found:
        assert inputs[int(row["index"])] == pytest.approx(soundfile.read(row["file"])[0][0])


def test_sensors_name_file_and_time(tmp_path):
    for take in range(10):
        lines = [f"{1000 * take + n},{'sit' if n < 60 else 'walk'}" for n in range(130)]
        (tmp_path / f"ann_{take}.csv").write_text("\n".join(["x,label", *lines]))
    for how in ({}, {"piece_s": 1.0}):
        data = SensorDataModule(str(tmp_path), "{person}_{take}.csv", channels=["x"], window_s=1.0, **how)
        for row, sample in zip(predictions(data, tmp_path), data.rows("test"), strict=True):
            first = sample.input[0, 0].item()
            assert row["file"] == f"ann_{first // 1000:.0f}.csv" and float(row["start_s"]) == first % 1000 / 50


@pytest.mark.parametrize("how", [{}, {"piece_s": 1.0}])
def test_times_behind_a_gap_are_those_of_the_file(tmp_path, how):
    for take in range(10):
        seconds = [n / 50 + (7200.5 if n >= 70 else 0) for n in range(200)]
        lines = [f"{1000 * take + n},{t:.2f},{'sit' if n < 60 else 'walk'}" for n, t in enumerate(seconds)]
        (tmp_path / f"ann_{take}.csv").write_text("\n".join(["x,t,label", *lines]))
    shared = {"timestamp": "t", "window_s": 0.5, "cache": str(tmp_path / "cache")} | how
    data = SensorDataModule(str(tmp_path), "{person}_{take}.csv", channels=["x"], **shared)
    found = predictions(data, tmp_path)
    for row, sample in zip(found, data.rows("test"), strict=True):
        first = round(sample.input[0, 0].item()) % 1000
        assert float(row["start_s"]) == pytest.approx(first / 50 + (7200.5 if first >= 70 else 0), abs=0.011)
    assert {float(row["start_s"]) > 7200 for row in found} == {True, False}


def test_tables_name_the_line(tmp_path):
    lines = [f"{n},{'ab'[n % 2]}" for n in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["x,label", *lines[:20], "", "7,c", *lines[20:]]))
    data = FeatureTableDataModule(str(tmp_path / "t.csv"), ignored_labels=["c"])
    content = (tmp_path / "t.csv").read_text().split("\n")
    for row, sample in zip(predictions(data, tmp_path), data.rows("test"), strict=True):
        assert content[int(row["line"]) - 1] == f"{sample.input[0].item():.0f},{data.classes[sample.target]}"


def test_ready_windows_name_the_line(tmp_path):
    generator = np.random.default_rng(0)
    values = {}
    for split in ("train", "test"):
        folder = tmp_path / split / "Inertial Signals"
        folder.mkdir(parents=True)
        values[split] = generator.normal(size=(24, 4)).round(3)
        np.savetxt(folder / f"x_{split}.txt", values[split], "%.3f")
        (tmp_path / split / f"subject_{split}.txt").write_text("\n".join("1" * 12 + "2" * 12))
        (tmp_path / split / f"y_{split}.txt").write_text("\n".join("112233445566" * 2))
    data = UCIHARDataModule(str(tmp_path), channels=["x"], split_field="split", sample_rate_hz=4)
    for row, sample in zip(predictions(data, tmp_path), data.rows("test"), strict=True):
        assert row["file"] == str(tmp_path / "test")
        np.testing.assert_allclose(sample.input[0], values["test"][int(row["line"]) - 1], atol=1e-6)
