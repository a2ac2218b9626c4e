import numpy as np
import pytest
import torch
from helpers import tiny

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.batch import Batch, as_batch
from lightning_fusion.data.rows import RowDataset
from lightning_fusion.data.samplers import slice_loader
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.files import digest


class TestBatches:
    def test_a_loader_gives_slices_with_stable_indices(self):
        rows = torch.tensor([3, 1, 4])
        data = RowDataset(torch.arange(10.0), torch.arange(10), torch.ones(10, 1, dtype=torch.bool), rows)
        batches = list(slice_loader(data, batch_size=2, shuffle=False))
        assert [batch.index.tolist() for batch in batches] == [[3, 1], [4]]
        assert [batch.input.tolist() for batch in batches] == [[3.0, 1.0], [4.0]]
        assert isinstance(batches[0], Batch)

    def test_worker_processes_give_the_same_batches(self):
        data = tiny.data()
        here = [batch.index.tolist() for batch in data.train_dataloader()]
        data.num_workers = 1
        assert [batch.index.tolist() for batch in data.train_dataloader()] == here

    def test_a_tuple_of_four_is_a_batch(self):
        four = [torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool), torch.arange(2)]
        assert as_batch(four, "the loader") == Batch(*four)

    @pytest.mark.parametrize(("found", "name"), [((1, 2, 3), "a tuple of 3"), (torch.zeros(2), "Tensor"), ({}, "dict")])
    def test_anything_else_is_rejected(self, found, name):
        with pytest.raises(InputError, match=f"the train loader yields {name}; expected .input, target"):
            as_batch(found, "the train loader")


class TestTensorDataModule:
    def test_indices_are_unique_over_splits(self):
        data = tiny.data()
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        index = [row for loader in loaders for batch in loader for row in batch.index.tolist()]
        assert sorted(index) == list(range(sum(tiny.ROWS.values())))

    def test_fingerprint_follows_the_content(self):
        assert tiny.data(0).fingerprint("train") == tiny.data(0, batch_size=9).fingerprint("train")
        assert len({tiny.data(seed).fingerprint(split) for seed in (0, 1) for split in tiny.ROWS}) == 6

    def test_lengths_must_agree(self):
        with pytest.raises(InputError, match=r"split train: expected .* of one length; found 3, 2"):
            TensorDataModule({"train": (torch.zeros(3, 4), torch.zeros(2))}, classes=["cat"])

    def test_names_the_splits_there_are(self):
        with pytest.raises(InputError, match="no split 'val'; it has train"):
            TensorDataModule({"train": (torch.zeros(2), torch.zeros(2))}, classes=["cat"]).val_dataloader()


@pytest.mark.parametrize("member", ["classes", "domains", "rows", "fingerprint"])
def test_a_data_module_says_what_it_must_implement(member):
    class Mine(FusionDataModule):
        pass

    with pytest.raises(NotImplementedError, match=f"Mine must implement .*{member}"):
        value = getattr(Mine(), member)
        value("train")


def test_digest_tells_content_shape_type_and_order_apart():
    parts = [
        (np.arange(6),),
        (np.arange(6).reshape(2, 3),),
        (np.arange(6, dtype=np.int32),),
        (torch.arange(6),),
        (torch.arange(6).bool(),),
        (torch.arange(6).bfloat16(),),
        ("a", "b"),
        ("b", "a"),
        ("ab",),
        (torch.tensor(1.0),),
        (torch.zeros(0),),
    ]
    # arrays and tensors of the same content may share a fingerprint; nothing else may
    assert len({digest(*part) for part in parts}) >= len(parts) - 1
    assert digest(np.arange(6)[::2]) == digest(np.array([0, 2, 4]))
