"""Where sensor samples come from: files of recordings, the layout of UCI HAR, tables of features, a synthetic twin."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from lightning_fusion.data.patterns import FoundFile
from lightning_fusion.data.sensor.layouts import POSITION, cut_pieces, split_positions
from lightning_fusion.data.sensor.recordings import RecordingFormat, files_key, read_recordings
from lightning_fusion.data.sensor.series import Recorded, Series, load_series
from lightning_fusion.data.synthetic import synthetic_motion
from lightning_fusion.data.tables import read_columns, read_header
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest

AXES = ["x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro"]
UCI_SIGNALS = [f"{signal}_{axis}" for signal in ("total_acc", "body_gyro") for axis in "xyz"]
_SPLIT_NAMES = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2, "eval": 2}


@dataclass
class Source:
    """All recordings, or rows of a table, and what their names or columns say of each.

    Attributes:
        series: Their samples and labels.
        names: (R,), for messages.
        fields: (R,) texts of each field.
        channels: Names of the channels, or features.
        window: Samples of a window, where windows were cut already.
        moment: (R,) number of what was recorded at once, positions of one file, say; each by itself where None.
    """

    series: Series
    names: list[str]
    fields: dict[str, np.ndarray]
    channels: list[str]
    window: int = 1
    moment: np.ndarray | None = None


@dataclass
class Arrangement:
    """To which domain, group, session and split each recording belongs.

    Attributes:
        domains: Names of the domains.
        domain: (R,) number of each recording's domain.
        groups: To whom each domain belongs.
        unit: (R,) number of what was recorded together.
        scope: (U,) number of the domain or group inside of which a unit is drawn for a split.
        split: (R,) the split that it names itself, or None.
    """

    domains: list[str]
    domain: np.ndarray
    groups: dict[str, str]
    unit: np.ndarray
    scope: np.ndarray
    split: np.ndarray | None


def from_files(
    root: str,
    found: list[FoundFile],
    label: str,
    how: RecordingFormat,
    cache: str | None,
    positions: Mapping[str, Sequence[str]] | None = None,
    piece: int | None = None,
) -> Source:
    """A recording per file, or one for each position in it, or several: see :func:`~.layouts.cut_pieces`.

    Args:
        root: Folder of the files.
        found: The files.
        label: A column, or a field of their names.
        how: What is in them.
        cache: Folder of the cache.
        positions: Names of each position's channels; ``position`` is a field then.
        piece: Samples of a piece.

    Raises:
        InputError: If a file cannot be read, or the pattern has a field ``position`` beside such positions.
    """
    fields = {name: np.array([file.fields[name] for file in found]) for name in found[0].fields}
    names = [file.name for file in found]
    paths = [str(Path(root, name)) for name in names]
    of_file = fields[label].tolist() if label in fields else None
    if positions and POSITION in fields:
        raise InputError(
            "channels names positions, and the pattern has a field position; rename that field, or give channels as a "
            "list"
        )
    key = files_key(paths, names, how, of_file)
    if positions:
        key = digest(key, json.dumps(list(positions.items())))
    entry = None if cache is None else Path(cache, f"series_{key}")

    def read() -> Iterator[Recorded]:
        for number, one in enumerate(read_recordings(paths, how)):
            whole = one if of_file is None else one._replace(labels=np.full(len(one.samples), of_file[number]))
            yield from split_positions(whole, how.channels, positions) if positions else (whole,)

    series = load_series(read(), entry)
    channels, moment = list(how.channels), None
    if positions:
        count = len(positions)
        channels, moment = list(next(iter(positions.values()))), np.repeat(np.arange(len(names)), count)
        fields = {name: np.repeat(values, count) for name, values in fields.items()}
        fields[POSITION] = np.tile(list(positions), len(names))
        names = [f"{name} ({position})" for name in names for position in positions]
    if piece is not None:
        series, recording = cut_pieces(series, piece)
        fields = {name: values[recording] for name, values in fields.items()}
        names = [names[number] for number in recording]
        if moment is not None:  # positions were recorded at once, so that their pieces begin alike
            place = np.arange(len(recording)) - np.searchsorted(recording, recording)
            moment = np.unique(np.stack([moment[recording], place], 1), axis=0, return_inverse=True)[1].reshape(-1)
    return Source(series, names, fields, channels, moment=moment)


def from_uci_har(root: str, channels: Sequence[str], piece: int | None = None) -> Source:
    """The layout of UCI HAR (Anguita et al., ESANN 2013); a run of one subject and label counts as a recording.

    Args:
        root: Its folder.
        channels: Names of the signals.
        piece: Samples of a piece, at least. Windows begin half a window apart, so that the last window of a piece,
            which shares samples with the next piece, is left out.

    Raises:
        InputError: If files are missing, or do not belong together.
    """
    splits = [split for split in ("train", "test") if Path(root, split).is_dir()]
    if not splits:
        raise InputError(f"root: found neither a folder train nor test in {root}; expected the layout of UCI HAR")
    windows, subjects, labels = zip(
        *(_read_uci_split(Path(root, split), split, channels) for split in splits), strict=True
    )
    if len({part.shape[1] for part in windows}) > 1:
        raise InputError(f"root: the windows of train and test under {root} differ in length")
    subject, label, samples = np.concatenate(subjects), np.concatenate(labels), np.concatenate(windows)
    if (file := Path(root, "activity_labels.txt")).is_file():
        names = dict(line.split(maxsplit=1) for line in file.read_text().splitlines() if line.strip())
        label = np.array([names.get(number, number).strip() for number in label.tolist()])
    split = np.repeat(splits, [len(part) for part in subjects])
    line = np.concatenate([np.arange(len(part)) for part in subjects])
    change = (subject[1:] != subject[:-1]) | (label[1:] != label[:-1]) | (split[1:] != split[:-1])
    runs = np.split(np.arange(len(subject)), np.flatnonzero(change) + 1)
    if piece is not None:
        count = max(math.ceil(2 * piece / samples.shape[1]), 2)  # one of them is left out
        parts = [np.array_split(run, max(len(run) // count, 1)) for run in runs]
        runs = [one[:-1] if number < len(part) - 1 else one for part in parts for number, one in enumerate(part)]
    recorded = [
        Recorded(samples[run].reshape(-1, len(channels)), np.repeat(label[run], samples.shape[1])) for run in runs
    ]
    begins = [run[0] for run in runs]
    said = [f"{root}: {split[run[0]]}, lines {line[run[0]] + 1} to {line[run[-1]] + 1}," for run in runs]
    fields = {"subject": subject[begins], "split": split[begins]}
    return Source(load_series(recorded), said, fields, list(channels), samples.shape[1])


def _read_uci_split(folder: Path, split: str, channels: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, T, channels) float32 windows, (N,) subjects and (N,) labels of one split."""

    def read(path: Path, kind: type) -> np.ndarray:
        if not path.is_file():
            raise InputError(f"root: found no file {path}; expected the layout of UCI HAR, or change channels")
        try:
            return np.loadtxt(path, dtype=kind, ndmin=2, comments=None)
        except ValueError as error:
            raise InputError(f"{path} is truncated, or holds something that is no number ({error})") from error

    signals = [read(folder / "Inertial Signals" / f"{channel}_{split}.txt", np.float32) for channel in channels]
    who, what = (read(folder / f"{name}_{split}.txt", str)[:, 0] for name in ("subject", "y"))
    sizes = {channel: signal.shape for channel, signal in zip(channels, signals, strict=True)}
    sizes |= {name: (len(part), signals[0].shape[1]) for name, part in (("subject", who), ("y", what))}
    if len(set(sizes.values())) > 1:
        found = shorten((f"{name} {size[0]} x {size[1]}" for name, size in sizes.items()), 12)
        raise InputError(f"{folder}: its files differ in their numbers of lines or values ({found}): one is truncated")
    windows = np.stack(signals, -1)
    if not np.isfinite(windows).all():
        row, _, column = np.argwhere(~np.isfinite(windows))[0].tolist()
        raise InputError(f"{folder}: {channels[column]}_{split}.txt, row {row + 1}, has a value that is no number")
    return windows, who, what


