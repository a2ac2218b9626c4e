import warnings
from functools import partial

import pytest
import torch
from helpers import tiny
from lightning import LightningModule
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassF1Score

from lightning_fusion import ExpertModule
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError


def module(**arguments) -> ExpertModule:
    torch.manual_seed(0)
    return ExpertModule(**({"network": tiny.Net, "classes": tiny.CLASSES} | arguments))


def order(data, epochs: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The training batches of some epochs, as a hand-written loop sees them."""
    batches = []
    for epoch in range(epochs):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        batches += [(batch.input, batch.target) for batch in loader]
    return batches


class TestTraining:
    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    @pytest.mark.parametrize("given", [None, partial(torch.optim.SGD, lr=0.5)], ids=["AdamW", "SGD"])
    def test_equals_a_hand_written_loop(self, smoothing, given):
        trained, by_hand, data = module(label_smoothing=smoothing, optimizer=given), module().network, tiny.data()
        tiny.trainer(2).fit(trained, datamodule=data)
        batches = order(tiny.data(), 2)
        adam = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4)
        optimizer = (given or adam)(by_hand.parameters())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(batches))
        for input, target in batches:
            optimizer.zero_grad()
            F.cross_entropy(by_hand(input), target, label_smoothing=smoothing).backward()
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
        for ours, theirs in zip(trained.network.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)

    @pytest.mark.slow
    def test_metrics_are_those_of_all_rows(self):
        made, data = module(), tiny.data(batch_size=4)  # 9 validation rows: the last batch has one
        rows = data.rows("val")
        logits = made.eval()(rows.inputs)
        (found,) = tiny.trainer().validate(made, datamodule=data, verbose=False)
        assert found["val_accuracy"] == pytest.approx((logits.argmax(1) == rows.targets).float().mean().item())
        assert found["val_loss"] == pytest.approx(F.cross_entropy(logits, rows.targets).item(), rel=1e-5)
        (found,) = tiny.trainer().test(made, datamodule=data, verbose=False)
        assert set(found) == {"test_accuracy", "test_loss"}

    def test_predictions_carry_their_index(self):
        made, data = module(), tiny.data()
        parts = tiny.trainer().predict(made, datamodule=data)
        rows = data.rows("test")
        assert torch.equal(torch.cat([part["index"] for part in parts]), rows.index)
        torch.testing.assert_close(torch.cat([p["probabilities"] for p in parts]), made(rows.inputs).softmax(-1))

    def test_loss_metric_optimizer_and_schedule_are_the_users(self):
        made = module(
            loss=nn.MultiMarginLoss(),
            metric=MulticlassF1Score(3, average="macro"),
            optimizer=partial(torch.optim.SGD, lr=0.5),
            scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1),
        )
        trainer = tiny.trainer(2)
        trainer.fit(made, datamodule=tiny.data())
        assert isinstance(trainer.optimizers[0], torch.optim.SGD)
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.005)  # once per epoch
        rows = tiny.data().rows("val")
        logits = made.eval()(rows.inputs)
        expected = MulticlassF1Score(3, average="macro")(logits, rows.targets)
        assert trainer.callback_metrics["val_multiclass_f1_score"] == pytest.approx(expected.item())
        right = (logits.argmax(1) == rows.targets).float().mean().item()
        assert trainer.callback_metrics["val_accuracy"] == pytest.approx(right) and right != expected
        assert trainer.callback_metrics["val_loss"] == pytest.approx(
            nn.MultiMarginLoss()(made(rows.inputs), rows.targets).item()
        )

    def test_a_schedule_may_step_each_step(self):
        made = module(
            optimizer=partial(torch.optim.SGD, lr=1.0),
            scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
            scheduler_interval="step",
        )
        trainer = tiny.trainer()
        trainer.fit(made, datamodule=tiny.data(batch_size=6))
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5**4)

    def test_a_run_without_end_needs_a_schedule(self):
        with pytest.raises(InputError, match=r"the cosine schedule needs an end: set trainer.max_epochs or max_steps"):
            tiny.trainer(-1).fit(module(), datamodule=tiny.data())

    def test_mixup_trains_on_mixed_rows_and_soft_targets(self):
        seen = []

        class Spy(nn.Module):
            def forward(self, logits, target):
                seen.append(target)
                return F.cross_entropy(logits, target)

        images = {"train": (torch.rand(24, 1, 4, 4), torch.arange(24) % 3)}
        made = module(network=partial(SmallConvNet, width=1, in_channels=1), mixup=0.8, loss=Spy())
        tiny.trainer(limit_val_batches=0).fit(
            made, TensorDataModule(images, tiny.CLASSES, batch_size=8).train_dataloader()
        )
        assert all(target.shape == (8, 3) for target in seen)
        torch.testing.assert_close(torch.cat(seen).sum(1), torch.ones(24))
        assert ((torch.cat(seen) > 0.01) & (torch.cat(seen) < 0.99)).any()

    def test_mixup_of_other_input_is_rejected(self):
        with pytest.raises(InputError, match="mixup is for images"):
            tiny.trainer().fit(module(mixup=0.8), datamodule=tiny.data())

    def test_bfloat16_is_finite_and_close(self):
        full, half = module(), module()
        for made, precision in ((full, "32-true"), (half, "bf16-mixed")):
            tiny.trainer(2, precision=precision).fit(made, datamodule=tiny.data())
        for ours, theirs in zip(half.parameters(), full.parameters(), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)
        assert not tiny.same(full, half)

    def test_no_step_loads_the_library_of_a_gpu_that_is_not_there(self, monkeypatch):
        asked, found = [], torch.cuda._device_count_nvml
        monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: asked.append(1) or found())
        counts = []
        for epochs in (1, 3):
            monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # by Lightning
            asked.clear()
            tiny.trainer(epochs).fit(module(), datamodule=tiny.data())
            counts.append(len(asked))
        assert counts[0] == counts[1] or torch.cuda.is_available()


class TestCheckpoint:
    @pytest.mark.slow
    def test_holds_plain_data_alone_and_rebuilds_the_module(self, tmp_path):
        made = module(network=partial(tiny.Net, hidden=6), optimizer=partial(torch.optim.SGD, lr=0.1), trained_on=["x"])
        trainer = tiny.trainer()
        trainer.fit(made, datamodule=tiny.data())
        trainer.save_checkpoint(tmp_path / "m.ckpt")
        content = torch.load(tmp_path / "m.ckpt", weights_only=True)
        assert content["expert"]["classes"] == tiny.CLASSES
        assert content["expert"]["network"] == {"class_path": "helpers.tiny.Net", "init_args": {"hidden": 6}}
        for kind in (ExpertModule, LightningModule):
            loaded = kind.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
            assert type(loaded) is ExpertModule
            assert tiny.same(loaded, made)
            assert loaded.trained_on == ["x"]

    def test_of_a_finished_network_is_loaded_with_that_network(self, tmp_path):
        made = module(network=tiny.Net(3))
        trainer = tiny.trainer()
        trainer.fit(made, datamodule=tiny.data())
        trainer.save_checkpoint(tmp_path / "m.ckpt")
        loaded = ExpertModule.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True, network=tiny.Net(3))
        assert tiny.same(loaded.network, made.network)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": None}, "classes is not set, and the data module has none"),
        ({"classes": []}, "classes is not set, and the data module has none"),
        ({"loss": nn.MSELoss(), "label_smoothing": 0.1}, "label_smoothing belongs to the default loss"),
        ({"label_smoothing": 1.5}, "mixup is 0.0, label_smoothing 1.5; expected at least 0, and 0 to 1"),
        ({"mixup": -1.0}, "mixup is -1.0"),
        ({"features": "bod"}, r"the network has no layer 'bod'; its layers: body"),
    ],
)
def test_rejected(arguments, message):
    with pytest.raises(InputError, match=message):
        module(**arguments)


def test_a_loader_of_other_batches_is_named():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 4)))
    with pytest.raises(InputError, match=r"the train loader yields a tuple of 1; expected .input, target"):
        tiny.trainer().fit(module(), loader)


@pytest.mark.slow
@pytest.mark.parametrize(("learns", "count"), [(True, 0), (False, 1)])
def test_a_validation_accuracy_at_chance_level_is_reported(learns, count):
    module = ExpertModule(tiny.Net, classes=tiny.CLASSES, optimizer=partial(torch.optim.Adam, lr=0.02))
    data = tiny.data(rows={"train": 200, "val": 100, "test": 4}, batch_size=20)
    if not learns:
        for split in ("train", "val"):
            data.rows(split).targets.copy_(data.rows(split).targets.roll(1))  # labels of other samples
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (trainer := tiny.trainer(8)).fit(module, datamodule=data)
    found = [str(each.message) for each in caught if "at chance level: a constant answer has" in str(each.message)]
    assert len(found) == count
    targets = data.rows("val").targets[data.rows("val").rows]
    majority = float(trainer.callback_metrics["val_majority_accuracy"])
    assert majority == pytest.approx(float(targets.bincount().max()) / 100)
