"""Recordings of sensors without labels, for prediction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.rows import NewRows, Origins
from lightning_fusion.data.sensor.arrangement import Source, constant_channels
from lightning_fusion.data.sensor.series import Recorded, load_series
from lightning_fusion.data.sensor.windows import Windows, cut_windows
from lightning_fusion.errors import InputError, shorten

_SAME_RATE = 0.1


@dataclass
class NewSeries:
    """New recordings of which windows are cut.

    Attributes:
        names: Names of all R recordings, also of unreadable ones.
        number: (R,) int64, index of each in ``source``; -1 for unreadable ones.
        source: The readable recordings; ``None`` if there are none.
        problems: Reason of each unreadable one.
    """

    names: list[str]
    number: np.ndarray
    source: Source | None
    problems: Mapping[int, str]

    def windows(self, length: int, step: int, sample_rate_hz: float, messages: MessageLog) -> NewRows:
        """Return all windows without a gap; a recording without any has one position, with the reason.

        Args:
            length: Number of samples of a window.
            step: Number of samples between the starts of two windows.
            sample_rate_hz: Sample rate.
            messages: Log of short recordings.
        """
        if self.source is None:
            file = np.arange(len(self.names))
            origins = Origins(self.names, file, np.full(len(file), np.nan), "start_s")
            return NewRows([None] * len(file), origins, list(self.problems.values()), np.zeros(len(file), bool))
        series = self.source.series
        cut = cut_windows(series, length, step, 1.0, unlabeled=True)
        counts = np.zeros(len(self.names), np.int64)
        known = self.number >= 0
        counts[known] = np.bincount(cut.recording, minlength=len(series.lengths))[self.number[known]]
        recording = np.repeat(np.arange(len(counts)), np.maximum(counts, 1))
        readable = counts[recording] > 0
        starts, seconds = np.zeros(len(recording), np.int64), np.full(len(recording), np.nan)
        starts[readable] = cut.starts  # both are in the order of the recordings
        begins = series.begins[cut.recording]
        seconds[readable] = (cut.starts - begins) / sample_rate_hz + series.skipped_s(begins, cut.starts)
        notes = [self._note(row, int(counts[row]), length, sample_rate_hz) for row in range(len(self.names))]
        if lost := [f"{self.names[row]} ({notes[row]})" for row in np.flatnonzero(known & (counts == 0)).tolist()]:
            messages.warn(
                f"{len(lost)} of {len(self.names)} recordings have no window and no prediction: {shorten(lost, 3)}"
            )
        inputs = Windows(series.samples, torch.from_numpy(starts), length)
        origins = Origins(self.names, recording, seconds, "start_s")
        return NewRows(inputs, origins, [notes[row] for row in recording.tolist()], readable)

    def _note(self, row: int, count: int, length: int, sample_rate_hz: float) -> str:
        """Return what the predictions of a recording should be read with, or why there are none."""
        if row in self.problems:
            return self.problems[row]
        assert self.source is not None
        series, number = self.source.series, int(self.number[row])
        if not count:
            samples = int(series.lengths[number])
            if samples < length:
                return f"{samples / sample_rate_hz:.2f} s, shorter than a window of {length / sample_rate_hz:g} s"
            return "every window spans a gap"
        found = []
        if still := self._constant.get(self.source.names[number]):
            found.append(f"constant {', '.join(still)}")
        if series.rates_hz[number] < (1 - _SAME_RATE) * sample_rate_hz:
            found.append(f"recorded at {series.rates_hz[number]:.3g} Hz")
        return ", ".join(found)

    def __post_init__(self) -> None:
        self._constant = {} if self.source is None else constant_channels(self.source)


def read_new_series(
    names: Sequence[str],
    paths: Sequence[Path],
    read: Callable[[str], tuple[list[str], dict[str, Recorded]]],
    messages: MessageLog,
) -> NewSeries:
    """Read files of recordings for prediction; one that cannot be read is named in a warning.

    Args:
        names: Names of the files.
        paths: Paths of the files.
        read: Returns the channels of a file, and its recordings by body position; an empty text for a whole file.
        messages: Log of unreadable files.
    """
    found: list[str] = []
    number: list[int] = []
    problems: dict[int, str] = {}
    recorded: list[Recorded] = []
    channels: list[str] = []
    for name, path in zip(names, paths, strict=True):
        try:
            own, parts = read(str(path))
            if channels and own != channels:
                raise InputError(f"{path} has the channels {shorten(own, 9)}; others have {shorten(channels, 9)}")
        except InputError as error:
            problems[len(found)] = str(error)
            found.append(name)
            number.append(-1)
            continue
        channels = own
        for position, one in parts.items():
            found.append(f"{name} ({position})" if position else name)
            number.append(len(recorded))
            recorded.append(one)
    if problems and recorded:
        messages.warn(
            f"{len(problems)} of {len(names)} recordings cannot be read and have no prediction: "
            f"{shorten(problems.values(), 3)}"
        )
    places = np.array(number)
    readable = [name for name, place in zip(found, number, strict=True) if place >= 0]
    source = Source(load_series(recorded), readable, {}, channels) if recorded else None
    return NewSeries(found, places, source, problems)
