import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny
from lightning import LightningModule
from torch import nn

from lightning_fusion import Expert, ExpertPool
from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.probing import (
    PROBE_ROWS,
    all_rows,
    batches_repeat,
    check_representations,
    first_rows,
    in_eval,
    probe_experts,
    training_labels,
    undisturbed,
)


class Looking(LightningModule):
    """Looks at its data as a training begins, and trains nothing."""

    automatic_optimization = False

    def __init__(self, look, when="setup"):
        super().__init__()
        self.weight, self.look, self.when = nn.Parameter(torch.zeros(())), look, when

    def setup(self, stage):
        if self.when == "setup":
            self.found = self.look(self.trainer)

    def on_fit_start(self):
        if self.when == "on_fit_start":
            self.found = self.look(self.trainer)

    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def looked(look, data, when="setup", **loaders):
    made = Looking(look, when)
    tiny.trainer(1, limit_train_batches=1, limit_val_batches=0).fit(made, datamodule=data, **loaders)
    return made.found


def without_a_draw(look):
    """The same, after a check that it draws no random number of the run."""

    def watched(trainer):
        before = torch.get_rng_state()
        found = look(trainer)
        assert torch.equal(torch.get_rng_state(), before)
        return found

    return watched


def test_networks_are_left_as_they_were():
    network = tiny.Net(3, norm=True, dropout=0.5)
    network.head.eval()
    before, drawn = copy.deepcopy(network), torch.get_rng_state()
    with undisturbed(network):
        network.train()
        network(torch.randn(5, 4))
    assert tiny.same(network, before) and torch.equal(torch.get_rng_state(), drawn)
    assert [part.training for part in network.modules()] == [part.training for part in before.modules()]
    with in_eval(network):
        assert not any(part.training for part in network.modules())
    assert [part.training for part in network.modules()] == [part.training for part in before.modules()]


@pytest.mark.parametrize("count", [24, 100])
def test_the_first_rows_are_those_of_a_step_and_few(count):
    class Scaled(type(tiny.data())):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch._replace(input=2 * batch.input)

    data = tiny.data(rows=tiny.ROWS | {"train": count})
    data.__class__ = Scaled
    batch = looked(without_a_draw(lambda trainer: first_rows(trainer.lightning_module)), data)
    rows = min(count, PROBE_ROWS)
    torch.testing.assert_close(batch.input, 2 * data.rows("train").inputs[:rows])
    assert batch.index.tolist() == list(range(rows))
    index, target = looked(training_labels, data)
    assert index.tolist() == list(range(count)) and torch.equal(target, data.rows("train").targets)


def test_bare_loaders_do():
    data = tiny.data()
    data.setup("fit")
    loader = data.train_dataloader()
    batch = looked(without_a_draw(lambda trainer: first_rows(trainer.lightning_module)), None, train_dataloaders=loader)
    assert len(batch.target) == 24
    index, target = looked(without_a_draw(training_labels), None, train_dataloaders=loader)
    assert sorted(index.tolist()) == list(range(24)) and torch.equal(target, data.rows("train").targets[index])
    assert not looked(lambda trainer: batches_repeat(trainer, torch.device("cpu")), None, train_dataloaders=loader)


def test_a_split_without_rows_is_rejected():
    data = SimpleNamespace(dataloader=list)
    trainer = SimpleNamespace(datamodule=None, fit_loop=SimpleNamespace(_data_source=data))
    with pytest.raises(InputError, match="data: the training split has no samples"):
        first_rows(SimpleNamespace(trainer=trainer, dtype=torch.float32))


@pytest.mark.parametrize("augmentation", [None, nn.Dropout(0.3)])
def test_batches_repeat_where_nothing_is_augmented(augmentation):
    data = SyntheticImageDataModule(batch_size=16, augmentation=augmentation)
    cpu = torch.device("cpu")
    assert looked(lambda trainer: batches_repeat(trainer, cpu), data, "on_fit_start") == (augmentation is None)
    if augmentation is None:
        found = looked(lambda trainer: list(all_rows(trainer, "val", cpu)), data, "on_fit_start")
        assert max(len(batch.target) for batch in found) == 16
        assert torch.equal(
            torch.cat([batch.target for batch in found]), torch.cat([b.target for b in data.val_dataloader()])
        )


def test_experts_that_do_not_run_are_named():
    pool = tiny.pool(features="body")
    found = probe_experts(pool, torch.rand(7, 4))
    assert {name: value.shape for name, value in found.items()} == {"a": (7, 5), "b": (7, 5)}
    with pytest.raises(InputError, match=r"experts: a does not run on the training input \(mat1 and mat2"):
        probe_experts(pool, torch.rand(7, 3))


def test_a_network_beside_experts_is_checked():
    pool = tiny.pool(features="body")
    check_representations(tiny.Net(3), "head", pool)
    with pytest.raises(InputError, match="the network has no layer 'neck'"):
        check_representations(tiny.Net(3), "neck", pool)
    with pytest.raises(InputError, match=r"give it a copy\.deepcopy"):
        check_representations(pool.members["a"].network, "body", pool)
    nameless = ExpertPool({"c": Expert(tiny.Net(3), classes=tiny.CLASSES)})
    with pytest.raises(InputError, match="expert c has no layer None"):
        check_representations(tiny.Net(3), "body", nameless)
