"""Recordings, tables and windows of sensors without labels, for prediction."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.data_files import motion_files
from thirdparty.sensor import PendulumDataModule

from lightning_fusion import Expert, ExpertModule, FoEFuserModule, SensorDataModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.sensor.uci_har import UCIHARDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.encoders import SensorCNN
from lightning_fusion.errors import InputError

CHANNELS = ["x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro"]
HOW = {"pattern": "{subject}/{subject}_{session}_{device}.csv", "channels": CHANNELS, "timestamp": "timestamp"}
HOW |= {"timestamp_unit": "ms", "window_s": 1.0, "domain_fields": ["subject"], "batch_size": 16}


def columns(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file of :func:`motion_files`, without its labels."""
    rows = list(csv.DictReader(path.open()))
    return {name: np.array([float(row[name]) for row in rows]) for name in [*CHANNELS, "timestamp"]}


def write(path: Path, columns: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(repr, row)) for row in rows)]))


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("labeled")
    motion_files(root, people=1)
    return root


@pytest.fixture
def new(labeled, tmp_path) -> Path:
    """One recording, as it was recorded and in other forms."""
    root, one = tmp_path / "new", columns(labeled / "s07/s07_00_sp.csv")
    write(root / "a/plain.csv", one)
    write(root / "reversed.csv", dict(reversed(one.items())))
    np.savez(root / "arrays.npz", **one)
    (root / "notes.md").write_text("no recording")
    return root


