"""What one or several processes do in ``test_processes.py``."""

import json
import warnings
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from helpers import tiny
from lightning_fusion import (
    ACoRLModule,
    Expert,
    ExpertModule,
    ExpertPool,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    HaTJointModule,
    OutputsDataModule,
    collect,
)
from lightning_fusion.acorl.arguments import PAPER as JOINT
from lightning_fusion.acorl.diversity import ErrorDiversity
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.text.synthetic import SyntheticTextDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.encoders import SmallSpeakerNet, TextBag
from lightning_fusion.foe.fusers import MLPFuser
from lightning_fusion.hat.arguments import PAPER
from lightning_fusion.schedules import Constant
from lightning_fusion.verification.module import VerificationModule

ROWS = {"train": 23, "val": 9, "test": 7}  # odd numbers: a distributed sampler repeats rows
FRUGAL_ROWS = {"train": 95, "val": 31, "test": 47}  # odd, and even with one more


class RowWise(nn.Linear):
    """A linear layer whose rounding does not depend on how many rows stand in a batch, as a matrix product's does."""

    def forward(self, input: Tensor) -> Tensor:
        return (input[:, None] * self.weight).sum(2) + self.bias


def exact_pool() -> ExpertPool:
    torch.manual_seed(0)
    made = {}
    for name, classes in tiny.EXPERT_CLASSES.items():
        network = nn.Sequential(OrderedDict(body=RowWise(4, 5), head=RowWise(5, 2)))
        made[name] = Expert(network, classes=classes, features="body")
    return ExpertPool(made, tiny.CLASSES)


def store(folder: Path) -> None:
    """Collect outputs in one of two processes."""
    collect(tiny.pool(), tiny.data(), folder, trainer=tiny.trainer(devices=2, strategy="ddp"))


