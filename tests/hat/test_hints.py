import copy
from functools import partial

import pytest
import torch
from helpers import tiny
from torch import nn
from torch.nn import functional as F

from lightning_fusion import Expert, HaTJointModule
from lightning_fusion.hat.hints import RepresentationHints
from lightning_fusion.hat.mixup import Pairs


def test_the_error_is_that_of_a_linear_map_to_standardized_representations():
    hints = RepresentationHints(4, {"a": 3, "b": 5})
    z, found = torch.randn(6, 4), {"a": 100 * torch.randn(6, 3), "b": torch.randn(6, 5) + 7}
    for row, error in enumerate(hints(z, found).tolist()):
        parts = []
        for value, regressor in zip(found.values(), hints.regressors, strict=True):
            own = value[row]
            wanted = (own - own.mean()) / (own.var(correction=0) + 1e-5).sqrt()
            mapped = (regressor.weight @ z[row] + regressor.bias).detach()
            parts.append(float((mapped - wanted).square().sum() / len(own)))
        assert error == pytest.approx(sum(parts) / 2, rel=1e-4)
    # neither scale nor offset of a source matters
    moved = hints(z, {name: 3 * value + 1 for name, value in found.items()})
    torch.testing.assert_close(moved, hints(z, found), rtol=1e-3, atol=1e-3)


def module(teacher: str, weight: float, **arguments) -> HaTJointModule:
    torch.manual_seed(0)
    sources = {
        name: Expert(tiny.Net(3, hidden=width), classes=tiny.CLASSES, features="body")
        for name, width in (("a", 7), ("b", 6))
    }
    how = {"network": tiny.Net, "features": "body", "classes": tiny.CLASSES, "teacher": teacher}
    return HaTJointModule(experts=sources, representation_weight=weight, **(how | arguments))


@pytest.mark.parametrize(("teacher", "mixup"), [("attention", 0.0), ("uniform", 0.5)])
def test_a_step_follows_the_gradient_of_all_losses(teacher, mixup, monkeypatch):
    """One step of SGD against autograd on the sum of the losses, written out."""
    pairs = Pairs(0.75, torch.arange(24).flip(0))
    monkeypatch.setattr(Pairs, "draw", lambda alpha, input: pairs)
    sgd = {
        "optimizer": partial(torch.optim.SGD, lr=0.1),
        "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=9),
    }
    made = module(teacher, 2.0, alpha="fixed", alpha_0=0.0, mixup=mixup, **sgd)
    seen = []

    def noted(*_):
        seen.append((copy.deepcopy(made.network), copy.deepcopy(made.hints)))

    made.on_train_start = noted
    data = tiny.data(batch_size=24)
    trainer = tiny.trainer(1)
    trainer.fit(made, datamodule=data)
    (network, hints), batch = seen[0], next(iter(data.train_dataloader()))
    order = batch.input if not mixup else pairs.mix(batch.input)
    z = network.body(order)
    logits = network.head(z)
    found = made.pool.representations(batch.input)
    supervised, error = F.cross_entropy(logits, batch.target), hints(z, found).mean()
    if mixup:
        supervised = 0.75 * supervised + 0.25 * F.cross_entropy(logits, batch.target.flip(0))
        error = 0.75 * error + 0.25 * hints(z, {name: value.flip(0) for name, value in found.items()}).mean()
    (supervised + 2.0 * error).backward()
    for before, after in ((network, made.network), (hints, made.hints)):
        for old, new in zip(before.parameters(), after.parameters(), strict=True):
            torch.testing.assert_close(new.detach(), old.detach() - 0.1 * old.grad, atol=1e-6, rtol=1e-5)
    assert float(trainer.logged_metrics["train_representation_loss"]) == pytest.approx(error.item(), rel=1e-5)


def test_a_published_student_has_no_hints(tmp_path):
    made = module("attention", 1.0)
    trainer = tiny.trainer(1)
    trainer.fit(made, datamodule=tiny.data())
    trainer.save_checkpoint(tmp_path / "student.ckpt", weights_only=True)
    state = torch.load(tmp_path / "student.ckpt", weights_only=True)["state_dict"]
    assert state and not [name for name in state if "hints" in name]
    assert isinstance(made.hints, nn.Module)


@pytest.mark.parametrize("cache", [True, False])
def test_a_fitted_teacher_with_hints_reads_cache(cache):
    made, cached = module("uniform", 1.0, cache=cache), []
    made.on_train_start = lambda: cached.extend(made._outputs.tables)
    tiny.trainer(1).fit(made, datamodule=tiny.data())
    assert cached == (["train"] if cache else [])
