import warnings

import pytest
import torch
from helpers import tiny
from lightning import LightningModule, Trainer
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAUROC, MulticlassCalibrationError, MulticlassF1Score

from lightning_fusion.data.batch import as_batch
from lightning_fusion.errors import InputError
from lightning_fusion.metrics.logging import SampleMean, SplitMetrics, accuracy_of, log_train, logs_step, name_of


class Accuracy(MeanMetric):
    """A user's metric of a name that is taken."""


class Plain(LightningModule):
    """Logs what it is told, a batch at a time."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.network, self.losses = tiny.Net(3), losses
        self.metrics = SplitMetrics({"loss": SampleMean(), "accuracy": accuracy_of(3), "rest": SampleMean()})

    def training_step(self, batch, batch_idx):
        loss = self.network(batch.input).sum()
        log_train(self, {"loss": loss, "size": 7.0}, as_batch(batch, "here"))
        return loss

    def validation_step(self, batch, batch_idx):
        loss = torch.tensor(self.losses[batch_idx])
        self.metrics.count("val", self.network(batch.input), batch.target, loss)
        self.metrics.log(self, "val", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (MulticlassF1Score(3), "multiclass_f1_score"),
        (MulticlassAUROC(3), "multiclass_auroc"),
        (MulticlassCalibrationError(3), "multiclass_calibration_error"),
    ],
)
def test_a_users_metric_is_named_by_its_class(kind, name):
    assert name_of(kind) == name


def test_a_name_that_is_taken_is_rejected():
    with pytest.raises(InputError, match="metric: a Accuracy would be logged as accuracy"):
        SplitMetrics({"loss": SampleMean(), "accuracy": accuracy_of(3)}, Accuracy())


def test_means_are_over_samples_and_only_what_was_counted_is_logged():
    losses = [1.0, 2.0, 6.0]  # of 4, 4 and 1 samples
    made, data = Plain(losses), tiny.data()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*was called before the ``update``.*")
        (found,) = tiny.trainer().validate(made, datamodule=data, verbose=False)
    rows = data.rows("val")
    right = (made.network(rows.inputs).argmax(1) == rows.targets).float().mean().item()
    assert found == {"val_loss": pytest.approx((4 + 8 + 6) / 9), "val_accuracy": pytest.approx(right)}


def test_each_epoch_begins_anew_and_a_split_has_its_own():
    made, data = Plain([1.0, 1.0, 1.0]), tiny.data()
    trainer = tiny.trainer(2)
    trainer.fit(made, datamodule=data)
    assert trainer.callback_metrics["val_loss"] == 1 and trainer.callback_metrics["train_size"] == 7
    assert not made.metrics["val"]["loss"].update_called and not made.metrics["test"]["loss"].update_called
    assert made.state_dict().keys() == {f"network.{name}" for name in made.network.state_dict()}


def test_a_loss_that_diverged_stays_seen():
    (found,) = tiny.trainer().validate(Plain([1.0, float("nan"), 1.0]), datamodule=tiny.data(), verbose=False)
    assert found["val_loss"] != found["val_loss"]


@pytest.mark.parametrize("every, steps", [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (0, [])])
def test_steps_are_logged_at_the_trainers_interval_and_never_at_zero(every, steps):
    module = LightningModule()
    module.trainer = Trainer(log_every_n_steps=every, logger=False, enable_progress_bar=False)
    assert [step for step in range(5) if logs_step(module, step)] == steps
    assert logs_step(module) == (every > 0)
