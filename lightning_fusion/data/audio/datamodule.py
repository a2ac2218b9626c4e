"""Speech: who speaks (verification), or what is said by speakers who were never heard in training."""

import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_fusion.data.audio.crops import _Crops, _CropSampler, _TrainingRows
from lightning_fusion.data.audio.features import LogMel
from lightning_fusion.data.audio.files import Recordings, find_recordings
from lightning_fusion.data.audio.trials import Trials, draw_trials, read_trials
from lightning_fusion.data.base import SPLITS, Batch, FusionDataModule, RowDataset
from lightning_fusion.data.patterns import compile_pattern
from lightning_fusion.data.samplers import draws_order, slice_loader
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.data.statistics import mean_and_deviation, spectrum_facts
from lightning_fusion.data.synthetic import VOWELS, synthetic_voices
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import keep_plain

UNSEEN = -100
"""Target of a sample whose speaker is no training class; cross-entropy ignores it."""
_CHOICES: dict[str, tuple[Any, ...]] = {
    "source": ("files", "synthetic"),
    "target": ("speaker", "label"),
    "features": ("log_mel", "waveform"),
    "split_by": ("speaker", "recording"),
}
_SPLIT_NAMES = {"train", "dev", "val", "valid", "validation", "test", "eval"}
_PATTERN = "{speaker}/**"
_TREES = ("root", "val_root", "test_root")
_PARTS = {"train": "train_crops", "val": "val_segments", "test": "test_segments"}
_LONGEST_S = 3600
_TWIN = 60, 4
"""Speakers and utterances of each of the synthetic source."""
_WINDOW_S, _HOP_S, _LOW_HZ, _FLOOR = 0.025, 0.01, 20.0, 1e-6


