"""Trees of image files, and what a data module of images gives."""

import itertools
from pathlib import Path
from typing import Any

import torch
from PIL import Image


def draw_tree(
    root: Path, folders: list[str], labels: list[str], count: int = 6, size: tuple[int, int] = (4, 4)
) -> Path:
    """PNGs under root/<folder>/<label>; each image has a color of its own."""
    number = 0
    for folder, label in itertools.product(folders, labels):
        (root / folder / label).mkdir(parents=True)
        for row in range(count):
            number += 1
            color = (number % 256, 7 * number % 256, 31 * number % 256)
            Image.new("RGB", size, color).save(root / folder / label / f"{row}.png")
    return root


def pixels(data: Any, split: str) -> torch.Tensor:
    dataset = data.rows(split)
    return dataset.inputs[dataset.rows]


def rows(data: Any, split: str) -> set[int]:
    return set(data.rows(split).rows.tolist())


def roles(data: Any) -> tuple[Any, list[Any]]:
    """The fuser's view of the data, and every expert's."""
    experts = [data.variant(role="expert", domain=number) for number in range(len(data.domains))]
    return data, experts
