"""Recordings in files, one or several in each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_fusion.data.base import Stage, made_at
from lightning_fusion.data.domains import as_names
from lightning_fusion.data.patterns import compile_pattern, find_files
from lightning_fusion.data.sensor.arrangement import Arrangement, Source, other_scales
from lightning_fusion.data.sensor.files import (
    SERIES_SUFFIXES,
    TIMESTAMP_UNITS,
    RecordingFormat,
    files_key,
    read_recordings,
)
from lightning_fusion.data.sensor.layouts import (
    POSITION,
    array_columns,
    check_positions,
    numbered_columns,
    split_positions,
)
from lightning_fusion.data.sensor.series import Recorded, load_series
from lightning_fusion.data.sensor.windowed import WindowedSensorDataModule
from lightning_fusion.data.tables import check_delimiter
from lightning_fusion.errors import InputError
from lightning_fusion.files import digest


class SensorDataModule(WindowedSensorDataModule):
    r"""Windows of recordings in files, with domains such as people and devices; splits share no recording.

    A recording is a file under ``root``: CSV, npz (an array per channel) or npy (T, columns). The path ``pattern``
    names fields, ``{subject}_{execution}_{device}.csv`` say, which make up domains, groups and sessions. Other sources
    have classes of their own: :class:`~.uci_har.UCIHARDataModule`, :class:`~.table.FeatureTableDataModule` for ready
    features, :class:`~.synthetic.SyntheticSensorDataModule`.

    Args:
        root: Folder of the recordings.
        pattern: How paths relative to ``root`` are made, with ``{fields}``; ``*`` is any part of a name, ``**`` any
            folders.
        channels: Columns or arrays to read, in this order; an npz array (T, n) stands for its columns ``acc_0``,
            ``acc_1``... A mapping ``{wrist: [x1, y1], leg: [x2, y2]}`` names the columns of each body position in a
            file: ``position`` is a field then, the positions of one file stay in one split, and they belong to one
            group.
        label: Column or array of labels, or a field of the pattern.
        columns: Names of the columns of files that do not name them: npy, or CSV without a first line of names.
            ``numbered`` calls them 0, 1, 2...
        delimiter: Between the columns of a CSV file: one character, a blank for any white space.
        timestamp: Column or array of timestamps; samples are equally spaced where None.
        timestamp_unit: ``s``, ``ms``, ``us`` or ``ns``.
        recorded_rate_hz: The rate at which the files were recorded. With timestamps it is checked, to a tenth; without
            them it is assumed (``sample_rate_hz`` where None).
        max_gap_s: Timestamps further apart are a gap; windows across it are left out.
        limits: Smallest and largest value of channels, ``{x_acc: [-80, 80]}``: finds recordings in another unit.
        cache: Folder in which the array of samples is kept for the next run, which maps it into memory; the files are
            read in each run where None.
        **shared: See :class:`~.windowed.WindowedSensorDataModule` and :class:`~.datamodule.BaseSensorDataModule`.

    Raises:
        InputError: Where an argument does not fit the others, or a file cannot be read as it says.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for take in range(10):
        ...     lines = [f"{number % 7},{'sit' if number < 60 else 'walk'}" for number in range(120)]
        ...     _ = (root / f"ann_{take}.csv").write_text("\n".join(["x,activity", *lines]))
        >>> data = SensorDataModule(str(root), "{person}_{take}.csv", channels=["x"], label="activity", window_s=1.0)
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.input.shape, data.classes, len(data.rows("test"))
        (torch.Size([21, 1, 50]), ['sit', 'walk'], 6)
    """

    def __init__(
        self,
        root: str,
        pattern: str,
        channels: list[str | int] | dict[str, list[str | int]],
        label: str | int = "label",
        columns: list[str] | Literal["numbered"] | None = None,
        delimiter: str = ",",
        timestamp: str | None = None,
        timestamp_unit: Literal["s", "ms", "us", "ns"] = "s",
        recorded_rate_hz: float | None = None,
        max_gap_s: float = 0.5,
        limits: dict[str, list[float]] | None = None,
        cache: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.root, self.pattern, self.channels, self.label = root, pattern, channels, label
        self.columns, self.delimiter, self.limits, self.cache = columns, delimiter, limits, cache
        self.timestamp, self.timestamp_unit = timestamp, timestamp_unit
        self.recorded_rate_hz, self.max_gap_s = recorded_rate_hz, max_gap_s
        self._configure()

    def prepare_data(self) -> None:
        """Fill the cache, once per machine."""
        if self.cache is not None:
            self._source  # noqa: B018

    def read_source(self) -> Source:
        """A recording per file, or one for each position in it.

        Raises:
            InputError: If there is no such file, one cannot be read, or the pattern has a field ``position`` beside
                positions.
        """
        hint = "a field in braces for each part of a name that varies"
        found = find_files(self.root, self.pattern, SERIES_SUFFIXES, "recording", hint)
        fields = {name: [file.fields[name] for file in found] for name in found[0].fields}
        names = [file.name for file in found]
        paths = [str(Path(self.root, name)) for name in names]
        label = str(self.label)
        how, positions = self._format(paths[0], None if label in fields else label)
        of_file = fields.get(label)
        if positions and POSITION in fields:
            raise InputError(
                "channels names positions, and the pattern has a field position; rename that field, or give channels "
                "as a list"
            )
        key = files_key(paths, names, how, of_file)
        if positions:
            key = digest(key, json.dumps(list(positions.items())))

        def read() -> Iterator[Recorded]:
            for number, one in enumerate(read_recordings(paths, how)):
                whole = one if of_file is None else one._replace(labels=of_file[number])
                yield from split_positions(whole, how.channels, positions) if positions else (whole,)

        series = load_series(read(), None if self.cache is None else Path(self.cache, f"series_{key}"))
        if not positions:
            return Source(series, names, fields, list(how.channels))
        count = len(positions)
        fields = {name: [value for value in values for _ in range(count)] for name, values in fields.items()}
        fields[POSITION] = [*positions] * len(names)
        moment = np.repeat(np.arange(len(names)), count)
        names = [f"{name} ({position})" for name in names for position in positions]
        return Source(series, names, fields, list(next(iter(positions.values()))), moment=moment)

    def _format(self, first: str, label: str | None) -> tuple[RecordingFormat, dict[str, list[str]]]:
        """How files are read, as the first of them is made; and the channels of each position in a file."""
        channels, positions, columns = self._channel_names, self._positions, self.columns
        if first.lower().endswith(".npz"):
            if columns is not None:
                raise InputError(f"columns names those of files without names, and {first} names its arrays; remove it")
            single = array_columns(first, channels)
            channels, *of_position = (
                [one for name in names for one in single.get(name, [name])] for names in (channels, *positions.values())
            )
            positions = dict(zip(positions, of_position, strict=True))
            check_positions(positions)
        if columns == "numbered":
            columns = numbered_columns(first, self.delimiter)
        how = RecordingFormat(
            channels=tuple(channels),
            sample_rate_hz=self.sample_rate_hz,
            label=label,
            timestamp=self.timestamp,
            timestamp_unit=self.timestamp_unit,
            recorded_rate_hz=self.recorded_rate_hz,
            columns=None if columns is None else tuple(as_names(columns)),
            delimiter=self.delimiter,
            max_gap_s=self.max_gap_s,
            limits=self.limits or {},
        )
        return how, positions

    @made_at(Stage.READING)
    def _arrangement(self) -> Arrangement:
        arrangement = super()._arrangement
        for message in other_scales(self._source, arrangement):
            self.notices.warn(message)
        return arrangement

    def _check(self) -> None:
        self._check_choices({"timestamp_unit": tuple(TIMESTAMP_UNITS)})
        super()._check()
        self._check_positive("recorded_rate_hz", "max_gap_s")
        if not self.channels:
            raise InputError("channels is empty; expected the columns or arrays to read, [x_acc, y_acc, z_acc] say")
        if isinstance(self.channels, list):
            self._check_different(as_names(self.channels))
        check_delimiter(self.delimiter)
        compile_pattern(self.pattern)
        check_positions(self._positions)
        for name, ends in (self.limits or {}).items():
            if name not in self._channel_names or len(ends) != 2 or not ends[0] < ends[1]:
                raise InputError(f"limits of {name} is {ends}; expected a name among channels, and [smallest, largest]")

    @property
    def _positions(self) -> dict[str, list[str]]:
        """Names of the channels of each position in a file; none where files hold one."""
        named = self.channels if isinstance(self.channels, dict) else {}
        return {str(position): as_names(columns) for position, columns in named.items()}

    @property
    def _channel_names(self) -> list[str]:
        """All columns to read."""
        if isinstance(self.channels, list):
            return as_names(self.channels)
        return list(dict.fromkeys(name for columns in self._positions.values() for name in columns))
