"""Modules are rebuilt from what their checkpoints record; see tests/faults/stored/test_foreign_names.py as well."""

from functools import partial

import pytest
import torch
from helpers import tiny
from lightning import LightningModule

from lightning_fusion import ExpertModule
from lightning_fusion.errors import InputError


def by_function(num_classes: int) -> tiny.Net:
    return tiny.Net(num_classes, hidden=6)


def saved_by_function(folder, **arguments) -> str:
    made, trainer = ExpertModule(by_function, tiny.CLASSES, **arguments), tiny.trainer()
    trainer.fit(made, datamodule=tiny.data())
    trainer.save_checkpoint(folder / "m.ckpt")
    return str(folder / "m.ckpt")


@pytest.mark.slow
def test_only_what_a_checkpoint_cannot_hold_is_given_again(tmp_path):
    how = {"optimizer": partial(torch.optim.SGD, lr=0.25), "label_smoothing": 0.1, "features": "body"}
    path = saved_by_function(tmp_path, **how)
    for kind in (ExpertModule, LightningModule):
        loaded = kind.load_from_checkpoint(path, network=by_function)
        assert type(loaded) is ExpertModule and loaded.network.head.in_features == 6
        assert (loaded.loss.label_smoothing, loaded.features, loaded.classes) == (0.1, "body", tiny.CLASSES)
        tiny.trainer().fit(loaded, datamodule=tiny.data())
        assert loaded.trainer.optimizers[0].defaults["lr"] == 0.25
    with pytest.raises(InputError, match=r"network: .*m.ckpt does not contain it .*network=\.\.\."):
        ExpertModule.load_from_checkpoint(path)


def test_a_default_that_stands_in_for_an_object_warns(tmp_path):
    path = saved_by_function(tmp_path, loss=torch.nn.MultiMarginLoss())
    with pytest.warns(UserWarning, match="does not contain loss of the training"):
        loaded = ExpertModule.load_from_checkpoint(path, network=by_function)
    assert isinstance(loaded.loss, torch.nn.CrossEntropyLoss)
    loaded = ExpertModule.load_from_checkpoint(path, network=by_function, loss=torch.nn.MultiMarginLoss())
    assert isinstance(loaded.loss, torch.nn.MultiMarginLoss)


class Narrow(ExpertModule):
    """A user's subclass that settles most arguments itself."""

    def __init__(self, classes: list[str], hidden: int = 5) -> None:
        super().__init__(partial(tiny.Net, hidden=hidden), classes, label_smoothing=0.1)


@pytest.mark.slow
def test_a_subclass_with_fewer_arguments_is_rebuilt_from_its_own(tmp_path):
    made, trainer = Narrow(tiny.CLASSES, hidden=7), tiny.trainer()
    trainer.fit(made, datamodule=tiny.data())
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    assert {name for name in made.hparams if name[0] != "_"} == {"classes", "hidden"}
    for kind in (Narrow, LightningModule):
        loaded = kind.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
        assert type(loaded) is Narrow and tiny.same(loaded, made) and loaded.loss.label_smoothing == 0.1
