import numpy as np
import pytest
import torch
from helpers.image_trees import pixels, rows
from helpers.splits import SPLITS
from sklearn.datasets import load_digits

from lightning_fusion.data.image.digits import DigitsDataModule


def test_pixels_and_labels_are_scikit_learns():
    data, source = DigitsDataModule(num_domains=5, classes_per_domain=4), load_digits()
    for split in SPLITS:
        part = data.rows(split)
        assert np.array_equal(part.targets[part.rows], source.target[part.rows])
        assert np.array_equal(pixels(data, split)[:, 0], np.round(source.images[part.rows] * 255 / 16))
    assert data.classes == list("0123456789")
    assert data.domains == [f"domain_{number}" for number in range(5)]


def test_three_channels_and_another_size():
    data = DigitsDataModule(channels=3, image_size=16)
    images = pixels(data, "val")
    assert images.shape[1:] == (3, 16, 16)
    assert torch.equal(images[:, 0], images[:, 2])
    assert data.preprocessing["channels"] == 3


def test_without_domains_there_is_one():
    data = DigitsDataModule()
    assert data.domains == ["all"]
    assert data.rows("train").domains.all()


def test_fractions():
    data = DigitsDataModule(role="fuser", fuser_fraction=0.5, val_fraction=0.25, test_fraction=0.1)
    test, fuser = len(rows(data, "test")), len(rows(data, "train")) + len(rows(data, "val"))
    assert test == pytest.approx(180, abs=5)
    assert fuser == pytest.approx((1797 - test) / 2, abs=5)
    assert len(rows(data, "val")) == pytest.approx(fuser / 4, abs=5)
