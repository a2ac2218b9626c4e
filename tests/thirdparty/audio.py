"""A source of recordings from another package."""

from typing import Any

import numpy as np
import torch

from lightning_fusion.data.audio.files import Recordings
from lightning_fusion.data.audio.layout import AudioLayout
from lightning_fusion.data.audio.speaker import BaseSpeakerDataModule


class BeepDataModule(BaseSpeakerDataModule):
    """Speakers who beep three times, each at a pitch of their own.

    Args:
        speakers: How many.
        **shared: See the base.
    """

    def __init__(self, speakers: int = 12, **shared: Any) -> None:
        super().__init__(**shared)
        self.speakers = speakers
        self._configure()

    def read_layout(self) -> AudioLayout:
        speaker, number = (part.reshape(-1).tolist() for part in np.indices((self.speakers, 3)))
        names = [f"{one}/{other}" for one, other in zip(speaker, number, strict=True)]
        return AudioLayout(names, {"speaker": [f"beeper {one:02}" for one in speaker]})

    def read_recordings(self, layout: AudioLayout) -> Recordings:
        time = torch.arange(self.sample_rate_hz) / self.sample_rate_hz
        return Recordings.of_waveforms([0.5 * torch.sin(600 * (2 + int(one)) * time) for one in layout.speaker])
