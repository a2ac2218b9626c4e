"""Synthetic voices as data modules."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lightning_fusion.data.audio.datamodule import BaseAudioDataModule
from lightning_fusion.data.audio.files import Recordings
from lightning_fusion.data.audio.labeled import BaseLabeledAudioDataModule
from lightning_fusion.data.audio.layout import AudioLayout
from lightning_fusion.data.audio.speaker import BaseSpeakerDataModule
from lightning_fusion.data.synthetic import VOWELS, synthetic_voices

_SPEAKERS, _UTTERANCES = 60, 4


class SyntheticVoices(BaseAudioDataModule):
    """Source of 240 utterances of 60 synthetic voices; to be combined with the base class of a task.

    Args:
        **shared: Arguments of the base class of the task.
    """

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        self._configure()

    def read_layout(self) -> AudioLayout:
        """Return names and fields of the utterances."""
        return _layout()

    def read_recordings(self, layout: AudioLayout) -> Recordings:
        """Synthesize the utterances."""
        return _recordings(self.sample_rate_hz)


class SyntheticSpeakerDataModule(SyntheticVoices, BaseSpeakerDataModule):
    """240 utterances of 60 synthetic voices for speaker verification, for tests: no files, no network.

    The voices come from :func:`~lightning_fusion.data.synthetic.synthetic_voices`.

    Args:
        **shared: Arguments of :class:`~lightning_fusion.data.audio.speaker.BaseSpeakerDataModule` (``max_trials``) and
            :class:`~lightning_fusion.data.audio.datamodule.BaseAudioDataModule`.

    Example:
        >>> data = SyntheticSpeakerDataModule(sample_rate_hz=8000, batch_size=16)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.input.shape, data.preprocess(batch.input).shape
        (torch.Size([16, 16000]), torch.Size([16, 80, 201]))
        >>> data.rows("test").targets[data.rows("test").rows].unique().tolist(), len(data.trials("test").same)
        ([-100], 1128)
    """


class SyntheticLabeledAudioDataModule(SyntheticVoices, BaseLabeledAudioDataModule):
    """240 utterances of 60 synthetic voices; the label is a vowel.

    The voices come from :func:`~lightning_fusion.data.synthetic.synthetic_voices`.

    Args:
        **shared: Arguments of :class:`~lightning_fusion.data.audio.labeled.BaseLabeledAudioDataModule` (``domain``,
            ``split_by``, ``domain_field``) and :class:`~lightning_fusion.data.audio.datamodule.BaseAudioDataModule`.

    Example:
        >>> data = SyntheticLabeledAudioDataModule(sample_rate_hz=8000)
        >>> data.classes, len(data.domains), len(data.own_domains)
        (['a', 'e', 'i', 'o', 'u'], 60, 42)
    """


def _layout() -> AudioLayout:
    speakers, numbers = (axis.reshape(-1).tolist() for axis in np.indices((_SPEAKERS, _UTTERANCES)))
    speaker_names = [f"voice_{speaker:02}" for speaker in speakers]
    names = [f"{voice}/{number}.wav" for voice, number in zip(speaker_names, numbers, strict=True)]
    vowels = [list(VOWELS)[(speaker + number) % len(VOWELS)] for speaker, number in zip(speakers, numbers, strict=True)]
    return AudioLayout(names, {"speaker": speaker_names, "label": vowels})


@lru_cache(maxsize=1)
def _recordings(sample_rate_hz: int) -> Recordings:
    waveforms, _, _ = synthetic_voices(_SPEAKERS, _UTTERANCES, sample_rate_hz=sample_rate_hz)
    return Recordings.of_waveforms([*torch.from_numpy(waveforms)])
