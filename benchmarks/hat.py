"""A step of HaT against its two halves; joint training against two steps: time, error and memory; the dictionary."""

import copy
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from measuring import Result, interleave, resident_mb
from torch import Tensor

from lightning_fusion import Expert, ExpertModule, HaTJointModule, KnowledgeDictionary
from lightning_fusion.data.batch import Batch
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.hat.arguments import PAPER
from lightning_fusion.hat.mixer import Mixer, shared_columns
from lightning_fusion.hat.sources import SourceTable

SOURCES, WIDTH, BATCH = 5, 8, 64
EPOCHS = 30  # of the joint training; two steps take as many for the mixer and as many for the student
MEMORY_ROWS, MEMORY_SIDE, MEMORY_WIDTH = 512, 32, 64
ROWS, CLASSES = 10_000, 19
NETWORK = partial(SmallConvNet, width=WIDTH, in_channels=1)
DIGITS = DigitsDataModule(
    role="fuser", num_domains=SOURCES, classes_per_domain=4, fuser_fraction=0.4, test_fraction=0.25
)


def trainer(epochs: int) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        max_epochs=epochs, limit_val_batches=0, enable_model_summary=False, accelerator="cpu", devices=1, **quiet
    )


def target() -> TargetDataModule:
    """All digits, a tenth of them labeled."""
    data = DigitsDataModule(role="fuser", fuser_fraction=0.4, test_fraction=0.25, batch_size=BATCH)
    return TargetDataModule(data, "all")


def sources() -> dict[str, Expert]:
    """Experts of four digits each, of unequal width."""
    made = {}
    for number in range(SOURCES):
        torch.manual_seed(number)
        data = DIGITS.variant(role="expert", domain=number, batch_size=32)
        network = partial(SmallConvNet, width=24 + 8 * number, in_channels=1)
        module = ExpertModule(network, classes=data.classes, features="pool")
        trainer(10).fit(module, data)
        made[f"domain_{number}"] = Expert(module.network, classes=data.classes, features="pool")
    return made


