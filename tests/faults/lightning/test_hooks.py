"""Hooks of a user's subclass that replace those of the library are reported; wholly compiled modules raise."""

import warnings
from typing import Any

import pytest
import torch
from helpers import modules, tiny

from lightning_fusion import ACoRLModule, ExpertModule, FoEFuserModule, FrugalFoEModule, HaTJointModule
from lightning_fusion.errors import InputError
from lightning_fusion.generation.fuser import GenerativeFoE
from lightning_fusion.generation.module import GenerativeExpertModule
from lightning_fusion.verification.module import VerificationModule

KINDS = [
    ExpertModule,
    FoEFuserModule,
    FrugalFoEModule,
    ACoRLModule,
    HaTJointModule,
    VerificationModule,
    GenerativeExpertModule,
    GenerativeFoE,
]


def nothing(self: Any, *arguments: Any) -> None:
    """Override a hook without super()."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["setup", "on_save_checkpoint"])
def test_a_hook_without_super_is_reported(kind, hook):
    with pytest.warns(UserWarning, match=rf"Mine: {hook}\(\) does not call super\(\): .*; add super\(\).{hook}\("):
        type("Mine", (kind,), {hook: nothing})


def test_a_hook_of_a_mixin_counts_and_its_subclasses_are_not_reported_again():
    class Mixin:
        on_fit_start = nothing

    with pytest.warns(UserWarning, match=r"Mine: on_fit_start\(\) does not call"):

        class Mine(Mixin, ACoRLModule):
            pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Other(Mine):
            pass


def test_hooks_with_super_and_hooks_that_the_library_lacks_are_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Mine(FoEFuserModule):
            def setup(self, stage: str) -> None:
                super().setup(stage)

            def teardown(self, stage: str) -> None:
                FoEFuserModule.teardown(self, stage)

            def on_before_zero_grad(self, optimizer: Any) -> None:
                pass

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.network.parameters(), lr=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["ExpertModule", "FoEFuserModule", *(pytest.param(name, marks=pytest.mark.slow) for name in ("HaTJointModule",))],
)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_module_that_was_compiled_as_a_whole_raises(name, command, tmp_path):
    module, data = modules.made(name, tmp_path)
    with pytest.raises(InputError, match=rf"torch.compile: found a compiled {name}; compile its network instead"):
        getattr(tiny.trainer(), command)(torch.compile(module, backend="eager"), datamodule=data)
    getattr(tiny.trainer(), command)(module, datamodule=data)
