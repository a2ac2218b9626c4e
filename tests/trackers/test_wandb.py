from pathlib import Path

import pytest
import wandb
from helpers.tracked import records
from lightning.pytorch.loggers import WandbLogger

from lightning_fusion.trackers.base import Stage
from lightning_fusion.trackers.wandb import WandbTracker

pytestmark = pytest.mark.slow


def test_in_a_sweep_the_results_are_the_run_of_the_trial_and_stages_are_beside_it(tmp_path, monkeypatch):
    """The agent's variables would make every run of the process the run of the trial."""
    drawn = tmp_path / "drawn.yaml"
    drawn.write_text("wandb_version: 1\nexpert_epochs: {value: 3}\n")
    agent = {"WANDB_SWEEP_ID": "sweep001", "WANDB_RUN_ID": "trial001", "WANDB_SWEEP_PARAM_PATH": str(drawn)}
    for key, value in (agent | {"WANDB_MODE": "offline"}).items():
        monkeypatch.setenv(key, value)
    wandb.teardown()
    for name in ("seed_0/experts/a", "seed_0/outputs", "report"):
        stage = Stage(name, "digits-1a2b", "foe", tmp_path)
        tracker = WandbTracker(WandbLogger(**WandbTracker.arguments(WandbLogger, {}, stage)))
        tracker.open(stage)
        tracker.logger.log_metrics({"accuracy": 0.5})
        tracker.close()
    wandb.teardown()
    runs = {}
    for file in Path(tmp_path).rglob("*.wandb"):
        run = next(record.run for record in records(file) if record.HasField("run"))
        runs[run.display_name] = run
    assert {name: run.sweep_id for name, run in runs.items()} == {
        "seed_0/experts/a": "",
        "seed_0/outputs": "",
        "report": "sweep001",
    }
    assert runs["report"].run_id == "trial001" and len({run.run_id for run in runs.values()}) == 3


def test_a_run_of_the_caller_stays_open(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    with wandb.init(project="mine", dir=tmp_path) as run:
        stage = Stage("seed_0/experts/a", "digits-1a2b", "foe", tmp_path)
        tracker = WandbTracker(WandbLogger(**WandbTracker.arguments(WandbLogger, {}, stage)))
        with pytest.warns(UserWarning, match="will reuse this run"):
            assert tracker.logger.experiment is run
        tracker.close()
        assert wandb.run is run
    wandb.teardown()
