import numpy as np
import pytest
import torch

from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.views.role import RoleDataModule, with_roles
from lightning_fusion.errors import InputError


def motion(**arguments) -> RoleDataModule:
    data = SyntheticSensorDataModule(val_fraction=0.3, batch_size=16, **arguments)
    return RoleDataModule(data, role="fuser")


def numbers(data, split: str) -> set[int]:
    return set(data.rows(split)[torch.arange(len(data.rows(split)))].index.tolist())


@pytest.mark.slow
def test_a_fuser_learns_from_recordings_that_no_expert_was_trained_on():
    data = motion()
    experts = [data.variant(role="expert", domain=name) for name in data.domains]
    trained = set().union(*(numbers(expert, "train") for expert in experts))
    mine, watched = numbers(data, "train"), numbers(data, "val")
    assert mine | watched == numbers(data.data, "val") and not mine & watched
    assert not trained & (mine | watched) and not numbers(data, "test") & (trained | mine | watched)
    assert numbers(data, "test") == numbers(data.data, "test")
    assert len(watched) == pytest.approx(0.1 * (len(mine) + len(watched)), abs=4)


def test_an_expert_is_the_wrapped_module_with_its_domain():
    data = motion()
    name = data.domains[1]
    expert, plain = data.variant(role="expert", domain=name), data.data.variant(domain=name)
    assert expert.own_domains == [name] and expert.classes == plain.classes and expert.domains == plain.domains
    for ours, theirs in zip(expert.train_dataloader(), plain.train_dataloader(), strict=True):
        assert torch.equal(ours.index, theirs.index) and torch.equal(ours.input, theirs.input)
    assert expert.fingerprint("train") == plain.fingerprint("train") != data.fingerprint("train")
    assert data.variant(role="expert").own_domains == data.domains


def test_another_seed_is_the_wrapped_modules():
    data = motion()
    other = data.variant(seed=1)
    assert other.seed == other.data.seed == 1 and data.seed == 0
    assert numbers(other, "train") != numbers(data, "train")
    again = motion(seed=1)
    assert numbers(other, "train") == numbers(again, "train") and other.fingerprint("val") == again.fingerprint("val")
    loaded = np.concatenate([batch.index for batch in other.train_dataloader()])
    assert set(loaded.tolist()) == numbers(other, "train")


def test_data_with_roles_of_their_own_are_asked_for_the_fusers():
    image = SyntheticImageDataModule(fuser_fraction=0.2, domain="style_1")
    mine = with_roles(image)
    assert isinstance(mine, SyntheticImageDataModule) and (mine.role, mine.domain) == ("fuser", None)
    with pytest.raises(InputError, match="role is fuser, and fuser_fraction is 0"):
        with_roles(SyntheticImageDataModule())
    assert isinstance(with_roles(motion().data), RoleDataModule)


def test_what_cannot_be_an_experts_or_a_fusers_is_rejected():
    tensors = {"train": (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))}
    with pytest.raises(InputError, match="TensorDataModule has no argument domain"):
        with_roles(TensorDataModule(tensors, ["a"]))
    with pytest.raises(InputError, match="set role: expert"):
        motion().variant(domain="p0_phone")
    with pytest.raises(InputError, match="fuser_val_fraction is 1"):
        RoleDataModule(motion().data, fuser_val_fraction=1)
    with pytest.raises(InputError, match="no split 'all'"):
        motion().rows("all")
