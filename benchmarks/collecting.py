"""Asking experts about a data set: time against a bare loop, memory over rows, and questions of a second call."""

import json
import subprocess
import sys
import tempfile
from typing import Any

import torch
from lightning import Trainer
from measuring import Result, interleave, resident_mb
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_fusion import Batch, Expert, ExpertPool, collect
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.encoders import TorchvisionClassifier

FEW, MANY, BATCH = 64, 256, 64
LABELS = [str(number) for number in range(20)]


def bare_trainer() -> Trainer:
    return Trainer(
        devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False
    )


def plain_loop(networks: dict[str, nn.Module], inputs: Tensor) -> dict[str, Tensor]:
    """What one would write by hand."""
    answers: dict[str, list[Tensor]] = {name: [] for name in networks}
    with torch.no_grad():
        for some in inputs.split(BATCH):
            for name, network in networks.items():
                answers[name].append(network(some).softmax(-1))
    return {name: torch.cat(parts) for name, parts in answers.items()}


def time_per_row() -> Result:
    """The cost of further rows: time for many rows less time for few, so that starting a Trainer is left out."""
    torch.manual_seed(0)
    networks = {name: TorchvisionClassifier(len(LABELS), "resnet18", small_images=True).eval() for name in ("a", "b")}
    pool = ExpertPool({name: Expert(network, classes=LABELS) for name, network in networks.items()})
    inputs, targets = torch.randn(MANY, 3, 32, 32), torch.randint(len(LABELS), (MANY,))

    def collected(rows: int) -> Any:
        data = TensorDataModule({"test": (inputs[:rows], targets[:rows])}, LABELS, batch_size=BATCH)
        return lambda: collect(pool, data, splits=["test"], trainer=bare_trainer())

    times = interleave(
        {
            "collect few": lambda: collected(FEW),
            "loop few": lambda: lambda: plain_loop(networks, inputs[:FEW]),
            "collect many": lambda: collected(MANY),
            "loop many": lambda: lambda: plain_loop(networks, inputs),
        },
        repeats=5,
    )
    ours, theirs = (
        [many - few for many, few in zip(times[f"{side} many"], times[f"{side} few"], strict=True)]
        for side in ("collect", "loop")
    )
    return Result.of_pairs(
        "collect", f"collect() / loop of forward passes, per row ({FEW} to {MANY})", ours, theirs, 1.1
    )


class Generated(Dataset):
    """Rows that exist only while they are read."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: Tensor) -> Batch:
        inputs = torch.sin(index[:, None] * torch.arange(1.0, 65.0))
        return Batch(inputs, index % len(LABELS), torch.ones(len(index), 1, dtype=torch.bool), index)


class GeneratedData(FusionDataModule):
    """Test rows made on the fly."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.count, self.batch_size, self.seed = rows, 256, 0

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return LABELS

    @property
    def domains(self) -> list[str]:
        """The only domain."""
        return ["all"]

    def rows(self, split: str) -> Generated:
        """The rows of any split."""
        return Generated(self.count)

    def fingerprint(self, split: str) -> str:
        """The number of rows says it all."""
        return f"{self.count} generated rows"


def linear_pool() -> ExpertPool:
    torch.manual_seed(0)
    return ExpertPool({f"expert_{number}": Expert(nn.Linear(64, 20), classes=LABELS) for number in range(20)})


def report_memory(rows: int) -> None:
    """Collect in this process and print its memory before and at the peak."""
    with tempfile.TemporaryDirectory() as folder:
        pool, trainer = linear_pool(), bare_trainer()
        before = resident_mb("VmRSS")
        collect(pool, GeneratedData(rows), folder, splits=["test"], trainer=trainer)
        print(json.dumps({"before": before, "peak": resident_mb("VmHWM")}))


def memory() -> list[Result]:
    """Peak memory with ten times the rows, each run in a process of its own."""
    few, many = 10_000, 100_000
    peaks: dict[int, float] = {}
    growths: dict[int, float] = {}
    for rows in (few, many):
        child = subprocess.run([sys.executable, __file__, str(rows)], check=True, capture_output=True, text=True)
        found = json.loads(child.stdout.splitlines()[-1])
        peaks[rows], growths[rows] = found["peak"], found["peak"] - found["before"]
    answers_mb = (many - few) * 20 * len(LABELS) * 4 / 2**20
    return [
        Result("collect", f"peak memory, {many:,} rows / {few:,} rows", peaks[many] / peaks[few], 1.05),
        Result(
            "collect", "memory that further rows take / their answers", (growths[many] - growths[few]) / answers_mb, 0.1
        ),
    ]


def second_call() -> Result:
    """Questions to the experts when the store is there, over those when it was made."""
    pool, questions = linear_pool(), []
    for expert in pool.experts.values():
        expert.register_forward_hook(lambda module, args, output: questions.append(len(output)))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            collect(pool, GeneratedData(1_000), folder, splits=["test"], trainer=bare_trainer())
            questions.append(0)
    first = questions.index(0)
    return Result(
        "collect",
        "questions of a second collect() / of the first",
        sum(questions[first:]) / sum(questions[:first]),
        0.0,
    )


def measure() -> list[Result]:
    """Time, memory and questions."""
    return [time_per_row(), *memory(), second_call()]


if __name__ == "__main__":
    report_memory(int(sys.argv[1]))
