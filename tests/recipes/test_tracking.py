"""Every tracker has each stage of a recipe once, with what its kind can record."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from helpers import tiny
from helpers.tracked import comet_experiments, csv_rows, mlflow_runs, tensorboard_tags, wandb_runs
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from lightning_fusion import ExpertModule, plotting
from lightning_fusion.errors import InputError
from lightning_fusion.recipes.runner import Recipe, Run, run_recipe
from lightning_fusion.recipes.seed_run import SeedRun
from lightning_fusion.recipes.tracking import Tracking

LOGGERS = "lightning.pytorch.loggers."
ALL = {"accelerator": "cpu", "enable_progress_bar": False}
ALL["logger"] = [
    {"class_path": f"{LOGGERS}WandbLogger", "init_args": {"tags": ["mine"]}},
    {"class_path": f"{LOGGERS}TensorBoardLogger", "init_args": {"save_dir": "board"}},
    {"class_path": f"{LOGGERS}CSVLogger", "init_args": {"save_dir": "tables"}},
    {"class_path": f"{LOGGERS}MLFlowLogger"},
    {"class_path": f"{LOGGERS}CometLogger", "init_args": {"online": False}},
]
CSV = {"accelerator": "cpu", "enable_progress_bar": False, "logger": ALL["logger"][2]}


@dataclass(kw_only=True)
class One(Recipe):
    """Trains one expert for each seed, and stores something."""

    name: str = "one"
    main: str = "ours"
    config: dict[str, Any] = field(default_factory=lambda: {"epochs": 2, "fuser": None})

    def run_seed(self, run: Run, seed: int) -> None:
        one = SeedRun(run, tiny.data(), seed)
        build = partial(ExpertModule, tiny.Net, classes=tiny.CLASSES, trained_on=["x"])
        one.train("experts/a", build, one.data, seed, 2, "an expert")
        (one.folder / "outputs").mkdir(exist_ok=True)
        (one.folder / "outputs" / "values.bin").write_text("0.5")
        one.log_store("outputs")
        run.report.add("ours", "accuracy", 0.9, seed)
        run.report.add("ours", "accuracy", 0.8, seed, split="val")
        run.report.add("theirs", "accuracy", 0.5, seed)

    def conclude(self, run: Run) -> None:
        run.report.data = {}

    def figures(self, run: Run) -> Any:
        return {"bars": (plotting.grouped_bars({"ours": [0.9]}, ["x"], label="accuracy", title="A"), "Bars.")}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with one seed, taken up without a change, and then with a second one."""
    folder = tmp_path_factory.mktemp("tracked") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("COMET_START_ONLINE", "0")  # restored afterwards
        wandb.teardown()  # a service that another test started would write into that test's folder
        for seeds in ([0], [0]):
            run_recipe(One(), folder, seeds, ALL)
        wandb.teardown()
    assert wandb.run is None
    return folder


pytestmark = pytest.mark.slow
REPORT_FILES = ("report.md", "report.html", "results.json")
STAGES = {"seed_0/experts/a", "seed_0/outputs", "report"}


def test_wandb_has_a_group_of_stages(run):
    runs = wandb_runs(run / "logs/wandb")
    name = json.loads((run / "logs/stages.json").read_text())["run"]
    assert set(runs) == STAGES and {each["group"] for each in runs.values()} == {name}
    assert [runs[stage]["kind"] for stage in sorted(STAGES)] == ["report", "experts", "outputs"]
    expert, outputs, report = (runs[stage] for stage in ("seed_0/experts/a", "seed_0/outputs", "report"))
    assert expert["tags"] == ["mine", "one", "seed_0"] and report["tags"] == ["mine", "one"]
    assert {"train_loss", "val_loss", "val_accuracy", "lr-AdamW"} <= set(expert["summary"])
    assert expert["config"]["model"]["trained_on"] == ["x"] and expert["config"]["stage"] == "seed_0/experts/a"
    assert set(expert["config"]) == {"recipe", "stage", "model", "data", "_wandb"}
    assert "null" not in json.dumps([expert["config"]["model"], report["config"]["epochs"]])
    assert "fuser" not in report["config"] and report["config"]["seeds"] == [0]
    assert expert["artifacts"] == {"checkpoint": ["a.ckpt"]} and outputs["artifacts"] == {"store": ["values.bin"]}
    assert (report["summary"]["test_accuracy"], report["summary"]["val_accuracy"]) == (0.9, 0.8)
    table, image = report["files"][1], report["files"][0]
    stored = json.loads((report["folder"] / table).read_text())
    assert stored["columns"][:2] == ["method", "accuracy"] and [row[0] for row in stored["data"]] == ["ours", "theirs"]
    assert stored["data"][1][3] == pytest.approx(0.4)
    drawn = (plotting.page.MOST_INCHES * 130, 130)
    assert drawn[0] >= Image.open(report["folder"] / image).size[0] > drawn[1]
    assert set(report["artifacts"]) == {"run_table", "report"}


