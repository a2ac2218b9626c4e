"""SIGTERM in the middle of an epoch, as of a scheduler: nothing is lost, and the next run has the same results."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.subprocesses import environment
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_fusion import ExpertModule, ExpertOutputs
from lightning_fusion.checkpoints import read_checkpoint
from lightning_fusion.cli import main as command_line

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a signal of POSIX")


class Terminate(Callback):
    """Sends SIGTERM to the process in the middle of an epoch."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)


def fit(folder: Path, *callbacks: Callback, ckpt_path: Path | None = None) -> ExpertModule:
    torch.manual_seed(0)
    module = ExpertModule(tiny.Net, tiny.CLASSES)
    kept = ModelCheckpoint(folder, save_last=True, filename="best", enable_version_counter=False)
    trainer = tiny.trainer(3, callbacks=[kept, *callbacks], enable_checkpointing=True)
    trainer.fit(module, datamodule=tiny.data(), ckpt_path=ckpt_path)
    return module


@pytest.mark.filterwarnings("ignore")
def test_fit(tmp_path):
    expected = fit(tmp_path / "whole")
    with pytest.raises(SystemExit):
        fit(tmp_path / "cut", Terminate())
    files = sorted(path.name for path in (tmp_path / "cut").iterdir())
    assert files == ["best.ckpt", "last.ckpt"] and read_checkpoint(tmp_path / "cut/last.ckpt")["epoch"] == 0
    assert tiny.same(fit(tmp_path / "cut", ckpt_path=tmp_path / "cut/last.ckpt"), expected)


@pytest.mark.filterwarnings("ignore")
def test_the_status_of_a_command_is_not_that_of_a_finished_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "_dispatch", lambda _: fit(tmp_path, Terminate()))
    with pytest.raises(SystemExit) as raised:
        command_line.main([])
    assert raised.value.code == 143
    assert "terminated by SIGTERM; the checkpoints of finished epochs are complete" in capsys.readouterr().err


COLLECT = """
import os, signal, sys, torch
from helpers import tiny
from lightning_fusion import Expert, ExpertPool, collect
answers = []
def answer(input):
    answers.append(len(input))
    if {cut} and len(answers) == 4:
        os.kill(os.getpid(), signal.SIGTERM)
    return torch.full((len(input), 3), 1 / 3)
expert = Expert(answer, classes=tiny.CLASSES, output="probabilities", version="1")
collect(ExpertPool({{"a": expert}}), tiny.data(), "store")
print("answers:", sum(answers))
"""


@pytest.mark.slow
def test_collect(tmp_path):
    """The store is missing or whole, and the next run completes it."""
    cut, whole = (
        subprocess.run(
            [sys.executable, "-c", COLLECT.format(cut=cut)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
        )
        for cut in (True, False)
    )
    assert "answers:" not in cut.stdout and "SIGTERM" in cut.stderr, cut.stderr[-2000:]
    assert whole.returncode == 0, whole.stderr[-2000:]
    assert len(ExpertOutputs.open(tmp_path / "store")["train"]) == tiny.ROWS["train"]
