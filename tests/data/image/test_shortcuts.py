import colorsys

import numpy as np
import pytest
import torch

from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.image.shortcuts import ColoredDigitsDataModule, draw_hues
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


@pytest.mark.parametrize("given", [{"agreement": 1.2}, {"hue_width": 0.2}, {"hue_width": -0.1}])
def test_values_outside_the_range_are_rejected(given):
    with pytest.raises(InputError, match=r"agreement is .*, hue_width .*; expected 0 to 1, and 0 to 0\.1"):
        ColoredDigitsDataModule(**given)
