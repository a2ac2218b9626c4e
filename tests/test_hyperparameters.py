"""A checkpoint that holds plain data only must not run code either."""

from functools import partial

import pytest
import torch
from helpers import tiny
from lightning import LightningModule

from lightning_fusion import ExpertModule, FoEFuserModule
from lightning_fusion.cli.main import main
from lightning_fusion.errors import InputError
from lightning_fusion.export import export
from lightning_fusion.hyperparameters import check_trusted

PAYLOADS = [
    {"network": {"class_path": "subprocess.getoutput", "init_args": {"cmd": "touch PWNED"}}},
    {"optimizer": {"class_path": "subprocess.getoutput", "init_args": {"cmd": "touch PWNED"}}},
    {"network": "os.getcwd"},
    {"network": {"class_path": "antigravity.Network"}},
    {
        "experts": {
            "a": {
                "class_path": "lightning_fusion.Expert",
                "init_args": {"network": {"class_path": "os.system", "init_args": {"command": "touch PWNED"}}},
            }
        }
    },
]


@pytest.fixture(params=PAYLOADS, ids=lambda payload: str(payload)[:40])
def altered(request, tmp_path, monkeypatch):
    """A fuser's checkpoint whose hyperparameters were altered; still loadable with weights_only=True."""
    monkeypatch.chdir(tmp_path)
    trainer, module = tiny.trainer(), FoEFuserModule(**tiny.outputs().fuser_arguments())
    trainer.strategy.connect(module)
    trainer.save_checkpoint("good.ckpt")
    content = torch.load("good.ckpt", weights_only=True)
    content["hyper_parameters"] |= request.param
    torch.save(content, "altered.ckpt")
    torch.load("altered.ckpt", weights_only=True)
    return tmp_path


@pytest.mark.parametrize(
    "route",
    [
        lambda: FoEFuserModule.load_from_checkpoint("altered.ckpt"),
        lambda: ExpertModule.load_from_checkpoint("altered.ckpt"),
        lambda: export(tiny.pool(), "altered.ckpt", "out", [4]),
        lambda: main(["test", "-c", "foe/digits.yaml", "--ckpt_path", "altered.ckpt"]),
        lambda: main(["fit", "-c", "foe/digits.yaml", "--ckpt_path", "altered.ckpt"]),
    ],
    ids=["fuser", "expert", "export", "test", "fit"],
)
@pytest.mark.slow
def test_no_route_calls_or_imports_what_a_checkpoint_names(altered, route):
    with pytest.raises(InputError, match=r"no imported torch module|expected a class_path"):
        route()
    assert not (altered / "PWNED").exists()


def test_what_this_library_writes_is_trusted():
    check_trusted({"network": {"class_path": "lightning_fusion.foe.fusers.MLPFuser"}, "classes": ["os.system"]}, "here")


def by_function(num_classes: int) -> tiny.Net:
    return tiny.Net(num_classes, hidden=6)


def saved_by_function(folder, **arguments) -> str:
    made, trainer = ExpertModule(by_function, tiny.CLASSES, **arguments), tiny.trainer()
    trainer.fit(made, datamodule=tiny.data())
    trainer.save_checkpoint(folder / "m.ckpt")
    return str(folder / "m.ckpt")


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


def test_a_subclass_with_fewer_arguments_is_rebuilt_from_its_own(tmp_path):
    made, trainer = Narrow(tiny.CLASSES, hidden=7), tiny.trainer()
    trainer.fit(made, datamodule=tiny.data())
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    assert {name for name in made.hparams if name[0] != "_"} == {"classes", "hidden"}
    for kind in (Narrow, LightningModule):
        loaded = kind.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
        assert type(loaded) is Narrow and tiny.same(loaded, made) and loaded.loss.label_smoothing == 0.1
