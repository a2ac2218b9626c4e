"""An offline wandb run through the command line, read back from its own file."""

from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from helpers.command_line import TWO_BATCHES, look_up, merged, prepare, read, shipped, small, write_yaml
from helpers.tracked import config_and_summary

from lightning_fusion.cli.main import main

pytestmark = pytest.mark.slow


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    parts = [flat(value, f"{prefix}.{key}" if prefix else key) for key, value in config.items()]
    return {key: value for part in parts for key, value in part.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with one save_dir: folders of wandb's files and of our config.yaml, and the values that were given."""
    with pytest.MonkeyPatch.context() as patch:
        folder = prepare(tmp_path_factory, tmp_path_factory.mktemp("wandb"), patch)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        wandb.teardown()  # a service that another test started would write into that test's folder
        quick = write_yaml(Path("quick.yaml"), merged(small(read("foe/digits.yaml")), {"trainer": TWO_BATCHES}))
        result = []
        for lr in (0.25, 0.5):
            more = [f"--model.init_args.optimizer.init_args.lr={lr}", "--data.init_args.batch_size=32"]
            cli = main(
                ["fit", "-c", "foe/digits.yaml", "-c", "trainer/wandb.yaml", "-c", quick, *more, "--overwrite=true"]
            )
            run = cli.trainer.logger.experiment
            place = Path(run.dir).resolve().parent
            wandb.finish()
            result.append((lr, place, folder / "runs/wandb/lightning_fusion" / run.id / "config.yaml"))
        wandb.teardown()
    return result


def test_the_run_holds_every_hyperparameter_under_the_sweeps_keys(runs):
    for lr, folder, file in runs:
        config, _ = config_and_summary(folder)
        given = flat(yaml.safe_load(file.read_text()))
        assert {key: config.get(key) for key in given} == given
        assert None not in config.values() and set(config) - set(given) == {"_wandb"}, "each hyperparameter once"
        assert config["model.init_args.optimizer.init_args.lr"] == lr
        assert config["data.init_args.batch_size"] == 32
        assert "trainer.logger.init_args.name" not in config, "every run of a sweep would have the CSV logger's name"
        assert set(read("sweeps/foe.yaml")["parameters"]) <= set(config)


@pytest.mark.parametrize("name", [name for name in shipped("sweeps") if read(name)["command"][1] == "fit"])
def test_a_run_of_every_sweep_holds_its_keys_and_its_metric(name, tmp_path_factory, monkeypatch):
    sweep = read(name)
    base = sweep["command"][sweep["command"].index("-c") + 1]
    prepare(tmp_path_factory, tmp_path_factory.mktemp("sweep"), monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    quick = write_yaml(Path("quick.yaml"), merged(small(read(base)), {"trainer": TWO_BATCHES}))
    sample = {key: one.get("values", [one.get("min")])[0] for key, one in sweep["parameters"].items()}
    given = [f"--{key}={value}" for key, value in sample.items()]
    cli = main(["fit", "-c", base, "-c", "trainer/wandb.yaml", "-c", quick, "--overwrite=true", *given])
    folder = Path(cli.trainer.logger.experiment.dir).resolve().parent
    wandb.finish()
    wandb.teardown()
    config, summary = config_and_summary(folder)
    assert {key: config[key] for key in sample} == sample
    assert 0 <= summary[sweep["metric"]["name"]] <= 1


def test_the_run_holds_the_metric_that_the_sweep_watches(runs):
    for _, folder, _ in runs:
        _, summary = config_and_summary(folder)
        assert 0 <= summary[read("sweeps/foe.yaml")["metric"]["name"]] <= 1
        assert {"train_loss", "val_loss", "epoch"} <= set(summary)


def test_two_runs_in_one_save_dir_keep_their_own_config(runs):
    files = [file for _, _, file in runs]
    assert len(set(files)) == 2
    for lr, _, file in runs:
        assert look_up(yaml.safe_load(file.read_text()), "model.init_args.optimizer.init_args.lr") == lr


def test_files_are_not_uploaded_and_stay_in_save_dir(runs):
    for _, folder, file in runs:
        assert folder.parent.parent == file.parent.parent.parent
        assert not list(folder.rglob("*.ckpt"))
