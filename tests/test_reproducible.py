"""A run that is resumed from the end of an epoch equals one that was never interrupted, bit for bit."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fusion import (
    Expert,
    ExpertModule,
    FoEFuserModule,
    HaTJointModule,
    OutputsDataModule,
)
from lightning_fusion.callbacks import EpochSeed
from lightning_fusion.data.audio.augmentation import SpeechAugmentation
from lightning_fusion.data.audio.synthetic import SyntheticLabeledAudioDataModule
from lightning_fusion.data.image.augmentation import BatchAffine
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.samplers import SliceSampler
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.foe.fusers import MLPFuser

Made = tuple[LightningModule, LightningDataModule]


class NoisyNet(nn.Module):
    """Draws from torch, NumPy and Python while it trains."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        noise = random.random() + np.random.random() if self.training else 0.0  # noqa: NPY002
        return self.head(self.body(images) * (1 + noise))


def expert() -> Made:
    augmentation = BatchAffine(shift=1, rotate_deg=10)
    data = DigitsDataModule(role="fuser", fuser_fraction=0.9, augmentation=augmentation, batch_size=32)
    return ExpertModule(NoisyNet, classes=data.classes), data.variant(role="expert")


def fuser() -> Made:
    outputs = tiny.outputs(rows={"train": 40, "val": 5, "test": 1})
    module = FoEFuserModule(
        **outputs.fuser_arguments(), target="expert", network=partial(MLPFuser, hidden=(8,), dropout=0.5)
    )
    return module, OutputsDataModule(outputs, batch_size=8)


def expert_with_workers() -> Made:
    data = tiny.data(batch_size=6)
    data.num_workers = 1
    return ExpertModule(partial(tiny.Net, dropout=0.5), classes=tiny.CLASSES), data


class Pooled(nn.Module):
    """Statistics of log-mel features and a head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(80, num_classes)

    def forward(self, features):
        return self.head(features.std(-1))


def speech_with_workers() -> Made:
    """Crops are drawn with the order, augmentation on the device."""
    rate = {"sample_rate_hz": 8000}
    short = {"crop_s": 0.5, "eval_crop_s": 0.5, "batch_size": 32}
    data = SyntheticLabeledAudioDataModule(augmentation=SpeechAugmentation(**rate), num_workers=2, **rate, **short)
    return ExpertModule(Pooled, classes=data.classes), data


class Shuffled(LightningDataModule):
    """Somebody's own data module: its order comes from torch's global generator."""

    def train_dataloader(self) -> DataLoader:
        input, target, domain = tiny.tensors()["train"]
        return DataLoader(TensorDataset(input, target, domain, torch.arange(24)), batch_size=6, shuffle=True)


def expert_on_foreign_data() -> Made:
    return ExpertModule(partial(tiny.Net, dropout=0.5), classes=tiny.CLASSES), Shuffled()


def fuser_on_raw_input() -> Made:
    module = FoEFuserModule(tiny.experts(), network=partial(MLPFuser, hidden=(8,), dropout=0.5))
    return module, tiny.data()


def hat() -> Made:
    augmentation = BatchAffine(shift=1, rotate_deg=10)
    data = DigitsDataModule(role="fuser", fuser_fraction=0.9, augmentation=augmentation, batch_size=64)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the source is a given one, whatever the seed of the run
        experts = {"a": Expert(NoisyNet(10), classes=data.classes, features="body")}
    module = HaTJointModule(NoisyNet, experts, "body", classes=data.classes)
    return module, TargetDataModule(data, "all")


def run(make: Callable[[], Made], folder: Path, seed: int, resume: str | None = None) -> tuple[LightningModule, Path]:
    """Train four epochs with a checkpoint at the end of each; optionally go on from one."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    module, data = make()
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    trainer = tiny.trainer(4, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    assert trainer.current_epoch == 4
    assert trainer.num_training_batches >= 4
    return module, folder


def slow(*makers: Callable[[], Made]) -> list:
    """Parameters that start processes."""
    return [pytest.param(make, marks=pytest.mark.slow) for make in makers]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [expert, expert_on_foreign_data, fuser, fuser_on_raw_input, hat, *slow(expert_with_workers, speech_with_workers)],
)
def test_resumed_equals_uninterrupted(make, tmp_path):
    whole, folder = run(make, tmp_path / "whole", seed=1)
    resumed, again = run(make, tmp_path / "resumed", seed=99, resume=str(folder / "epoch=1.ckpt"))
    assert tiny.same(resumed, whole)
    assert sorted(path.name for path in again.iterdir()) == ["epoch=2.ckpt", "epoch=3.ckpt"]
    one, other = (torch.load(path / "epoch=3.ckpt", weights_only=True) for path in (folder, again))
    for ours, theirs in zip(
        one["optimizer_states"][0]["state"].values(), other["optimizer_states"][0]["state"].values(), strict=True
    ):
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in ours)


