from dataclasses import dataclass
from functools import partial

import pytest
import torch
from helpers import tiny
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_fusion import ExpertModule
from lightning_fusion.callbacks import ScheduledAttribute
from lightning_fusion.errors import InputError
from lightning_fusion.schedules import Constant, Linear, Schedule


class Scaled(nn.Module):
    """A loss with a number in it."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, logits, target):
        return self.weight * nn.functional.cross_entropy(logits, target)


class Watch(Callback):
    """Keeps the value that each batch was trained with."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        assert trainer.callback_metrics["train_weight"].item() == pytest.approx(pl_module.loss.weight)
        self.values.append(pl_module.loss.weight)


def run(epochs=4, path=None, resume=None, stop=None, schedule=None, attribute="loss.weight", **more):
    watch = Watch()
    callbacks = [ScheduledAttribute(attribute, schedule or Linear(0.0, 2.0, until=0.5)), watch]
    if stop:
        callbacks.append(Stop(stop))
    if path:
        callbacks.append(ModelCheckpoint(path, save_top_k=-1, filename="{epoch}"))
    torch.manual_seed(0)
    constant = partial(torch.optim.lr_scheduler.StepLR, step_size=100)
    module = ExpertModule(tiny.Net, classes=tiny.CLASSES, loss=Scaled(), scheduler=constant)
    trainer = tiny.trainer(epochs, callbacks=callbacks, enable_checkpointing=bool(path), **more)
    trainer.fit(module, datamodule=tiny.data(), ckpt_path=resume)
    return watch.values, module


class Stop(Callback):
    """Ends a run early, as a time limit does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.after


def test_every_batch_is_trained_with_the_schedules_value():
    values, _ = run()  # 6 batches in each of 4 epochs
    assert values == pytest.approx([min(2.0, 2.0 * step / 12) for step in range(24)])
    assert all(type(value) is float for value in values)


@pytest.mark.slow
def test_a_resumed_run_continues_the_schedule(tmp_path):
    whole, trained = run()
    first, _ = run(path=tmp_path, stop=1)
    content = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert not any("ScheduledAttribute" in key for key in content["callbacks"])
    rest, resumed = run(path=tmp_path, resume=tmp_path / "epoch=0.ckpt")
    assert len(first) == 6 and first + rest == whole
    assert tiny.same(trained, resumed)


def test_accumulated_batches_count_as_one_step():
    values, _ = run(epochs=2, accumulate_grad_batches=2, schedule=Linear(0.0, 1.0))
    assert values == pytest.approx([step / 6 for step in range(6) for _ in range(2)])


@dataclass(frozen=True)
class Broken(Schedule):
    value: object = None

    def __call__(self, progress: float):
        return self.value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"attribute": "los.weight"},
            r"'los.weight' needs a part 'los', not in ExpertModule; its parts: network, ",
        ),
        ({"attribute": "loss.weigth"}, "'loss.weigth' is no number of Scaled; its numbers: weight"),
        ({"attribute": "loss.training"}, "'loss.training' is no number of Scaled"),
        ({"schedule": Broken(float("nan"))}, "Broken gave nan at progress 0 for loss.weight"),
        ({"schedule": Broken(torch.tensor(1.0))}, r"Broken gave tensor\(1.\) at progress 0"),
        ({"epochs": -1, "schedule": Constant()}, "the schedule of loss.weight needs an end: set trainer.max_epochs"),
    ],
)
def test_rejected(arguments, message):
    with pytest.raises(InputError, match=message):
        run(**arguments)


def test_two_may_stand_side_by_side():
    pair = [ScheduledAttribute(name, Constant()) for name in ("loss.weight", "mixup")]
    assert pair[0].state_key != pair[1].state_key
