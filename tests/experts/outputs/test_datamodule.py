import numpy as np
import pytest
import torch
from helpers import tiny

from lightning_fusion import OutputsDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.store import DamagedStoreError


def test_batches_are_the_stored_rows(tmp_path):
    outputs = tiny.outputs().save(tmp_path)
    data = OutputsDataModule(str(tmp_path), batch_size=4)
    batches = list(data.test_dataloader())
    assert [len(batch.index) for batch in batches] == [4, 4, 3]
    assert np.array_equal(torch.cat([batch.outputs for batch in batches]), outputs.concatenated("test"))
    assert np.array_equal(torch.cat([batch.target for batch in batches]), outputs["test"].target)
    assert np.array_equal(torch.cat([batch.domain for batch in batches]), outputs["test"].domain)
    assert data.classes == tiny.CLASSES
    assert data.domains == tiny.DOMAINS
    assert (data.expert_classes, data.expert_domains) == (tiny.EXPERT_CLASSES, {"a": ["x"], "b": ["y"]})


def test_a_split_beyond_the_memory_limit_gives_the_same_batches(tmp_path):
    tiny.outputs().save(tmp_path)
    here, there = (OutputsDataModule(str(tmp_path), 5, memory_limit_gb=limit) for limit in (1.0, 1e-9))
    for one, other in zip(here.train_dataloader(), there.train_dataloader(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert here._rows["train"].outputs is not None
    assert there._rows["train"].outputs is None


def test_training_rows_are_shuffled_by_seed_and_epoch():
    def order(seed, epoch):
        loader = OutputsDataModule(tiny.outputs(), 24, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return next(iter(loader)).index.tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert sorted(order(0, 0)) == list(range(24))


def test_a_missing_store_is_named(tmp_path):
    with pytest.raises(InputError, match=r"found no manifest.json"):
        OutputsDataModule(str(tmp_path / "none")).train_dataloader()


def test_digests_are_compared_unless_disabled(tmp_path):
    tiny.outputs().save(tmp_path)
    (file,) = tmp_path.glob("data-*/0.bin")
    file.write_bytes(bytes(len(file.read_bytes())))
    with pytest.raises(DamagedStoreError, match="another digest"):
        OutputsDataModule(str(tmp_path)).train_dataloader()
    assert len(OutputsDataModule(str(tmp_path), 24, verify=False).train_dataloader()) == 1
