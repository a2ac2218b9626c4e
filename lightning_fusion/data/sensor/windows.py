"""Windows of recordings: where they are, and what they are labeled."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lightning_fusion.data.sensor.series import GAP, Series

_CHUNK = 4096


class Cut(NamedTuple):
    """Windows of recordings.

    Attributes:
        starts: (N,) int64, where each begins in the samples.
        recording: (N,) int64, which recording it is from.
        label: (N,) int64, number of its label.
        too_short: Recordings that are shorter than a window.
        dropped: Windows in which too few samples agree on a label, or that span a gap.
    """

    starts: np.ndarray
    recording: np.ndarray
    label: np.ndarray
    too_short: int
    dropped: int


def cut_windows(series: Series, length: int, step: int, min_agreement: float, ignored: set[str] | None = None) -> Cut:
    """Windows with the label of most of their samples, where the fraction of those is at least ``min_agreement``.

    Samples without a label (and those with an ``ignored`` one) count as samples that disagree; of two labels that are
    equally frequent the one that was read first wins. A window that spans a gap is left out.

    Args:
        series: The recordings.
        length: Samples of a window.
        step: From the start of one to the start of the next.
        min_agreement: Share of a window's samples, in (0, 1].
        ignored: Labels that count as none.
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
    kept = whole & (label >= 0) & (best >= min_agreement * length - 1e-9)
    return Cut(starts[kept], recording[kept], label[kept], int((counts == 0).sum()), int((~kept).sum()))


def _count(flags: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    total = np.append(0, np.cumsum(flags, dtype=np.int64))
    return total[starts + length] - total[starts]


class RowInputs:
    """Rows of inputs that are made when they are asked for."""

    def __getitem__(self, rows: Tensor) -> Tensor:
        """(B, ...) of some rows."""
        raise NotImplementedError(f"{type(self).__name__} must implement __getitem__")

    def chunks(self, rows: Tensor) -> Iterator[Tensor]:
        """All of some rows, a few thousand at a time."""
        return (self[part] for part in rows.split(_CHUNK))


class Windows(RowInputs):
    """Windows as rows of inputs: views of one array of samples, copied only into the batch that asks for them.

    Args:
        samples: (T, channels) float32.
        starts: (N,) int64.
        length: Samples of a window.

    Example:
        >>> import torch
        >>> windows = Windows(torch.arange(8.0).view(8, 1), torch.tensor([0, 2, 4]), length=4)
        >>> windows[torch.tensor([1])]
        tensor([[[2., 3., 4., 5.]]])
    """

    def __init__(self, samples: Tensor, starts: Tensor, length: int) -> None:
        self.samples, self.starts, self.length = samples, starts, length

    def __getitem__(self, rows: Tensor) -> Tensor:
        """(B, channels, length) of some rows."""
        return self.samples.unfold(0, self.length, 1)[self.starts[rows]].contiguous()
