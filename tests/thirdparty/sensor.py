"""A source of sensor data of somebody else: pendulums, which swing and come to rest."""

from typing import Any

import numpy as np

from lightning_fusion.data.sensor.arrangement import Source
from lightning_fusion.data.sensor.series import Recorded, load_series
from lightning_fusion.data.sensor.windowed import WindowedSensorDataModule
from lightning_fusion.errors import InputError


class PendulumDataModule(WindowedSensorDataModule):
    """Recordings of a pendulum's angle: each length is a domain, which is watched a few times."""

    default_domain_fields = ("length",)

    def __init__(self, lengths_m: list[float], times: int = 6, **shared: Any) -> None:
        super().__init__(**shared)
        self.lengths_m, self.times = lengths_m, times
        self._configure()

    def read_source(self) -> Source:
        time = np.arange(0, 12, 1 / self.sample_rate_hz)
        labels = np.where(time < 6, "swings", "rests")
        recordings, names, fields = [], [], {"length": [], "take": []}
        for length in self.lengths_m:
            for take in range(self.times):
                angle = np.sin(np.sqrt(9.81 / length) * time + take) * (time < 6)
                recordings.append(Recorded(angle[:, None].astype(np.float32), labels))
                names.append(f"{length} m, take {take}")
                fields["length"].append(length)
                fields["take"].append(take)
        return Source(load_series(recordings), names, fields, channels=["angle"])

    def _check(self) -> None:
        super()._check()
        if min(self.lengths_m) <= 0:
            raise InputError(f"lengths_m is {self.lengths_m}; expected lengths above 0")
