"""Images without content are named."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_fusion import ImageDataModule


def folder(root, blank=()):
    for number in range(40):
        path = root / ("train" if number < 30 else "test") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(np.full_like(pixels, 7) if number in blank else pixels).save(path)
    return str(root)


def test_a_single_color_is_named_and_noted(tmp_path):
    data = ImageDataModule(folder(tmp_path, blank=[4, 33]))
    with pytest.warns(UserWarning, match=r"^2 of 40 images have a single color: .*33.png, .*4.png; remove them$"):
        data.setup()
    rows = data.rows("test").rows
    files = data.origins(rows).columns()["file"]
    assert [bool(note) for note in data.notes(rows)] == [file.endswith("/33.png") for file in files]


@pytest.mark.parametrize("arguments", [{}, {"memory_limit_gb": 0.0}])
def test_others_are_silent(tmp_path, arguments):
    data = ImageDataModule(folder(tmp_path), **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup()
    assert data.notes(torch.arange(3)) == [""] * 3


@pytest.mark.parametrize("arguments", [{}, {"memory_limit_gb": 0.0}])
def test_further_frames_are_named(tmp_path, arguments):
    root = folder(tmp_path)
    frames = [Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in (9, 90, 200)]
    frames[0].paste((1, 2, 3), (0, 0, 4, 4))
    for suffix in ("gif", "tiff"):
        frames[0].save(tmp_path / f"train/a/0_{suffix}.{suffix}", save_all=True, append_images=frames[1:])
    data = ImageDataModule(root, batch_size=64, **arguments)
    with pytest.warns(UserWarning, match=r"^2 image\(s\) have several frames or pages, of which the first is read: "):
        data.setup()
        next(iter(data.train_dataloader()))