class PlainMixer(LightningModule):
    """The mixer alone, on stored features of the sources and of the target: what its half costs at least."""

    def __init__(self, experts: dict[str, Expert], classes: list[str], table: SourceTable, z: Tensor) -> None:
        super().__init__()
        self.table, self.z = table, z
        columns, _ = shared_columns({name: expert.classes for name, expert in experts.items()}, classes)
        widths = {name: expert.network.head.in_features for name, expert in experts.items()}
        heads = {name: copy.deepcopy(expert.network.head).requires_grad_() for name, expert in experts.items()}
        self.mixer = Mixer(z.shape[1], widths, heads, columns, len(classes))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """L_mix."""
        log_mix = self.mixer(self.z[: len(batch.index)], self.table(self.table.rows(batch.index)).representations)[1]
        loss = self.mixer.loss(log_mix, batch.target) / (batch.target >= 0).sum()
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch.target))
        return loss

    def configure_optimizers(self) -> Any:
        """The defaults of the house."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def time_per_step(experts: dict[str, Expert]) -> Result:
    """Runs of the same batches; what the sources say is known to both sides before."""
    data = target()
    rows = data.rows("train")
    whole = data.on_after_batch_transfer(rows[torch.arange(len(rows))], 0)

    def hat() -> Any:
        return partial(trainer(EPOCHS).fit, joint(experts, data), data)

    def student() -> Any:
        return partial(trainer(EPOCHS).fit, ExpertModule(NETWORK, classes=data.classes), data)

    def mixer() -> Any:
        module = joint(experts, data)
        table = SourceTable(module.pool, [whole], with_scores=False)
        plain = PlainMixer(experts, data.classes, table, torch.randn(BATCH, 4 * WIDTH))
        return partial(trainer(EPOCHS).fit, plain, data)

    times = interleave({"hat": hat, "student": student, "mixer": mixer}, repeats=5)
    both = [type(a)(a.wall + b.wall, a.cpu + b.cpu) for a, b in zip(times["student"], times["mixer"], strict=True)]
    what = f"{EPOCHS} epochs of HaTJointModule, {SOURCES} sources / ExpertModule + a mixer alone"
    return Result.of_pairs("hat", what, times["hat"], both, 1.15)


def joint(experts: dict[str, Expert], data: TargetDataModule, seed: int = 0, **how: Any) -> HaTJointModule:
    torch.manual_seed(seed)
    return HaTJointModule(NETWORK, experts, "pool", classes=data.classes, **(PAPER | how))


def joint_or_two_steps(experts: dict[str, Expert]) -> list[Result]:
    """Time of the whole training, and the test error of both."""
    data = target()
    trained: dict[str, list[HaTJointModule]] = {}

    def side(name: str, epochs: int, **how: Any) -> Any:
        def prepare() -> Any:
            of_seeds = trained.setdefault(name, [])
            module, runner = joint(experts, data, len(of_seeds), **how), trainer(epochs)
            of_seeds.append(module)
            return partial(runner.fit, module, data)

        return prepare

    two = {"training": "two_step"}
    times = interleave(
        {
            "joint": side("joint", EPOCHS),
            "rerun": side("rerun", 2 * EPOCHS, cache=False, **two),
            "cached": side("cached", 2 * EPOCHS, **two),
        },
        repeats=3,
    )
    runner = trainer(1)
    errors = {
        name: 1 - statistics.mean(runner.test(module, data, verbose=False)[0]["test_accuracy"] for module in of_seeds)
        for name, of_seeds in trained.items()
    }
    what = f"joint training of {EPOCHS} epochs, sources run once / two steps, sources run"
    both = f"test error of the student, joint {errors['joint']:.3f} / two steps {errors['cached']:.3f}, mean of 4 seeds"
    return [
        Result.of_pairs("hat", f"{what} every epoch", times["joint"], times["rerun"], 0.69),
        Result.of_pairs("hat", f"{what} once too", times["joint"], times["cached"], 0.8),
        Result("hat", both, errors["joint"] / errors["cached"]),
    ]


def dictionary() -> Result:
    """The one write of an update against a loop over the rows."""
    said = torch.rand(ROWS, CLASSES).softmax(1)
    index, labels = torch.randperm(ROWS) * 3, torch.randint(CLASSES, (ROWS,))

    def prepared() -> KnowledgeDictionary:
        knowledge = KnowledgeDictionary(index, CLASSES, labels)
        knowledge.keep(knowledge.rows(index), said)
        return knowledge

    def loop() -> Any:
        knowledge, plain = prepared(), {}

        def run() -> None:
            for row in range(ROWS):
                plain[int(knowledge.index[row])] = knowledge.pending[row]

        return run

    times = interleave({"ours": lambda: prepared().update, "loop": loop}, repeats=7)
    return Result.of_pairs(
        "hat", f"update of a {ROWS:,} x {CLASSES} dictionary / a loop", times["ours"], times["loop"], 0.1
    )


def memory() -> Result:
    """Peak memory of the training alone, above what the process had before."""
    peaks = {}
    for how in ("joint", "two_step"):
        command = [sys.executable, __file__, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[how] = float(done.stdout.split()[-1])
    what = f"peak memory of joint training, sources run once, {peaks['joint']:.0f} MB / two steps, run every epoch"
    return Result("hat", f"{what}, {peaks['two_step']:.0f} MB", peaks["joint"] / peaks["two_step"])


def peak(how: str) -> None:
    """Print the peak, in a process of its own."""
    from lightning_fusion.data.tensors import TensorDataModule

    images = torch.randn(MEMORY_ROWS, 3, MEMORY_SIDE, MEMORY_SIDE)
    labels, names = torch.arange(MEMORY_ROWS) % 4, list("abcd")
    split = (images, labels, torch.ones(MEMORY_ROWS, 1, dtype=torch.bool))
    data = TargetDataModule(TensorDataModule({"train": split}, names, ["home"], batch_size=BATCH), "home")
    network = partial(SmallConvNet, width=MEMORY_WIDTH)
    experts = {f"s{number}": Expert(network(4), classes=names, features="pool") for number in range(SOURCES)}
    arguments: Any = PAPER | {"training": how, "cache": how == "joint"}
    module = HaTJointModule(partial(SmallConvNet, width=WIDTH), experts, "pool", classes=names, **arguments)
    before = resident_mb("VmRSS")
    trainer(2).fit(module, data)
    print(resident_mb("VmHWM") - before)


def measure() -> list[Result]:
    """Time, error, memory and the dictionary."""
    experts = sources()
    return [time_per_step(experts), *joint_or_two_steps(experts), dictionary(), memory()]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    torch.set_num_threads(1)
    peak(sys.argv[1])
