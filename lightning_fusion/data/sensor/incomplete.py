"""Recordings without values of some channels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lightning_fusion.data.sensor.arrangement import Source
from lightning_fusion.data.sensor.series import GAP
from lightning_fusion.errors import InputError, shorten


def complete_source(source: Source) -> tuple[Source, Source | None]:
    """Divide a source into recordings with values of all channels, and those without values of some.

    Channels without values are NaN. The samples are not copied.

    Args:
        source: Source of all recordings.

    Returns:
        The complete recordings, and the others; ``None`` if there are none.

    Raises:
        InputError: If no recording has values of all channels.
    """
    lacking = np.isnan(source.series.rms).any(1)
    if not lacking.any():
        return source, None
    if lacking.all():
        raise InputError(
            f"none of {len(lacking)} recordings has values of all channels ({source.names[0]} lacks "
            f"{shorten(missing_channels(source)[0])}); leave some out of channels"
        )
    return _select(source, ~lacking), _select(source, lacking)


def missing_channels(source: Source) -> list[list[str]]:
    """Return the channels without values, for each recording."""
    return [[source.channels[place] for place in np.flatnonzero(row)] for row in np.isnan(source.series.rms)]


def _select(source: Source, kept: np.ndarray) -> Source:
    """Return the recordings of a mask (R,); samples of the others are in gaps."""
    series, rows = source.series, np.flatnonzero(kept)
    labels = np.full_like(series.labels, GAP)
    for begin, count in zip(series.begins[rows].tolist(), series.lengths[rows].tolist(), strict=True):
        labels[begin : begin + count] = series.labels[begin : begin + count]
    of_recording = {name: getattr(series, name) for name in ("begins", "lengths", "rms", "rates_hz", "averaged")}
    selected = {name: values[rows] if len(values) else values for name, values in of_recording.items()}
    return replace(
        source,
        series=replace(series, labels=labels, **selected),
        names=[source.names[row] for row in rows],
        fields={name: np.asarray(values, object)[rows] for name, values in source.fields.items()},
        moment=None if source.moment is None else source.moment[rows],
    )


def incomplete_message(source: Source, domain: Sequence[str], total: Mapping[str, int], way: str = "") -> str:
    """Return a warning about recordings that lack channels, by domain.

    Args:
        source: Source of these recordings.
        domain: (R,) names of their domains.
        total: Number of all recordings of each domain.
        way: Another way to use them.
    """
    counts = Counter(domain)
    channels: dict[str, dict[str, None]] = {}
    for name, missing in zip(domain, missing_channels(source), strict=True):
        channels.setdefault(name, {}).update(dict.fromkeys(missing))
    each = (f"{counts[name]} of {total[name]} of {name} ({shorten(missing, 9)})" for name, missing in channels.items())
    return (
        f"{len(domain)} recordings lack channels and are left out, such as {source.names[0]}: {shorten(each, 9)}; to "
        f"use them, leave these channels out of channels{way}"
    )