class TestRecordings:
    @pytest.mark.slow
    def test_are_windows_of_the_training(self, labeled, new):
        data = SensorDataModule(str(labeled), **HOW)
        known = data.preprocessing
        fresh = SensorDataModule("gone", **HOW, predict_root=str(new), cache="gone")
        fresh.prepare_data()
        fresh.setup("predict")
        fresh.use_preprocessing(known)
        assert fresh.preprocessing == known
        batches = list(fresh.predict_dataloader())
        found = torch.cat([fresh.preprocess(batch.input) for batch in batches])
        number = data._source.names.index("s07/s07_00_sp.csv")
        rows = torch.from_numpy(np.flatnonzero(data._cut.recording == number))
        places = fresh.new_samples.origins(torch.arange(len(found))).columns()
        for file in ("a/plain.csv", "arrays.npz", "reversed.csv"):
            own = [place for place, name in enumerate(places["file"]) if name == file]
            assert [places["start_s"][place] for place in own] == data.origins(rows).columns()["start_s"]
            torch.testing.assert_close(found[own], data.preprocess(data._inputs()[rows]))
        assert {int(target) for batch in batches for target in batch.target} == {-100}

    def test_that_cannot_be_used_are_named(self, new, tmp_path):
        one = columns(new / "a/plain.csv")
        write(new / "lacks.csv", {name: values for name, values in one.items() if name != "y_gyro"})
        write(new / "short.csv", {name: values[:50] for name, values in one.items()})
        write(new / "slow.csv", {name: values[::4] for name, values in one.items()})
        write(new / "still.csv", one | {"z_acc": np.ones(len(one["z_acc"]))})
        pauses = 2000 * (np.arange(len(one["timestamp"])) // 40)  # ms, after every 0.4 s
        write(new / "gaps.csv", one | {"timestamp": one["timestamp"] + pauses})
        (new / "empty.csv").touch()
        data = SensorDataModule("gone", **HOW, predict_root=str(new))
        module = ExpertModule(SensorNet, classes=["run", "sit"])
        with pytest.warns(
            UserWarning, match=r"2 of 9 recordings cannot be read and have no prediction: .*empty\.csv is"
        ):
            tiny.trainer(callbacks=[PredictionWriter(str(tmp_path / "p.csv"))]).predict(module, datamodule=data)
        of_file = {row["file"]: row for row in csv.DictReader((tmp_path / "p_files.csv").open())}
        assert len(of_file) == 9 and int(of_file["slow.csv"]["windows"]) > 5
        expected = {
            "lacks.csv": "has no y_gyro", "empty.csv": "is empty: ", "slow.csv": "recorded at 26 Hz",
            "short.csv": "s, shorter than a window of 1 s", "still.csv": "constant z_acc",
            "gaps.csv": "every window spans a gap", "reversed.csv": "",
        }  # fmt: skip
        for file, text in expected.items():
            assert text in of_file[file]["note"] and bool(of_file[file]["note"]) == bool(text)
        assert of_file["lacks.csv"]["windows"] == of_file["short.csv"]["windows"] == "0"

    def test_without_statistics_have_the_values_as_recorded(self, new):
        fresh = SensorDataModule("gone", **HOW, predict_root=str(new))
        raw = everything_new(fresh)
        assert fresh.preprocessing == {}
        with pytest.warns(UserWarning, match="the model records no mean and std, and the data module has none"):
            assert torch.equal(fresh.preprocess(raw), raw)
        own = SensorDataModule("gone", **HOW, predict_root=str(new), normalization_scope="own")
        own.use_preprocessing({"channels": CHANNELS, "normalization_scope": "own", "mean": [9.0] * 6, "std": [1.0] * 6})
        mean = own.preprocess(raw).mean((0, 2))
        torch.testing.assert_close(mean, torch.zeros(6), atol=1e-4, rtol=0)
        assert own.preprocessing["normalization_scope"] == "own"

    def test_of_other_channels(self, new):
        data = SensorDataModule("gone", **(HOW | {"channels": CHANNELS[:3]}), predict_root=str(new))
        known = {"channels": ["a", "b", "c"], "mean": [1.0] * 3, "std": [2.0] * 3}
        with pytest.warns(
            UserWarning, match="channels x_acc, y_acc, z_acc are read in place of a, b, c of the training"
        ):
            data.use_preprocessing(known)
        assert data.preprocessing["mean"] == [1.0] * 3
        with pytest.raises(
            InputError, match="found the channels x_acc, y_acc, z_acc; the model was trained on a, b: ch"
        ):
            data.use_preprocessing(known | {"channels": ["a", "b"]})

    def test_of_several_positions_and_without_names(self, new, tmp_path):
        one = np.stack([*columns(new / "a/plain.csv").values()], 1)[:, :6]
        np.save(tmp_path / "one.npy", one)
        channels = {"wrist": ["x", "y", "z"], "leg": ["u", "v", "w"]}
        how = {"pattern": "{take}.npy", "channels": channels, "columns": ["x", "y", "z", "u", "v", "w", "label"]}
        data = SensorDataModule("gone", **how, predict_root=str(tmp_path / "one.npy"))
        names = set(data.new_samples.names)
        assert names == {"one.npy (wrist)", "one.npy (leg)"}
        data.use_preprocessing({"channels": ["x", "y", "z"], "mean": [0.0] * 3, "std": [1.0] * 3})
        assert data.preprocessing["samples"] == 100
        np.testing.assert_allclose(everything_new(data)[0], one[:100, :3].T, rtol=1e-6)

    def test_nothing_to_read(self, tmp_path):
        data = SensorDataModule("gone", **HOW, predict_root=str(tmp_path))
        with pytest.raises(
            InputError, match=r"predict_root: found no recording in .*; expected .* \.csv, \.npy, \.npz"
        ):
            data.predict_dataloader()
        (tmp_path / "a.csv").write_text("x_acc\n1\n")
        with pytest.raises(InputError, match=r"has no sample that can be read; the first of 1: .*a\.csv has no y_acc"):
            data.variant().use_preprocessing({"channels": CHANNELS})

    def test_of_a_source_of_ones_own_have_the_channels_of_the_model(self, tmp_path):
        write(tmp_path / "a.csv", {"other": np.zeros(60), "angle": np.arange(60.0)})
        how = {"lengths_m": [1.0], "sample_rate_hz": 20, "window_s": 1.0, "predict_root": str(tmp_path)}
        data = PendulumDataModule(**how)
        data.use_preprocessing({"channels": ["angle"], "mean": [10.0], "std": [2.0]})
        assert everything_new(data).shape == (5, 1, 20) and data.preprocessing["mean"] == [10.0]
        with pytest.raises(InputError, match="the channels of the model are unknown"):
            PendulumDataModule(**how).predict_dataloader()


class TestModels:
    @pytest.mark.slow
    def test_a_pool_converts_to_the_statistics_of_each_expert(self, labeled, new):
        data = SensorDataModule(str(labeled), **HOW)
        torch.manual_seed(0)
        experts = {}
        for name, mean in (("one", 0.0), ("two", 3.0)):
            experts[name] = Expert(SensorNet(2), classes=["run", "sit"])
            experts[name].preprocessing = data.preprocessing | {"mean": [mean] * 6, "std": [mean + 1.0] * 6}
        module = FoEFuserModule(experts=experts, classes=["run", "sit"])
        fresh = SensorDataModule("gone", **HOW, predict_root=str(new))
        trainer = tiny.trainer()
        given = trainer.predict(module, datamodule=fresh)
        raw = everything_new(SensorDataModule("gone", **HOW, predict_root=str(new)))
        outputs = torch.cat(
            [
                experts[name].network((raw - mean) / (mean + 1)).softmax(1)
                for name, mean in (("one", 0.0), ("two", 3.0))
            ],
            1,
        )
        expected = module.fuse(outputs).softmax(1)
        torch.testing.assert_close(torch.cat([part["probabilities"] for part in given]), expected, atol=1e-4, rtol=1e-4)

    def test_a_student_of_a_target(self, new):
        data = TargetDataModule(SensorDataModule("gone", **HOW, predict_root=str(new)), "s07")
        data.setup("predict")
        assert len(data.predict_dataloader().dataset) == 3 * 31


class SensorNet(SensorCNN):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, in_channels=6, width=2)
        self.eval()


