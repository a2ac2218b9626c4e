import pytest
import torch
from helpers import data_files
from torch import nn
from torchvision.transforms import v2

from lightning_fusion.data.image.corrupted import CorruptedImageDataModule
from lightning_fusion.data.image.folders import ImageDataModule
from lightning_fusion.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("corrupted")
    data_files.images(root, {"train": ["cat", "dog"], "test": ["cat", "dog"]}, 30)
    return str(root)


def read(data, split="test"):
    data.setup("fit")
    return data.rows(split)[torch.arange(len(data.rows(split)))]


def test_each_image_has_one_of_the_corruptions(folder):
    contrast = v2.ColorJitter(contrast=(0.3, 0.3))
    both = [nn.Identity(), contrast]
    batch, clean = read(CorruptedImageDataModule(folder, both)), read(ImageDataModule(folder))
    assert batch.index.tolist() == clean.index.tolist() and batch.target.tolist() == clean.target.tolist()
    changed = (batch.input != clean.input).flatten(1).any(1)
    assert 0.3 < changed.float().mean() < 0.7
    expected = (255 * contrast(clean.input[changed] / 255)).round()
    assert torch.equal(batch.input[changed].float(), expected)
    noise = [v2.GaussianNoise(sigma=0.2)]
    noisy, again, other = (
        read(CorruptedImageDataModule(folder, noise, corruption_seed=seed)).input for seed in (0, 0, 1)
    )
    assert torch.equal(noisy, again) and not torch.equal(noisy, other)
    difference = (noisy.float() - clean.input)[(clean.input > 100) & (clean.input < 155)]
    assert difference.std().item() == pytest.approx(0.2 * 255, rel=0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "corruptions is empty"), ([v2.Resize(4)], r"Resize gave shape \(3, 4, 4\); expected .* \(3, 8, 8\)")],
)
def test_wrong_corruptions_are_rejected(given, message, folder):
    with pytest.raises(InputError, match=message):
        CorruptedImageDataModule(folder, given).setup("fit")
