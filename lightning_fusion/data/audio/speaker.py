"""Speaker verification: training speakers as classes, and trials."""

from typing import Any

import numpy as np

from lightning_fusion.data.audio.datamodule import AudioFilesDataModule, BaseAudioDataModule
from lightning_fusion.data.audio.layout import SPEAKER_FOLDERS
from lightning_fusion.data.audio.splits import AudioSplit, split_speakers
from lightning_fusion.data.audio.trials import NewTrials, Trials, draw_trials, read_new_trials, read_trials
from lightning_fusion.data.base import Stage, staged_property
from lightning_fusion.data.domains import local_classes
from lightning_fusion.data.targets import UNLABELED
from lightning_fusion.errors import InputError


class BaseSpeakerDataModule(BaseAudioDataModule):
    """Recordings with the training speakers as classes; base class of all sources for speaker verification.

    Splits are disjoint in speakers. Validation and test splits contain only unseen speakers, so targets are -100, and
    :meth:`trials` returns the pairs of samples to compare. With one recording per speaker, same-speaker trials require
    ``val_segments`` and ``test_segments`` of 2, which underestimates the error: parts share their session.

    Args:
        max_trials: Maximum number of pairs that are drawn if there is no trial list.
        test_seed: Seed of the draw of test speakers, and of their trials. ``None`` (default) means ``seed``; with a
            number, all seeds of a recipe have one test split, and ± is over trainings alone.
        **shared: Arguments of :class:`~lightning_fusion.data.audio.datamodule.BaseAudioDataModule`.
    """

    stage_of = BaseAudioDataModule.stage_of | {"max_trials": Stage.USING, "test_seed": Stage.SPLITTING}

    def __init__(self, max_trials: int = 100_000, test_seed: int | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        self.max_trials, self.test_seed = max_trials, test_seed

    def read_trial_lists(self) -> dict[str, Trials]:
        """Return the trials of ``val`` and ``test`` that are read from lists; those of other splits are drawn."""
        return {}

    @property
    def classes(self) -> list[str]:
        """Names of the training speakers."""
        return [self.layout.speakers[number] for number in self.split.speakers]

    def trials(self, split: str) -> Trials | None:
        """Return the trials (pairs of samples) of ``val`` or ``test``; ``None`` for ``train``.

        Read from the split's list, or drawn (:func:`~lightning_fusion.data.audio.trials.draw_trials`).

        Raises:
            InputError: If there is no same-speaker or no different-speaker trial.
        """
        if split == "train":
            return None
        rows = self._row_numbers(split)
        if split not in self._trials:
            files = rows % len(self.layout.names)
            drawn = self._draws[split] * 1009 + 3
            self._trials[split] = draw_trials(rows, self.layout.speaker[files], files, self.max_trials, drawn, split)
        return self._trials[split]

    def cut(self) -> AudioSplit:
        """Assign speakers to splits; a trial list determines the speakers and files of its split."""
        wanted = {"val": self.val_speakers, "test": self.test_speakers}
        return split_speakers(self.layout, wanted, self._lists, least=2, seeds=self._draws)

    @property
    def _draws(self) -> dict[str, int]:
        """Seeds of the draws of held-out speakers and their trials, by split."""
        return {"val": self.seed, "test": self.seed if self.test_seed is None else self.test_seed}

    def targets(self) -> np.ndarray:
        """Return the (N,) int64 index among the training speakers; -100 for other speakers."""
        local = local_classes(self.split.speakers, len(self.layout.speakers))[self.layout.speaker]
        return np.where(local < 0, UNLABELED, local)

    @staged_property(Stage.SPLITTING)
    def _lists(self) -> dict[str, Trials]:
        return self.read_trial_lists()

    @staged_property(Stage.USING)
    def _trials(self) -> dict[str, Trials]:
        return dict(self._lists)

    def _check(self) -> None:
        super()._check()
        if self.max_trials < 2:
            raise InputError(f"max_trials is {self.max_trials}; expected at least 2, one of each kind")


class SpeakerDataModule(AudioFilesDataModule, BaseSpeakerDataModule):
    """WAV, FLAC, MP3, Ogg or AIFF files of speakers under a folder, for speaker verification.

    Validation and test speakers come from separate folders, from lists of names, from trial lists (all speakers in
    the list), or are drawn from ``root`` with the seed.

    Args:
        val_trials: Trial list in VoxCeleb's format (``1 enrol test``), with names relative to the root of the split;
            only the files in the list are used for validation. ``None`` means pairs of all samples.
        test_trials: Trial list for testing, likewise.
        predict_trials: List of pairs of new recordings for ``predict``, one ``enrol test`` per line, with names
            relative to ``predict_root``: their scores are written beside the predictions. ``None`` (default) scores
            none.
        **shared: Arguments of :class:`~lightning_fusion.data.audio.datamodule.AudioFilesDataModule` (``root``,
            ``pattern``, ``val_root``, ``test_root``, ``memory_limit_gb``), :class:`BaseSpeakerDataModule`
            (``max_trials``) and :class:`~lightning_fusion.data.audio.datamodule.BaseAudioDataModule`.

    Raises:
        InputError: If an argument does not match the files, or a file cannot be read.

    Example:
        >>> data = SpeakerDataModule("data/VoxCeleb2", test_root="data/VoxCeleb1", test_trials="data/veri_test2.txt")
        >>> data.preprocessing["frontend"], data.variant(num_mels=40).preprocessing["num_mels"]
        ('log_mel', 40)
    """

    stage_of = BaseSpeakerDataModule.stage_of | {
        **dict.fromkeys(("val_trials", "test_trials"), Stage.SPLITTING),
        "predict_trials": Stage.USING,
    }

    def __init__(
        self,
        root: str,
        pattern: str = SPEAKER_FOLDERS,
        val_trials: str | None = None,
        test_trials: str | None = None,
        predict_trials: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(root=root, pattern=pattern, **shared)
        self.val_trials, self.test_trials, self.predict_trials = val_trials, test_trials, predict_trials
        self._configure()

    @staged_property(Stage.USING)
    def new_trials(self) -> NewTrials | None:
        """Pairs of new recordings in ``predict_trials``; ``None`` without it."""
        if self.predict_trials is None or self.new_samples is None:
            return None
        numbers = {name: place for place, name in enumerate(self.new_samples.names)}
        return read_new_trials(self.predict_trials, numbers, "predict_trials", str(self.predict_root))

    def read_trial_lists(self) -> dict[str, Trials]:
        """Read the trial lists named by ``val_trials`` and ``test_trials``."""
        layout, lists = self.layout, {}
        for split in ("test", "val"):
            if getattr(self, key := f"{split}_trials") is None:
                continue
            tree = layout.tree_of(split)
            numbers = {layout.names[file]: file for file in layout.files_of(tree).tolist()}
            trials = lists[split] = read_trials(
                getattr(self, key), numbers, key, layout.roots[tree], self.messages.warn
            )
            speakers = layout.speaker[trials.pairs.numpy()]
            if wrong := int((trials.same.numpy() != (speakers[:, 0] == speakers[:, 1])).sum()):
                self.messages.warn(
                    f"{key}: the labels of {wrong} of {len(trials.same)} trials contradict the speakers in the paths; "
                    "the labels of the list are used"
                )
        return lists

    def _check(self) -> None:
        super()._check()
        for name, segments in (("val", "val"), ("test", "test"), ("predict", "test")):
            if getattr(self, f"{name}_trials") is not None and getattr(self, f"{segments}_segments") > 1:
                raise InputError(
                    f"{name}_trials names whole recordings; set {segments}_segments: 1 or remove {name}_trials"
                )
        if self.predict_trials is not None and self.predict_root is None:
            raise InputError("predict_trials names new recordings; set predict_root to their folder, or remove it")
