"""A network that was replaced by its compiled form has the checkpoints of any other."""

import pytest
import torch
from helpers import modules, tiny

from lightning_fusion import Expert, ExpertModule

NAMES = [
    "ExpertModule",
    "FoEFuserModule",
    "ACoRLModule",
    "HaTJointModule",
    "VerificationModule",
    "GenerativeExpertModule",
    "GenerativeFoE",
]


@pytest.mark.parametrize("name", NAMES[:2])
def test_weights_are_read_with_and_without_compilation(name, tmp_path):
    plain, compiled = (modules.made(name, tmp_path)[0] for _ in range(2))
    torch.nn.init.ones_(next(plain.network.parameters()))
    compiled.network = torch.compile(compiled.network, backend="eager")
    compiled.load_state_dict(plain.state_dict())
    again = modules.made(name, tmp_path)[0]
    again.load_state_dict(compiled.state_dict())
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in plain.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_read_with_and_without_compilation(name, tmp_path):
    compiled, data = modules.made(name, tmp_path)
    compiled.network = torch.compile(compiled.network, backend="eager")
    trainer, path = tiny.trainer(), tmp_path / "compiled.ckpt"
    trainer.fit(compiled, datamodule=data)
    trainer.save_checkpoint(path)
    plain, data = modules.made(name, tmp_path / "plain")
    resumed = tiny.trainer(2)
    resumed.fit(plain, datamodule=data, ckpt_path=path)
    resumed.save_checkpoint(path)
    assert resumed.current_epoch == 2
    tiny.trainer().test(compiled, datamodule=data, ckpt_path=path, verbose=False)
    own, other = plain.network.state_dict(), compiled.network._orig_mod.state_dict()
    assert all(torch.equal(own[key], other[key]) for key in own)


@pytest.mark.slow
def test_the_checkpoint_of_a_compiled_network_is_an_expert(tmp_path):
    module = ExpertModule(tiny.Net, tiny.CLASSES)
    module.network = torch.compile(module.network, backend="eager")
    trainer = tiny.trainer()
    trainer.fit(module, datamodule=tiny.data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    input = torch.randn(3, 4)
    expected = module(input).softmax(1)
    torch.testing.assert_close(Expert(checkpoint=str(tmp_path / "x.ckpt"))(input), expected)
    torch.testing.assert_close(ExpertModule.load_from_checkpoint(tmp_path / "x.ckpt")(input).softmax(1), expected)
