"""Lists of texts or other samples reach the experts as lists, in order."""

import numpy as np
import torch
from helpers import tiny

from lightning_fusion import Expert, ExpertPool, collect
from lightning_fusion.data.tensors import TensorDataModule

TEXTS = ["good", "bad", "good film", "a bad film", "good"]
TARGETS = torch.tensor([1, 0, 1, 0, 1])


def rate(texts: list[str]) -> list[list[float]]:
    assert isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    return [[0.1, 0.9] if "good" in text else [0.8, 0.2] for text in texts]


def test_texts_in_collect():
    pool = ExpertPool({"rules": Expert(rate, classes=["bad", "good"], output="probabilities")})
    for inputs in (TEXTS, tuple(TEXTS)):
        found = collect(pool, {"test": (inputs, TARGETS)}, splits=["test"], trainer=tiny.trainer())
        assert found["test"].probabilities["rules"].argmax(1).tolist() == TARGETS.tolist()


def test_two_texts_are_one_batch():
    pool = ExpertPool({"rules": Expert(rate, classes=["bad", "good"], output="probabilities")})
    found = collect(pool, {"test": (TEXTS[:2], [1, 0])}, trainer=tiny.trainer())
    assert found["test"].probabilities["rules"].argmax(1).tolist() == [1, 0]


def test_batches_have_the_rows_of_their_targets():
    samples = [np.full(row + 1, row) for row in range(5)]  # of several lengths
    data = TensorDataModule({"train": (samples, torch.arange(5))}, classes=list("abcde"), batch_size=2)
    for batch in data.train_dataloader():
        assert [int(sample[0]) for sample in batch.input] == batch.target.tolist()


def test_the_fingerprint_reads_all_samples():
    def of(inputs):
        return TensorDataModule({"test": (inputs, [0, 0])}, classes=["a"]).fingerprint("test")

    long = torch.zeros(2000)
    changed = long.clone()
    changed[1000] = 1
    assert of([long, long]) == of([long.clone(), long]) != of([changed, long])
    assert of(["a", "b"]) == of(["a", "b"]) != of(["b", "a"])
    assert of([{"x": long}, {"x": long}]) != of([{"x": changed}, {"x": long}])


def test_samples_are_identified_by_their_content():
    long = torch.zeros(2000)
    for inputs in (TEXTS[:2], [long, long + 1], [{"x": long}, {"x": long + 1}]):
        found = [TensorDataModule({"test": (part, [0, 0])}, ["a"]) for part in (inputs, inputs[::-1])]
        one, other = (data.content_digests(data.rows("test"), torch.arange(2)) for data in found)
        assert one.tolist() == other[::-1].tolist() and one[0] != one[1]


def test_lists_of_numbers_are_a_tensor():
    data = TensorDataModule({"test": ([[0.5, 1.0], [2.0, 3.0]], [0, 0])}, classes=["a"])
    assert torch.equal(next(iter(data.test_dataloader())).input, torch.tensor([[0.5, 1.0], [2.0, 3.0]]))
