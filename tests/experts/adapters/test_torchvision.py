from pathlib import Path

import pytest
import torch
from helpers import models
from helpers.models import CLASSES, raw
from torchvision.models import get_model_weights

from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.torchvision import TorchvisionExpert

MODEL = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return models.torchvision_weights(tmp_path_factory.mktemp("weights") / "field.pth", MODEL)


@pytest.mark.slow
def test_the_answers_are_those_of_the_librarys_own_pipeline(checkpoint, opened):
    expert = TorchvisionExpert(MODEL, "IMAGENET1K_V1", checkpoint, CLASSES)
    prepare = get_model_weights(MODEL).IMAGENET1K_V1.transforms()
    with torch.no_grad():
        expected = expert.network(torch.stack([prepare(image) for image in opened])).softmax(1)
    torch.testing.assert_close(expert(raw(opened)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet1"}, "found 'resnet1'; expected a classifier of torchvision; did you mean resnet18"),
        ({"model": "fasterrcnn_resnet50_fpn"}, "expected a classifier of torchvision"),
        ({}, "weights, checkpoint: both are missing"),
        ({"weights": "V3"}, "mobilenet_v3_small has IMAGENET1K_V1, DEFAULT; found 'V3'"),
        ({"weights": "DEFAULT"}, r"are not on this machine \(.*mobilenet_v3_small-\w+.pth\); set download: true"),
        ({"checkpoint": "field.pth", "classes": ["a"]}, "does not record how its images were prepared"),
        ({"checkpoint": "field.pth", "weights": "DEFAULT", "classes": ["a"]}, r"has \(3,\) for classifier.3.bias"),
        ({"checkpoint": "field.pth", "weights": "DEFAULT"}, "classes is not set"),
        (
            {"checkpoint": "field.pth", "weights": "DEFAULT", "classes": ["a"], "model_args": {"dropout": "no"}},
            "model_args: torchvision cannot create mobilenet_v3_small with .*dropout",
        ),
        (
            {"weights": "DEFAULT", "model_args": {"dropout": 0.1}},
            "model_args: .* set checkpoint to weights of your own",
        ),
    ],
)
def test_wrong_arguments_are_named(checkpoint, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(Path(checkpoint).parent)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=message):
        TorchvisionExpert(**({"model": MODEL} | arguments))
