from pathlib import Path

import pytest
from helpers import models
from PIL import Image


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> list[Image.Image]:
    """Images of several sizes, as PIL opens them."""
    root: Path = models.photos(tmp_path_factory.mktemp("images"), ("test",), count=2)
    return [Image.open(file) for file in sorted((root / "test").glob("*/*.png"))]