def from_table(
    path: str,
    label: str,
    fields: Sequence[str],
    features: Sequence[str],
    leave_out: Sequence[str],
    delimiter: str,
    header: bool,
    missing: str,
) -> Source:
    """A row per sample; all columns are features that are not named otherwise, where ``features`` is empty.

    Raises:
        InputError: If there is no such file or column, or a row does not fit.
    """
    if not Path(path).is_file():
        raise InputError(f"root: found no file {path}; source table wants one delimited file of features")
    names = read_header(path, delimiter)
    if not header:
        names = [str(number) for number in range(len(names))]
    texts = [label, *(name for name in dict.fromkeys(fields) if name != label)]
    aside = {*texts, *leave_out}
    if unknown := sorted({*aside, *features} - {*names}):
        how = "" if header else "; with header: false they are called by number, from 0"
        raise InputError(f"{path} has no column {shorten(unknown)}; its columns are {shorten(names, 9)}{how}")
    chosen = list(features) or [name for name in names if name not in aside]
    values, said = read_columns(path, chosen, texts, None if header else names, delimiter, missing)
    first = 1 + header
    if not len(values):
        raise InputError(f"{path} is empty: found no row of features")
    for name, column in zip(texts, said.T, strict=True):
        if len(blank := np.flatnonzero(np.isin(column, ["", "nan", missing]))):
            raise InputError(f"{path}, row {blank[0] + first}: {name} is missing; name it, or remove the row")
    if np.isinf(values).any():
        row, place = np.argwhere(np.isinf(values))[0].tolist()
        raise InputError(f"{path}, row {row + first}: {chosen[place]} is infinite; repair or remove the row")
    found, codes = np.unique(said[:, 0], return_inverse=True)
    count, floats = len(values), values.astype(np.float32)
    series = Series(
        torch.from_numpy(floats),
        codes.astype(np.int16),
        found.tolist(),
        np.arange(count),
        np.ones(count, np.int64),
        np.empty((count, 0)),
        digest(floats, codes, found.tolist()),
    )
    rows = [f"{path}, row {row + first}," for row in range(count)]
    return Source(series, rows, dict(zip(texts, said.T, strict=True)), chosen)


