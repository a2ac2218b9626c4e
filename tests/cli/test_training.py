"""Predictions on new files from the terminal, by models whose labeled data are gone."""

import csv
import shutil
from pathlib import Path

import pytest
from helpers.command_line import EXPERTS, TWO_BATCHES, merged, parse, prepare, read, refused, small, write_yaml
from PIL import Image

from lightning_fusion.cli.main import main
from lightning_fusion.data.text.synthetic import SyntheticTextDataModule

KEPT = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "runs/mine", "filename": "model"}}
QUIET = TWO_BATCHES | {"limit_predict_batches": None, "logger": False, "callbacks": [KEPT], "num_sanity_val_steps": 0}
QUIET |= {"default_root_dir": "runs/mine"}
POOL = {
    name: {"class_path": "lightning_fusion.Expert", "init_args": {"checkpoint": f"runs/digits/experts/{name}.ckpt"}}
    for name in EXPERTS
}


@pytest.fixture
def new(tmp_path, tmp_path_factory, monkeypatch) -> Path:
    """A folder of new images in the current folder, where experts are trained."""
    prepare(tmp_path_factory, tmp_path, monkeypatch)
    for number, name in enumerate(("a.png", "deep/er/a.png", "deep/b.png")):
        Path("new", name).parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").rotate(90 * number).resize((8, 8)).save(Path("new", name))
    return Path("new")


def files_of(name: str) -> list[str]:
    """Arguments that run a shipped file for two batches, in a folder of its own."""
    override = merged(small(read(name)), {"trainer": QUIET})
    return ["-c", name, "-c", write_yaml(Path("small.yaml"), override)]


def predict(*arguments: str, new: str = "new") -> list[dict[str, str]]:
    """The rows that predict writes on new samples."""
    main(["predict", *arguments, f"--data.predict_root={new}", "--ckpt_path=runs/mine/model.ckpt"])
    with Path("runs/mine/predictions.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def fit_and_predict(*arguments: str) -> list[dict[str, str]]:
    """Train a model, and predict new samples."""
    shutil.rmtree("runs/mine", ignore_errors=True)
    main(["fit", *arguments])
    return predict(*arguments)


@pytest.mark.slow
class TestNewSamples:
    def test_of_an_expert_whose_data_are_gone(self, new):
        shutil.copytree("data/images", "mine")
        files = [*files_of("experts/folders.yaml"), "--data.root=mine", "--data.domain=studio"]
        main(["fit", *files])
        shutil.rmtree("mine")
        rows = predict(*files)
        assert list(rows[0]) == ["index", "file", "prediction", "confidence", "cat", "dog"]
        assert [row["file"] for row in rows] == ["a.png", "deep/b.png", "deep/er/a.png"]
        files += ["--data.predict_root=new"]
        assert "predict_root is an argument of predict, and test needs labeled samples" in refused(["test", *files])
        assert "classes is not set, and the data module has none (none with predict_root)" in refused(
            ["predict", *files]
        )

    @pytest.mark.parametrize("name", ["acorl/digits.yaml", "hat/digits.yaml"])
    def test_of_a_model_beside_experts(self, new, name):
        assert [row["file"] for row in fit_and_predict(*files_of(name))] == ["a.png", "deep/b.png", "deep/er/a.png"]

    def test_of_a_fuser_and_a_policy_on_raw_input(self, new):
        files = files_of("foe/digits_raw.yaml")
        assert "expert" not in fit_and_predict(*files)[0]
        rows = fit_and_predict(*files, "--model.target=expert")
        assert {row["expert"] for row in rows} <= set(EXPERTS)
        policy = {"model": {"class_path": "lightning_fusion.FrugalFoEModule", "init_args": {"experts": POOL}}}
        data = {"data": merged(read("foe/digits_raw.yaml")["data"], small(read("foe/digits_raw.yaml")["data"]))}
        rows = fit_and_predict("-c", write_yaml(Path("policy.yaml"), policy | data | {"trainer": QUIET}))
        assert len(rows) == 3 and all(row["queried"] and float(row["cost"]) >= 1 for row in rows)
        message = refused(["predict", "-c", "foe/digits.yaml", "--data.predict_root=new"])
        assert "data: Option 'predict_root' is not accepted: it reads no files. New samples need the data" in message

    def test_of_recordings_of_sensors_and_of_speech(self, new):
        files = [*files_of("experts/sensor_spsw.yaml"), "--data.root=mine"]
        shutil.copytree("data/spsw_har", "mine")
        main(["fit", *files])
        lines = Path("mine/s07/s07_00_sw.csv").read_text().splitlines()
        shutil.rmtree("mine")
        Path("motion.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))  # without the label
        rows = predict(*files, new="motion.csv")
        assert {row["file"] for row in rows} == {"motion.csv"}
        assert [float(row["start_s"]) for row in rows] == [number / 2 for number in range(len(rows))]
        with Path("runs/mine/predictions_files.csv").open(newline="") as table:
            (of_file,) = csv.DictReader(table)
        mean = sum(float(row["ACTIVITY_0"]) for row in rows) / len(rows)
        assert of_file["windows"] == str(len(rows)) and float(of_file["ACTIVITY_0"]) == pytest.approx(mean, abs=1e-5)
        shutil.rmtree("runs/mine")
        files = files_of("experts/speaker.yaml")
        main(["fit", *files])
        shutil.copytree("data/speakers/s00", "voices/anyone")
        Path("pairs.txt").write_text("anyone/0.wav anyone/1.wav\n")
        rows = predict(*files, "--data.root=gone", "--data.predict_trials=pairs.txt", new="voices")
        assert len(rows) == 8 and rows[0]["file"] == "anyone/0.wav"
        trials = Path("runs/mine/predictions_trials.csv").read_text()
        assert trials.startswith("enrol,test,score\nanyone/0.wav,anyone/1.wav,")

    def test_of_texts_without_the_labeled_ones(self, new, monkeypatch):
        Path("new.csv").write_text("text\ngood thing\nbad thing\n")
        files = files_of("experts/text_synthetic.yaml")
        main(["fit", *files])
        monkeypatch.setattr(SyntheticTextDataModule, "read", lambda data: pytest.fail("it read the labeled texts"))
        rows = predict(*files, new="new.csv")
        assert [(row["file"], row["line"]) for row in rows] == [("new.csv", "2"), ("new.csv", "3")]


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "name"), [("0.0", "domain_0"), ("2.5", "domain_2.5"), ("x", "domain_x")])
def test_a_checkpoint_is_named_by_the_canonical_form_of_its_domain(domain, name):
    config = parse(["fit", "-c", "experts/digits.yaml", f"--data.init_args.domain={domain}"])
    (found,) = [each for each in config["trainer"]["callbacks"] if "filename" in each["init_args"]]
    assert found["init_args"]["filename"] == name
