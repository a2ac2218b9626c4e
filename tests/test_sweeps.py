"""Every shipped sweep: wandb's own agent code makes a command of it that the command line reads as it was meant."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from helpers.command_line import CONFIGS, TWO_BATCHES, look_up, merged, parse, prepare, read, shipped, small, write_yaml
from wandb import wandb_agent

from lightning_fusion.cli.main import main
from lightning_fusion.cli.sweep_files import read_sweep

pytestmark = pytest.mark.slow

SWEEPS = shipped("sweeps")
FITS = [name for name in SWEEPS if read(name)["command"][1] == "fit"]


def extremes(parameter: dict[str, Any]) -> list[Any]:
    """The values between which a parameter is drawn."""
    if "value" in parameter:
        return [parameter["value"]]
    return list(parameter["values"]) if "values" in parameter else [parameter["min"], parameter["max"]]


def samples(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """A few samples that have each extreme once at least, and one from within each range."""
    lists = {key: extremes(parameter) for key, parameter in sweep["parameters"].items()}
    drawn = [{key: v[i % len(v)] for key, v in lists.items()} for i in range(max(map(len, lists.values())))]
    middle = {
        key: math.sqrt(p["min"] * p["max"]) if "log" in p.get("distribution", "") else (p["min"] + p["max"]) / 2
        for key, p in sweep["parameters"].items()
        if "min" in p
    }
    return [*drawn, drawn[0] | middle]


class _Started(Exception):
    pass


def command(sweep: dict[str, Any], sample: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line that wandb's agent starts for one sample of a sweep."""

    def start(*args: Any, command: list[str], **kwargs: Any) -> None:
        raise _Started(command)

    monkeypatch.setattr(wandb_agent, "AgentProcess", start)
    monkeypatch.setenv("WANDB_RUN_ID", "")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    agent = object.__new__(wandb_agent.Agent)  # its constructor wants a server
    agent._sweep_command = list(sweep["command"])
    agent._in_jupyter, agent._function, agent._forward_signals, agent._run_processes = False, None, False, {}
    given = {"run_id": "r", "program": sweep["program"], "args": {key: {"value": v} for key, v in sample.items()}}
    with pytest.raises(_Started) as caught:
        agent._command_run(given)
    return caught.value.args[0]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", SWEEPS)
class TestSweep:
    def test_keys_are_flat_and_hold_no_null(self, name):
        sweep = read(name)
        for key, parameter in sweep["parameters"].items():
            assert "parameters" not in parameter, f"{key}: nested parameters would replace their whole parent"
            assert ("." in key or name not in FITS) and "[" not in key
            assert all(value is not None and not isinstance(value, (dict, list)) for value in extremes(parameter))

    def test_configs_come_first_and_args_last(self, name):
        words = read(name)["command"]
        before = 2 if name in FITS else 3
        assert words[:2] == ["${program}", "fit" if name in FITS else "recipe"] and words[-1] == "${args}"
        assert [word for word in words if str(word).startswith("${")] == ["${program}", "${args}"]
        assert words[-2] == "--overwrite=true" and words[before] == "-c" and words[before + 2] == "-c"
        assert words[before + 3] == "trainer/wandb.yaml"
        assert read(name)["program"] == "lightning-fusion"

    def test_samples_are_read_as_they_were_drawn(self, name, monkeypatch):
        sweep = read(name)
        for sample in samples(sweep):  # the agent makes a word of each value by itself
            line = command(sweep, sample, monkeypatch)
            assert line[0] == "lightning-fusion"
            assert line[-len(sample) :] == [f"--{key}={value}" for key, value in sample.items()]
            config = parse(line[1:])
            for key, value in sample.items():
                assert look_up(config, key) == value and type(look_up(config, key)) is type(value)

    def test_the_command_without_a_server_is_the_agents_without_its_logger(self, name, monkeypatch):
        sweep, sample = read(name), samples(read(name))[0]
        words = command(sweep, sample, monkeypatch)[1:]
        place = words.index("trainer/wandb.yaml")
        assert read_sweep(name).line(sample) == words[: place - 1] + words[place + 1 :]


@pytest.mark.parametrize("name", FITS)
class TestTrial:
    def test_a_sample_runs_and_logs_the_metric(self, name, monkeypatch, tmp_path, tmp_path_factory):
        prepare(tmp_path_factory, tmp_path, monkeypatch)
        monkeypatch.setenv("WANDB_MODE", "offline")
        sweep = read(name)
        sample = samples(sweep)[-2]  # the last value of each parameter
        line = command(sweep, sample, monkeypatch)[1:]
        override: dict[str, Any] = {}
        for word in line:
            if (CONFIGS / word).is_file():
                override = merged(override, small(read(word)))
        quick = write_yaml(Path("quick.yaml"), override | {"trainer": TWO_BATCHES | {"fast_dev_run": True}})
        place = len(sweep["command"]) - 2  # the program is not in the line; what the agent adds comes last
        cli = main([*line[:place], "-c", quick, *line[place:]])
        assert sweep["metric"]["name"] in cli.trainer.callback_metrics
        assert sweep["metric"]["goal"] == ("minimize" if sweep["metric"]["name"].endswith("loss") else "maximize")
        saved = yaml.safe_load(cli.parser.dump(cli.config))["fit"]
        assert {key: look_up(saved, key) for key in sample} == sample
        optimizer = cli.trainer.optimizers[0]
        for name, value in sample.items():
            if ".optimizer.init_args." in name:
                key = name.rpartition(".")[2]
                start = optimizer.param_groups[0].get(f"initial_{key}", optimizer.param_groups[0][key])
                assert torch.tensor(start) == torch.tensor(value)
        assert wandb.run is None


def test_a_sweep_file_says_everything_that_wandb_asks_for():
    for name in SWEEPS:
        sweep = read(name)
        assert {"program", "method", "metric", "parameters", "command"} <= set(sweep)
        assert sweep["method"] in ("bayes", "random", "grid")


def test_what_the_checks_are_for(monkeypatch):
    """The macros and forms that the checks above refuse do what their messages say."""
    sweep = read("sweeps/foe.yaml")
    nested = {"model": {"init_args": {"target": "expert"}}}
    assert command(sweep, nested, monkeypatch)[-1] == "--model={'init_args': {'target': 'expert'}}"
    assert command(sweep, {"a.b": None}, monkeypatch)[-1] == "--a.b=None"
    assert command(sweep, {"a.b": False}, monkeypatch)[-1] == "--a.b=False"
    sweep["command"][-1] = "${args_no_hyphens}"
    assert command(sweep, {"a.b": 1}, monkeypatch)[-1] == "a.b=1"
