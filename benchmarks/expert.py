"""One epoch of training a small network on images in memory: Lightning's Trainer against a plain loop."""

import contextlib
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from measuring import Result, interleave
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lightning_fusion import ExpertModule, ImageDataModule
from lightning_fusion.encoders import SmallConvNet

IMAGES, CLASSES, BATCH, LOG_EVERY = 6_500, 10, 128, 50
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]


@contextlib.contextmanager
def random_images() -> Iterator[str]:
    """A folder of 32x32 color images, as users have them."""
    pixels = torch.randint(256, (IMAGES, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as root:
        for split in ("train", "test"):
            for label in range(CLASSES):
                (Path(root) / split / str(label)).mkdir(parents=True)
        for number, image in enumerate(pixels.numpy()):
            split = "test" if number < CLASSES else "train"
            Image.fromarray(image).save(Path(root) / split / str(number % CLASSES) / f"{number}.bmp")
        yield root


def plain_epoch(network: SmallConvNet, images: Tensor, targets: Tensor) -> list[float]:
    """What one would write by hand; ``images`` are (N, 3, 32, 32) uint8."""
    mean, std = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0)).split(BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(order))
    network.train()
    losses = []
    for step, rows in enumerate(order):
        inputs = images[rows].to(torch.float32).div_(255).sub_(mean).div_(std)
        loss = F.cross_entropy(network(inputs), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % LOG_EVERY == 0:
            losses.append(loss.item())
    return losses


def measure() -> list[Result]:
    """The shipped data module and module against the plain loop, on the same rows in the same order."""
    with random_images() as root:
        data = ImageDataModule(root, fuser_fraction=0.2, mean=MEAN, std=STD, batch_size=BATCH)
        data.setup("fit")  # decodes the images; they stay in memory
    split: Any = data.rows("train")
    images, targets = split.inputs[split.rows], split.targets[split.rows]
    weights: dict[str, Tensor] = {}

    def plain() -> Any:
        torch.manual_seed(0)
        network = SmallConvNet(CLASSES)

        def run() -> None:
            plain_epoch(network, images, targets)
            weights["plain"] = network.head.weight.detach()

        return run

    def lightning() -> Any:
        torch.manual_seed(0)
        module = ExpertModule(partial(SmallConvNet, width=24), classes=data.classes)

        def run() -> None:
            quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
            trainer = Trainer(
                max_epochs=1, limit_val_batches=0, log_every_n_steps=LOG_EVERY, enable_model_summary=False, **quiet
            )
            trainer.fit(module, data)
            weights["lightning"] = module.network.head.weight.detach()

        return run

    times = interleave({"lightning": lightning, "plain": plain}, repeats=5)
    torch.testing.assert_close(weights["lightning"], weights["plain"], rtol=0, atol=1e-4)  # the same work
    what = f"epoch of ExpertModule, {len(targets)} images / plain loop"
    return [Result.of_pairs("expert", what, times["lightning"], times["plain"], 1.1)]
