"""Samples of equal content are counted and named, and so are targets of one class only."""

import logging
import os

import numpy as np
import pytest
import soundfile
import torch
from helpers.image_trees import draw_tree
from helpers.recording_trees import draw_tree as draw_recordings
from helpers.recording_trees import folders, names
from helpers.text_tables import FEW, ROWS, delimited, table
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from thirdparty.images import StripesDataModule

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, FrugalFoE, ImageDataModule, SensorDataModule, collect
from lightning_fusion import diagnose as diagnose_outputs
from lightning_fusion.data.audio.labeled import LabeledAudioDataModule
from lightning_fusion.data.duplicates import equal_files, equal_rows
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.views.role import RoleDataModule
from lightning_fusion.recipes.seed_run import data_notes


def said(recwarn):
    """Warnings about equal content."""
    return [str(one.message) for one in recwarn if "the content of another" in str(one.message)]


class TestContent:
    def test_of_files(self, tmp_path):
        contents = [b"a", b"b", b"a", b"", b"", bytes(9000), bytes(9000), bytes(8999) + b"x", b"x" + bytes(8999)]
        paths = [tmp_path / str(number) for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        assert equal_files([*paths, tmp_path / "missing"]).tolist() == [0, 1, 0, 3, 4, 5, 5, 7, 8, 9]

    def test_only_files_of_equal_size_are_opened(self, tmp_path, monkeypatch):
        for number in range(5):
            (tmp_path / str(number)).write_bytes(bytes(number + 1))
        monkeypatch.setattr(os, "open", None)
        assert equal_files([tmp_path / str(number) for number in range(5)]).tolist() == list(range(5))

    @pytest.mark.slow
    @given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), max_size=12))
    def test_of_rows(self, values):
        rows = np.array(values, np.int16).reshape(-1, 3)
        assert equal_rows(rows).tolist() == [values.index(value) for value in values]

    @pytest.mark.slow
    @given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=3), min_size=1, max_size=12))
    def test_of_samples_of_several_rows(self, values):
        lengths = np.array([len(value) for value in values])
        rows = np.array([one for value in values for one in value], np.float32)
        found = equal_rows(rows, np.cumsum(lengths) - lengths, lengths)
        assert found.tolist() == [values.index(value) for value in values]


class TestImages:
    def test_across_domains_with_contradictory_labels(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], count=10)
        (tmp_path / "home/dog/0.png").write_bytes((tmp_path / "clinic/cat/0.png").read_bytes())
        data = DomainImageDataModule(str(tmp_path))
        with pytest.warns(
            UserWarning,
            match=r"2 of 40 images have the content of another one: 2 with contradictory labels, such as "
            r"clinic/cat/0.png and home/dog/0.png; .*2 across domains \(clinic and home share 1\)",
        ):
            data.setup()

    def test_across_splits_and_once_for_all_variants(self, tmp_path, recwarn):
        draw_tree(tmp_path, ["train", "test"], ["cat", "dog"], count=10)
        (tmp_path / "test/cat/0.png").write_bytes((tmp_path / "train/cat/0.png").read_bytes())
        data = ImageDataModule(str(tmp_path), memory_limit_gb=1e-9)
        for seed in range(3):
            data.variant(seed=seed).setup()
        (message,) = said(recwarn)
        assert "2 across splits (t" in message and "such as test/cat/0.png and train/cat/0.png" in message

    def test_within_one_split_is_information(self, tmp_path, recwarn, caplog):
        draw_tree(tmp_path, ["train", "test"], ["cat", "dog"], count=10)
        for number in (0, 1):
            Image.new("RGB", (4, 4), "red").save(tmp_path / f"test/cat/{number}.png")
        with caplog.at_level(logging.INFO):
            ImageDataModule(str(tmp_path)).setup()
        assert not said(recwarn)
        assert "2 of 40 images have the content of another one: 2 others, such as test/cat/0.png and" in caplog.text

    def test_of_arrays(self, recwarn):
        StripesDataModule(count=60).setup()  # fifty shades
        assert "80 of 240 images" in said(recwarn)[0] and "across splits" in said(recwarn)[0]


