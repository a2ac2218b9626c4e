from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import models
from helpers.models import raw

from lightning_fusion.data.samples.images import ImagePreprocessing
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.timm import TimmExpert


@pytest.fixture(autouse=True, scope="module")
def timm() -> ModuleType:
    """It takes a second to import: not at the collection."""
    return pytest.importorskip("timm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model of timm, a state dict of another one, and a model of another library."""
    root = tmp_path_factory.mktemp("models")
    models.timm_folder(root / "timm", ["Cat", "Dog", "Owl"])
    models.vit_folder(root / "vit")
    return root


@pytest.mark.slow
def test_the_answers_are_those_of_the_librarys_own_pipeline(folder, opened, timm):
    network = timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    with torch.no_grad():
        expected = network(torch.stack([prepare(image) for image in opened])).softmax(1)
    expert = TimmExpert(str(folder / "timm"))
    assert expert.classes == ["Cat", "Dog", "Owl"]
    torch.testing.assert_close(expert(raw(opened)), expected, atol=1e-6, rtol=0)


def test_images_that_were_resized_before_have_other_answers(folder, opened):
    """Why the samples have to be the original ones."""
    expert = TimmExpert(str(folder / "timm"))
    small = [image.resize((24, 24)) for image in opened]
    assert (expert(raw(small)) - expert(raw(opened))).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet1"}, "timm has no resnet1; did you mean resnet18"),
        ({"model": "./none"}, "found no folder ./none; expected one that timm.models.save_for_hf wrote"),
        ({"model": "resnet18"}, "the weights of resnet18 are not given; set checkpoint"),
        ({"model": "resnet18.none", "download": True}, "timm has no weights 'none' of resnet18"),
        ({"model": "resnet18", "checkpoint": "field.pth"}, "classes is not set"),
        ({"model": "vit"}, "vit is a folder of transformers; give it to TransformersExpert, as path"),
    ],
)
def test_wrong_arguments_are_named(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=message):
        TimmExpert(**arguments)


def test_a_folder_of_pickles_is_rejected(tmp_path):
    path = Path(models.timm_folder(tmp_path / "timm"))
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickled weights only \(pytorch_model.bin\).* safe_serialization=True"):
        TimmExpert(str(path))


@pytest.mark.slow
def test_arguments_of_the_training_are_given_again(tmp_path, opened, timm):
    network = timm.create_model("resnet10t", num_classes=2, in_chans=1).eval()
    torch.save(network.state_dict(), tmp_path / "gray.pth")
    gray = ImagePreprocessing(32, mean=[0.5], std=[0.2], channels=1)
    how = {"model": "resnet10t", "checkpoint": str(tmp_path / "gray.pth"), "classes": ["cat", "dog"]}
    expert = TimmExpert(**how, preprocess=gray, model_args={"in_chans": 1})
    with torch.no_grad():
        torch.testing.assert_close(expert(raw(opened)), network(gray(raw(opened))).softmax(1))
    with pytest.raises(InputError, match=r"has \(24, 1, 3, 3\) .*: change classes, the network or its arguments"):
        TimmExpert(**how, preprocess=gray)
