"""Windows of recordings: their positions and labels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lightning_fusion.data.sensor.series import GAP, Series

_CHUNK = 4096


class Cut(NamedTuple):
    """Windows of recordings.

    Attributes:
        starts: (N,) int64, start of each window in the samples.
        recording: (N,) int64, index of the recording of each window.
        label: (N,) int64, index of the label of each window; -1 for unlabeled windows.
        too_short: Number of recordings that are shorter than a window.
        dropped: Number of windows that are left out: those that span a gap, and unlabeled ones unless they are kept.
    """

    starts: np.ndarray
    recording: np.ndarray
    label: np.ndarray
    too_short: int
    dropped: int


def cut_windows(
    series: Series,
    length: int,
    step: int,
    min_agreement: float,
    ignored: set[str] | None = None,
    unlabeled: bool = False,
) -> Cut:
    """Cut recordings into windows with the most frequent label of their samples.

    Windows in which less than ``min_agreement`` of the samples have this label are unlabeled. Unlabeled samples (and
    those with an ``ignored`` label) count as disagreement; of two equally frequent labels the one that was read first
    wins. Windows that span a gap are left out.

    Args:
        series: Recordings.
        length: Number of samples of a window.
        step: Number of samples between the starts of two windows.
        min_agreement: Minimum fraction of a window's samples, in (0, 1].
        ignored: Labels of samples that count as unlabeled.
        unlabeled: Keep unlabeled windows; they are left out otherwise.
    """
    counts = np.maximum((series.lengths - length) // step + 1, 0)
    recording = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(recording)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = series.begins[recording] + within * step
    best, label = np.zeros(len(starts), np.int64), np.full(len(starts), -1)
    for number, name in enumerate(series.names):
        if name not in (ignored or ()):
            votes = _count(series.labels == number, starts, length)
            better = votes > best
            best[better], label[better] = votes[better], number
    whole = _count(series.labels == GAP, starts, length) == 0
    label[best < min_agreement * length - 1e-9] = -1
    kept = whole & ((label >= 0) | unlabeled)
    return Cut(starts[kept], recording[kept], label[kept], int((counts == 0).sum()), int((~kept).sum()))


def _count(flags: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    total = np.append(0, np.cumsum(flags, dtype=np.int64))
    result: np.ndarray = total[starts + length] - total[starts]
    return result


class RowInputs:
    """Base class of inputs that are computed on access."""

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the (B, ...) inputs of some samples."""
        raise NotImplementedError(f"{type(self).__name__} must implement __getitem__")

    def chunks(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield the inputs of some samples, a few thousand at a time."""
        return (self[part] for part in rows.split(_CHUNK))


class Windows(RowInputs):
    """Windows as views of one array of samples, copied only into batches.

    Args:
        samples: (T, channels) float32 samples.
        starts: (N,) int64 start of each window.
        length: Number of samples of a window.

    Example:
        >>> import torch
        >>> windows = Windows(torch.arange(8.0).view(8, 1), torch.tensor([0, 2, 4]), length=4)
        >>> windows[torch.tensor([1])]
        tensor([[[2., 3., 4., 5.]]])
    """

    def __init__(self, samples: Tensor, starts: Tensor, length: int) -> None:
        self.samples, self.starts, self.length = samples, starts, length

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return (B, channels, length) windows."""
        return self.samples.unfold(0, self.length, 1)[self.starts[rows]].contiguous()