class TestRecordings:
    def test_of_two_speakers(self, tmp_path):
        draw_recordings(tmp_path, names(7))
        for path in (tmp_path / "id001").rglob("*.wav"):
            path.write_bytes((tmp_path / "id002" / path.relative_to(tmp_path / "id001")).read_bytes())
        with pytest.warns(UserWarning, match=r"6 of 21 recordings .*across speakers \(id001 and id002 share 3\)"):
            folders(tmp_path).setup()

    def test_of_two_labels_and_in_two_splits(self, tmp_path):
        for n in range(40):
            path = tmp_path / f"{'ab'[n % 2]}_{'xy'[n // 2 % 2]}_{n}.wav"
            soundfile.write(path, np.full(800, 0.5 if n > 19 else n / 99), 4000)
        data = LabeledAudioDataModule(
            str(tmp_path), "{label}_{speaker}_{take}.wav", split_by="recording", sample_rate_hz=4000
        )
        with pytest.warns(UserWarning, match=r"20 of 40 .*20 with contradictory labels.*; 20 across splits"):
            data.variant(domain="x").setup()

    def test_of_sensors(self, tmp_path):
        for n in range(12):
            lines = [f"{k + 100 * (n % 11)},{'sit' if n < 6 else 'walk'}" for k in range(60)]
            (tmp_path / f"{'ab'[n % 2]}_{n}.csv").write_text("\n".join(["x,label", *lines]))
        data = SensorDataModule(str(tmp_path), "{who}_{take}.csv", channels=["x"], domain_fields=["who"], window_s=0.4)
        with pytest.warns(
            UserWarning,
            match=r"2 of 12 recordings .*contradictory labels, such as a_0.csv and b_11.csv.*\(a and b share 1",
        ):
            data.setup()

    def test_of_tables(self, tmp_path):
        lines = [f"{min(n, 50)},{-min(n, 50)},{'ab'[n % 2]}" for n in range(60)]
        (tmp_path / "t.csv").write_text("\n".join(["x,y,label", *lines]))
        with pytest.warns(UserWarning, match=r"10 of 60 rows .*labels, such as .*t.csv, row 52 and .*t.csv, row 53;"):
            FeatureTableDataModule(str(tmp_path / "t.csv")).setup()


class TestTexts:
    def test_of_two_labels(self, tmp_path):
        rows = [*ROWS, ("Great  BOOK 0", "bad", "a")]
        with pytest.warns(
            UserWarning, match=r"2 of 81 texts .*2 with contradictory labels, such as .*, line 2 and .*, line 82$"
        ):
            delimited(table(tmp_path / "t.csv", rows)).setup()

    def test_labels_of_two_tasks_do_not_contradict_each_other(self, tmp_path, recwarn, caplog):
        rows = [*((text, f"{domain}/{label}", domain) for text, label, domain in ROWS), ("great book 0", "b/bad", "b")]
        with caplog.at_level(logging.INFO):
            delimited(table(tmp_path / "t.csv", rows)).setup()
        assert not said(recwarn) and "2 across domains (a and b share 1)" in caplog.text

    def test_texts_in_a_later_split_are_named(self, tmp_path, caplog):
        rows = [(*row, ("train", "train", "val", "test")[n % 4]) for n, row in enumerate(ROWS)]
        rows.append((*ROWS[3], "train"))
        root = table(tmp_path / "t.csv", rows, "text,label,domain,split")
        with caplog.at_level(logging.INFO):
            delimited(root, split_field="split", **{k: v for k, v in FEW.items() if k not in FEW}).setup()
        assert "1 of 81 texts are in a later split as well, and are left out of training or validation, such as" in (
            caplog.text
        )
        assert "t.csv, line 82" in caplog.text


def test_reports_contain_what_was_said(tmp_path):
    data = delimited(table(tmp_path / "t.csv", [*ROWS, ("Great  BOOK 0", "bad", "a"), ("", "bad", "a")]))
    view = RoleDataModule(data.variant(unreadable="drop"), role="fuser")
    view.setup()
    assert [note.partition(":")[0] for note in data_notes(view)] == ["Data"] * 2
    assert "1 texts are unreadable" in data_notes(view)[0] and "contradictory labels" in data_notes(view)[1]


def test_of_tensors(recwarn):
    pool = ExpertPool({"a": Expert(torch.nn.Linear(2, 2), classes=["x", "y"])})
    inputs, targets = torch.arange(8.0).reshape(4, 2), torch.tensor([0, 1, 0, 1])
    collect(pool, {"train": (inputs, targets), "test": (inputs[:2] + 0.5, targets[:2])})
    assert not said(recwarn)
    collect(pool, {"train": (inputs, targets), "test": (inputs[:2], targets[:2])})
    assert "4 of 6 inputs" in said(recwarn)[0] and "train and test share 2" in said(recwarn)[0]


class TestOneClass:
    SAID = r"all 8 targets of the test split are 'right': a constant answer has accuracy 1 on them"

    def test_of_a_data_module(self):
        with pytest.warns(UserWarning, match=self.SAID):
            TensorDataModule({"test": (torch.rand(8, 2), torch.ones(8, dtype=torch.long))}, classes=["wrong", "right"])

    def test_of_a_split_of_images(self, tmp_path):
        draw_tree(tmp_path, ["train"], ["right", "wrong"], count=10)
        draw_tree(tmp_path, ["test"], ["right"], count=8)
        with pytest.warns(UserWarning, match=self.SAID):
            ImageDataModule(str(tmp_path)).rows("test")

    def test_of_a_log(self):
        split = {"probabilities": {"a": [[0.2, 0.8]] * 8, "b": [[0.4, 0.6]] * 8}, "target": ["right"] * 8}
        with pytest.warns(UserWarning, match=self.SAID):
            outputs = ExpertOutputs.from_arrays({"test": split}, {"a": ["wrong", "right"], "b": ["wrong", "right"]})
        assert any(
            found.startswith("All 8 targets of the test") for found in diagnose_outputs(outputs, "test").findings
        )
        with pytest.warns(UserWarning, match="all 8 targets of the calibration samples are 'right'"):
            FrugalFoE(fuser_neighbors=3).fit(outputs["test"])
