"""Loaders of other projects: pairs (input, target), lists of texts, one row at a time."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_fusion import (
    ACoRLModule,
    Batch,
    Expert,
    ExpertModule,
    ExpertPool,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    HaTJointModule,
    IndexedDataset,
    OutputsDataModule,
    collect,
)
from lightning_fusion.errors import InputError

ROWS = {"train": 24, "val": 12, "test": 12}


class Pairs(LightningDataModule):
    """A data module as many projects have it, of samples drawn once."""

    def __init__(self, shuffle: bool = True, batch_size: int = 4, index: bool = False, texts: bool = False) -> None:
        super().__init__()
        self.shuffle, self.batch_size, self.index, self.texts = shuffle, batch_size, index, texts
        ours = tiny.tensors(rows=ROWS)
        self.splits = {split: TensorDataset(inputs, targets) for split, (inputs, targets, _) in ours.items()}

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader[Any]:
        dataset: Any = self.splits[split]
        if self.texts:
            dataset = [(f"{row}", int(target)) for row, (_, target) in enumerate(dataset)]
        if self.index:
            dataset = IndexedDataset(dataset, ["xy"[row % 2] for row in range(len(dataset))], tiny.DOMAINS)
        return DataLoader(dataset, batch_size=self.batch_size, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", self.shuffle)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")


def answer(texts: Any) -> torch.Tensor:
    """Probabilities of texts, as a list."""
    assert all(isinstance(text, str) for text in texts)
    return torch.eye(3)[[int(text) % 3 for text in texts]] * 0.7 + 0.1


def readers() -> dict[str, Expert]:
    """Experts that read lists of texts."""
    return {
        "a": Expert(answer, classes=tiny.CLASSES, output="probabilities", version="1"),
        "b": Expert(lambda texts: answer(texts).flip(1), classes=tiny.CLASSES, output="probabilities", version="1"),
    }


def module(name: str) -> Any:
    torch.manual_seed(0)
    experts, trained = tiny.experts(features="body"), {"network": tiny.Net, "classes": tiny.CLASSES}
    if name == "expert":
        return ExpertModule(**trained)
    if name == "acorl":
        return ACoRLModule(experts=experts, features="body", **trained)
    if name == "hat":
        return HaTJointModule(experts=experts, features="body", **trained)
    return (FrugalFoEModule if name == "frugal" else FoEFuserModule)(experts=experts, classes=tiny.CLASSES)


@pytest.mark.filterwarnings("ignore:neighbors is", "ignore:the fuser of all experts")
@pytest.mark.parametrize(
    ("name", "shuffle"),
    [
        ("expert", True),
        ("foe", True),
        ("acorl", True),
        pytest.param("hat", False, marks=pytest.mark.slow),
        pytest.param("frugal", False, marks=pytest.mark.slow),
    ],
)
def test_every_module_takes_pairs(name, shuffle):
    made, data = module(name), Pairs(shuffle)
    trainer = tiny.trainer()
    trainer.fit(made, datamodule=data)
    trainer.test(made, datamodule=data, verbose=False)
    found = trainer.predict(made, datamodule=data)
    assert torch.cat([part["index"] for part in found]).tolist() == list(range(12))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:neighbors is", "ignore:the fuser of all experts")
@pytest.mark.parametrize("name", ["hat", "frugal"])
def test_what_needs_an_index_says_how_to_give_one(name):
    with pytest.raises(InputError, match=r"wrap the data set: DataLoader\(lightning_fusion.IndexedDataset"):
        tiny.trainer().fit(module(name), datamodule=Pairs(shuffle=True))
    trainer = tiny.trainer()
    trainer.fit(module(name), datamodule=Pairs(shuffle=True, index=True))
    assert trainer.callback_metrics


def test_bare_loaders_of_pairs_train_and_predict():
    data, made, trainer = Pairs(), module("expert"), tiny.trainer()
    trainer.fit(made, data.train_dataloader(), data.val_dataloader())
    pairs = trainer.predict(made, data.test_dataloader())
    inputs = data.splits["test"].tensors[0]
    alone = trainer.predict(made, DataLoader(TensorDataset(inputs), batch_size=5))
    bare = trainer.predict(made, DataLoader(inputs, batch_size=5))
    for found in (pairs, alone, bare):
        assert torch.cat([part["index"] for part in found]).tolist() == list(range(12))
        probabilities = torch.cat([part["probabilities"] for part in found])
        torch.testing.assert_close(probabilities, made(inputs).softmax(1).detach())


def test_a_stream_is_numbered_as_it_comes():
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(Pairs().splits["test"])

    found = tiny.trainer().predict(module("expert"), DataLoader(Stream(), batch_size=5))
    assert torch.cat([part["index"] for part in found]).tolist() == list(range(12))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_store_of_pairs_has_their_positions(shuffle):
    pool, data = ExpertPool(tiny.experts(), tiny.CLASSES), Pairs(shuffle)
    outputs = collect(pool, data, trainer=tiny.trainer())
    inputs, targets = data.splits["train"].tensors
    assert outputs["train"].target.tolist() == targets.tolist()
    assert outputs["train"].index.tolist() == list(range(24))
    for name, expert in pool.members.items():
        np.testing.assert_allclose(outputs["train"].probabilities[name], expert(inputs).numpy(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:neighbors is", "ignore:the fuser of all experts")
def test_experts_that_read_texts_are_fused_and_queried():
    pool, data = ExpertPool(readers(), tiny.CLASSES), Pairs(texts=True, shuffle=False)
    outputs = collect(pool, data, trainer=tiny.trainer())
    np.testing.assert_allclose(outputs["test"].probabilities["a"], answer([str(row) for row in range(12)]))
    for made in (FoEFuserModule(experts=pool), FrugalFoEModule(FrugalFoE(), experts=pool)):
        trainer = tiny.trainer()
        trainer.fit(made, datamodule=data)
        trainer.test(made, datamodule=data, verbose=False)
        raw = torch.cat([part["probabilities"] for part in trainer.predict(made, datamodule=data)])
        stored = trainer.predict(made, datamodule=OutputsDataModule(outputs, batch_size=5))
        torch.testing.assert_close(raw, torch.cat([part["probabilities"] for part in stored]))


def test_other_texts_are_another_store(tmp_path):
    pool, data = ExpertPool(readers(), tiny.CLASSES), Pairs(texts=True)
    collect(pool, data, tmp_path / "store", trainer=tiny.trainer())
    data.splits["test"] = TensorDataset(*(part.flip(0) for part in data.splits["test"].tensors))
    with pytest.raises(InputError, match="test"):
        collect(pool, data, tmp_path / "store", trainer=tiny.trainer())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.zeros(2, 4), torch.eye(3)[:2]), r"targets of the train loader: found shape \(2, 3\)"),
        ((torch.zeros(2, 4), torch.tensor([0.5, 1.0])), "targets of the train loader: found 0.5"),
        ((torch.zeros(2, 4),), "the train loader yields a tuple of 1; expected"),
        (torch.zeros(2, 4), "the train loader yields Tensor; expected"),
    ],
)
def test_other_batches_raise(batch, message):
    with pytest.raises(InputError, match=message):
        module("expert").training_step(batch, 0)


def test_domains_of_an_indexed_data_set_are_the_expert_targets():
    made = FoEFuserModule(experts=tiny.experts(), classes=tiny.CLASSES, domains=tiny.DOMAINS, target="expert")
    tiny.trainer().fit(made, datamodule=Pairs(index=True))
    with pytest.raises(InputError, match="target: expert needs the domains of each sample"):
        tiny.trainer().fit(made, datamodule=Pairs())


@pytest.mark.parametrize("name", ["expert", "acorl", "hat"])
def test_one_row_and_batch_norm_is_explained(name):
    made = module(name)
    made.network = tiny.Net(3, norm=True)
    with pytest.raises(InputError, match="batch norm cannot train on a batch of one sample; set batch_size to 2"):
        tiny.trainer().fit(made, datamodule=Pairs(shuffle=False, batch_size=1))


@pytest.mark.filterwarnings("ignore:neighbors is", "ignore:the fuser of all experts")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["expert", "foe", "frugal", "acorl", "hat"])
def test_one_row_at_a_time(name):
    trainer, made = tiny.trainer(), module(name)
    trainer.fit(made, datamodule=Pairs(shuffle=False, batch_size=1))
    trainer.test(made, datamodule=Pairs(batch_size=1), verbose=False)
    assert 0 <= trainer.callback_metrics["test_accuracy"] <= 1


def test_one_class_cannot_be_learned():
    with pytest.raises(InputError, match="classes: found 1, only; expected two at least"):
        ExpertModule(tiny.Net, ["only"])


def test_an_indexed_data_set_checks_its_arguments():
    pairs = Pairs().splits["test"]
    assert isinstance(IndexedDataset(pairs)[3], Batch)
    for arguments, message in (
        ((iter(pairs),), "expected a data set with length and items"),
        ((pairs, ["x"]), "domains: found 1 for 12 samples"),
        ((pairs, ["z"] * 12, ["x"]), r"z are not in domain_names"),
    ):
        with pytest.raises(InputError, match=message):
            IndexedDataset(*arguments)
