"""What a source of sensor data gives, and to which domain, group, session and split each of its recordings belongs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lightning_fusion.data.base import SPLITS
from lightning_fusion.data.sensor.layouts import POSITION, cut_pieces
from lightning_fusion.data.sensor.series import Series, find_other_scales
from lightning_fusion.data.splits import stratified_sessions
from lightning_fusion.errors import InputError, shorten

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
    fields: Mapping[str, Sequence[str] | np.ndarray]
    channels: list[str]
    window: int = 1
    moment: np.ndarray | None = None

    def field(self, name: str) -> np.ndarray:
        """(R,) texts of one field, as objects."""
        return np.array([str(value) for value in self.fields[name]], object)


def cut_source(source: Source, length: int) -> Source:
    """A source with pieces of its recordings as recordings; see :func:`~.layouts.cut_pieces`.

    Args:
        source: Whole recordings.
        length: Samples of a piece, at least.
    """
    series, recording = cut_pieces(source.series, length)
    moment = source.moment
    if moment is not None:  # positions were recorded at once, so that their pieces begin alike
        place = np.arange(len(recording)) - np.searchsorted(recording, recording)
        moment = np.unique(np.stack([moment[recording], place], 1), axis=0, return_inverse=True)[1].reshape(-1)
    names = [source.names[number] for number in recording]
    fields = {name: source.field(name)[recording] for name in source.fields}
    return replace(source, series=series, names=names, fields=fields, moment=moment)


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


def arrange(
    source: Source,
    domain_fields: Sequence[str],
    group_field: str | None = None,
    session_fields: Sequence[str] = (),
    split_field: str | None = None,
) -> Arrangement:
    """Name domains and groups, and number what was recorded together.

    Args:
        source: The recordings.
        domain_fields: Fields whose values, joined by ``_``, name the domain; one domain, ``all``, where there are none.
        group_field: Field that says to whom a domain belongs.
        session_fields: Fields that name what was recorded together; each recording by itself where there are none.
        split_field: Field that names the split.

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
    joined = _joined(source, domain_fields)
    domains, domain = np.unique(joined, return_inverse=True)
    others = [name for name in domain_fields if source.moment is None or name != POSITION]
    whole = _joined(source, others)  # the domain, whichever the position
    group = source.field(group_field) if group_field is not None else whole if others else joined
    pairs = sorted(set(zip(joined.tolist(), group.tolist(), strict=True)))
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
    values = [value.lower() for value in source.field(field)]
    for name, value in zip(source.names, values, strict=True):
        if value not in _SPLIT_NAMES:
            raise InputError(
                f"split_field {field}: {name} is of split {value!r}; expected one of {shorten(_SPLIT_NAMES, 9)}"
            )
    return np.array([_SPLIT_NAMES[value] for value in values])


def _joined(source: Source, names: Sequence[str]) -> np.ndarray:
    """(R,) the values of some fields, joined by an underscore; ``all`` where there is no field."""
    rows = list(zip(*(source.field(name) for name in names), strict=True))
    joined = np.array(["_".join(row) for row in rows] or ["all"] * len(source.names), object)
    if len(set(joined)) < len(set(rows)):
        raise InputError(
            f"the fields {shorten(names)} have values with underscores, which two combinations join to one name; "
            "rename them"
        )
    return joined


def named_splits(
    arrangement: Arrangement, names: Sequence[str], counts: np.ndarray, val_fraction: float, seed: int
) -> np.ndarray:
    """(U,) splits that recordings name themselves, with a part of ``train`` for validation where they name none.

    Args:
        arrangement: With splits.
        names: (R,) names of the recordings, for messages.
        counts: (U, C) samples of each class in what was recorded together.
        val_fraction: Fraction of ``train``.
        seed: Of the draw.

    Raises:
        InputError: If what was recorded together is in two splits.
    """
    unit, scope, named = arrangement.unit, arrangement.scope, arrangement.split
    assert named is not None
    of_unit = np.zeros(len(scope), np.int64)
    of_unit[unit] = named
    if (mixed := of_unit[unit] != named).any():
        raise InputError(
            f"split_field: {names[int(np.argmax(mixed))]} is in another split than what was recorded together with it; "
            "change session_fields or split_field"
        )
    if not (of_unit == 1).any():
        train = np.flatnonzero(of_unit == 0)
        drawn = stratified_sessions(counts[train], scope[train], 0.0, val_fraction, seed)
        of_unit[train[drawn == 2]] = 1
    return of_unit


def poor_domains(
    arrangement: Arrangement, domain: np.ndarray, label: np.ndarray, split: np.ndarray, hint: str
) -> list[str]:
    """Warnings of domains without samples in some split, and of those with one class.

    Args:
        arrangement: The domains.
        domain: (N,) number of each sample's domain.
        label: (N,) its class.
        split: (N,) its split.
        hint: How to get more sessions; may be empty.
    """
    names, messages = arrangement.domains, []
    found = np.zeros((len(names), len(SPLITS)), bool)
    found[domain, split] = True
    if arrangement.split is None and len(lacking := np.flatnonzero(~found.all(1))):
        messages.append(
            f"{len(lacking)} of {len(names)} domain(s) have too few recordings for three splits, and lack validation "
            f"or test samples: {shorten(names[number] for number in lacking)}" + (f"; {hint}" if hint else "")
        )
    kinds = np.unique(np.stack([domain, label], 1), axis=0)[:, 0]
    if len(single := np.flatnonzero(np.bincount(kinds, minlength=len(names)) == 1)) and len(names) > 1:
        messages.append(
            f"{len(single)} of {len(names)} domains have one class only, and train no expert: "
            f"{shorten(names[number] for number in single)}"
        )
    return messages


def other_scales(source: Source, arrangement: Arrangement) -> list[str]:
    """Warnings of recordings, and of domains, whose values are of another size than those of their like.

    See :func:`~.series.find_other_scales`.

    Args:
        source: The recordings.
        arrangement: Their domains.
    """
    series = source.series
    seen = [np.add.reduceat(series.labels == number, series.begins) > 0 for number in range(len(series.names))]
    alike = np.unique(np.stack([arrangement.domain, *seen], 1), axis=0, return_inverse=True)[1].reshape(-1)
    of_domain = [series.rms[arrangement.domain == number] for number in range(len(arrangement.domains))]
    typical = np.array([np.median(rms, 0) for rms in of_domain])
    return [
        f"{len(found)} {what}(s) have values more than 4 times larger or smaller than {likes}: "
        f"{shorten((called[number] for number in found), 3)}. Another unit? Convert them, or set limits to reject them"
        for what, found, likes, called in (
            ("recording", find_other_scales(series.rms, alike), "others of the same domain and labels", source.names),
            ("domain", find_other_scales(typical, np.zeros(len(typical))), "the others", arrangement.domains),
        )
        if len(found)
    ]
