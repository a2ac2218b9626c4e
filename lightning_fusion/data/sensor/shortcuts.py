"""Sensor features with a shortcut: an offset of the device that goes with the class in training."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lightning_fusion.data.cues import check_agreement, draw_cues
from lightning_fusion.data.names import as_names
from lightning_fusion.data.sensor.arrangement import Source
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest


class OffsetTableDataModule(FeatureTableDataModule):
    """A table of features whose device has another offset for each class, as if each had been recorded by one device.

    ``offset`` times the number of a class, in standard deviations of the feature, is added to some features of its
    rows; ``agreement`` of the rows have the offset of their class, the others that of another one, drawn at random. At
    an agreement of one over the number of classes the offset tells nothing.

    Args:
        root: Path of the delimited file, as for :class:`~lightning_fusion.data.sensor.table.FeatureTableDataModule`.
        offset_channels: Features to which the offset is added.
        agreement: Fraction of the rows with the offset of their class, in all splits.
        offset: Difference of the offsets of two successive classes, in standard deviations of the feature.
        cue_seed: Seed of the offsets.
        **shared: Arguments of :class:`~lightning_fusion.data.sensor.table.FeatureTableDataModule`.

    Raises:
        InputError: If an argument is outside its range, or the table has no such feature.
    """

    def __init__(
        self,
        root: str,
        offset_channels: list[str | int],
        agreement: float = 0.9,
        offset: float = 1.0,
        cue_seed: int = 0,
        **shared: Any,
    ) -> None:
        self.offset_channels, self.agreement, self.offset = offset_channels, agreement, offset  # the base validates
        self.cue_seed = cue_seed
        super().__init__(root, **shared)

    def _check(self) -> None:
        super()._check()
        check_agreement(self.agreement)
        if not self.offset_channels:
            raise InputError("offset_channels is empty; expected the names of features")

    def read_source(self) -> Source:
        """Read the table, and add the offsets; those without a label as if they were of the first class."""
        source = super().read_source()
        wanted = as_names(self.offset_channels)
        if unknown := [name for name in wanted if name not in source.channels]:
            raise InputError(
                f"offset_channels: {self.root} has no feature {shorten(unknown)}; it has {shorten(source.channels, 9)}"
            )
        series, places = source.series, [source.channels.index(name) for name in wanted]
        generator = np.random.default_rng(self.cue_seed)
        labels = np.where(series.labels >= 0, series.labels, 0).astype(np.int64)
        cues = draw_cues(labels, len(series.names), self.agreement, generator)
        samples = series.samples.numpy().copy()
        steps = self.offset * np.nanstd(samples[:, places], axis=0)
        samples[:, places] += (cues[:, None] * steps).astype(np.float32)
        changed = replace(series, samples=torch.from_numpy(samples), fingerprint=digest(samples, series.fingerprint))
        return replace(source, series=changed)
