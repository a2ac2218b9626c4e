import colorsys

import numpy as np
import pytest
import torch
from helpers import data_files
from sklearn.datasets import load_digits

from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.image.folders import ImageDataModule
from lightning_fusion.data.image.shortcuts import ColoredDigitsDataModule, DominoesDataModule, draw_hues
from lightning_fusion.errors import InputError


@pytest.mark.parametrize(("agreement", "expected"), [(1.0, 1.0), (0.9, 0.9), (0.1, 0.1), (0.0, 0.0)])
def test_the_hue_is_that_of_the_digit_as_often_as_wanted(agreement, expected):
    labels = np.arange(20_000) % 10
    hues = draw_hues(labels, agreement, 0.05, seed=3)
    cells = np.floor(10 * hues).astype(int)
    assert (cells == labels).mean() == pytest.approx(expected, abs=0.01)
    others = cells[cells != labels]
    if len(others):  # all other digits alike
        assert np.bincount(others, minlength=10).std() < 0.1 * len(others) / 10
    assert (hues - cells / 10).max() < 0.05


def test_images_are_the_digits_in_the_color_of_their_hue():
    gray, colored = DigitsDataModule(channels=3), ColoredDigitsDataModule(agreement=1.0)
    for each in (gray, colored):
        each.setup("fit")
    rows = torch.arange(50)
    plain, seen = gray.rows("train")[rows], colored.rows("train")[rows]
    assert plain.target.tolist() == seen.target.tolist()
    for image, other, target in zip(plain.input, seen.input, plain.target.tolist(), strict=True):
        color = torch.tensor(colorsys.hsv_to_rgb(target / 10, 1, 1))[:, None, None]
        assert (other - image * color).abs().max() <= 0.5


def test_the_broken_shortcut_has_the_same_images_in_the_same_splits():
    trained, broken = ColoredDigitsDataModule(agreement=0.9, seed=4), ColoredDigitsDataModule(agreement=0.1, seed=4)
    for each in (trained, broken):
        each.setup("test")
    one, other = (each.rows("test")[torch.arange(len(each.rows("test")))] for each in (trained, broken))
    assert one.index.tolist() == other.index.tolist() and one.target.tolist() == other.target.tolist()
    assert torch.equal(one.input.amax(1), other.input.amax(1))  # the largest channel is the gray value
    assert 0.7 < (one.input != other.input).flatten(1).any(1).float().mean() < 0.95


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"agreement": 1.2}, "agreement is 1.2; expected 0 to 1"),
        ({"hue_width": 0.2}, "hue_width is 0.2; expected 0 to 0.1"),
        ({"hue_width": -0.1}, "hue_width is -0.1; expected 0 to 0.1"),
    ],
)
def test_values_outside_the_range_are_rejected(given, message):
    with pytest.raises(InputError, match=message):
        ColoredDigitsDataModule(**given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("dominoes")
    data_files.images(root, {"train": ["cat", "dog", "owl"], "test": ["cat", "dog", "owl"]}, 12)
    return root


def test_dominoes_have_the_digit_of_their_class_above_the_image(folder):
    how = {"names": ["owl", "cat"], "image_size": 8, "val_fraction": 0.2}
    data, broken = (DominoesDataModule(str(folder), agreement=agreement, **how) for agreement in (1.0, 0.0))
    images = ImageDataModule(str(folder), image_size=8, val_fraction=0.2)
    digits = load_digits()
    known = {
        np.round(image * (255 / 16)).astype(np.uint8).tobytes(): target
        for image, target in zip(digits.images, digits.target, strict=True)
    }
    for each in (data, broken, images):
        each.setup("fit")
    assert data.classes == ["owl", "cat"]
    rows = torch.arange(len(data.rows("test")))
    batch, other = data.rows("test")[rows], broken.rows("test")[rows]
    assert batch.input.shape == (24, 3, 16, 8) and batch.target.bincount().tolist() == [12, 12]
    assert [known[image[0, :8].numpy().tobytes()] for image in batch.input] == batch.target.tolist()
    assert [known[image[0, :8].numpy().tobytes()] for image in other.input] == (1 - other.target).tolist()
    assert torch.equal(batch.input[:, :, 8:], other.input[:, :, 8:])
    whole = images.rows("test")[torch.arange(len(images.rows("test")))].input
    assert {image.numpy().tobytes() for image in batch.input[:, :, 8:]} <= {image.numpy().tobytes() for image in whole}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ["owl", "catt"]}, "names: found no folder of 'catt' in .*; did you mean cat[?]"),
        ({"names": ["owl"]}, "names: found owl; expected two to ten different classes"),
        ({"names": ["owl", "cat"], "image_size": "original"}, "image_size is original; expected a number"),
        ({"names": ["owl", "cat"], "agreement": -1}, "agreement is -1; expected 0 to 1"),
    ],
)
def test_wrong_dominoes_are_rejected(given, message, folder):
    with pytest.raises(InputError, match=message):
        DominoesDataModule(str(folder), **given).setup("fit")
