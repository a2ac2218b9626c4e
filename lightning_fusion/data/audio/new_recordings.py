"""Recordings without labels, for prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.audio.crops import Crops
from lightning_fusion.data.audio.files import AUDIO_SUFFIXES, Recordings, UnreadableAudioError
from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.new_files import find_new_files
from lightning_fusion.data.rows import NewRows, Origins
from lightning_fusion.errors import shorten


@dataclass
class NewRecordings:
    """Audio files for prediction, some of which may be unreadable.

    Attributes:
        names: Names of the F files.
        recordings: The readable recordings; ``None`` if there are none.
        number: (F,) int64, index of each file in ``recordings``; -1 for unreadable files.
        problems: Path and reason of each unreadable file.
        sample_rate_hz: Sample rate.
    """

    names: list[str]
    recordings: Recordings | None
    number: np.ndarray
    problems: Mapping[int, str]
    sample_rate_hz: int

    def samples(self, seconds: float, parts: int, short: str) -> NewRows:
        """Return the samples: the middle of each recording, or of its parts; an unreadable file has one position.

        Args:
            seconds: Length of a sample.
            parts: Number of parts of each recording.
            short: ``repeat`` or ``pad``, what happens to shorter parts.
        """
        rate, known = self.sample_rate_hz, self.number >= 0
        length = round(seconds * rate)
        file = np.repeat(np.arange(len(self.names)), np.where(known, parts, 1))
        part = np.arange(len(file)) - np.searchsorted(file, file)
        readable, starts = known[file], np.full(len(file), np.nan)
        notes = [self.problems.get(number, "") for number in range(len(self.names))]
        inputs: Sequence[None] | _Samples = [None] * len(file)
        if self.recordings is not None:
            crops = Crops(self.recordings, length, parts, pad=short == "pad")
            rows = torch.from_numpy(part * len(self.recordings.frames) + self.number[file])
            inputs = _Samples(crops, rows)
            starts[readable] = crops.starts(rows[torch.from_numpy(readable)]).numpy() / rate
            for place in np.flatnonzero(known).tolist():
                notes[place] = self.recordings.note(int(self.number[place]), parts, seconds, rate, short)
                if (recorded := self._recorded_rate(place)) < rate:
                    notes[place] += f"{', ' if notes[place] else ''}recorded at {recorded} Hz"
        origins = Origins(self.names, file, starts, "start_s")
        return NewRows(inputs, origins, [notes[number] for number in file.tolist()], readable)  # type: ignore[arg-type]

    def _recorded_rate(self, place: int) -> int:
        """Sample rate of a readable file."""
        assert self.recordings is not None and self.recordings.files is not None
        return int(self.recordings.files.rates[self.number[place]])


class _Samples:
    """Crops by their positions among the new samples."""

    def __init__(self, crops: Crops, rows: Tensor) -> None:
        self.crops, self.rows = crops, rows

    def __getitem__(self, positions: Tensor) -> Tensor:
        return self.crops[self.rows[positions]]


def read_new_recordings(root: str, sample_rate_hz: int, memory_limit_gb: float, messages: MessageLog) -> NewRecordings:
    """Read an audio file, or all audio files in a folder and the folders in it, for prediction.

    Args:
        root: File or folder.
        sample_rate_hz: Sample rate to which they are resampled.
        memory_limit_gb: Recordings larger than this stay on disk and are read batch by batch.
        messages: Log of what is left out and of unreadable files.

    Raises:
        InputError: If there is no audio file.
    """
    names, paths = find_new_files(root, AUDIO_SUFFIXES, "audio file", messages)
    rest, recordings = list(range(len(paths))), None
    problems: dict[int, str] = {}
    while rest and recordings is None:
        try:
            recordings = Recordings.of_files([str(paths[number]) for number in rest], sample_rate_hz, memory_limit_gb)
        except UnreadableAudioError as error:
            problems |= {rest[number]: text for number, text in error.problems.items()}
            rest = [number for number in rest if number not in problems]
    if problems and rest:
        messages.warn(
            f"{len(problems)} of {len(names)} audio files cannot be read and have no prediction: "
            f"{shorten(problems.values(), 3)}"
        )
    number = np.full(len(names), -1)
    number[rest] = np.arange(len(rest))
    return NewRecordings(names, recordings, number, problems, sample_rate_hz)
