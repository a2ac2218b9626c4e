"""Recordings of a sensor source, and their domains, groups, sessions and splits."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_fusion.data.base import SPLITS
from lightning_fusion.data.names import LabelForms
from lightning_fusion.data.rows import Origins
from lightning_fusion.data.sensor.layouts import POSITION, cut_pieces
from lightning_fusion.data.sensor.series import Series, find_other_scales, outside_scales
from lightning_fusion.data.splits import stratified_sessions
from lightning_fusion.errors import InputError, shorten

_SPLIT_NAMES = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2, "eval": 2}

_FIRST = 64
_SAME_RATE = 0.1


@dataclass
class Source:
    """All recordings, or rows of a table, with the fields from their names or columns.

    Attributes:
        series: Samples and labels.
        names: (R,) names of the recordings, for messages.
        fields: (R,) texts of each field.
        channels: Names of the channels, or features.
        window: Number of samples of a window, if the source provides windows.
        origins: File and line of each ready window, if windows are the lines of files.
        moment: (R,) index of simultaneous recordings, such as positions of one file; each recording by itself if
            None.
    """

    series: Series
    names: list[str]
    fields: Mapping[str, Sequence[str] | np.ndarray]
    channels: list[str]
    window: int = 1
    moment: np.ndarray | None = None
    origins: Origins | None = None

    def field(self, name: str) -> np.ndarray:
        """Return the (R,) texts of one field in canonical form, as objects."""
        return np.array(list(map(LabelForms(), self.fields[name])), object)


def cut_source(source: Source, length: int) -> Source:
    """Cut the recordings of a source into pieces (:func:`~.layouts.cut_pieces`), which become its recordings.

    Args:
        source: Source of whole recordings.
        length: Minimum number of samples of a piece.
    """
    series, recording = cut_pieces(source.series, length)
    moment = source.moment
    if moment is not None:  # positions are simultaneous, so that their pieces begin at the same samples
        place = np.arange(len(recording)) - np.searchsorted(recording, recording)
        moment = np.unique(np.stack([moment[recording], place], 1), axis=0, return_inverse=True)[1].reshape(-1)
    names = [source.names[number] for number in recording]
    fields = {name: source.field(name)[recording] for name in source.fields}
    return replace(source, series=series, names=names, fields=fields, moment=moment)


@dataclass
class Arrangement:
    """Domain, group, session and split of each recording.

    Attributes:
        domains: Names of the domains.
        domain: (R,) domain index of each recording.
        groups: Group of each domain.
        unit: (R,) session index of each recording.
        scope: (U,) index of the domain or group within which a session is drawn for a split.
        split: (R,) split that each recording names, or None.
    """

    domains: list[str]
    domain: np.ndarray
    groups: dict[str, str]
    unit: np.ndarray
    scope: np.ndarray
    split: np.ndarray | None


def arrange(
    source: Source,
    domain_fields: Sequence[str],
    group_field: str | None = None,
    session_fields: Sequence[str] = (),
    split_field: str | None = None,
) -> Arrangement:
    """Assign recordings to domains, groups and sessions.

    Args:
        source: Source of the recordings.
        domain_fields: Fields whose values, joined by ``_``, name the domain; one domain, ``all``, if empty.
        group_field: Field that names the group of a domain.
        session_fields: Fields that identify a session; each recording is a session if empty.
        split_field: Field that names the split.

    Raises:
        InputError: If a field is unknown, or fields are inconsistent.
    """
    count = len(source.names)
    singles = {"group_field": group_field, "split_field": split_field}
    named = {"domain_fields": domain_fields, "session_fields": session_fields}
    for key, wanted in (named | {key: [name] for key, name in singles.items() if name is not None}).items():
        if unknown := [name for name in wanted if name not in source.fields]:
            raise InputError(
                f"{key} names {shorten(unknown)}; the fields are {shorten(source.fields) or 'none'}: change {key}, or "
                "the pattern that defines them"
            )
    joined = joined_fields(source, domain_fields)
    domains, domain = np.unique(joined, return_inverse=True)
    others = [name for name in domain_fields if source.moment is None or name != POSITION]
    whole = joined_fields(source, others)  # the domain without the position
    group = source.field(group_field) if group_field is not None else whole if others else joined
    pairs = sorted(set(zip(joined.tolist(), group.tolist(), strict=True)))
    groups = dict(pairs)
    if len(groups) < len(pairs):
        both = next(one for one, other in pairs if groups[one] != other)
        raise InputError(
            f"group_field {group_field}: the domain {both} has several of its values; add it to domain_fields"
        )
    if session_fields:
        scope = np.unique(group, return_inverse=True)[1]
        session = np.unique(joined_fields(source, session_fields), return_inverse=True)[1]
    else:
        scope = np.unique(whole, return_inverse=True)[1]
        session = np.arange(count) if source.moment is None else source.moment
    units, unit = np.unique(np.stack([scope, session], 1), axis=0, return_inverse=True)
    own = None if split_field is None else _own_splits(source, split_field)
    return Arrangement(domains.tolist(), domain, groups, unit.reshape(-1), units[:, 0], own)


def _own_splits(source: Source, field: str) -> np.ndarray:
    """Return the (R,) split that each recording names."""
    values = [value.lower() for value in source.field(field)]
    for name, value in zip(source.names, values, strict=True):
        if value not in _SPLIT_NAMES:
            raise InputError(
                f"split_field {field}: {name} is of split {value!r}; expected one of {shorten(_SPLIT_NAMES, 9)}"
            )
    return np.array([_SPLIT_NAMES[value] for value in values])


def joined_fields(source: Source, names: Sequence[str]) -> np.ndarray:
    """Return the (R,) values of some fields, joined by an underscore; ``all`` without fields."""
    rows = list(zip(*(source.field(name) for name in names), strict=True))
    joined = np.array(["_".join(row) for row in rows] or ["all"] * len(source.names), object)
    if len(set(joined)) < len(set(rows)):
        raise InputError(
            f"the fields {shorten(names)} have values with underscores, so that two combinations give one name; "
            "rename them"
        )
    return joined


def named_splits(
    arrangement: Arrangement, names: Sequence[str], counts: np.ndarray, val_fraction: float, seed: int
) -> np.ndarray:
    """Return the (U,) splits that recordings name; a part of ``train`` is drawn for validation if none is named.

    Args:
        arrangement: Arrangement with splits.
        names: (R,) names of the recordings, for messages.
        counts: (U, C) number of samples of each session and class.
        val_fraction: Fraction of ``train`` for validation.
        seed: Seed of the draw.

    Raises:
        InputError: If a session is in two splits.
    """
    unit, scope, named = arrangement.unit, arrangement.scope, arrangement.split
    assert named is not None
    of_unit = np.zeros(len(scope), np.int64)
    of_unit[unit] = named
    if (mixed := of_unit[unit] != named).any():
        raise InputError(
            f"split_field: {names[int(np.argmax(mixed))]} is in another split than the rest of its session; "
            "change session_fields or split_field"
        )
    if not (of_unit == 1).any():
        train = np.flatnonzero((of_unit == 0) & (counts.sum(1) > 0))
        drawn = stratified_sessions(counts[train], scope[train], 0.0, val_fraction, seed)
        of_unit[train[drawn == 2]] = 1
    return of_unit


def poor_domains(
    arrangement: Arrangement, domain: np.ndarray, label: np.ndarray, split: np.ndarray, hint: str
) -> list[str]:
    """Return warnings about domains without samples in some split, and about those with one class.

    Args:
        arrangement: Arrangement with the domains.
        domain: (N,) domain index of each sample.
        label: (N,) class of each sample.
        split: (N,) split of each sample.
        hint: Hint on how to get more sessions; may be empty.
    """
    names, messages = arrangement.domains, []
    found = np.zeros((len(names), len(SPLITS)), bool)
    found[domain, split] = True
    if arrangement.split is None and len(lacking := np.flatnonzero(~found.all(1))):
        messages.append(
            f"{len(lacking)} of {len(names)} domain(s) have too few recordings for three splits and lack validation "
            f"or test samples: {shorten(names[number] for number in lacking)}" + (f"; {hint}" if hint else "")
        )
    kinds = np.unique(np.stack([domain, label], 1), axis=0)[:, 0]
    if len(single := np.flatnonzero(np.bincount(kinds, minlength=len(names)) == 1)) and len(names) > 1:
        messages.append(
            f"{len(single)} of {len(names)} domains have one class only, so that no expert can be trained on them: "
            f"{shorten(names[number] for number in single)}"
        )
    return messages


def constant_channels(source: Source) -> dict[str, list[str]]:
    """Return the channels without any change in a recording, by its name; recordings of one sample do not count.

    Example:
        >>> from lightning_fusion.data.sensor.series import Recorded, load_series
        >>> still = np.array([[1, 0], [2, 0], [3, 0]], np.float32)
        >>> constant_channels(Source(load_series([Recorded(still, "sit")]), ["a.csv"], {}, ["x", "y"]))
        {'a.csv': ['y']}
    """
    series, found = source.series, {}
    for name, begin, count in zip(source.names, series.begins.tolist(), series.lengths.tolist(), strict=True):
        for part in (min(count, _FIRST), count) if count > 1 else ():  # most recordings change at once
            samples = series.samples[begin : begin + part]
            spread, size = samples.amax(0) - samples.amin(0), samples.abs().amax(0)
            still = spread <= 1e-5 * size  # as far as float32 and resampling distinguish values
            if not still.any():
                break
        else:
            if count > 1:
                found[name] = [channel for channel, flat in zip(source.channels, still.tolist(), strict=True) if flat]
    return found


def repeated_marks(source: Source, still: Container[str] = ()) -> list[str]:
    """Return the channels whose least or greatest value is repeated and far from all others, with the value.

    Far is more than the range of all other values; channels of two values do not count.

    Args:
        source: Source of the recordings.
        still: Channels that are left out, such as those that are constant in a recording.

    Example:
        >>> from lightning_fusion.data.sensor.series import Recorded, load_series
        >>> marked = np.array([[1, 0], [2, 1], [3, 2], [-99, 3], [-99, 4], [-99, 5]], np.float32)
        >>> repeated_marks(Source(load_series([Recorded(marked, "sit")]), ["a.csv"], {}, ["x", "y"]))
        ['x -99 (3 of 6)']
    """
    found = []
    for channel, values in zip(source.channels, source.series.samples.T, strict=True):
        values = values[values.isfinite()]
        if channel in still or not len(values):
            continue
        for extreme in (values.amin(), values.amax()):
            marked = values == extreme
            count, rest = int(marked.sum()), values[~marked]
            if count < 3 or 2 * count > len(values) or not len(rest):
                continue
            low, high = rest.amin(), rest.amax()
            if high > low and min(abs(extreme - low), abs(extreme - high)) > high - low:
                found.append(f"{channel} {extreme.item():.6g} ({count} of {len(values)})")
    return found


def lower_rates(source: Source, sample_rate_hz: float) -> list[str]:
    """Return a warning about recordings of a lower sample rate, by more than a tenth, which are interpolated.

    Args:
        source: Source of the recordings.
        sample_rate_hz: Sample rate of the source.
    """
    lower = np.flatnonzero(source.series.rates_hz < (1 - _SAME_RATE) * sample_rate_hz)
    names = dict.fromkeys(source.names[number] for number in lower)  # pieces of a recording share its name
    if not names:
        return []
    rates = source.series.rates_hz[lower]
    span = (
        f"{rates.min():.3g}"
        if np.isclose(rates.min(), rates.max(), rtol=0.01)
        else f"{rates.min():.3g} to {rates.max():.3g}"
    )
    return [
        f"{len(names)} of {len(set(source.names))} recordings have a lower sample rate ({span} Hz) than sample_rate_hz "
        f"{sample_rate_hz:g} and are interpolated, without content above half their rate: {shorten(names, 3)}; lower "
        "sample_rate_hz to avoid it"
    ]


def equal_timestamps(source: Source) -> list[str]:
    """Return a warning about recordings in which several samples have one timestamp.

    Args:
        source: Source of the recordings.
    """
    found = np.flatnonzero(source.series.averaged)
    names = dict.fromkeys(source.names[number] for number in found)
    if not names:
        return []
    return [
        f"{len(names)} of {len(set(source.names))} recordings have samples of equal timestamps, whose mean is used (up "
        f"to {source.series.averaged.max():.0%} of the samples of one): {shorten(names, 3)}; are several sensors in "
        "one file, or is the clock coarse? Without timestamp, samples are equally spaced"
    ]


def other_scales(source: Source, arrangement: Arrangement) -> list[str]:
    """Return warnings about recordings, and domains, on a different scale than comparable ones.

    The criterion is that of :func:`~.series.find_other_scales`. Recordings without any label are compared with the
    range of the labeled ones of their domain, as they may be of any of these labels.

    Args:
        source: Source of the recordings.
        arrangement: Arrangement with the domains.
    """
    series = source.series
    seen = [np.add.reduceat(series.labels == number, series.begins) > 0 for number in range(len(series.names))]
    alike = np.unique(np.stack([arrangement.domain, *seen], 1), axis=0, return_inverse=True)[1].reshape(-1)
    of_domain = [series.rms[arrangement.domain == number] for number in range(len(arrangement.domains))]
    typical = np.array([np.median(rms, 0) for rms in of_domain])
    known = np.any(seen, axis=0)
    rows = np.flatnonzero(known)
    found = [rows[find_other_scales(series.rms[rows], alike[rows])]]
    for domain in np.unique(arrangement.domain):
        of_labels, rest = (np.flatnonzero((arrangement.domain == domain) & each) for each in (known, ~known))
        found.append(rest[outside_scales(series.rms[rest], series.rms[of_labels])])
    recordings = np.sort(np.concatenate(found))
    return [
        f"{len(found)} {what}(s) have values more than 4 times larger or smaller than {likes}: "
        f"{shorten((called[number] for number in found), 3)}. Another unit? Convert them, or set limits to reject them"
        for what, found, likes, called in (
            ("recording", recordings, "others of the same domain and labels", source.names),
            ("domain", find_other_scales(typical, np.zeros(len(typical))), "the others", arrangement.domains),
        )
        if len(found)
    ]
