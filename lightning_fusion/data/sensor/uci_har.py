"""Sensor windows in the layout of the data set UCI HAR."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_fusion.data.base import Stage, staged_property
from lightning_fusion.data.names import as_names
from lightning_fusion.data.new_files import find_new_files
from lightning_fusion.data.rows import NewRows, Origins
from lightning_fusion.data.sensor.arrangement import Source
from lightning_fusion.data.sensor.datamodule import BaseSensorDataModule
from lightning_fusion.data.sensor.layouts import numbered_columns
from lightning_fusion.data.sensor.series import Recorded, load_series
from lightning_fusion.data.sensor.windows import Windows
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
        found = super().preprocessing
        return found | {"sample_rate_hz": self.sample_rate_hz, "samples": self._length} if found else found

    def new_rows(self, root: str) -> NewRows:
        """Read windows in files of signals, a window per line, such as ``total_acc_x_new.txt``, without labels."""
        return self._new[0]

    @property
    def _channels(self) -> list[str]:
        return super()._channels if self.predict_root is None else as_names(self.channels) or SIGNALS

    @property
    def _length(self) -> int:
        return super()._length if self.predict_root is None else self._new[1]

    @staged_property(Stage.USING)
    def _new(self) -> tuple[NewRows, int]:
        """New windows, and their length."""
        names, paths = find_new_files(str(self.predict_root), {".txt"}, "file of signals", self.messages)
        first, rest = self._channels[0], self._channels[1:]
        found = [
            (name, path, path.stem.removeprefix(first))
            for name, path in zip(names, paths, strict=True)
            if path.stem == first or path.stem.startswith(f"{first}_")
        ]
        if not found:
            raise InputError(
                f"predict_root: found no file {first}_*.txt under {self.predict_root}; expected a file of each signal, "
                "a window per line, or change channels"
            )
        parts = []
        for _, path, ending in found:
            signals = [_read_signals(path), *(_read_signals(path.with_name(f"{name}{ending}.txt")) for name in rest)]
            if len({signal.shape for signal in signals}) > 1:
                sizes = shorten((f"{name} {len(part)}" for name, part in zip(self._channels, signals, strict=True)), 12)
                raise InputError(f"{path.parent}: its files differ in their numbers of lines or values ({sizes})")
            parts.append(np.stack(signals, -1))
        if len({part.shape[1] for part in parts}) > 1:
            raise InputError(f"predict_root: the windows under {self.predict_root} differ in length")
        windows = np.concatenate(parts)
        readable = np.isfinite(windows).all((1, 2))
        counts = [len(part) for part in parts]
        line = np.concatenate([np.arange(count) for count in counts]) + 1
        origins = Origins([name for name, _, _ in found], np.repeat(np.arange(len(found)), counts), line, "line")
        notes = np.where(readable, "", "a value is not a number").tolist()
        samples, length = torch.from_numpy(windows.reshape(-1, windows.shape[2])), windows.shape[1]
        inputs = Windows(samples, torch.arange(len(windows)) * length, length)
        return NewRows(inputs, origins, notes, readable), length

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


def _read_signals(path: Path) -> np.ndarray:
    """Read the (N, T) float32 windows of one signal."""
    if not path.is_file():
        raise InputError(f"predict_root: found no file {path}; expected a file of each signal, or change channels")
    columns = numbered_columns(str(path), " ")
    if not columns:
        raise InputError(f"predict_root: {path} is empty; remove it, or add its windows")
    return read_columns(str(path), columns, [], columns, delimiter=" ")[0].astype(np.float32)


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
