"""Sources of sensor recordings that are cut into windows."""

from typing import Any

import numpy as np

from lightning_fusion.data.base import Stage, staged_property
from lightning_fusion.data.new_files import find_new_files
from lightning_fusion.data.rows import NewRows
from lightning_fusion.data.sensor.arrangement import Source, cut_source
from lightning_fusion.data.sensor.datamodule import BaseSensorDataModule
from lightning_fusion.data.sensor.files import SERIES_SUFFIXES, RecordingFormat, read_recording
from lightning_fusion.data.sensor.new_recordings import NewSeries, read_new_series
from lightning_fusion.data.sensor.series import Recorded
from lightning_fusion.data.sensor.windows import Cut, cut_windows
from lightning_fusion.errors import InputError, shorten


class WindowedSensorDataModule(BaseSensorDataModule):
    """Recordings of one sample rate, stored as one float32 array of which windows are views.

    A source of recordings is a subclass that implements :meth:`read_source`: it reads or generates each recording as a
    :class:`~.series.Recorded` of :attr:`sample_rate_hz`, and provides its fields::

        class Pendulums(WindowedSensorDataModule):
            def __init__(self, lengths_m: list[float], **shared: Any) -> None:
                super().__init__(**shared)
                self.lengths_m = lengths_m
                self._configure()

            def read_source(self) -> Source:
                swings = [swing(length, self.sample_rate_hz) for length in self.lengths_m]  # of Recorded
                names = [f"{length} m" for length in self.lengths_m]
                return Source(load_series(swings), names, fields={"length": names}, channels=["angle"])

    Args:
        sample_rate_hz: Sample rate; recordings of another rate are resampled to it.
        window_s: Length of a window; its label is that of most of its samples.
        step_s: Time between the starts of two windows. ``None`` (default) means half a window.
        min_agreement: Minimum fraction of a window's samples that have its label; other windows are left out.
        piece_s: Cut recordings where the label changes, and longer bouts into parts of this length or more; each piece
            then counts as a recording when splits are drawn. For domains with one or two long recordings. No window
            spans two pieces.
        **shared: Arguments of :class:`BaseSensorDataModule`.

    Raises:
        InputError: If arguments are inconsistent, or do not match the data.
    """

    stage_of = BaseSensorDataModule.stage_of | dict.fromkeys(("window_s", "step_s", "min_agreement"), Stage.CUTTING)

    def __init__(
        self,
        sample_rate_hz: float = 50.0,
        window_s: float = 2.0,
        step_s: float | None = None,
        min_agreement: float = 0.5,
        piece_s: float | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.sample_rate_hz, self.window_s, self.step_s = sample_rate_hz, window_s, step_s
        self.min_agreement, self.piece_s = min_agreement, piece_s

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Parameters of the normalization ``(value - mean) / std``, channels first; sample rate and window length."""
        found = super().preprocessing
        return found | {"sample_rate_hz": self.sample_rate_hz, "samples": self._length} if found else found

    def cut_samples(self, source: Source, ignored: set[str]) -> Cut:
        """Cut the recordings into windows."""
        cut = cut_windows(
            source.series, self._length, self._step, self.min_agreement, ignored, self.unlabeled == "keep"
        )
        if cut.too_short:
            what = "recordings" if self.piece_s is None else "pieces of recordings"
            short = (source.names[number] for number in np.flatnonzero(source.series.lengths < self._length).tolist())
            self.messages.warn(
                f"{cut.too_short} of {len(source.names)} {what} are shorter than a window ({self._length} samples) and "
                f"are left out: {shorten(short, 3)}; lower window_s to use them"
            )
        if not (cut.label >= 0).any():
            raise InputError(
                f"none of {cut.dropped + len(cut.starts)} windows of {self._length} samples has a label; lower "
                f"window_s or min_agreement ({self.min_agreement:g}), or change label or ignored_labels"
            )
        total, without = cut.dropped + len(cut.starts), int((cut.label < 0).sum())
        if cut.dropped:
            no_label = "" if self.unlabeled == "keep" else f"have no label (min_agreement {self.min_agreement:g}) or "
            self.messages.info(f"{cut.dropped} of {total} windows {no_label}span a gap, and are left out")
        if without:
            self.messages.info(f"{without} of {total} windows have no label (min_agreement {self.min_agreement:g})")
        return cut

    def new_rows(self, root: str) -> NewRows:
        """Read a recording, or all recordings in a folder and the folders in it, and cut them into windows.

        No label is needed. A recording that cannot be read, or is shorter than a window, has a note and no window.
        """
        return self._new_series(root).windows(self._length, self._step, self.sample_rate_hz, self.messages)

    def read_new(self, path: str) -> tuple[list[str], dict[str, Recorded]]:
        """Return the channels of a new file, and its recordings by body position; an empty text for a whole file.

        By default the file has a column, or array, for each channel of the model's training.

        Args:
            path: Path of the file.

        Raises:
            InputError: If it cannot be read.
        """
        channels = self._carried.get("channels")
        if not channels:
            raise InputError(f"predict_root: the channels of the model are unknown; {type(self).__name__} has none")
        how = RecordingFormat(tuple(channels), self.sample_rate_hz)
        return list(channels), {"": read_recording(path, how)}

    def _new_series(self, root: str) -> NewSeries:
        """Recordings of a folder, which are read once."""
        if root not in self._new:
            names, paths = find_new_files(root, self.new_suffixes, "recording", self.messages)
            self._new[root] = read_new_series(names, paths, self.read_new, self.messages)
        return self._new[root]

    @staged_property(Stage.READING)
    def _new(self) -> dict[str, NewSeries]:
        return {}

    @property
    def new_suffixes(self) -> set[str]:
        """Suffixes of new files."""
        return SERIES_SUFFIXES - {".txt"}

    @property
    def _channels(self) -> list[str]:
        if self.predict_root is None:
            return super()._channels
        source = self._new_series(self.predict_root).source
        if source is None:
            self.new_samples  # noqa: B018  # raises InputError: there is none
        assert source is not None
        return source.channels

    def _check(self) -> None:
        super()._check()
        self._check_positive("sample_rate_hz", "window_s", "step_s", "piece_s")
        if not 0 < self.min_agreement <= 1:
            raise InputError(f"min_agreement is {self.min_agreement}; expected a fraction above 0, at most 1")
        if min(self._length, self._step) < 1 + (self._length < 2):
            raise InputError(
                f"window_s and step_s give windows of {self._length} samples every {self._step} at sample_rate_hz "
                f"{self.sample_rate_hz:g}; expected at least 2 samples, and a step of at least 1"
            )
        if self.piece_s is not None and self.session_fields:
            raise InputError(
                "session_fields keeps sessions in one split, piece_s splits them into pieces; remove one of them"
            )
        if self.piece_s is not None and self._samples(self.piece_s) < self._length:
            raise InputError(f"piece_s {self.piece_s:g} is shorter than a window; raise it, or lower window_s")

    @staged_property(Stage.READING)
    def _source(self) -> Source:
        source = super()._source
        return source if self.piece_s is None else cut_source(source, self._samples(self.piece_s))

    def _samples(self, seconds: float) -> int:
        return round(seconds * self.sample_rate_hz)

    @property
    def _length(self) -> int:
        return self._samples(self.window_s)

    @property
    def _step(self) -> int:
        """Number of samples between the starts of two windows."""
        return self._samples(self.window_s / 2 if self.step_s is None else self.step_s)

    def _where(self, recording: int, sample: int) -> str:
        series = self._source.series
        start = int(series.begins[recording])
        seconds = sample / self.sample_rate_hz + float(series.skipped_s(start, start + sample))
        return f"{super()._where(recording, sample)}, at {seconds:.2f} s,"

    def _more_sessions(self) -> str:
        return "" if self.piece_s is not None else "cut long files into pieces with piece_s"