@lru_cache(maxsize=1)
def from_nothing(sample_rate_hz: float, heterogeneity: float) -> Source:
    """The synthetic twin: 4 people with 2 devices each."""
    motion = synthetic_motion(sample_rate_hz=sample_rate_hz, heterogeneity=heterogeneity)
    recorded = [
        Recorded(samples, np.char.add("activity_", labels.astype(str)))
        for samples, labels in zip(motion.samples, motion.activities, strict=True)
    ]
    fields = {
        "person": np.char.add("p", motion.person.astype(str)),
        "device": np.array(["phone", "watch"])[motion.device],
        "session": motion.session.astype(str),
    }
    names = ["_".join(parts) for parts in zip(*fields.values(), strict=True)]
    return Source(load_series(recorded), names, fields, AXES)


def arrange(
    source: Source,
    domain_fields: Sequence[str],
    group_field: str | None,
    session_fields: Sequence[str],
    split_field: str | None,
) -> Arrangement:
    """Name domains and groups, and number what was recorded together.

    Raises:
        InputError: If a field is unknown, or the fields contradict one another.
    """
    count = len(source.names)
    singles = {"group_field": group_field, "split_field": split_field}
    named = {"domain_fields": domain_fields, "session_fields": session_fields}
    for key, wanted in (named | {key: [name] for key, name in singles.items() if name is not None}).items():
        if unknown := [name for name in wanted if name not in source.fields]:
            raise InputError(
                f"{key} names {shorten(unknown)}; the fields are {shorten(source.fields) or 'none'}: change {key}, or "
                "the pattern that names them"
            )
    joined = _joined(source, domain_fields) if domain_fields else np.full(count, "all")
    domains, domain = np.unique(joined, return_inverse=True)
    others = [name for name in domain_fields if source.moment is None or name != POSITION]
    whole = _joined(source, others) if others else np.full(count, "all")  # the domain, whichever the position
    group = source.fields[group_field] if group_field is not None else whole if others else joined
    pairs = sorted({(str(one), str(other)) for one, other in zip(joined, group, strict=True)})
    groups = dict(pairs)
    if len(groups) < len(pairs):
        both = next(one for one, other in pairs if groups[one] != other)
        raise InputError(
            f"group_field {group_field}: the domain {both} has several of its values; name it among domain_fields too"
        )
    if session_fields:
        scope = np.unique(group, return_inverse=True)[1]
        session = np.unique(_joined(source, session_fields), return_inverse=True)[1]
    else:
        scope = np.unique(whole, return_inverse=True)[1]
        session = np.arange(count) if source.moment is None else source.moment
    units, unit = np.unique(np.stack([scope, session], 1), axis=0, return_inverse=True)
    own = None if split_field is None else _own_splits(source, split_field)
    return Arrangement(domains.tolist(), domain, groups, unit.reshape(-1), units[:, 0], own)


def _own_splits(source: Source, field: str) -> np.ndarray:
    """(R,) the split that each recording names."""
    values = [value.lower() for value in source.fields[field].tolist()]
    for name, value in zip(source.names, values, strict=True):
        if value not in _SPLIT_NAMES:
            raise InputError(
                f"split_field {field}: {name} is of split {value!r}; expected one of {shorten(_SPLIT_NAMES, 9)}"
            )
    return np.array([_SPLIT_NAMES[value] for value in values])


def _joined(source: Source, names: Sequence[str]) -> np.ndarray:
    """(R,) the values of some fields, joined by an underscore."""
    parts = [source.fields[name] for name in names]
    joined = parts[0]
    for part in parts[1:]:
        joined = np.char.add(np.char.add(joined, "_"), part)
    if len(np.unique(joined)) < len(np.unique(np.stack(parts, 1), axis=0)):
        raise InputError(
            f"the fields {shorten(names)} have values with underscores, which two combinations join to one name; "
            "rename them"
        )
    return joined
