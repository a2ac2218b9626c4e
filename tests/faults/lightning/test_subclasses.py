"""Further layers of a user's subclass are trained, and what it overrides is what is trained and evaluated."""

import pytest
import torch
from helpers import tiny
from lightning import Trainer
from torch import nn

from lightning_fusion import FoEFuserModule, FrugalFoE, FrugalFoEModule, HaTJointModule, OutputsDataModule
from lightning_fusion.errors import InputError


class Linear(FoEFuserModule):
    def __init__(self, width: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.mine = nn.Linear(width, 3)

    def fuse(self, outputs):
        return self.mine(outputs)


class Scaled(FoEFuserModule):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.ones(()))

    def fuse(self, outputs):
        return self.scale * super().fuse(outputs)


class Narrow(FoEFuserModule):
    def fuse(self, outputs):
        return outputs[:, :2]


@pytest.mark.parametrize("kind", [Linear, Scaled])
def test_layers_of_a_fuser_are_trained(kind):
    outputs = tiny.outputs()
    module = kind(**outputs.fuser_arguments())
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    tiny.trainer(2).fit(module, datamodule=OutputsDataModule(outputs))
    moved = {name for name, weight in module.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == ({"mine.weight", "mine.bias"} if kind is Linear else set(before))


def test_the_loss_is_that_of_the_overridden_method():
    losses = []

    class Checked(Linear):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            losses.append((loss, nn.functional.cross_entropy(self.mine(batch.outputs), batch.target)))
            return loss

    outputs = tiny.outputs()
    tiny.trainer().fit(Checked(**outputs.fuser_arguments()), datamodule=OutputsDataModule(outputs))
    assert losses and all(torch.equal(found, expected) for found, expected in losses)


def test_a_wrong_width_is_named():
    outputs = tiny.outputs()
    with pytest.raises(InputError, match=r"Narrow.fuse returns shape \(\d+, 2\); expected the logits of the classes"):
        tiny.trainer().fit(Narrow(**outputs.fuser_arguments()), datamodule=OutputsDataModule(outputs))


def test_layers_of_a_student_are_trained():
    class Own(HaTJointModule):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.offset = nn.Parameter(torch.zeros(3))

        def forward(self, input):
            return super().forward(input) + self.offset

    pool = tiny.pool(features="body")
    module = Own(network=tiny.Net(3), experts=pool, classes=tiny.CLASSES, features="body")
    trainer: Trainer = tiny.trainer(2)
    trainer.fit(module, datamodule=tiny.data())
    students = [id(weight) for group in trainer.optimizers[0].param_groups for weight in group["params"]]
    assert id(module.offset) in students
    assert not {id(weight) for weight in pool.parameters()} & set(students)


def test_a_fitted_policy_knows_its_experts():
    outputs = tiny.outputs()
    module = FrugalFoEModule(FrugalFoE().fit(outputs["train"]))
    assert module.expert_classes == tiny.EXPERT_CLASSES and module.classes == tiny.CLASSES
    (found,) = tiny.trainer().test(module, datamodule=OutputsDataModule(outputs), verbose=False)
    assert found["test_num_queries"] >= 1
