"""An offline wandb run through the command line, read back from its own file."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from helpers.command_line import TWO_BATCHES, look_up, merged, prepare, read, shipped, small, write_yaml
from wandb.proto.wandb_internal_pb2 import Record

from lightning_fusion.cli.main import main

pytestmark = pytest.mark.slow

BLOCK, HEADER = 32768, 7


def records(file: Path) -> list[Record]:
    """The records of a .wandb file: protobuf messages in the framing of LevelDB's log."""
    content = file.read_bytes()
    assert content[:4] == b":W&B"  # and three bytes of magic number and version
    place, parts, found = 7, b"", []
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block that is too short for a header
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + HEADER])
        parts += content[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # whole, or last part
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def config_and_summary(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run's file says about its configuration and its last metrics."""
    (file,) = folder.glob("*.wandb")
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for record in records(file):
        for update in [*record.run.config.update, *record.config.update]:
            config[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
        for update in record.summary.update:
            summary[update.key or ".".join(update.nested_key)] = json.loads(update.value_json)
        for item in record.history.item:
            summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return config, summary


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
        assert {key: config.get(key, "missing") for key in given} == given
        assert config["model.init_args.optimizer.init_args.lr"] == lr
        assert config["data.init_args.batch_size"] == 32
        assert config["trainer.logger.init_args.name"] is None, "every run of a sweep would have the CSV logger's name"
        assert set(read("sweeps/foe.yaml")["parameters"]) <= set(config)


@pytest.mark.parametrize("name", shipped("sweeps"))
def test_a_run_of_every_sweep_holds_its_keys_and_its_metric(name, tmp_path_factory, monkeypatch):
    sweep = read(name)
    base = sweep["command"][sweep["command"].index("-c") + 1]
    prepare(tmp_path_factory, tmp_path_factory.mktemp("sweep"), monkeypatch)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    quick = write_yaml(Path("quick.yaml"), merged(small(read(base)), {"trainer": TWO_BATCHES}))
    cli = main(["fit", "-c", base, "-c", "trainer/wandb.yaml", "-c", quick, "--overwrite=true"])
    folder = Path(cli.trainer.logger.experiment.dir).resolve().parent
    wandb.finish()
    wandb.teardown()
    config, summary = config_and_summary(folder)
    assert set(sweep["parameters"]) <= set(config)
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