@pytest.mark.slow
@pytest.mark.parametrize("make", [expert, fuser])
def test_two_runs_of_one_seed_are_equal_and_of_another_are_not(make, tmp_path):
    one, same, other = (run(make, tmp_path / str(number), seed)[0] for number, seed in enumerate((1, 1, 2)))
    assert tiny.same(one, same)
    assert not tiny.same(one, other)


@pytest.mark.parametrize("make", [expert_with_workers, speech_with_workers, fuser])
@pytest.mark.slow
def test_overfitted_batches_are_those_of_every_epoch(make):
    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.append(batch.index.tolist())

    seen: list[list[int]] = []
    module, data = make()
    tiny.trainer(2, overfit_batches=2, callbacks=[Watch()]).fit(module, datamodule=data)
    assert seen[:2] == seen[2:] and seen[0] != seen[1] and len(seen) == 4


class TestEpochSeed:
    def drawn(self, seed: int | None, epoch: int, rank: int = 0) -> tuple[float, float, float]:
        callback = EpochSeed(seed)

        loop = SimpleNamespace(is_resuming=False, epoch_loop=SimpleNamespace(restarting=False))
        process = SimpleNamespace(current_epoch=epoch, global_rank=rank, fit_loop=loop)
        callback.on_train_epoch_start(process, None)
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    def test_numbers_are_a_function_of_seed_epoch_and_process(self):
        assert self.drawn(3, 1) == self.drawn(3, 1)
        different = [self.drawn(*where) for where in ((3, 1), (4, 1), (3, 2), (3, 1, 1), (1, 3))]
        for source in zip(*different, strict=True):
            assert len(set(source)) == 5

    def test_its_seed_is_kept_in_the_checkpoint(self, tmp_path):
        run(fuser, tmp_path, seed=1)
        states = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["callbacks"]
        (state,) = [state for name, state in states.items() if "EpochSeed" in name]
        assert isinstance(state["seed"], int)
        other = EpochSeed()
        other.load_state_dict(state)
        assert other.state_dict() == state


@pytest.mark.slow
def test_a_finished_run_can_be_prolonged(tmp_path):
    """Two epochs and two more equal four, where the schedule does not depend on the end."""

    def train(epochs: int, resume: str | None = None) -> LightningModule:
        module, data = fuser()
        module._scheduler = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
        trainer = tiny.trainer(epochs)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module

    torch.manual_seed(1)
    whole = train(4)
    torch.manual_seed(1)
    train(2)
    assert tiny.same(train(4, str(tmp_path / "2.ckpt")), whole)


def test_lightning_still_needs_the_new_iterator(tmp_path):
    """Where this fails, the last lines of ``EpochSeed.on_train_epoch_start`` can go (issue 21938 of Lightning)."""
    seen: list[int] = []

    class Sampler(SliceSampler):
        def __iter__(self):
            seen.append(self.epoch)
            return super().__iter__()

    class Plain(ExpertModule):
        def configure_callbacks(self):
            return []

    def train(epochs: int, resume: str | None = None) -> None:
        data = tiny.data().rows("train")
        loader = DataLoader(data, batch_size=None, sampler=Sampler(24, 6, shuffle=True))
        trainer = tiny.trainer(epochs)
        trainer.fit(Plain(tiny.Net, classes=tiny.CLASSES), loader, ckpt_path=resume, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")

    train(2)
    seen.clear()
    train(4, str(tmp_path / "last.ckpt"))
    assert seen == [0, 3]  # should be [2, 3]
