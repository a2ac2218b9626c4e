"""A network that fails is named, in one line, with its input."""

import pytest
import torch
from helpers import tiny
from torch import nn

from lightning_fusion import Expert, ExpertPool, collect
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError


def pool(network, classes=("a", "b")):
    return ExpertPool({"mine": Expert(network, classes=list(classes), features="0")})


@pytest.mark.parametrize("way", ["forward", "forward_with_representations", "representations"])
def test_of_a_pool(way):
    match = r"^expert mine failed on a batch \(float32 of shape \(3, 5\)\) with RuntimeError: mat1 and mat2 [^\n]*$"
    with pytest.raises(InputError, match=match):
        getattr(pool(nn.Sequential(nn.Linear(4, 2))), way)(torch.zeros(3, 5))


def test_of_a_collection():
    data = {"test": (torch.zeros(6, 5), torch.zeros(6, dtype=torch.long))}
    with pytest.raises(InputError, match=r"^expert mine failed on a batch .*; on_failure='skip' continues without it$"):
        collect(pool(nn.Sequential(nn.Linear(4, 2))), data, trainer=tiny.trainer())


def test_of_speech_names_the_waveforms():
    inputs = torch.zeros(6, 1, 20, 51), torch.tensor([0, 1] * 3)
    data = TensorDataModule({"test": inputs}, classes=["a", "b"])
    mels = {"num_mels": 20, "window_s": 0.025, "hop_s": 0.01, "low_hz": 20.0, "floor": 1e-6}
    data.preprocessing = {"frontend": "log_mel", "sample_rate_hz": 8000, **mels}
    network = nn.Sequential(nn.Linear(4000, 2))
    with pytest.raises(InputError, match=r"expert mine failed on a batch .*; the data are log-mel features: frontend:"):
        collect(pool(network), data, splits=["test"], trainer=tiny.trainer())


def test_a_model_of_transformers_behind_tokens():
    class BertForSequenceClassification(tiny.Net):
        __module__ = "transformers.models.bert"

    network = BertForSequenceClassification(2)
    tokens = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    match = (
        r"a BertForSequenceClassification does not take .* \(input_ids, attention_mask\); .* Expert.from_transformers"
    )
    with pytest.raises(InputError, match=match):
        Expert(network, classes=["a", "b"])(tokens)


def test_the_given_network_is_frozen_in_place():
    network = tiny.Net(2, dropout=0.5)
    expert = Expert(network, classes=["a", "b"])
    assert expert.network is network and not network.training
    assert not any(weights.requires_grad for weights in network.parameters())
