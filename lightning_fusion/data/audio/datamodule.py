"""Base class of all data modules of recordings: decoding, crops, features and loaders."""

import os
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_fusion.data.audio.crops import Crops, CropSampler, TrainingRows
from lightning_fusion.data.audio.features import LogMel
from lightning_fusion.data.audio.files import MEMORY_LIMIT_GB, Recordings
from lightning_fusion.data.audio.layout import AudioLayout, check_files, find_trees
from lightning_fusion.data.audio.new_recordings import read_new_recordings
from lightning_fusion.data.audio.splits import AudioSplit, check_speakers
from lightning_fusion.data.base import SPLITS, Stage, staged_property
from lightning_fusion.data.domains import ModalityDataModule, domain_matrix
from lightning_fusion.data.duplicates import Samples, equal_files, equal_rows
from lightning_fusion.data.names import merge_message, similar_message
from lightning_fusion.data.rows import NewRows, Origins, RowDataset
from lightning_fusion.data.statistics import mean_and_deviation, spectrum_statistics
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import require
from lightning_fusion.files import digest, row_digests

_PARTS = {"train": "train_crops", "val": "val_segments", "test": "test_segments"}
_LONGEST_S = 3600
_WINDOW_S, _HOP_S, _LOW_HZ, _FLOOR = 0.025, 0.01, 20.0, 1e-6


