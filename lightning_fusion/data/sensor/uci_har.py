"""Sensor windows in the layout of the data set UCI HAR."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_fusion.data.names import as_names
from lightning_fusion.data.rows import Origins
from lightning_fusion.data.sensor.arrangement import Source
from lightning_fusion.data.sensor.datamodule import BaseSensorDataModule
from lightning_fusion.data.sensor.layouts import numbered_columns
from lightning_fusion.data.sensor.series import Recorded, load_series
from lightning_fusion.data.tables import read_columns
from lightning_fusion.errors import InputError, shorten

SIGNALS = [f"{signal}_{axis}" for signal in ("total_acc", "body_gyro") for axis in "xyz"]
"""Total acceleration and gyroscope, three axes each."""


class UCIHARDataModule(BaseSensorDataModule):
    """Ready windows in the layout of UCI HAR (Anguita et al., ESANN 2013).

    The folders ``train`` and ``test`` contain a text file per signal, a window per line. The fields are ``subject``,
    which names the domains, and ``split``. A run of windows of one subject and activity counts as a recording.

    Args:
        root: Folder of the data set.
        channels: Names of the signals. ``None`` (default) means :data:`SIGNALS`.
        sample_rate_hz: Sample rate of the windows, recorded in :attr:`preprocessing`; windows are not resampled.
        piece_s: Cut runs into parts of this length or more, which then count as recordings: a subject has few runs.
            Windows begin half a window apart, so the last window of a piece, which overlaps the next piece, is left
            out.
        **shared: Arguments of :class:`~.datamodule.BaseSensorDataModule`.

    Raises:
        InputError: If files are missing or inconsistent.

    Example:
        >>> UCIHARDataModule("UCI HAR Dataset", split_field="split").setup()
        Traceback (most recent call last):
        lightning_fusion.errors.InputError: root: found neither a folder train nor test in UCI HAR Dataset; expected ...
    """

    default_domain_fields = ("subject",)

    def __init__(
        self,
        root: str,
        channels: list[str] | None = None,
        sample_rate_hz: float = 50.0,
        piece_s: float | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.root, self.channels, self.sample_rate_hz, self.piece_s = root, channels, sample_rate_hz, piece_s
        self._configure()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Parameters of the normalization ``(value - mean) / std``, channels first; sample rate and window length."""
        return super().preprocessing | {"sample_rate_hz": self.sample_rate_hz, "samples": self._length}

    def read_source(self) -> Source:
        """Read the runs of both splits."""
        root, channels = self.root, as_names(self.channels) or SIGNALS
        splits = [split for split in ("train", "test") if Path(root, split).is_dir()]
        if not splits:
            raise InputError(f"root: found neither a folder train nor test in {root}; expected the layout of UCI HAR")
        windows, subjects, labels = zip(
            *(_read_split(Path(root, split), split, channels) for split in splits), strict=True
        )
        if len({part.shape[1] for part in windows}) > 1:
            raise InputError(f"root: the windows of train and test under {root} differ in length")
        subject, label, samples = np.concatenate(subjects), np.concatenate(labels), np.concatenate(windows)
        if (file := Path(root, "activity_labels.txt")).is_file():
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
                names = dict(line.split(maxsplit=1) for line in lines if line.strip())
            except ValueError as error:  # UnicodeDecodeError is one
                raise InputError(f"root: {file} cannot be read ({error}); expected lines '1 WALKING'") from error
            label = np.array([names.get(number, number).strip() for number in label], object)
        split = np.repeat(splits, [len(part) for part in subjects])
        line = np.concatenate([np.arange(len(part)) for part in subjects])
        change = (subject[1:] != subject[:-1]) | (label[1:] != label[:-1]) | (split[1:] != split[:-1])
        runs = np.split(np.arange(len(subject)), np.flatnonzero(change) + 1)
        if self.piece_s is not None:
            piece = round(self.piece_s * self.sample_rate_hz)
            count = max(math.ceil(2 * piece / samples.shape[1]), 2)  # one of them is left out
            parts = [np.array_split(run, max(len(run) // count, 1)) for run in runs]
            runs = [one[:-1] if number < len(part) - 1 else one for part in parts for number, one in enumerate(part)]
        for run in runs:
            bad = ~np.isfinite(samples[run])
            if (some := bad.any((0, 1)) & ~np.isnan(samples[run]).all((0, 1))).any():
                column = int(some.argmax())
                row = run[int(bad[:, :, column].any(1).argmax())]
                raise InputError(
                    f"{Path(root, split[row])}: {channels[column]}_{split[row]}.txt, row {line[row] + 1}, has a value "
                    "that is not a number"
                )
        recorded = [Recorded(samples[run].reshape(-1, len(channels)), label[run[0]]) for run in runs]
        begins = [run[0] for run in runs]
        places = [f"{root}: {split[run[0]]}, lines {line[run[0]] + 1} to {line[run[-1]] + 1}," for run in runs]
        fields = {"subject": subject[begins], "split": split[begins]}
        rows = np.concatenate(runs)
        folders, folder = np.unique(split[rows], return_inverse=True)
        origins = Origins([str(Path(root, name)) for name in folders], folder, line[rows] + 1, "line")
        return Source(load_series(recorded), places, fields, list(channels), samples.shape[1], origins=origins)

    def _check(self) -> None:
        super()._check()
        self._check_positive("sample_rate_hz", "piece_s")
        self._check_different(as_names(self.channels))
        if self.piece_s is not None and self.session_fields:
            raise InputError(
                "session_fields keeps sessions in one split, piece_s splits them into pieces; remove one of them"
            )

    def _more_sessions(self) -> str:
        return "" if self.piece_s is not None else "cut runs into pieces with piece_s"


def _read_split(folder: Path, split: str, channels: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the (N, T, channels) float32 windows, (N,) subjects and (N,) labels of one split."""

    def read(path: Path, text: bool) -> np.ndarray:
        if not path.is_file():
            raise InputError(f"root: found no file {path}; expected the layout of UCI HAR, or change channels")
        columns = numbered_columns(str(path), " ")
        if not columns:
            raise InputError(f"{path} is empty; expected the layout of UCI HAR")
        numbers, texts = read_columns(
            str(path), [] if text else columns, columns[:1] if text else [], columns, delimiter=" "
        )
        return texts[:, 0] if text else numbers.astype(np.float32)

    signals = [read(folder / "Inertial Signals" / f"{channel}_{split}.txt", text=False) for channel in channels]
    who, what = (read(folder / f"{name}_{split}.txt", text=True) for name in ("subject", "y"))
    sizes = {channel: signal.shape for channel, signal in zip(channels, signals, strict=True)}
    sizes |= {name: (len(part), signals[0].shape[1]) for name, part in (("subject", who), ("y", what))}
    if len(set(sizes.values())) > 1:
        found = shorten((f"{name} {size[0]} x {size[1]}" for name, size in sizes.items()), 12)
        raise InputError(f"{folder}: its files differ in their numbers of lines or values ({found}): one is truncated")
    return np.stack(signals, -1), who, what
