"""Folders of recordings, and who is heard in them."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lightning_fusion import SpeakerDataModule

RATE = 8000


def ramp(number: int, frames: int) -> np.ndarray:
    """Samples that say which file and which place they are from: 0.01 * number, and a small ramp."""
    return 0.01 * number + 1e-7 * np.arange(frames)


def draw_tree(root: Path, speakers: list[str], count: int = 3, seconds: float = 1.0, suffix: str = "wav") -> Path:
    """Recordings root/<speaker>/<video>/<number>; sample values count all files of the tree."""
    for number, (speaker, row) in enumerate(itertools.product(speakers, range(count))):
        path = root / speaker / f"v{row // 2}" / f"{row:03}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        arguments = {"subtype": "FLOAT"} if suffix == "wav" else {}
        soundfile.write(path, ramp(number, round(seconds * RATE)), RATE, **arguments)
    return root


def names(count: int, start: int = 0) -> list[str]:
    return [f"id{number:03}" for number in range(start, start + count)]


def folders(root: Path, **arguments: Any) -> SpeakerDataModule:
    few = {"sample_rate_hz": RATE, "crop_s": 0.25, "eval_crop_s": 0.5, "batch_size": 8, "num_mels": 20}
    return SpeakerDataModule(**({"root": str(root)} | few | arguments))


def heard(data: Any, split: str) -> set[str]:
    """Names of the speakers of a split."""
    return {data.layout.fields["speaker"][row % len(data.layout.names)] for row in data.rows(split).rows.tolist()}
