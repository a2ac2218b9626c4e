"""SIGTERM in the middle of an epoch, as of a scheduler: nothing is lost, and the next run has the same results.

For `collect`: test_resume.py.
"""

import os
import signal
from pathlib import Path

import pytest
import torch
from helpers import tiny
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_fusion import ExpertModule
from lightning_fusion.callbacks.termination import EndOnTermination
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


@pytest.mark.slow
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loop", ["validate", "test", "predict"])
def test_other_loops_end_at_the_next_batch(loop):
    class Ending(Callback):
        batches = 0

        def on_batch(self, *_) -> None:
            self.batches += 1
            os.kill(os.getpid(), signal.SIGTERM)

        on_validation_batch_end = on_test_batch_end = on_predict_batch_end = on_batch

    ending = Ending()
    trainer = tiny.trainer(callbacks=[ending, EndOnTermination()])
    with pytest.raises(SystemExit):
        getattr(trainer, loop)(ExpertModule(tiny.Net, tiny.CLASSES), datamodule=tiny.data(batch_size=2))
    assert ending.batches == 1