class BaseAudioDataModule(ModalityDataModule):
    """Recordings of speakers; base class of all audio tasks and sources.

    The loader yields waveforms (B, T) in [-1, 1]: files are decoded once into memory if they fit, else slice by
    slice. In training each epoch draws a new crop of a recording, a function of (seed, epoch, recording). On the
    device the batch is augmented (in training) and transformed to log-mel features.

    A source is a subclass of a task's base class: its constructor passes ``**shared`` on, stores its own arguments as
    attributes and ends with ``self._configure()``, which validates them; it implements :meth:`read_layout` and
    :meth:`read_recordings`.

    Args:
        val_speakers: Validation speakers: a fraction below 1, a number, or a list of names. ``None`` (default) means
            0.1.
        test_speakers: Test speakers: a fraction below 1, a number, or a list of names. ``None`` (default) means 0.2.
        domain_field: Field of the recordings (``speaker``, or a field of the path pattern) whose values name the
            domains.
        val_segments: Number of equal parts into which validation recordings are cut, each a sample.
        test_segments: Number of parts of test recordings, likewise.
        train_crops: Number of crops of every recording in an epoch; raise it for long recordings.
        sample_rate_hz: Sample rate to which recordings are resampled.
        crop_s: Length of training samples.
        eval_crop_s: Length of validation and test samples, from the middle of each recording, or of its parts.
        short: What happens to recordings that are shorter than a sample: ``repeat`` repeats them, ``pad`` fills the end
            with zeros.
        frontend: ``log_mel`` (B, num_mels, frames) or ``waveform`` (B, T).
        num_mels: Number of bands of the log-mel features.
        augmentation: Module applied to (B, T) waveforms in training only, such as
            :class:`~lightning_fusion.data.audio.augmentation.SpeechAugmentation`.
        **loading: ``batch_size``, ``num_workers``, ``seed`` and ``predict_root`` of
            :class:`~lightning_fusion.data.domains.ModalityDataModule`.

    Raises:
        InputError: Where an argument is out of range or does not fit the recordings.
    """

    needs: ClassVar[tuple[str, ...]] = ("speaker",)
    """Fields that every recording must have (:attr:`AudioLayout.fields`)."""
    splits_may_be_empty: ClassVar[bool] = False
    """Whether ``val_speakers`` and ``test_speakers`` may be 0."""
    stage_of = {
        "sample_rate_hz": Stage.CUTTING,
        **dict.fromkeys(("val_speakers", "test_speakers", "domain_field", "seed"), Stage.SPLITTING),
        **dict.fromkeys(("val_segments", "test_segments", "train_crops", "crop_s", "eval_crop_s"), Stage.USING),
        **dict.fromkeys(("short", "frontend", "num_mels", "augmentation", "batch_size", "num_workers"), Stage.USING),
    }

    def __init__(
        self,
        val_speakers: int | float | list[str | int] | None = None,
        test_speakers: int | float | list[str | int] | None = None,
        domain_field: str | None = None,
        val_segments: int = 1,
        test_segments: int = 1,
        train_crops: int = 1,
        sample_rate_hz: int = 16_000,
        crop_s: float = 2.0,
        eval_crop_s: float = 4.0,
        short: Literal["repeat", "pad"] = "repeat",
        frontend: Literal["log_mel", "waveform"] = "log_mel",
        num_mels: int = 80,
        augmentation: nn.Module | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        require("torchaudio", "audio")  # fails here, not at the first batch
        self.val_speakers, self.test_speakers, self.domain_field = val_speakers, test_speakers, domain_field
        self.val_segments, self.test_segments, self.train_crops = val_segments, test_segments, train_crops
        self.sample_rate_hz, self.crop_s, self.eval_crop_s = sample_rate_hz, crop_s, eval_crop_s
        self.short, self.frontend, self.num_mels, self.augmentation = short, frontend, num_mels, augmentation

    # ------------------------------------ what a source and a task implement

    def read_layout(self) -> AudioLayout:
        """Find the recordings, without opening a file."""
        raise NotImplementedError(f"{type(self).__name__} must implement read_layout()")

    def read_recordings(self, layout: AudioLayout) -> Recordings:
        """Read the recordings at ``self.sample_rate_hz``.

        Args:
            layout: Result of :meth:`read_layout`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement read_recordings(layout)")

    def cut(self) -> AudioSplit:
        """Assign the recordings to splits; :attr:`split` caches the result."""
        raise NotImplementedError(f"{type(self).__name__} must implement cut()")

    def targets(self) -> np.ndarray:
        """Return the (N,) int64 target of each recording."""
        raise NotImplementedError(f"{type(self).__name__} must implement targets()")

    # --------------------------------------------------------------- metadata

    @staged_property(Stage.READING)
    def layout(self) -> AudioLayout:
        """Names and fields of all recordings."""
        layout = self.read_layout()
        for name in self.needs:
            self._check_field(name, layout, "add it to their layout")
        for name in dict.fromkeys([*self.needs, *filter(None, [self.domain_field])]):
            self.messages.warn(merge_message(layout.merged.get(name, {}), f"{name}s"))
            if name != "label":  # labels may be renamed
                self.messages.warn(similar_message(sorted(set(layout.fields.get(name, ()))), f"{name}s", "rename one"))
        return layout

    @staged_property(Stage.CUTTING)
    def recordings(self) -> Recordings:
        """Waveforms of the recordings."""
        recordings = self.read_recordings(self.layout)
        for message in recordings.warnings(self.layout.names):
            self.messages.warn(message)
        return recordings

    @staged_property(Stage.SPLITTING)
    def split(self) -> AudioSplit:
        """Recordings of each split."""
        cut = self.cut()
        own = self.domain_field or "speaker"
        self._report_duplicates(self.layout, "recordings", self._equal_recordings, self._described, f"{own}s")
        return cut

    def whole_split(self) -> AudioSplit:
        """Return the recordings of each split, of all domains."""
        return self.cut()

    def _equal_recordings(self) -> np.ndarray | None:
        """Return the (N,) first recording of the same content for each recording."""
        if self.layout.roots:
            return equal_files(self.layout.paths())
        recordings = self.recordings
        if recordings.samples is None:
            return None
        return equal_rows(recordings.samples.numpy(), recordings.begins.numpy(), recordings.frames.numpy())

    def _described(self) -> Samples:
        """Labels, domains (or speakers) and splits of all recordings."""
        layout = self.layout
        split = np.full(len(layout.names), -1)
        for number, name in enumerate(SPLITS):
            split[self.whole_split().files[name]] = number
        domains, domain = np.unique(layout.fields[self.domain_field or "speaker"], return_inverse=True)
        labels = getattr(self, "label_of_file", [""] * len(split))
        label = np.unique(labels, return_inverse=True)[1]
        return Samples(
            lambda row: layout.names[row], label, domain=domain, split=split, domains=domains.tolist(), splits=SPLITS
        )

    @property
    def domains(self) -> list[str]:
        """Names of the columns of ``Batch.domain``; domains do not overlap."""
        return self._domain_of_file()[0]

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains of the training recordings."""
        names, number = self._domain_of_file()
        return [names[domain] for domain in np.unique(number[self.split.files["train"]])]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Parameters of the transformation from waveforms to network input."""
        settings: dict[str, Any] = {
            "frontend": self.frontend,
            "sample_rate_hz": self.sample_rate_hz,
            "short": self.short,
        }
        if self.frontend == "log_mel":
            settings |= {
                "num_mels": self.num_mels,
                "window_s": _WINDOW_S,
                "hop_s": _HOP_S,
                "low_hz": _LOW_HZ,
                "floor": _FLOOR,
                "normalization": "mean over time",
            }
        return settings

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of samples (names and sizes, if files are read lazily), labels and preprocessing."""
        dataset = self.rows(split)
        files, layout, recordings = self.split.files[split], self.layout, self.recordings
        if recordings.samples is None:
            content: Any = "\n".join(
                f"{layout.names[file]}:{os.path.getsize(path)}"
                for file, path in zip(files, layout.paths(files), strict=True)
            )
        else:
            ends = (recordings.begins + recordings.frames).tolist()
            content = digest(*(recordings.samples[int(recordings.begins[file]) : ends[file]] for file in files))
        lengths = self.crop_s if split == "train" else self.eval_crop_s, getattr(self, _PARTS[split])
        rows = dataset.rows
        return digest(content, dataset.targets[rows], dataset.domains[rows], rows, lengths, self.preprocessing)

    def content_digests(self, dataset: RowDataset, rows: Tensor) -> np.ndarray:
        """Return digests of whole recordings: names and sizes, if files are read lazily."""
        layout, recordings = self.layout, self.recordings
        files, of_row = np.unique(rows.numpy() % len(layout.names), return_inverse=True)
        if recordings.samples is None:
            paths = layout.paths(files)
            found = row_digests([f"{layout.names[n]}:{os.path.getsize(p)}" for n, p in zip(files, paths, strict=True)])
        else:
            ends = (recordings.begins + recordings.frames).tolist()
            pieces = [recordings.samples[int(recordings.begins[file]) : ends[file]].numpy().tobytes() for file in files]
            found = row_digests(pieces)
        result: np.ndarray = found[of_row]
        return result

    def notes(self, index: Tensor) -> list[str]:
        """Return what a prediction of each sample should be read with: no sound, a part of a recording, repetition."""
        split_of = {file: split for split in SPLITS for file in self.split.files[split].tolist()}
        found = []
        for file in (index % len(self.layout.names)).tolist():
            split = split_of.get(file, "test")
            parts = 1 if split == "train" else getattr(self, _PARTS[split])
            found.append(self.recordings.note(file, parts, self._seconds(split), self.sample_rate_hz, self.short))
        return found

    def origins(self, index: Tensor) -> Origins:
        """Return the recording of each sample, and the start of the part that validation and testing use."""
        layout = self.layout
        file, part = index % len(layout.names), index // len(layout.names)
        split_of = np.full(len(layout.names), SPLITS.index("test"))
        for number, split in enumerate(SPLITS):
            split_of[self.split.files[split]] = number
        parts = torch.tensor([getattr(self, _PARTS[split]) if split != "train" else 1 for split in SPLITS])
        length = torch.tensor([round(self._seconds(split) * self.sample_rate_hz) for split in SPLITS])
        own = torch.from_numpy(split_of)[file]
        spans = self.recordings.frames[file] // parts[own]
        starts = part.clamp(max=parts[own] - 1) * spans + (spans - length[own]).clamp(min=0) // 2
        names = layout.paths() if layout.roots else layout.names
        return Origins(names, file.numpy(), (starts / self.sample_rate_hz).double().numpy(), "start_s")

    def speaker_of(self, index: Tensor) -> Tensor:
        """Return the int64 speaker indices of samples by their ``Batch.index``, of the same shape."""
        return torch.from_numpy(self.layout.speaker)[index % len(self.layout.names)]

    def new_rows(self, root: str) -> NewRows:
        """Read an audio file, or all audio files in a folder and the folders in it; samples are those of testing.

        A file that cannot be read has a note and no sample.
        """
        limit = getattr(self, "memory_limit_gb", MEMORY_LIMIT_GB)
        new = read_new_recordings(root, self.sample_rate_hz, limit, self.messages)
        return new.samples(self.eval_crop_s, self.test_segments, self.short)

    def statistics(self, split: str = "train") -> Tensor:
        """Return light statistics of the samples of a split, which a domain may publish.

        Mean over samples of the moments of log-mel features over time
        (:func:`~lightning_fusion.data.statistics.spectrum_statistics`), then their standard deviations: four numbers
        per band.

        Returns:
            (S,) float32.
        """
        dataset = self.rows(split)
        mel = self._log_mel(torch.device("cpu"))
        crops = (dataset.inputs[chunk] for chunk in dataset.rows.split(self.batch_size))
        return torch.cat(mean_and_deviation(spectrum_statistics(mel.raw(crop.float())) for crop in crops)).float()

    # ------------------------------------------------------------- Lightning

    def _read_samples(self) -> None:
        self.split, self.recordings  # noqa: B018  # computed on access and kept

    def train_dataloader(self) -> DataLoader[Any]:
        """Return batches of random crops; order and crops depend on (seed, epoch)."""
        return self._loader("train", CropSampler)

    def preprocess(self, waveforms: Tensor, augment: bool = False) -> Tensor:
        """Turn (B, T) waveforms in [-1, 1] into network input: (B, num_mels, frames), or (B, T) unchanged."""
        floats = waveforms.float()
        with torch.no_grad(), torch.autocast(waveforms.device.type, enabled=False):
            if augment and self.augmentation is not None:
                floats = self.augmentation(floats)
            if self.frontend == "log_mel":
                floats = self._log_mel(waveforms.device)(floats)
        return floats.to(waveforms.dtype)

    # -------------------------------------------------------------- internals

    def _check(self) -> None:
        super()._check()
        self._check_choices({"frontend": ("log_mel", "waveform"), "short": ("repeat", "pad")})
        self._check_minimum(1, "val_segments", "test_segments", "train_crops", "num_mels")
        if not 4000 <= self.sample_rate_hz <= 192_000:
            raise InputError(f"sample_rate_hz is {self.sample_rate_hz}; expected 4000 to 192000")
        for name in ("crop_s", "eval_crop_s"):
            if not 0.1 <= getattr(self, name) <= _LONGEST_S:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0.1 to {_LONGEST_S} seconds")
        for name in ("val_speakers", "test_speakers"):
            check_speakers(name, getattr(self, name), self.splits_may_be_empty)
        rate = getattr(self.augmentation, "sample_rate_hz", self.sample_rate_hz)
        if rate != self.sample_rate_hz:
            raise InputError(f"the augmentation expects {rate} Hz, the data has sample_rate_hz {self.sample_rate_hz}")

    def _domain_of_file(self) -> tuple[list[str], np.ndarray]:
        """Names of the domains, and the domain index of each file."""
        if self.domain_field is None:
            return ["all"], np.zeros(len(self.layout.names), np.int64)
        self._check_field(self.domain_field, self.layout, "change domain_field, or add it to their layout")
        names, number = np.unique(self.layout.fields[self.domain_field], return_inverse=True)
        return names.tolist(), number

    def _check_field(self, name: str, layout: AudioLayout, mend: str) -> None:
        if name not in layout.fields:
            known = shorten(sorted(layout.fields))
            raise InputError(f"the recordings have no {name}, only {known}; {mend}")

    def _row_numbers(self, split: str) -> np.ndarray:
        """Sample indices of a split: that of the file, plus the number of files for each part after the first."""
        parts = np.arange(getattr(self, _PARTS[split]))
        result: np.ndarray = (self.split.files[split] + len(self.layout.names) * parts[:, None]).reshape(-1)
        return result

    def make_rows(self, split: str) -> RowDataset:
        """Return the recordings, or parts of them, of a split."""
        recordings, parts = self.recordings, getattr(self, _PARTS[split])
        key, seconds = "crop_s" if split == "train" else "eval_crop_s", self._seconds(split)
        length = round(seconds * self.sample_rate_hz)
        files, cuts = torch.from_numpy(self.split.files[split]), 1 if split == "train" else parts
        frames = recordings.frames[files] // cuts
        what = f"{split} recordings" + ("" if cuts == 1 else f", cut into {cuts} parts each,")
        if short := int((frames < length).sum()):
            how = "repeated (short: pad fills them with zeros)" if self.short == "repeat" else "padded with zeros"
            self.messages.warn(f"{short} of {len(files)} {what} are shorter than {key} ({seconds:g} s): they are {how}")
        if split != "train" and (long := int((frames > length).sum())):
            used = float((length / frames[frames > length]).mean())
            self.messages.info(
                f"{long} of {len(files)} {what} are longer than eval_crop_s ({seconds:g} s): their middle is used, "
                f"{used:.0%} of each on average; raise eval_crop_s, or {split}_segments for several samples of each"
            )
        names, number = self._domain_of_file()
        kind = TrainingRows if split == "train" else RowDataset
        return kind(
            Crops(recordings, length, parts, pad=self.short == "pad"),
            torch.from_numpy(np.tile(self.targets(), parts)),
            domain_matrix(number, len(names)).repeat(parts, 1),
            torch.from_numpy(self._row_numbers(split)),
        )

    def _seconds(self, split: str) -> float:
        """Length of the samples of a split."""
        return self.crop_s if split == "train" else self.eval_crop_s

    @staged_property(Stage.USING)
    def _mels(self) -> dict[torch.device, LogMel]:
        return {}

    def _log_mel(self, device: torch.device) -> LogMel:
        if device not in self._mels:
            self._mels[device] = LogMel(
                self.sample_rate_hz, self.num_mels, window_s=_WINDOW_S, hop_s=_HOP_S, low_hz=_LOW_HZ, floor=_FLOOR
            ).to(device)
        return self._mels[device]


class AudioFilesDataModule(BaseAudioDataModule):
    """Source of audio files with fields in their paths; to be combined with the base class of a task.

    Args:
        root: Folder of the training recordings, and of all splits without a folder of their own.
        pattern: Pattern of paths relative to a root, with the field ``{speaker}`` and others; ``*`` matches any part
            of a name, ``**`` any folders. ``{speaker}/**`` matches ``root/<speaker>/**/*.wav`` of VoxCeleb and
            LibriSpeech, ``{label}_{speaker}_{utterance}.wav`` the Free Spoken Digit Dataset.
        val_root: Folder of the validation recordings, if separate.
        test_root: Folder of the test recordings, if separate.
        memory_limit_gb: Recordings larger than this (4 bytes per sample) stay on disk and are read batch by batch.
        **shared: Arguments of the base class of the task.
    """

    def __init__(
        self,
        root: str,
        pattern: str,
        val_root: str | None = None,
        test_root: str | None = None,
        memory_limit_gb: float = MEMORY_LIMIT_GB,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.root, self.pattern, self.memory_limit_gb = root, pattern, memory_limit_gb
        self.val_root, self.test_root = val_root, test_root

    def read_layout(self) -> AudioLayout:
        """Find the files."""
        return find_trees(self.root, self.val_root, self.test_root, self.pattern, self.messages)

    def read_recordings(self, layout: AudioLayout) -> Recordings:
        """Inspect the files, and decode them if they fit into memory."""
        recordings = Recordings.of_files(layout.paths(), self.sample_rate_hz, self.memory_limit_gb)
        if recordings.files is not None:
            recordings.files.check_different()
        return recordings

    def _check(self) -> None:
        super()._check()
        check_files(self.pattern, [*self.needs, *filter(None, [self.domain_field])], self.memory_limit_gb)
        for split in ("val", "test"):
            if getattr(self, f"{split}_root") is not None and getattr(self, f"{split}_speakers") is not None:
                raise InputError(f"{split}_root has speakers of its own; remove {split}_speakers or {split}_root")
