"""What README.md shows runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from commands import HERE, parse

ROOT = HERE.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every call of lightning-fusion in a bash block, also those inside a loop; $d and the like stand for 0."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    parts = [part.strip().removeprefix("do ").strip() for line in lines for part in re.split(r";|&&", line)]
    return [re.sub(r"\$\{?\w+\}?", "0", part) for part in parts if part.startswith("lightning-fusion ")]


def test_every_language_of_a_block_is_known():
    assert set(re.findall(r"^```(\w+)", README, flags=re.MULTILINE)) <= {"bash", "python", "yaml", "text", "json"}
    assert blocks("python") and blocks("bash")


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(blocks("python")[number], f"README.md, python block {number}", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("command", commands())
def test_command_parses(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = shlex.split(command, comments=True)[1:]
    assert parse(args)


def test_an_option_that_does_not_exist_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="unrecognized arguments: --nonsense=1"):
        parse([*shlex.split(commands()[0])[1:], "--nonsense=1"])


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:|#)([^)#]+)", README))))
def test_linked_files_exist(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(configs/[\w./]+|(?:\w+/)+\w+\.yaml)`", README))))
def test_named_configs_exist(name):
    assert (ROOT / "configs" / name.removeprefix("configs/")).exists() or Path(ROOT / name).exists()