def test_mlflow_nests_the_stages_in_a_run_with_the_results(run):
    runs = mlflow_runs(run / "logs/mlflow.db")
    name = json.loads((run / "logs/stages.json").read_text())["run"]
    assert {stage: each["in"] for stage, each in runs.items()} == {
        "seed_0/experts/a": name,
        "seed_0/outputs": name,
        name: None,
    }
    assert {each["status"] for each in runs.values()} == {"FINISHED"}
    assert {"train_loss", "val_accuracy", "lr-AdamW"} <= set(runs["seed_0/experts/a"]["metrics"])
    assert runs["seed_0/experts/a"]["params"]["model.class"] == "ExpertModule"
    assert "None" not in runs["seed_0/experts/a"]["params"].values()
    assert runs["seed_0/experts/a"]["files"] == ["checkpoint/a.ckpt"]
    assert runs["seed_0/outputs"]["files"] == ["store/outputs/values.bin"]
    wanted = {"figures/bars.png", "tables/results.json", *(f"report/{name}" for name in REPORT_FILES)}
    assert set(runs[name]["files"]) == wanted and runs[name]["metrics"]["test_accuracy"] == 0.9


def test_tensorboard_has_a_folder_for_each_stage(run):
    expert, report = (
        tensorboard_tags(run / "logs/board" / name / "version_0") for name in ("seed_0/experts/a", "report")
    )
    assert {"train_loss", "val_accuracy", "lr-AdamW"} <= set(expert["scalars"])
    assert report["images"] == ["bars"] and report["tensors"] == ["results/text_summary"]


def test_csv_has_a_folder_for_each_stage_with_tables(run):
    folder = run / "logs/tables"
    rows = csv_rows(folder / "seed_0/experts/a/version_0/metrics.csv")
    assert {"train_loss", "val_accuracy", "lr-AdamW"} <= set(rows[0])
    settings = yaml.safe_load((folder / "seed_0/experts/a/version_0/hparams.yaml").read_text())
    assert settings["model"]["class"] == "ExpertModule" and settings["data"]["class"] == "TensorDataModule"
    table = csv_rows(folder / "report/version_0/results.csv")
    assert [row["method"] for row in table] == ["ours", "theirs"] and float(table[1]["gain of ours"]) == pytest.approx(
        0.4
    )
    assert not (folder / "report/version_1").exists(), "the unchanged run was logged again"


def test_comet_has_archives_of_the_stages(run):
    found = comet_experiments(run / "logs")
    name = json.loads((run / "logs/stages.json").read_text())["run"]
    assert set(found) == STAGES and all({name, "one"} <= set(each["tags"]) for each in found.values())
    assert {"train_loss", "val_accuracy", "lr-AdamW"} <= found["seed_0/experts/a"]["metrics"]
    assert "checkpoint/a.ckpt" in found["seed_0/experts/a"]["files"]
    assert {"results.csv", *(f"report/{name}" for name in REPORT_FILES)} <= set(found["report"]["files"])


def test_a_further_seed_is_logged_alone_with_a_new_report(run):
    run_recipe(One(), run, [0, 1], CSV)
    folder = run / "logs/tables"
    assert sorted(path.name for path in (folder / "seed_0/experts/a").iterdir()) == ["version_0"]
    assert (folder / "seed_1/experts/a/version_0/metrics.csv").is_file()
    assert (folder / "report/version_1/results.csv").is_file()


def test_a_stage_that_fails_is_logged_again(tmp_path):
    class Broken(One):
        def run_seed(self, run: Run, seed: int) -> None:
            run.trainers.trainer(f"seed_{seed}/a").fit(ExpertModule(tiny.Net, classes=tiny.CLASSES), tiny.data())
            raise InputError("it broke")

    with pytest.raises(InputError, match="it broke"):
        run_recipe(Broken(), tmp_path / "run", [0], CSV)
    assert not (tmp_path / "run/logs/stages.json").exists()


def test_a_second_trainer_of_a_name_is_a_stage_of_its_own(tmp_path):
    def build(described):
        return CSVLogger(**described["init_args"])

    tracking = Tracking([{"class_path": "CSVLogger"}], tmp_path, "one", lambda path: CSVLogger, build)
    names = [tracking.open("a")[0].name for _ in range(2)]
    tracking.close()
    assert names == ["a", "a_2"] and tracking.open("a") != []
    again = Tracking([{"class_path": "CSVLogger"}], tmp_path, "one", lambda path: CSVLogger, build)
    assert [again.open("a"), again.open("a")] == [[], []] and again.record["run"] == tracking.record["run"]