def work(folder: Path, processes: int) -> None:
    """Collect, train an expert and fusers on the same global batches, and predict."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    warnings.filterwarnings("error", "It is recommended to use `self.log")  # values of one process alone

    def trainer(epochs: int = 1, **arguments: Any) -> Any:
        several = {"devices": processes, "strategy": "ddp"} if processes > 1 else {}
        return tiny.trainer(epochs, **several, **arguments)

    def train(module: LightningModule, data: Any, name: str) -> None:
        runner = trainer(3)
        runner.fit(module, datamodule=data)
        if runner.is_global_zero:
            weights = {key: value for key, value in module.state_dict().items() if not key.startswith("pool.")}
            figures = {key: float(value) for key, value in runner.callback_metrics.items() if key.startswith("val_")}
            found = {"weights": weights, "steps": runner.global_step, "figures": figures}
            torch.save(found, folder / f"{name}.pt")

    pool, data = exact_pool(), tiny.data(rows=ROWS, batch_size=2)
    outputs = collect(pool, data, folder / "store", keep_representations=True, trainer=trainer())
    assert outputs.experts == pool.metadata()
    collect(pool, data, folder / "store", keep_representations=True, trainer=trainer())  # opens what is there

    even = {"train": 32, "val": 8, "test": 8}
    torch.manual_seed(0)
    train(ExpertModule(tiny.Net, classes=tiny.CLASSES), tiny.data(rows=even, batch_size=8 // processes), "module")
    stored = tiny.outputs(rows=even)
    for target in ("label", "expert"):
        torch.manual_seed(0)
        fuser = FoEFuserModule(**stored.fuser_arguments(), target=target, network=partial(MLPFuser, hidden=(6,)))
        train(fuser, OutputsDataModule(stored, batch_size=8 // processes), target)
    for name, how in ACORL.items():
        torch.manual_seed(0)
        rate = partial(torch.optim.SGD, lr=0.1)
        unlike = ACoRLModule(
            tiny.Net, tiny.experts(features="body"), "body", classes=tiny.CLASSES, optimizer=rate, **how
        )
        train(unlike, tiny.data(rows=even, batch_size=8 // processes), name)
    texts = SyntheticTextDataModule(domain="domain_0", vocab_size=300, test_fraction=0.2, batch_size=8 // processes)
    torch.manual_seed(0)
    reader = ExpertModule(partial(TextBag, vocab_size=300, width=8, dropout=0.0), classes=texts.classes)
    train(reader, texts, "text")
    for name, how in HAT.items():
        train(*joint(8 // processes, **how), f"hat_{name}")
    writer = PredictionWriter(str(folder / "predictions.csv"))
    trainer(callbacks=[writer]).predict(fuser, datamodule=OutputsDataModule(tiny.outputs(rows=ROWS), batch_size=2))
    verification(folder / "verification.json", trainer, processes)
    for name, rows in (("odd", FRUGAL_ROWS), ("even", {split: count + 1 for split, count in FRUGAL_ROWS.items()})):
        frugal(folder / name, trainer, tiny.outputs(rows=rows), processes)


ACORL: dict[str, dict[str, Any]] = {
    "joint": JOINT,
    "complementary": {
        "schedule": Constant(1.0),
        "adversary_steps": 3,
        "diversity": [ErrorDiversity(2.0)],
    },
}
"""Settings of ACoRLModule that are trained by one and by two processes."""

HAT: dict[str, dict[str, Any]] = {
    "attention": {},
    "static": {"teacher": "static"},
    "two_step": {"training": "two_step", "representation_weight": 0.5},
    "crossfit": {"accuracy_source": "crossfit"},
    "holdout": {"accuracy_source": "holdout", "heads": "frozen"},
    "fitted": {"teacher": "all", "mixer_optimizer": None, "representation_weight": 0.5},
}
"""Settings of HaTJointModule that are trained by one and by two processes."""


def joint(batch_size: int, **how: Any) -> tuple[LightningModule, TargetDataModule]:
    """HaT on 32 rows, half of them labeled: as many labeled ones in each batch of each process."""
    target = torch.arange(32) % 2
    input = torch.randn(32, 4, generator=torch.Generator().manual_seed(0)) + target[:, None]
    home = torch.ones(32, 1, dtype=torch.bool)
    splits = dict.fromkeys(("train", "val", "test"), (input, target, home))
    data = TensorDataModule(splits, ["cat", "owl"], ["home"], batch_size=batch_size)
    torch.manual_seed(0)
    rate = partial(torch.optim.SGD, lr=0.2)
    how = {"threshold": 0.1, "clip_norm": 5.0, "optimizer": rate, "mixer_optimizer": rate} | how
    how = PAPER | how if how.get("teacher") == "all" else PAPER | {"update_rule": "ge"} | how
    experts = tiny.experts(norm=False, features="body")  # each knows one of the two classes
    module = HaTJointModule(tiny.Net, experts, "body", classes=["cat", "owl"], **how)
    return module, TargetDataModule(data, "home", labeled_fraction=0.5, min_labeled=1)


class Speakers(TensorDataModule):
    """Recordings of 4 speakers; in validation and test all of the second process's rows are of nobody known."""

    def __init__(self, batch_size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        tensors = {}
        for split, rows in ROWS.items():
            target = torch.arange(rows) % 4
            input = torch.randn(rows, 4, 20, generator=generator) * (1 + target[:, None, None])
            tensors[split] = input, target if split == "train" else target.where(target % 2 == 0, -100)
        super().__init__(tensors, ["a", "b", "c", "d"], batch_size=batch_size)

    def trials(self, split: str) -> tuple[Tensor, Tensor]:
        index = self.rows(split).index
        pairs = torch.combinations(torch.arange(len(index)))
        return index[pairs], pairs[:, 0] % 4 == pairs[:, 1] % 4


def verification(path: Path, trainer: Any, processes: int) -> None:
    """Validate and test one network on trials, of whose samples each process embeds its share."""
    torch.manual_seed(0)
    network = partial(SmallSpeakerNet, num_mels=4, width=4, embedding_dim=6)
    module, data = VerificationModule(network, classes=["a", "b", "c", "d"]), Speakers(4 // processes)
    found: dict[str, float] = {}
    for run in ("validate", "test"):
        (figures,) = getattr(trainer(), run)(module, datamodule=data, verbose=False)
        found |= figures
    (limited,) = trainer(limit_val_batches=2).validate(module, datamodule=data, verbose=False)
    runner = trainer()
    runner.fit(module, datamodule=data)
    if runner.is_global_zero:
        path.write_text(json.dumps({"whole": found, "limited": limited}))


def frugal(folder: Path, trainer: Any, outputs: Any, processes: int) -> None:
    """Fit, test and predict a policy on stored outputs, several batches per process."""
    policy = FrugalFoE(trade_off=0.05, neighbors=12)
    facts = {"classes": outputs.classes, "expert_classes": outputs.expert_classes}
    module = FrugalFoEModule(policy, **facts, folder=str(folder / "policy"))
    data = OutputsDataModule(outputs, batch_size=8 // processes)
    runner = trainer()
    runner.fit(module, datamodule=data)
    figures = {name: float(value) for name, value in runner.callback_metrics.items()}
    tested = trainer()
    tested.test(module, datamodule=data, verbose=False)
    figures |= {name: float(value) for name, value in tested.callback_metrics.items()}
    served = FrugalFoEModule(**facts, folder=str(folder / "policy"))  # read by every process
    writer = PredictionWriter(str(folder / "predictions.csv"))
    trainer(callbacks=[writer]).predict(served, datamodule=data)
    digests = [module.policy.metadata()["digest"]]
    if processes > 1:
        digests = [None] * processes
        torch.distributed.all_gather_object(digests, module.policy.metadata()["digest"])
    if runner.is_global_zero:
        found = {"figures": figures, "steps": runner.global_step, "facts": served.policy.metadata(), "digests": digests}
        (folder / "found.json").write_text(json.dumps(found))
