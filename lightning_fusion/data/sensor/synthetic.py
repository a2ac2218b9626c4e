"""Synthetic motion of people with devices: no files, no network."""

from functools import lru_cache
from typing import Any

import numpy as np

from lightning_fusion.data.sensor.arrangement import Source
from lightning_fusion.data.sensor.series import Recorded, load_series
from lightning_fusion.data.sensor.windowed import WindowedSensorDataModule
from lightning_fusion.data.synthetic import synthetic_motion
from lightning_fusion.errors import InputError

AXES = ["x_acc", "y_acc", "z_acc", "x_gyro", "y_gyro", "z_gyro"]


class SyntheticSensorDataModule(WindowedSensorDataModule):
    """Windows of the synthetic motion of 4 people with a phone and a watch each, for tests and demonstrations.

    The fields are ``person``, ``device`` and ``session``; a domain is a person's device, a group a person. The
    recordings come from :func:`~lightning_fusion.data.synthetic.synthetic_motion`.

    Args:
        heterogeneity: Difference between people and devices, 0 or more.
        **shared: Arguments of :class:`~.windowed.WindowedSensorDataModule` and
            :class:`~.datamodule.BaseSensorDataModule`.

    Raises:
        InputError: If arguments are inconsistent.

    Example:
        >>> data = SyntheticSensorDataModule(domain="p0_phone", batch_size=16)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.input.shape, data.classes, data.groups[data.domains[0]], data.statistics().shape
        (torch.Size([16, 6, 100]), ['activity_0', 'activity_1', 'activity_2', 'activity_3'], 'p0', torch.Size([132]))
    """

    default_domain_fields = ("person", "device")
    default_group_field = "person"

    def __init__(self, heterogeneity: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        self.heterogeneity = heterogeneity
        self._configure()

    def read_source(self) -> Source:
        """Generate the recordings."""
        return load_synthetic(self.sample_rate_hz, self.heterogeneity)

    def _check(self) -> None:
        super()._check()
        if self.heterogeneity < 0:
            raise InputError(f"heterogeneity is {self.heterogeneity}; expected 0 or more")


@lru_cache(maxsize=1)
def load_synthetic(sample_rate_hz: float, heterogeneity: float) -> Source:
    """Generate the synthetic recordings, once per process.

    Args:
        sample_rate_hz: Sample rate of the samples.
        heterogeneity: Difference between people and devices.
    """
    motion = synthetic_motion(sample_rate_hz=sample_rate_hz, heterogeneity=heterogeneity)
    recorded = [
        Recorded(samples, np.array([f"activity_{label}" for label in labels], object))
        for samples, labels in zip(motion.samples, motion.activities, strict=True)
    ]
    fields = {
        "person": [f"p{person}" for person in motion.person],
        "device": [("phone", "watch")[device] for device in motion.device],
        "session": [str(session) for session in motion.session],
    }
    names = ["_".join(parts) for parts in zip(*fields.values(), strict=True)]
    return Source(load_series(recorded), names, fields, AXES)
