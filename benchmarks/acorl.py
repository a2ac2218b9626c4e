"""One epoch of ACoRL against an epoch of the ordinary training; the checkpoints of a chain on disk."""

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from measuring import Result, interleave

from lightning_fusion import ACoRLModule, Expert, ExpertModule
from lightning_fusion.acorl.arguments import PAPER
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.encoders import SmallConvNet

STEPS, BATCH, SIDE, WIDTH = 60, 64, 32, 24
CLASSES = [str(number) for number in range(20)]
TARGETS = {1: 1.6, 3: 2.4}
JOINT_TARGETS = {1: 1.45, 3: 2.2}  # K forward passes more: 1.33 and 2.0 where a backward pass costs two forward ones
NETWORK = partial(SmallConvNet, width=WIDTH)


def data(rows: int) -> TensorDataModule:
    """Color images in memory."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(rows, 3, SIDE, SIDE, generator=generator)
    return TensorDataModule(
        {"train": (images, torch.randint(len(CLASSES), (rows,), generator=generator))}, CLASSES, batch_size=BATCH
    )


def experts(count: int) -> dict[str, Expert]:
    """With the backbone of the new member."""
    return {
        f"member_{number}": Expert(NETWORK(len(CLASSES)), classes=CLASSES, features="pool") for number in range(count)
    }


def trainer() -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(max_epochs=1, limit_val_batches=0, enable_model_summary=False, accelerator="cpu", devices=1, **quiet)


def time_per_step() -> list[Result]:
    """An epoch with K frozen experts of the same network over an ordinary one; the check at the start counts."""
    torch.manual_seed(0)
    given, pools = data(STEPS * BATCH), {count: experts(count) for count in TARGETS}
    arguments: dict[str, Any] = {"classes": CLASSES, "features": "pool"}

    def plain() -> Any:
        module = ExpertModule(NETWORK, **arguments)
        return lambda: trainer().fit(module, given)

    def against(count: int, how: dict[str, Any]) -> Any:
        module = ACoRLModule(NETWORK, copy.deepcopy(pools[count]), **arguments, **how)
        return lambda: trainer().fit(module, given)

    ways = {"": ({}, TARGETS), ", joint": (PAPER, JOINT_TARGETS)}
    runs = {f"{count}{way}": partial(against, count, how) for way, (how, limits) in ways.items() for count in limits}
    times = interleave({"plain": plain, **runs}, repeats=5)
    what = f"epoch of {STEPS} steps, ACoRLModule against K = {{}} / ExpertModule"
    return [
        Result.of_pairs("acorl", what.format(f"{count}{way}"), times[f"{count}{way}"], times["plain"], limit)
        for way, (_, limits) in ways.items()
        for count, limit in limits.items()
    ]


def disk_of_chains() -> list[Result]:
    """Bytes of all checkpoints of a chain of N members over N times those of the first."""
    torch.manual_seed(0)
    sizes: list[int] = []
    given, arguments = data(BATCH), {"classes": CLASSES, "features": "pool"}
    with tempfile.TemporaryDirectory() as root:
        chain: dict[str, Expert] = {}
        for number in range(4):
            module = ACoRLModule(NETWORK, dict(chain), **arguments) if chain else ExpertModule(NETWORK, **arguments)
            runner = trainer()
            runner.fit(module, given)
            path = Path(root) / f"{number}.ckpt"
            runner.save_checkpoint(path, weights_only=True)
            sizes.append(path.stat().st_size)
            chain[f"member_{number}"] = Expert(checkpoint=str(path))
    what = "bytes of a chain of {0} / {0} x bytes of a plain member"
    return [
        Result("acorl", what.format(length), sum(sizes[:length]) / (length * sizes[0]), 1.1) for length in (2, 3, 4)
    ]


def measure() -> list[Result]:
    """Time, then disk."""
    return [*time_per_step(), *disk_of_chains()]
