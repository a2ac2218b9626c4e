"""Training the default fuser on stored outputs: Lightning's Trainer against a plain loop over the same tensors."""

import os
import tempfile
from pathlib import Path
from typing import Any

import rich
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from measuring import Result, interleave
from torch import nn
from torch.nn import functional as F

from lightning_fusion import ExpertOutputs, FoEFuserModule, OutputsDataModule

EXPERTS = CLASSES = 20
ROWS = {"train": 10_000, "val": 1_000}
BATCH, EPOCHS, LOG_EVERY = 128, 10, 50


def stored_outputs() -> ExpertOutputs:
    """Softmax outputs of experts that lean towards the label."""
    generator = torch.Generator().manual_seed(0)
    labels = [str(number) for number in range(CLASSES)]
    splits: dict[str, Any] = {}
    for split, rows in ROWS.items():
        target = torch.randint(CLASSES, (rows,), generator=generator)
        logits = torch.randn(EXPERTS, rows, CLASSES, generator=generator) + F.one_hot(target, CLASSES)
        splits[split] = {
            "probabilities": {f"expert_{number}": value.softmax(-1).numpy() for number, value in enumerate(logits)},
            "target": target.numpy(),
        }
    return ExpertOutputs.from_arrays(splits, {f"expert_{number}": labels for number in range(EXPERTS)}, labels)


def plain_loop(tensors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> float:
    """What one would write by hand; returns the last validation accuracy."""
    inputs, targets = tensors["train"]
    val_inputs, val_targets = tensors["val"]
    network = nn.Sequential(
        nn.Linear(EXPERTS * CLASSES, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, CLASSES)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    steps = -(-len(targets) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS * steps)
    losses, step, accuracy = [], 0, 0.0
    for epoch in range(EPOCHS):
        network.train()
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(BATCH):
            loss = F.cross_entropy(network(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % LOG_EVERY == 0:
                losses.append(loss.item())
            step += 1
        network.eval()
        with torch.no_grad():
            right = sum(
                (network(some).argmax(1) == goal).sum()
                for some, goal in zip(val_inputs.split(BATCH), val_targets.split(BATCH), strict=True)
            )
        accuracy = float(right) / len(val_targets)
    return accuracy


def measure() -> list[Result]:
    """Bare and shipped trainer settings, each against the plain loop."""
    outputs = stored_outputs()
    tensors = {
        split: (
            torch.cat([torch.from_numpy(values) for values in outputs[split].probabilities.values()], dim=1),
            torch.from_numpy(outputs[split].target),
        )
        for split in ROWS
    }
    accuracies: dict[str, float] = {}

    def plain() -> Any:
        torch.manual_seed(0)
        return lambda: accuracies.update(plain=plain_loop(tensors))

    def lightning(name: str, **settings: Any) -> Any:
        torch.manual_seed(0)
        data = OutputsDataModule(outputs, batch_size=BATCH)

        def run() -> None:
            module = FoEFuserModule(classes=data.classes, expert_classes=data.expert_classes)
            trainer = Trainer(max_epochs=EPOCHS, log_every_n_steps=LOG_EVERY, enable_model_summary=False, **settings)
            trainer.fit(module, data)
            accuracies[name] = float(trainer.callback_metrics["val_accuracy"])

        return run

    def bare() -> Any:
        return lightning("bare", logger=False, enable_checkpointing=False, enable_progress_bar=False)

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w", encoding="utf-8") as nowhere:

        def shipped() -> Any:
            return lightning(
                "shipped",
                logger=CSVLogger(folder),
                callbacks=[
                    RichProgressBar(console_kwargs={"force_terminal": True, "file": nowhere}),  # drawn, not shown
                    ModelCheckpoint(Path(folder) / "checkpoints", monitor="val_accuracy", mode="max"),
                ],
            )

        times = interleave({"bare": bare, "plain": plain, "shipped": shipped}, repeats=3)
        rich.reconfigure()  # the bar made its console everyone's
    assert max(accuracies.values()) - min(accuracies.values()) < 0.02, accuracies  # both sides did the same work
    return [
        Result.of_pairs("fuser", "Trainer.fit, no bar, no files / plain loop", times["bare"], times["plain"], 1.3),
        Result.of_pairs(
            "fuser", "Trainer.fit, bar, checkpoints, CSV / plain loop", times["shipped"], times["plain"], 1.6
        ),
    ]
