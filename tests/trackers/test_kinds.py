from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_fusion.trackers.base import Stage
from lightning_fusion.trackers.csv_files import CSVTracker
from lightning_fusion.trackers.kinds import TRACKERS, tracker_class, trackers_of


@pytest.fixture
def stage(tmp_path) -> Stage:
    return Stage("seed_0/experts/a", "digits-1a2b", "foe", tmp_path)


class Mine(CSVLogger):
    pass


class Other(Logger):
    def __init__(self, name: str = "none", save_dir: str | None = None, id: str | None = None) -> None:
        self.called = name

    name = version = None

    def log_metrics(self, metrics: Any, step: Any = None) -> None: ...

    def log_hyperparams(self, params: Any) -> None: ...


def arguments(kind: type[Logger], given: dict[str, Any], stage: Stage) -> dict[str, Any]:
    return tracker_class(kind).arguments(kind, given, stage)


def test_a_subclass_of_a_logger_has_the_tracker_of_its_parent(tmp_path):
    assert tracker_class(Mine) is CSVTracker and len(TRACKERS) == 5
    (tracker,) = trackers_of([Mine(tmp_path)])
    assert isinstance(tracker, CSVTracker)


def test_a_logger_of_another_project_has_scalars_in_the_name_and_folder_of_the_stage(stage, tmp_path):
    found = arguments(Other, {"save_dir": "mine"}, stage)
    assert found == {"name": "seed_0/experts/a", "save_dir": str(tmp_path / "mine")} and (tmp_path / "mine").is_dir()
    (tracker,) = trackers_of([Other()])
    assert tracker.log_table("a", ["b"], [[1]]) is tracker.log_file("a", tmp_path, "store") is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRACKERS, ids=lambda kind: kind.__name__)
def test_names_of_the_user_come_before_that_of_the_stage(kind, stage, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    key = "run_name" if kind.__name__ == "MLFlowLogger" else "name"
    found = [arguments(kind, given, stage)[key] for given in ({}, {key: "mine"})]
    assert found == ["seed_0/experts/a", "mine/seed_0/experts/a"]


def test_group_job_type_and_project_of_the_user_are_kept(stage, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    (kind,) = [each for each in TRACKERS if each.__name__ == "WandbLogger"]
    found = arguments(kind, {"project": None, "tags": ["mine"]}, stage)
    assert (found["project"], found["group"], found["job_type"]) == ("lightning_fusion", "digits-1a2b", "experts")
    assert found["tags"] == ["mine", "foe", "seed_0"]
    found = arguments(kind, {"project": "p", "group": "g", "job_type": "j"}, stage)
    assert (found["project"], found["group"], found["job_type"]) == ("p", "g", "j")
    monkeypatch.setenv("WANDB_PROJECT", "of_the_sweep")
    assert arguments(kind, {}, stage)["project"] == "of_the_sweep"


@pytest.mark.slow
def test_an_address_of_mlflow_is_kept(stage, tmp_path, monkeypatch):
    address = f"sqlite:///{tmp_path / 'own.db'}"
    (kind,) = [each for each in TRACKERS if each.__name__ == "MLFlowLogger"]
    found = arguments(kind, {"tracking_uri": address, "experiment_name": "mine"}, stage)
    assert (found["tracking_uri"], found["experiment_name"]) == (address, "mine") and (tmp_path / "own.db").is_file()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    report = arguments(kind, {}, Stage("report", "digits-1a2b", "foe", tmp_path))
    again = arguments(kind, {}, Stage("report", "digits-1a2b", "foe", tmp_path))
    assert report["tracking_uri"] == address and report["run_id"] == again["run_id"], "the results have one run"


def test_zero_is_a_cell_of_a_table_of_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    (tracker,) = trackers_of([logger])
    tracker.log_table("found", ["method", "errors", "gain"], [["average", 0, None]])
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (found,) = events.Tensors("found/text_summary")
    assert "| average | 0 |  |" in found.tensor_proto.string_val[0].decode()