def everything_new(data) -> torch.Tensor:
    return torch.cat([batch.input for batch in data.predict_dataloader()])


class TestTables:
    def test_have_the_columns_of_the_training_in_any_order(self, tmp_path):
        (tmp_path / "new/a.csv").parent.mkdir()
        (tmp_path / "new/a.csv").write_text("y,person,x\n1,ann,2\n\n3,ann,?\n5,ben,inf\n")
        (tmp_path / "new/b.csv").write_text("x\n1\n")
        data = FeatureTableDataModule("gone.csv", domain_fields=["person"], predict_root=str(tmp_path / "new"))
        known = {"channels": ["x", "y"], "mean": [1.0, 1.0], "std": [1.0, 2.0], "missing": [7.0, 8.0]}
        with pytest.warns(UserWarning, match=r"1 of 2 tables cannot be read and have no prediction: .*b\.csv has no y"):
            data.use_preprocessing(known)
            assert data.preprocess(everything_new(data)).tolist() == [[1.0, 0.0], [6.0, 1.0]]
        new = data.new_samples
        assert new.origins(torch.arange(4)).columns() == {"file": ["a.csv"] * 3 + ["b.csv"], "line": [2, 4, 5, 1]}
        assert new.notes(torch.arange(3)) == ["", "", "x is infinite"] and new.unread.tolist() == [2, 3]
        assert data.preprocessing == known
        unknown = data.variant(predict_root=str(tmp_path / "new/a.csv"))
        unknown.use_preprocessing(None)
        assert unknown.new_samples.notes(torch.arange(3)) == ["", "x has no value", "x is infinite"]

    def test_without_a_header_may_lack_the_label(self, tmp_path):
        (tmp_path / "a.csv").write_text("1,2,3\n4,5,6\n")
        how = {"predict_root": str(tmp_path / "a.csv"), "leave_out": ["row"]}
        for columns, label in ((["row", "x", "label", "y"], "label"), ("numbered", 3)):
            how["leave_out"] = ["row"] if label == "label" else [0]
            data = FeatureTableDataModule("gone.csv", label=label, columns=columns, **how)
            assert everything_new(data).tolist() == [[2.0, 3.0], [5.0, 6.0]]


class TestUCIHAR:
    def test_windows_are_lines_of_files_of_signals(self, tmp_path):
        signals = {name: np.arange(12.0).reshape(3, 4) + place for place, name in enumerate(("body_gyro_x", "acc"))}
        for name, values in signals.items():
            (tmp_path / "deep").mkdir(exist_ok=True)
            np.savetxt(tmp_path / "deep" / f"{name}_new.txt", np.where(values == 4, np.nan, values))
        data = UCIHARDataModule("gone", channels=["body_gyro_x", "acc"], predict_root=str(tmp_path))
        found = everything_new(data)
        assert found.shape == (1, 2, 4) and found[0, 1].tolist() == [9.0, 10.0, 11.0, 12.0]
        data.use_preprocessing({"channels": ["body_gyro_x", "acc"], "mean": [0.0] * 2, "std": [1.0] * 2})
        assert data.preprocessing["samples"] == 4
        assert data.new_samples.origins(torch.tensor([2])).columns() == {
            "file": ["deep/body_gyro_x_new.txt"],
            "line": [3],
        }
        assert data.new_samples.notes(torch.arange(3)) == ["a value is not a number"] * 2 + [""]
        (tmp_path / "deep/acc_new.txt").unlink()
        with pytest.raises(
            InputError, match=r"predict_root: found no file .*acc_new\.txt; expected a file of each signal"
        ):
            data.variant(batch_size=2).predict_dataloader()
        with pytest.raises(
            InputError, match=r"predict_root: found no file x_\*\.txt under .*; expected a file of each"
        ):
            data.variant(channels=["x"]).predict_dataloader()
