"""Crops of recordings for training, drawn anew each epoch."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_fusion.data.audio.files import Recordings
from lightning_fusion.data.batch import Batch
from lightning_fusion.data.rows import RowDataset
from lightning_fusion.data.samplers import SliceSampler


class Crops:
    """Samples of one length, each a part of a recording; sample s * N + n is part s of recording n of N.

    Args:
        recordings: The N recordings.
        length: Number of samples of a crop.
        parts: Number of parts of each recording.
        pad: Fill the end of shorter parts with zeros; they are repeated otherwise.
    """

    def __init__(self, recordings: Recordings, length: int, parts: int, pad: bool = False) -> None:
        self.recordings, self.length, self.parts, self.pad = recordings, length, parts, pad

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the middle of each sample's part."""
        number = rows % len(self.recordings.frames)
        spans = (self.recordings.frames[number] // self.parts).clamp(min=1)
        return self.recordings.read(number, self.starts(rows), spans.clamp(max=self.length), self.length, self.pad)

    def starts(self, rows: Tensor) -> Tensor:
        """Return the (B,) start of the middle of each sample's part, in samples of the recording."""
        part, number = rows // len(self.recordings.frames), rows % len(self.recordings.frames)
        spans = (self.recordings.frames[number] // self.parts).clamp(min=1)
        starts: Tensor = part * spans + (spans - self.length).clamp(min=0) // 2
        return starts.clamp(max=self.recordings.frames[number] - 1)

    def at(self, rows: Tensor, places: Tensor) -> Tensor:
        """Return a crop of each sample's whole recording, at relative positions ``places`` (B,) in [0, 1)."""
        number = rows % len(self.recordings.frames)
        frames = self.recordings.frames[number]
        starts = (places * ((frames - self.length).clamp(min=0) + 1)).long()
        return self.recordings.read(number, starts, frames.clamp(max=self.length), self.length, self.pad)


class _Draw(NamedTuple):
    """Positions of a batch in a split, and the relative position in [0, 1) of each crop."""

    positions: Tensor
    places: Tensor


class TrainingRows(RowDataset):
    """Data set that takes a :class:`_Draw` for random crops; an index tensor gives the middle of each recording."""

    def __getitem__(self, item: Any) -> Batch:
        if not isinstance(item, _Draw):
            return super().__getitem__(item)
        rows = self.rows[item.positions]
        assert isinstance(self.inputs, Crops)
        return Batch(self.inputs.at(rows, item.places), self.targets[rows], self.domains[rows], rows)


class CropSampler(SliceSampler):
    """Sampler that draws crops in the main process: a function of (seed, epoch, sample) for any number of workers."""

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch + 500_000)
        places = torch.rand(self.num_rows, generator=generator, dtype=torch.float64)
        return (_Draw(positions, places[positions]) for positions in super().__iter__())
