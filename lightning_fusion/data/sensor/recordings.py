"""Sensor recordings in files."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_fusion.data.base import Stage, staged_property
from lightning_fusion.data.names import as_names
from lightning_fusion.data.patterns import compile_pattern, find_files
from lightning_fusion.data.sensor.arrangement import Arrangement, Source, equal_timestamps, lower_rates, other_scales
from lightning_fusion.data.sensor.files import (
    SERIES_SUFFIXES,
    TIMESTAMP_UNITS,
    RecordingFormat,
    files_key,
    read_recording,
    read_recordings,
)
from lightning_fusion.data.sensor.layouts import (
    POSITION,
    array_columns,
    check_positions,
    numbered_columns,
    split_positions,
)
from lightning_fusion.data.sensor.series import Recorded, load_series, rename_recorded
from lightning_fusion.data.sensor.windowed import WindowedSensorDataModule
from lightning_fusion.data.tables import check_delimiter
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest

_OF_FORMAT = {
    *("channels", "label", "labels", "columns", "delimiter", "timestamp", "timestamp_unit"),
    *("recorded_rate_hz", "max_gap_s", "limits", "encoding"),
}
"""Keys of the format of a domain that differs from the others."""


class SensorDataModule(WindowedSensorDataModule):
    r"""Windows of recordings in files, with domains such as people and devices; splits share no recording.

    A recording is a file under ``root``: CSV, npz (an array per channel) or npy (T, columns). The path ``pattern``
    defines fields, such as ``{subject}_{execution}_{device}.csv``, from which domains, groups and sessions are formed.
    Other sources have their own classes: :class:`~.uci_har.UCIHARDataModule`, :class:`~.table.FeatureTableDataModule`
    for precomputed features, :class:`~.synthetic.SyntheticSensorDataModule`.

    Args:
        root: Folder of the recordings.
        pattern: Pattern of paths relative to ``root``, with ``{fields}``; ``*`` matches any part of a name, ``**`` any
            folders.
        channels: Columns or arrays to read, in this order; an npz array (T, n) is read as columns ``acc_0``,
            ``acc_1``... A mapping ``{wrist: [x1, y1], leg: [x2, y2]}`` names the columns of each body position in a
            file: it defines the field ``position``; the positions of one file are in one split and one group.
        label: Column or array of labels, or a field of the pattern.
        columns: Names of the columns of files without a header (npy, or CSV). ``numbered`` names them 0, 1, 2...
        delimiter: Column delimiter of a CSV file: one character, a blank for any whitespace.
        timestamp: Column or array of timestamps; ``None`` means that samples are equally spaced.
        timestamp_unit: ``s``, ``ms``, ``us`` or ``ns``.
        recorded_rate_hz: Sample rate of the files. With timestamps it is checked outside of gaps, with a tolerance of a
            tenth; without timestamps it is assumed. ``None`` (default) means ``sample_rate_hz``.
        max_gap_s: Timestamps further apart enclose a gap, at which a recording is cut before it is resampled; no window
            spans a gap.
        limits: Smallest and largest permitted value of channels, ``{x_acc: [-80, 80]}``, to detect other units.
        encoding: Encoding of CSV files, such as ``utf-16``.
        formats: Files of some domains, or groups, that differ from the others: by the name of the domain or group, its
            own values of ``channels`` (other names, in the same order), ``label``, ``columns``, ``delimiter``,
            ``timestamp``, ``timestamp_unit``, ``recorded_rate_hz``, ``max_gap_s``, ``limits`` and ``encoding``, and
            ``labels``, a mapping of its labels to those of the others.
        cache: Folder in which the samples are cached for later runs, which map them into memory. ``None`` (default)
            reads the files in each run.
        **shared: Arguments of :class:`~.windowed.WindowedSensorDataModule` and
            :class:`~.datamodule.BaseSensorDataModule`.

    Raises:
        InputError: If arguments are inconsistent, or a file does not match them.

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

    other_columns = ", or name their own columns in formats"

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
        encoding: str = "utf-8",
        formats: dict[str, dict[str, Any]] | None = None,
        cache: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.root, self.pattern, self.channels, self.label = root, pattern, channels, label
        self.columns, self.delimiter, self.limits, self.cache = columns, delimiter, limits, cache
        self.timestamp, self.timestamp_unit, self.encoding = timestamp, timestamp_unit, encoding
        self.recorded_rate_hz, self.max_gap_s, self.formats = recorded_rate_hz, max_gap_s, formats
        self._configure()

    def prepare_data(self) -> None:
        """Fill the cache, once per machine."""
        if self.cache is not None and self.predict_root is None:
            self._source  # noqa: B018  # computed on access: fills the cache

    def read_source(self) -> Source:
        """Read a recording per file, or one for each body position in it.

        Raises:
            InputError: If no file matches, one cannot be read, or the pattern has a field ``position`` although
                ``channels`` names positions.
        """
        hint = "a field in braces for each part of a name that varies"
        found = find_files(self.root, self.pattern, SERIES_SUFFIXES, "recording", hint, messages=self.messages)
        fields = {name: [file.fields[name] for file in found] for name in found[0].fields}
        names = [file.name for file in found]
        paths = [str(Path(self.root, name)) for name in names]
        label = str(self.label)
        special = self._own_formats(fields, len(paths))
        usual = [path for path, name in zip(paths, special, strict=True) if name is None]
        how, positions = self._format(usual or paths, None if label in fields else label)
        formats: dict[str | None, RecordingFormat] = {None: how}
        for name in self.formats or {}:
            formats[name] = self._format_of(name, [p for p, n in zip(paths, special, strict=True) if n == name], how)
        of_file = fields.get(label)
        if positions and POSITION in fields:
            raise InputError(
                "channels names positions, and the pattern has a field position; rename that field, or give channels "
                "as a list"
            )
        key = files_key(paths, names, how, of_file)
        if positions:
            key = digest(key, json.dumps(list(positions.items())))
        if self.formats:
            key = digest(key, json.dumps([self.formats, special]))

        def read() -> Iterator[Recorded]:
            for number, one in enumerate(read_recordings(paths, [formats[name] for name in special])):
                whole = one if of_file is None else one._replace(labels=of_file[number])
                renamed = (self.formats or {}).get(special[number] or "", {}).get("labels")
                whole = rename_recorded(whole, renamed) if renamed else whole
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

    def _own_formats(self, fields: Mapping[str, Sequence[str]], count: int) -> list[str | None]:
        """Return the key of ``formats`` for each of ``count`` files; ``None`` for those of the usual format."""
        wanted = [fields[name] for name in as_names(self.domain_fields) if name in fields]
        domain = ["_".join(values) for values in zip(*wanted, strict=True)] or [""] * count
        group = fields.get(str(self.group_field), domain)
        keys: list[str | None] = [None] * count
        for name in self.formats or {}:
            own = [number for number in range(count) if name in (domain[number], group[number])]
            if not own:
                known = shorten(dict.fromkeys([*domain, *group]), 20)
                raise InputError(f"formats: found {name!r}; expected a domain, or a group, of the files: {known}")
            for number in own:
                keys[number] = name
        return keys

    def _format_of(self, name: str, paths: list[str], usual: RecordingFormat) -> RecordingFormat:
        """Return the format of the files of a key of ``formats``."""
        assert self.formats is not None
        other = copy.copy(self)
        for key, value in self.formats[name].items():
            setattr(other, key, value)
        how, _ = other._format(paths, None if usual.label is None else str(other.label))
        if len(how.channels) != len(usual.channels):
            raise InputError(
                f"formats: {name} names {len(how.channels)} channels ({shorten(how.channels, 9)}); the others have "
                f"{len(usual.channels)} ({shorten(usual.channels, 9)}): name the same ones, in the same order"
            )
        return how

    def read_new(self, path: str) -> tuple[list[str], dict[str, Recorded]]:
        """Read a new file as those of the training, without a label."""
        how, positions = self._format([path], None)
        if how.columns is not None and len(numbered_columns(path, self.delimiter, self.encoding)) < len(how.columns):
            how = replace(how, columns=tuple(name for name in how.columns if name != str(self.label)))
        one = read_recording(path, how)
        if not positions:
            return list(how.channels), {"": one}
        parts = split_positions(one, how.channels, positions)
        return list(next(iter(positions.values()))), dict(zip(positions, parts, strict=True))

    @property
    def new_suffixes(self) -> set[str]:
        """Suffixes of new files; ``.txt`` if ``pattern`` has it."""
        return SERIES_SUFFIXES if self.pattern.lower().endswith(".txt") else super().new_suffixes

    def _format(self, paths: list[str], label: str | None) -> tuple[RecordingFormat, dict[str, list[str]]]:
        """Return the format of the files, given the first ones, and the channels of each body position."""
        channels, positions, columns = self._channel_names, self._positions, self.columns
        first = paths[0]
        if first.lower().endswith(".npz"):
            if columns is not None:
                raise InputError(f"columns is for files without a header, but {first} names its arrays; remove it")
            single: dict[str, list[str]] = {}
            for path in paths:  # the first ones may lack channels
                single |= array_columns(path, [name for name in channels if name not in single])
                if len(single) == len(channels):
                    break
            channels, *of_position = (
                [one for name in names for one in single.get(name, [name])] for names in (channels, *positions.values())
            )
            positions = dict(zip(positions, of_position, strict=True))
            check_positions(positions)
        if columns == "numbered":
            columns = numbered_columns(first, self.delimiter, self.encoding)
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
            encoding=self.encoding,
        )
        return how, positions

    @staged_property(Stage.READING)
    def _arrangement(self) -> Arrangement:
        arrangement = super()._arrangement
        found = [*lower_rates(self._source, self.sample_rate_hz), *equal_timestamps(self._source)]
        for message in [*found, *other_scales(self._source, arrangement)]:
            self.messages.warn(message)
        return arrangement

    def _check(self) -> None:
        self._check_choices({"timestamp_unit": tuple(TIMESTAMP_UNITS)})
        super()._check()
        self._check_positive("recorded_rate_hz", "max_gap_s")
        if not self.channels:
            raise InputError("channels is empty; expected the columns or arrays to read, such as [x_acc, y_acc, z_acc]")
        if isinstance(self.channels, list):
            self._check_different(as_names(self.channels))
        check_delimiter(self.delimiter)
        compile_pattern(self.pattern)
        check_positions(self._positions)
        for name, changes in (self.formats or {}).items():
            if unknown := sorted(set(changes) - _OF_FORMAT):
                raise InputError(f"formats: {name} sets {shorten(unknown)}; expected {shorten(sorted(_OF_FORMAT), 20)}")
            if self._positions and "channels" in changes:
                raise InputError(f"formats: {name} sets channels, which name positions; give channels as a list")
        for name, ends in (self.limits or {}).items():
            if name not in self._channel_names or len(ends) != 2 or not ends[0] < ends[1]:
                raise InputError(f"limits of {name} is {ends}; expected a name among channels, and [smallest, largest]")

    @property
    def _positions(self) -> dict[str, list[str]]:
        """Names of the channels of each body position; empty if files contain a single one."""
        named = self.channels if isinstance(self.channels, dict) else {}
        return {str(position): as_names(columns) for position, columns in named.items()}

    @property
    def _channel_names(self) -> list[str]:
        """All columns to read."""
        if isinstance(self.channels, list):
            return as_names(self.channels)
        return list(dict.fromkeys(name for columns in self._positions.values() for name in columns))