class SpeakerDataModule(FusionDataModule):
    """Recordings of speakers, split so that nobody is heard in two splits.

    ``target: speaker`` is speaker verification: the classes are the training speakers; in validation and test, where
    only unseen speakers talk, targets are -100 and :meth:`trials` says which pairs of samples are to be compared.
    ``target: label`` is classification of what the pattern's ``{label}`` names (spoken digits, say) for unseen
    speakers, with the speakers as domains; with ``split_by: recording`` every speaker is heard in all splits, by other
    recordings, so that there can be an expert for each.

    Sources:

    - ``files``: WAV, FLAC or Ogg files under ``root`` (and ``val_root``, ``test_root``), of which the path ``pattern``
      says who speaks: ``{speaker}/**`` fits ``root/<speaker>/**/*.wav`` as VoxCeleb and LibriSpeech have it,
      ``{label}_{speaker}_{utterance}.wav`` the Free Spoken Digit Dataset.
    - ``synthetic``: 240 utterances of 60 made-up voices
      (:func:`~lightning_fusion.data.synthetic.synthetic_voices`), for tests: no file, no network; the label is a vowel.

    Validation and test speakers come from folders of their own, from lists of names, from trial lists (all speakers
    they name), or are drawn from ``root`` with the seed.

    The loader gives waveforms (B, T) in [-1, 1]: files are decoded once into memory where they fit, else slice by
    slice. In training each epoch hears another crop of a recording, given by (seed, epoch, recording). On the device
    the batch is augmented (in training) and becomes log-mel features.

    Args:
        source: Where the recordings come from, see above.
        root: Folder of the training recordings, and of all whose split has no folder of its own.
        val_root: Folder of the validation recordings, if they have their own.
        test_root: Folder of the test recordings, if they have their own.
        pattern: How paths relative to a root are made, with ``{speaker}``, ``{label}`` and other fields; ``*`` stands
            for any part of a name, ``**`` for any folders. ``{speaker}/**`` where None.
        target: ``speaker`` or ``label``, see above.
        domain_field: Field of the pattern whose values are the domains. None: the speakers for ``target: label``,
            else one domain.
        domain: For ``target: label``: name or names of the domains that are used, with their own labels; all where
            None. Splits do not depend on it.
        split_by: ``speaker``: nobody is heard in two splits. ``recording``, for ``target: label`` alone: recordings are
            drawn, for each domain and label by the same shares, which ``val_speakers`` and ``test_speakers`` give.
        val_speakers: Speakers of ``root`` to validate with: a share below 1, a number, or a list of names; 0.1 where
            None.
        test_speakers: Speakers of ``root`` to test with, likewise; 0.2 where None.
        val_trials: Trial list in VoxCeleb's format (``1 enrol test``), names relative to the split's root; only
            the files that it names are validated with. None: pairs of all samples.
        test_trials: Trial list for testing, likewise.
        max_trials: Most pairs that are drawn where there is no list.
        val_segments: Equal parts into which validation recordings are cut, each a sample. With one recording per
            speaker there is no other way to a trial of one speaker, and it is optimistic: parts share their session.
        test_segments: Parts of test recordings, likewise.
        train_crops: Crops of every recording in an epoch; raise it for long recordings.
        sample_rate_hz: What recordings are resampled to.
        crop_s: Length of training samples; what is shorter is repeated.
        eval_crop_s: Length of validation and test samples, from the middle; what is shorter is repeated.
        features: ``log_mel`` (B, num_mels, frames) or ``waveform`` (B, T).
        num_mels: Bands of the log-mel features.
        augmentation: Module applied to (B, T) waveforms in training only, for example
            ``lightning_fusion.data.audio.features.SpeechAugmentation``.
        batch_size: Samples per batch and process.
        num_workers: Loader processes; files that do not fit into memory want two or more.
        seed: Of splits, trials, order and crops.
        memory_limit_gb: Recordings larger than this (4 bytes a sample) stay on disk and are read batch by batch.

    Raises:
        InputError: Where an argument does not fit the source or a file cannot be read.

    Example:
        >>> data = SpeakerDataModule(source="synthetic", sample_rate_hz=8000, batch_size=16)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.input.shape, data.preprocess(batch.input).shape
        (torch.Size([16, 16000]), torch.Size([16, 80, 201]))
        >>> data.rows("test").targets[data.rows("test").rows].unique().tolist(), len(data.trials("test").same)
        ([-100], 1128)
    """

    source: str
    root: str | None
    val_root: str | None
    test_root: str | None
    pattern: str | None
    target: str
    domain_field: str | None
    domain: str | int | list[str | int] | None
    split_by: str
    val_speakers: int | float | list[str | int] | None
    test_speakers: int | float | list[str | int] | None
    val_trials: str | None
    test_trials: str | None
    max_trials: int
    val_segments: int
    test_segments: int
    train_crops: int
    sample_rate_hz: int
    crop_s: float
    eval_crop_s: float
    features: str
    num_mels: int
    augmentation: nn.Module | None
    memory_limit_gb: float

    def __init__(
        self,
        source: Literal["files", "synthetic"] = "files",
        root: str | None = None,
        val_root: str | None = None,
        test_root: str | None = None,
        pattern: str | None = None,
        target: Literal["speaker", "label"] = "speaker",
        domain_field: str | None = None,
        domain: str | int | list[str | int] | None = None,
        split_by: Literal["speaker", "recording"] = "speaker",
        val_speakers: int | float | list[str | int] | None = None,
        test_speakers: int | float | list[str | int] | None = None,
        val_trials: str | None = None,
        test_trials: str | None = None,
        max_trials: int = 100_000,
        val_segments: int = 1,
        test_segments: int = 1,
        train_crops: int = 1,
        sample_rate_hz: int = 16_000,
        crop_s: float = 2.0,
        eval_crop_s: float = 4.0,
        features: Literal["log_mel", "waveform"] = "log_mel",
        num_mels: int = 80,
        augmentation: nn.Module | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        memory_limit_gb: float = 4.0,
    ) -> None:
        super().__init__()
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        augmentation = None  # a module is no plain data; what the command line parsed is recorded all the same
        self.save_hyperparameters(logger=False)
        keep_plain(self)
        self._layout_cache: _Layout | None = None
        self._recordings: Recordings | None = None
        self._configure(**arguments)

    # ------------------------------------------------------------------ facts

    @property
    def classes(self) -> list[str]:
        """Names of the training speakers, or the labels."""
        if self.target == "label":
            return self._labels()[0]
        return self._split().train_speakers

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``; domains do not overlap."""
        return self._domain_of_file()[0]

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains of the training recordings."""
        names, number = self._domain_of_file()
        return [names[domain] for domain in np.unique(number[self._split().files["train"]])]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How waveforms become network input."""
        facts: dict[str, Any] = {"features": self.features, "sample_rate_hz": self.sample_rate_hz}
        if self.features == "log_mel":
            facts |= {
                "num_mels": self.num_mels,
                "window_s": _WINDOW_S,
                "hop_s": _HOP_S,
                "low_hz": _LOW_HZ,
                "floor": _FLOOR,
                "normalisation": "mean over time",
            }
        return facts

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the samples (of names and sizes, where files are read lazily), labels and preprocessing."""
        dataset = self.rows(split)
        files = self._split().files[split]
        recordings = self._load()
        if recordings.samples is None:
            paths = self._layout.paths(files)
            content: Any = "\n".join(
                f"{self._layout.names[file]}:{os.path.getsize(path)}" for file, path in zip(files, paths, strict=True)
            )
        else:
            ends = (recordings.begins + recordings.frames).tolist()
            content = digest(*(recordings.samples[int(recordings.begins[file]) : ends[file]] for file in files))
        lengths = self.crop_s if split == "train" else self.eval_crop_s, getattr(self, _PARTS[split])
        rows = dataset.rows
        return digest(content, dataset.targets[rows], dataset.domains[rows], rows, lengths, self.preprocessing)

    def trials(self, split: str) -> Trials | None:
        """Pairs of samples of ``val`` or ``test`` that are to be compared; None for ``train`` and ``target: label``.

        Read from the split's list, or drawn (:func:`~lightning_fusion.data.audio.trials.draw_trials`).

        Raises:
            InputError: If no trial of one speaker, or none of two, can be made.
        """
        if self.target == "label" or split == "train":
            return None
        cut = self._split()
        if split not in cut.trials:
            rows = self._row_numbers(split)
            files = rows % len(self._layout.names)
            cut.trials[split] = draw_trials(
                rows, self._layout.speaker[files], files, self.max_trials, self.seed * 1009 + 3, split
            )
        return cut.trials[split]

    def speaker_of(self, index: Tensor) -> Tensor:
        """Who speaks in samples of any shape, by their numbers (``Batch.index``): a number of each speaker, int64."""
        return torch.from_numpy(self._layout.speaker)[index % len(self._layout.names)]

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the recordings of a split, as the samples hear them: what a domain may publish of itself.

        Mean over samples of the moments of log-mel features over time
        (:func:`~lightning_fusion.data.statistics.spectrum_facts`), then their standard deviations: 4 numbers a band.

        Returns:
            (S,) float32.
        """
        dataset = self.rows(split)
        mel = self._log_mel(torch.device("cpu"))
        crops = (dataset.inputs[chunk] for chunk in dataset.rows.split(self.batch_size))
        return torch.cat(mean_and_deviation(spectrum_facts(mel.raw(crop.float())) for crop in crops)).float()

    # ------------------------------------------------------------- Lightning

    def setup(self, stage: str | None = None) -> None:
        """Find, split and read the recordings; cheap when repeated."""
        self._split()
        self._load()

    def train_dataloader(self) -> DataLoader:
        """Batches of random crops; order and crops depend on (seed, epoch)."""
        rows, shuffle = self.rows("train"), draws_order(self.trainer)
        return slice_loader(rows, self.batch_size, shuffle, self.seed, self.num_workers, _CropSampler)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augmentation (in training) and features, on the device."""
        if not isinstance(batch, Batch):
            return batch
        augment = self.augmentation is not None and self.trainer is not None and self.trainer.training
        return batch._replace(input=self.preprocess(batch.input, augment))

    def preprocess(self, waveforms: Tensor, augment: bool = False) -> Tensor:
        """Turn (B, T) waveforms in [-1, 1] into network input: (B, num_mels, frames), or (B, T) as they are."""
        floats = waveforms.float()
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            if augment and self.augmentation is not None:
                floats = self.augmentation(floats)
            if self.features == "log_mel":
                floats = self._log_mel(waveforms.device)(floats)
        return floats.to(waveforms.dtype)

    def rows(self, split: str) -> RowDataset:
        """The data set of one split: ``train``, ``val`` or ``test``."""
        if split not in SPLITS:
            raise InputError(f"there is no split {split!r}; expected {shorten(SPLITS)}")
        if split not in self._datasets:
            self._datasets[split] = self._dataset(split)
        return self._datasets[split]

    # -------------------------------------------------------------- internals

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        if {"source", "root", "val_root", "test_root", "pattern"} & set(arguments):
            self._layout_cache, self._recordings = None, None
        if {"sample_rate_hz", "memory_limit_gb"} & set(arguments):
            self._recordings = None
        self._split_cache: _Split | None = None
        self._datasets: dict[str, RowDataset] = {}
        self._mels: dict[torch.device, LogMel] = {}
        self._check()

    def _check(self) -> None:
        self._check_choices(_CHOICES)
        if self.source == "synthetic":
            for name in ("root", "val_root", "test_root", "pattern"):
                if getattr(self, name) is not None:
                    raise InputError(f"source synthetic needs no {name}; remove {name} or set source: files")
        elif self.root is None:
            raise InputError("source files needs root: the folder that holds a folder of recordings per speaker")
        for name in ("batch_size", "val_segments", "test_segments", "train_crops", "num_mels"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.max_trials < 2:
            raise InputError(f"max_trials is {self.max_trials}; expected at least 2, one of each kind")
        if not 4000 <= self.sample_rate_hz <= 192_000:
            raise InputError(f"sample_rate_hz is {self.sample_rate_hz}; expected 4000 to 192000")
        for name in ("crop_s", "eval_crop_s"):
            if not 0.1 <= getattr(self, name) <= _LONGEST_S:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0.1 to {_LONGEST_S} seconds")
        for name in ("num_workers", "seed", "memory_limit_gb"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least 0")
        pattern = (self.pattern or _PATTERN) if self.source == "files" else "{speaker}, {label}"
        fields = compile_pattern(pattern).groupindex
        for name in ("speaker", *(["label"] if self.target == "label" else []), *filter(None, [self.domain_field])):
            if name not in fields:
                raise InputError(
                    f"pattern {pattern} has no {{{name}}}: set pattern to say where it stands in a path, as in "
                    "{label}_{speaker}_{utterance}.wav"
                )
        if self.target == "speaker" and (self.domain is not None or self.split_by == "recording"):
            raise InputError("domain and split_by: recording are for target: label; remove them, or change target")
        for split in ("val", "test"):
            self._check_held_out(split)
            wanted = getattr(self, f"{split}_speakers")
            shared = self.split_by == "recording"
            share = wanted is None or (not isinstance(wanted, list) and 0 < wanted < 1)
            if shared and (getattr(self, f"{split}_root") is not None or not share):
                raise InputError(
                    f"split_by: recording draws shares of the recordings of root: remove {split}_root, and give a "
                    f"share below 1 as {split}_speakers"
                )
        rate = getattr(self.augmentation, "sample_rate_hz", self.sample_rate_hz)
        if rate != self.sample_rate_hz:
            raise InputError(f"the augmentation expects {rate} Hz, the data has sample_rate_hz {self.sample_rate_hz}")

    def _check_held_out(self, split: str) -> None:
        wanted, trials = getattr(self, f"{split}_speakers"), getattr(self, f"{split}_trials")
        if wanted is not None and getattr(self, f"{split}_root") is not None:
            raise InputError(f"{split}_root has speakers of its own; remove {split}_speakers or {split}_root")
        if isinstance(wanted, list):
            if len(set(wanted)) < len(wanted) or not wanted:
                doubled = sorted({name for name in wanted if wanted.count(name) > 1})
                raise InputError(f"{split}_speakers names {shorten(doubled) or 'nobody'} twice; name each speaker once")
        elif wanted is not None and not (0 < wanted < 1 or (wanted >= 1 and wanted == int(wanted))):
            raise InputError(f"{split}_speakers is {wanted}; expected a share below 1, a whole number, or names")
        if trials is not None and self.target == "label":
            raise InputError(f"{split}_trials are for target: speaker; remove them, or change target")
        if trials is not None and getattr(self, f"{split}_segments") > 1:
            raise InputError(f"{split}_trials names whole recordings; set {split}_segments: 1 or remove {split}_trials")

    @property
    def _layout(self) -> "_Layout":
        """All recordings and who speaks in them, read without opening a file."""
        if self._layout_cache is None:
            self._layout_cache = self._read_layout()
        return self._layout_cache

    def _read_layout(self) -> "_Layout":
        if self.source == "synthetic":
            speakers, numbers = (axis.reshape(-1) for axis in np.indices(_TWIN))
            vowels = [list(VOWELS)[vowel] for vowel in (speakers + numbers) % len(VOWELS)]
            voices = [f"voice_{speaker:02}" for speaker in range(_TWIN[0])]
            said = [voices[speaker] for speaker in speakers]
            names = [f"{voice}/{number}.wav" for voice, number in zip(said, numbers, strict=True)]
            fields = {"speaker": said, "label": vowels}
            return _Layout({}, names, np.zeros(len(names), np.int64), voices, speakers, fields)
        trees = {
            tree: find_recordings(getattr(self, key), self.pattern or _PATTERN, key)
            for tree, key in enumerate(_TREES)
            if getattr(self, key) is not None
        }
        found = [recording for tree in trees.values() for recording in tree]
        first = {recording.fields["speaker"] for recording in trees[0]}
        if self.pattern is None and {re.split("[-_ ]", name)[0].lower() for name in first} <= _SPLIT_NAMES:
            raise InputError(
                f"root: the folders of {self.root} name splits, not speakers ({shorten(sorted(first))}); set root to "
                "the one to train on, and val_root or test_root to the others"
            )
        if len(first) == 1:
            raise InputError(
                f"root: all recordings under {self.root} are of one speaker, {first.pop()} (as {found[0].name}); set "
                "root to the folder that holds the speakers' folders, or pattern to how paths name them"
            )
        names = sorted({recording.fields["speaker"] for recording in found})
        folded = Counter(map(str.casefold, names))
        if alike := [name for name in names if folded[name.casefold()] > 1]:
            rank_zero_warn(f"speakers whose names differ only in case count as different people: {shorten(alike)}")
        number = {name: position for position, name in enumerate(names)}
        return _Layout(
            {tree: os.path.abspath(getattr(self, _TREES[tree])) for tree in trees},
            [recording.name for recording in found],
            np.repeat(list(trees), [len(tree) for tree in trees.values()]),
            names,
            np.array([number[recording.fields["speaker"]] for recording in found]),
            {name: [recording.fields[name] for recording in found] for name in found[0].fields},
        )

    def _load(self) -> Recordings:
        if self._recordings is None:
            if self.source == "synthetic":
                self._recordings = _twin(self.sample_rate_hz)
            else:
                everything = np.arange(len(self._layout.names))
                self._recordings = Recordings.of_files(
                    self._layout.paths(everything), self.sample_rate_hz, self.memory_limit_gb
                )
        return self._recordings

    def _split(self) -> "_Split":
        if self._split_cache is None:
            self._split_cache = self._cut()
        return self._split_cache

    def _cut(self) -> "_Split":
        """Who is heard in which split, and in which files."""
        cut = self._cut_recordings() if self.split_by == "recording" else self._cut_speakers()
        if self.domain is not None:
            names, number = self._domain_of_file()
            wanted = [str(name) for name in (self.domain if isinstance(self.domain, list) else [self.domain])]
            if unknown := [name for name in wanted if name not in names]:
                raise InputError(f"domain: found {shorten(unknown)}; the data have {shorten(names, 20)}")
            own = [names.index(name) for name in wanted]
            cut.files = {split: files[np.isin(number[files], own)] for split, files in cut.files.items()}
            if empty := [split for split, files in cut.files.items() if not len(files)]:
                raise InputError(
                    f"the {empty[0]} split has no recording of domain {shorten(wanted)}; set split_by: recording, or "
                    "change val_speakers and test_speakers"
                )
        return cut

    def _cut_recordings(self) -> "_Split":
        """Recordings in splits, for each domain and label by the same shares."""
        layout = self._layout
        test_share, val_share = (
            default if share is None else float(share)  # type: ignore[arg-type]
            for share, default in ((self.test_speakers, 0.2), (self.val_speakers, 0.1))
        )
        if test_share + val_share >= 1:
            raise InputError(f"val_speakers and test_speakers add up to {val_share + test_share:g}; expected below 1")
        _, strata = np.unique(layout.fields["label"], return_inverse=True)
        strata = strata + (strata.max() + 1) * self._domain_of_file()[1]
        rest, test = stratified_split(strata, test_share, self.seed * 1009 + 1)
        train, val = stratified_split(strata[rest], val_share / (1 - test_share), self.seed * 1009 + 2)
        return _Split({"train": rest[train], "val": rest[val], "test": test}, layout.speakers, {})

    def _cut_speakers(self) -> "_Split":
        layout = self._layout
        pool = np.unique(layout.speaker[layout.tree == 0])
        lists = {split: self._read_list(split) for split in ("test", "val") if getattr(self, f"{split}_trials")}
        held: dict[str, np.ndarray] = {}
        for split in ("test", "val"):
            wanted = getattr(self, f"{split}_speakers")
            if getattr(self, f"{split}_root") is not None:
                held[split] = np.unique(layout.speaker[layout.tree == self._tree(split)])
                self._refuse_both("train", pool, split, held[split])
            elif isinstance(wanted, list):
                known = {layout.speakers[speaker]: speaker for speaker in pool.tolist()}
                chosen = [str(name) for name in wanted]  # YAML reads 1688 as a number
                if unknown := [name for name in chosen if name not in known]:
                    raise InputError(
                        f"{split}_speakers names {shorten(unknown)}, of whom {self.root or self.source} has no "
                        f"recording; it has {shorten(known)}"
                    )
                held[split] = np.array([known[name] for name in chosen])
            elif wanted is None and split in lists:
                held[split] = np.unique(layout.speaker[lists[split].pairs.numpy()])
                if not len(np.setdiff1d(pool, held[split])):
                    raise InputError(
                        f"{split}_trials names all {len(pool)} speakers of {self.root or self.source}, so nobody is "
                        f"left to train on; set {split}_root to that folder and root to another one (VoxCeleb1-E and "
                        "-H name all of VoxCeleb1: train on VoxCeleb2)"
                    )
        if len(held) == 2:
            self._refuse_both("val", held["val"], "test", held["test"])
        least = 2 if self.target == "speaker" else 1
        for purpose, (split, share) in enumerate({"test": 0.2, "val": 0.1}.items(), 1):
            if split not in held:
                rest = np.setdiff1d(pool, np.concatenate([np.empty(0, np.int64), *held.values()]))
                held[split] = self._draw(split, share, rest, len(pool), least, purpose)
        train = np.setdiff1d(pool, np.concatenate(list(held.values())))
        if len(train) < least:
            raise InputError(
                f"{len(train)} of the {len(pool)} speakers of {self.root or self.source} are left to train on, "
                f"expected at least {least}; lower val_speakers and test_speakers, or name fewer"
            )
        files = {"train": np.flatnonzero((layout.tree == 0) & np.isin(layout.speaker, train))}
        for split, speakers in held.items():
            own = np.flatnonzero((layout.tree == self._tree(split)) & np.isin(layout.speaker, speakers))
            if split in lists:
                named = np.unique(lists[split].pairs.numpy())
                if len(outside := np.setdiff1d(layout.speaker[named], speakers)):
                    raise InputError(
                        f"{split}_trials names speakers that are not among {split}_speakers: "
                        f"{shorten(layout.speakers[speaker] for speaker in outside)}; remove {split}_speakers to take "
                        "those of the list"
                    )
                own = named
            files[split] = own
        return _Split(files, [layout.speakers[speaker] for speaker in train], lists)

    def _tree(self, split: str) -> int:
        return _TREES.index(f"{split}_root") if getattr(self, f"{split}_root") is not None else 0

    def _read_list(self, split: str) -> Trials:
        layout, key, tree = self._layout, f"{split}_trials", self._tree(split)
        numbers = {layout.names[file]: file for file in np.flatnonzero(layout.tree == tree).tolist()}
        trials = read_trials(getattr(self, key), numbers, key, layout.roots.get(tree, self.source))
        speakers = layout.speaker[trials.pairs.numpy()]
        if wrong := int((trials.same.numpy() != (speakers[:, 0] == speakers[:, 1])).sum()):
            rank_zero_warn(
                f"{key}: the labels of {wrong} of {len(trials.same)} trials contradict the speakers that the paths "
                "name; the list is believed"
            )
        return trials

    def _refuse_both(self, one: str, ones: np.ndarray, other: str, others: np.ndarray) -> None:
        known = {self._layout.speakers[speaker].casefold() for speaker in ones}  # Anna and anna may be one person
        if both := [
            name for name in (self._layout.speakers[speaker] for speaker in others) if name.casefold() in known
        ]:
            names = shorten(both)
            raise InputError(
                f"{len(both)} speaker(s) stand in {one} and in {other}: {names}; splits are disjoint in speakers, so "
                "remove them from one (or rename them, if they are different people)"
            )

    def _draw(self, split: str, share: float, rest: np.ndarray, total: int, least: int, purpose: int) -> np.ndarray:
        wanted = getattr(self, f"{split}_speakers")
        wanted = share if wanted is None else wanted
        count = max(least, round(wanted * total)) if wanted < 1 else int(wanted)
        if count > len(rest) - least:
            raise InputError(
                f"{split}_speakers asks for {count} of {len(rest)} speakers, and at least {least} are needed for "
                f"training; lower val_speakers and test_speakers, or give more speakers than {total}"
            )
        return np.random.default_rng(self.seed * 1009 + purpose).permutation(rest)[:count]

    def _labels(self) -> tuple[list[str], np.ndarray]:
        """Names of the training labels, and the number of each file's label."""
        labels, files = self._layout.fields["label"], self._split().files
        names = sorted({labels[file] for file in files["train"]})
        number = {name: position for position, name in enumerate(names)}
        for split in ("val", "test"):
            if unknown := sorted({labels[file] for file in files[split]} - set(names)):
                raise InputError(
                    f"the training speakers never say {shorten(unknown)}, which {split} speakers say; change "
                    "val_speakers, test_speakers or seed"
                )
        return names, np.array([number.get(label, UNSEEN) for label in labels])

    def _domain_of_file(self) -> tuple[list[str], np.ndarray]:
        """Names of the domains, and the number of each file's domain."""
        chosen = self.domain_field or ("speaker" if self.target == "label" else None)
        if chosen is None:
            return ["all"], np.zeros(len(self._layout.names), np.int64)
        names, number = np.unique(self._layout.fields[chosen], return_inverse=True)
        return names.tolist(), number

    def _row_numbers(self, split: str) -> np.ndarray:
        """Sample numbers of a split: the file's, plus the number of files for each part after the first."""
        parts = np.arange(getattr(self, _PARTS[split]))
        return (self._split().files[split] + len(self._layout.names) * parts[:, None]).reshape(-1)

    def _dataset(self, split: str) -> RowDataset:
        layout, recordings = self._layout, self._load()
        parts = getattr(self, _PARTS[split])
        length = round((self.crop_s if split == "train" else self.eval_crop_s) * self.sample_rate_hz)
        if self.target == "label":
            targets = self._labels()[1]
        else:
            number = {name: position for position, name in enumerate(self.classes)}
            of_speaker = np.array([number.get(name, UNSEEN) for name in layout.speakers])
            targets = of_speaker[layout.speaker]
        domains, domain = self._domain_of_file()
        member = domain[:, None] == np.arange(len(domains))
        self._tell_short(split, recordings, length, 1 if split == "train" else parts)
        kind = _TrainingRows if split == "train" else RowDataset
        return kind(
            _Crops(recordings, length, parts),
            torch.from_numpy(np.tile(targets, parts)),
            torch.from_numpy(np.tile(member, (parts, 1))),
            torch.from_numpy(self._row_numbers(split)),
        )

    def _tell_short(self, split: str, recordings: Recordings, length: int, parts: int) -> None:
        files = torch.from_numpy(self._split().files[split])
        short = int((recordings.frames[files] // parts < length).sum())
        key, seconds = ("crop_s", self.crop_s) if split == "train" else ("eval_crop_s", self.eval_crop_s)
        what = "recordings" if parts == 1 else f"recordings, cut into {parts} parts each,"
        message = f"{short} of {len(files)} {split} {what} are shorter than {key} ({seconds:g} s): they are repeated"
        if short and message not in recordings.told:
            recordings.told.add(message)
            rank_zero_warn(message)

    def _log_mel(self, device: torch.device) -> LogMel:
        if device not in self._mels:
            self._mels[device] = LogMel(
                self.sample_rate_hz, self.num_mels, window_s=_WINDOW_S, hop_s=_HOP_S, low_hz=_LOW_HZ, floor=_FLOOR
            ).to(device)
        return self._mels[device]


@dataclass
class _Layout:
    """All recordings, sorted by tree and name; a recording's place is its sample number."""

    roots: dict[int, str]
    names: list[str]
    tree: np.ndarray
    speakers: list[str]
    speaker: np.ndarray
    fields: dict[str, list[str]]

    def paths(self, files: np.ndarray) -> list[str]:
        return [os.path.join(self.roots[self.tree[file]], self.names[file]) for file in files.tolist()]


@dataclass
class _Split:
    files: dict[str, np.ndarray]
    train_speakers: list[str]
    trials: dict[str, Trials]


@lru_cache(maxsize=1)
def _twin(sample_rate_hz: int) -> Recordings:
    waveforms, _, _ = synthetic_voices(*_TWIN, sample_rate_hz=sample_rate_hz)
    return Recordings.of_waveforms([*torch.from_numpy(waveforms)])
