"""Speaker verification: who speaks, and pairs of samples that are to be compared."""

from typing import Any

import numpy as np

from lightning_fusion.data.audio.datamodule import AudioFilesDataModule, BaseAudioDataModule
from lightning_fusion.data.audio.layout import SPEAKER_FOLDERS
from lightning_fusion.data.audio.splits import AudioSplit, split_speakers
from lightning_fusion.data.audio.trials import Trials, draw_trials, read_trials
from lightning_fusion.data.base import UNLABELED, Stage, made_at
from lightning_fusion.data.domains import local_classes
from lightning_fusion.errors import InputError


class BaseSpeakerDataModule(BaseAudioDataModule):
    """The classes are the training speakers; the base of all sources for speaker verification.

    Nobody is heard in two splits. In validation and test, where only unseen speakers talk, targets are -100 and
    :meth:`trials` says which pairs of samples are to be compared. With one recording per speaker, ``val_segments`` and
    ``test_segments`` of 2 are the only way to a trial of one speaker, and it is optimistic: parts share their session.

    Args:
        max_trials: Most pairs that are drawn where there is no list.
        **shared: See :class:`~lightning_fusion.data.audio.datamodule.BaseAudioDataModule`.
    """

    stage_of = BaseAudioDataModule.stage_of | {"max_trials": Stage.USING}

    def __init__(self, max_trials: int = 100_000, **shared: Any) -> None:
        super().__init__(**shared)
        self.max_trials = max_trials

    def read_trial_lists(self) -> dict[str, Trials]:
        """The trials of ``val`` and ``test``, where there are lists of them; drawn where there are none."""
        return {}

    @property
    def classes(self) -> list[str]:
        """Names of the training speakers."""
        return [self.layout.speakers[number] for number in self.split.speakers]

    def trials(self, split: str) -> Trials | None:
        """Pairs of samples of ``val`` or ``test`` that are to be compared; None for ``train``.

        Read from the split's list, or drawn (:func:`~lightning_fusion.data.audio.trials.draw_trials`).

        Raises:
            InputError: If no trial of one speaker, or none of two, can be made.
        """
        if split == "train":
            return None
        rows = self._row_numbers(split)
        if split not in self._trials:
            files = rows % len(self.layout.names)
            self._trials[split] = draw_trials(
                rows, self.layout.speaker[files], files, self.max_trials, self.seed * 1009 + 3, split
            )
        return self._trials[split]

    def cut(self) -> AudioSplit:
        """Speakers in splits; those of a trial list, and the files that it names, where there is one."""
        wanted = {"val": self.val_speakers, "test": self.test_speakers}
        return split_speakers(self.layout, wanted, self._lists, least=2, seed=self.seed)

    def targets(self) -> np.ndarray:
        """(N,) int64, who speaks among the training speakers; -100 for others."""
        local = local_classes(self.split.speakers, len(self.layout.speakers))[self.layout.speaker]
        return np.where(local < 0, UNLABELED, local)

    @made_at(Stage.SPLITTING)
    def _lists(self) -> dict[str, Trials]:
        return self.read_trial_lists()

    @made_at(Stage.USING)
    def _trials(self) -> dict[str, Trials]:
        return dict(self._lists)

    def _check(self) -> None:
        super()._check()
        if self.max_trials < 2:
            raise InputError(f"max_trials is {self.max_trials}; expected at least 2, one of each kind")


class SpeakerDataModule(AudioFilesDataModule, BaseSpeakerDataModule):
    """WAV, FLAC or Ogg files of speakers under a folder, for speaker verification.

    Validation and test speakers come from folders of their own, from lists of names, from trial lists (all speakers
    they name), or are drawn from ``root`` with the seed.

    Args:
        val_trials: Trial list in VoxCeleb's format (``1 enrol test``), names relative to the split's root; only
            the files that it names are validated with. None: pairs of all samples.
        test_trials: Trial list for testing, likewise.
        **shared: See :class:`~lightning_fusion.data.audio.datamodule.AudioFilesDataModule` (``root``, ``pattern``,
            ``val_root``, ``test_root``, ``memory_limit_gb``), :class:`BaseSpeakerDataModule` (``max_trials``) and
            :class:`~lightning_fusion.data.audio.datamodule.BaseAudioDataModule`.

    Raises:
        InputError: Where an argument does not fit the files, or one cannot be read.

    Example:
        >>> data = SpeakerDataModule("data/VoxCeleb2", test_root="data/VoxCeleb1", test_trials="data/veri_test2.txt")
        >>> data.preprocessing["frontend"], data.variant(num_mels=40).preprocessing["num_mels"]
        ('log_mel', 40)
    """

    stage_of = BaseSpeakerDataModule.stage_of | dict.fromkeys(("val_trials", "test_trials"), Stage.SPLITTING)

    def __init__(
        self,
        root: str,
        pattern: str = SPEAKER_FOLDERS,
        val_trials: str | None = None,
        test_trials: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(root=root, pattern=pattern, **shared)
        self.val_trials, self.test_trials = val_trials, test_trials
        self._configure()

    def read_trial_lists(self) -> dict[str, Trials]:
        """Read the lists that are given."""
        layout, lists = self.layout, {}
        for split in ("test", "val"):
            if getattr(self, key := f"{split}_trials") is None:
                continue
            tree = layout.tree_of(split)
            numbers = {layout.names[file]: file for file in layout.files_of(tree).tolist()}
            trials = lists[split] = read_trials(getattr(self, key), numbers, key, layout.roots[tree])
            speakers = layout.speaker[trials.pairs.numpy()]
            if wrong := int((trials.same.numpy() != (speakers[:, 0] == speakers[:, 1])).sum()):
                self.notices.warn(
                    f"{key}: the labels of {wrong} of {len(trials.same)} trials contradict the speakers that the paths "
                    "name; the list is trusted"
                )
        return lists

    def _check(self) -> None:
        super()._check()
        for split in ("val", "test"):
            if getattr(self, f"{split}_trials") is not None and getattr(self, f"{split}_segments") > 1:
                raise InputError(
                    f"{split}_trials names whole recordings; set {split}_segments: 1 or remove {split}_trials"
                )
