"""Recordings on disk: found by a path pattern, read in slices, held in memory if they fit."""

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import track
from torch import Tensor

from lightning_fusion.data.domains import MessageLog
from lightning_fusion.data.patterns import FoundFile, find_files
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import require

AUDIO_SUFFIXES = {".aif", ".aiff", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"}
"""Files that libsndfile 1.1 or newer decodes, the one in the wheels of soundfile 0.13."""
MEMORY_LIMIT_GB = 4.0
_LARGEST_FILTER = 20_000_000
"""Maximum number of resampling coefficients, 0.2 GB with intermediate arrays; usual rates take under 300,000."""
LOUDEST = 10.0
"""Floating-point samples beyond this are rejected as unscaled integers, not audio in [-1, 1]. Our choice."""
_CLIPPED = 1.25  # 2 dB above full scale; decoders of compressed audio exceed it a little
_SILENT = 1e-3  # standard deviation of the samples: -60 dB of full scale
_CANCELED = 1e-2  # power of the mean of all channels relative to theirs: -20 dB
_BLOCK_S = 60.0
_SKIPPED = 2**20  # frames decoded at once before a part
_PROBE_S = 3.0  # examined part of recordings that stay on disk


def find_recordings(
    root: str | Path, pattern: str, key: str = "root", messages: MessageLog | None = None
) -> list[FoundFile]:
    """Find all audio files under a folder that match a path pattern."""
    hint = "{speaker} in place of the speaker's name"
    return find_files(root, pattern, AUDIO_SUFFIXES, "audio file", hint, key, messages)


class UnreadableAudioError(InputError):
    """Error about audio files that cannot be read.

    Args:
        message: Text of the error.
        problems: Path and reason of each such file, by its number.
    """

    def __init__(self, message: str, problems: Mapping[int, str]) -> None:
        super().__init__(message)
        self.problems = dict(problems)


@dataclass
class Recordings:
    """Recordings of one sample rate with random access to any part.

    Attributes:
        frames: (N,) int64, length of each in samples.
        samples: Concatenated samples of all recordings, or ``None`` if they are read from disk.
        begins: (N,) int64, start of each recording in ``samples``.
        files: Reader of files on disk; ``None`` for recordings made in memory.
        silent: (N,) bool, recordings below -60 dB of full scale.
    """

    frames: Tensor
    samples: Tensor | None
    begins: Tensor
    files: "AudioFiles | None" = None
    silent: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.silent = np.zeros(len(self.frames), bool)
        if self.samples is not None:
            self._listen()

    def _listen(self) -> None:
        """Find silent recordings in memory."""
        assert self.samples is not None
        for number, (begin, count) in enumerate(zip(self.begins.tolist(), self.frames.tolist(), strict=True)):
            self.silent[number] = is_silent(self.samples[begin : begin + count])

    @classmethod
    def of_waveforms(cls, waveforms: Sequence[Tensor]) -> "Recordings":
        """Create recordings from waveforms in memory, each (T,) float32."""
        frames = torch.tensor([len(waveform) for waveform in waveforms])
        return cls(frames, torch.cat(list(waveforms)), frames.cumsum(0) - frames)

    @classmethod
    def of_files(cls, paths: list[str], sample_rate_hz: int, memory_limit_gb: float) -> "Recordings":
        """Inspect all files, and decode them if they fit into the limit.

        Raises:
            UnreadableAudioError: If files cannot be read; the message lists them.
        """
        files = AudioFiles(paths, sample_rate_hz)
        frames = torch.from_numpy(files.frames)
        total = int(frames.sum())
        recordings = cls(frames, None, frames.cumsum(0) - frames, files)
        if 4 * total > memory_limit_gb * 1e9:
            hours = total / sample_rate_hz / 3600
            rank_zero_info(f"{hours:.0f} h of audio do not fit into {memory_limit_gb} GB: read batch by batch")
            recordings.silent = files.probe(_PROBE_S)
            return recordings
        samples = torch.empty(total)

        def store(number: int) -> None:
            begin = int(recordings.begins[number])
            samples[begin : begin + files.frames[number]] = files.read(number, 0, int(files.frames[number]))

        _check_each(store, len(paths), "Decoding audio")
        recordings.samples = samples
        recordings._listen()
        return recordings

    def warnings(self, names: Sequence[str]) -> list[str]:
        """Return warnings about recordings that are upsampled, clipped or silent, or whose channels cancel one another.

        Args:
            names: Names of the recordings.
        """
        found = []

        def some(where: np.ndarray) -> tuple[str, str]:
            which = (names[number] for number in np.flatnonzero(where).tolist())
            return f"{int(where.sum())} of {len(names)} recordings", shorten(which, 3)

        if self.files is not None:
            rates, target = self.files.rates, self.files.sample_rate_hz
            if (lower := rates < target).any():
                many, which = some(lower)
                at = shorten(f"{rate} Hz" for rate in np.unique(rates[lower]))
                found.append(
                    f"{many} have a lower sample rate ({at}) than sample_rate_hz {target} and are upsampled, without "
                    f"content above half their rate: {which}; set sample_rate_hz to {rates.min()} to avoid it"
                )
            if self.files.canceled.any():
                many, which = some(self.files.canceled)
                found.append(
                    f"{many} have channels of opposite phase, whose mean is 20 dB or more below them: {which}; invert "
                    "one channel, or store only one"
                )
        if self.files is not None and self.files.clipped.any():
            many, which = some(self.files.clipped)
            found.append(
                f"{many} exceed full scale by more than 2 dB and are clipped to [-1, 1]: {which}; divide them by their "
                "largest value"
            )
        if self.silent.any():
            many, which = some(self.silent)
            found.append(f"{many} are silent (below -60 dB of full scale): {which}; remove them")
        return found

    def note(self, number: int, parts: int, seconds: float, sample_rate_hz: int, short: str) -> str:
        """Return what a prediction of a recording should be read with: no sound, a part of it, repetition.

        Args:
            number: Index of the recording.
            parts: Number of parts into which it is cut.
            seconds: Length of a sample.
            sample_rate_hz: Sample rate.
            short: ``repeat`` or ``pad``, what happens to shorter parts.
        """
        length, frames = round(seconds * sample_rate_hz), int(self.frames[number]) // parts
        found = ["silent"] if self.silent[number] else []
        if self.files is not None and self.files.canceled[number]:
            found.append("channels of opposite phase")
        if frames > length:
            found.append(f"the middle {length / sample_rate_hz:g} s of {frames / sample_rate_hz:.2f} s")
        elif frames < length:
            how = "repeated" if short == "repeat" else "padded"
            found.append(f"{frames / sample_rate_hz:.2f} s {how} to {length / sample_rate_hz:g} s")
        return ", ".join(found)

    def read(self, numbers: Tensor, starts: Tensor, spans: Tensor, length: int, pad: bool = False) -> Tensor:
        """Read parts of recordings at one length; shorter parts are repeated, or padded.

        Args:
            numbers: (B,) int64, indices of the recordings.
            starts: (B,) int64, start of each part, in samples.
            spans: (B,) int64, length of each part, in samples.
            length: T, length of the result.
            pad: Fill the end of shorter parts with zeros instead.

        Returns:
            (B, T) float32 in [-1, 1].
        """
        waveforms = torch.empty(len(numbers), length)
        short = spans < length
        if self.samples is None:
            assert self.files is not None
            parts = zip(numbers.tolist(), starts.tolist(), spans.clamp(max=length).tolist(), strict=True)
            for row, (number, start, span) in enumerate(parts):
                part = self.files.read(number, start, span)
                waveforms[row] = part.repeat(-(-length // span))[:length] if span < length else part
            return _padded(waveforms, spans) if pad else waveforms
        places = self.begins[numbers] + starts
        if not short.all():
            waveforms[~short] = self.samples.unfold(0, length, 1)[places[~short]]
        if short.any():
            waveforms[short] = self.samples[places[short, None] + torch.arange(length) % spans[short, None]]
        return _padded(waveforms, spans) if pad else waveforms


def _padded(waveforms: Tensor, spans: Tensor) -> Tensor:
    """Set samples behind the end of each part to zero."""
    return waveforms.masked_fill_(torch.arange(waveforms.shape[1]) >= spans[:, None], 0.0)


def is_silent(waveform: Tensor) -> bool:
    """Return whether a waveform (T,) in [-1, 1] has no sound: a standard deviation below 0.001, -60 dB.

    Example:
        >>> is_silent(torch.full((100,), 0.5)), is_silent(torch.linspace(-0.1, 0.1, 100))
        (True, False)
    """
    return bool(waveform.std(correction=0) < _SILENT)


class AudioFiles:
    """Reader of files as mono waveforms of one sample rate; reads any slice without decoding the rest.

    MP3 and Ogg Vorbis are decoded from their start, an hour in a few seconds: libsndfile's seek is not exact in them
    (https://github.com/libsndfile/libsndfile/issues/885; MP3 lacks the bits that earlier frames contain).

    Args:
        paths: WAV, FLAC, MP3, Ogg or AIFF files of any sample rate and number of channels.
        sample_rate_hz: Sample rate to which they are resampled.

    Attributes:
        frames: (N,) int64, length of each after resampling.
        rates: (N,) int64, sample rate of each file.
        canceled: (N,) bool, files whose channels have opposite phases: their mean, which is used, is more than 20 dB
            below them. Known for parts that were read.
        clipped: (N,) bool, files with samples more than 2 dB above full scale; they are clipped to [-1, 1].

    Raises:
        UnreadableAudioError: If files are empty, truncated or no audio; the message lists them.
    """

    def __init__(self, paths: list[str], sample_rate_hz: int) -> None:
        self.paths, self.sample_rate_hz = paths, sample_rate_hz
        self.rates = np.zeros(len(paths), np.int64)
        self._stored = np.zeros(len(paths), np.int64)
        self.canceled, self.clipped = np.zeros(len(paths), bool), np.zeros(len(paths), bool)
        self._on_disk: list[tuple[int, int]] = [(0, 0)] * len(paths)
        self._from_start = np.zeros(len(paths), bool)
        self._resamplers: dict[int, Any] = {}
        found = enumerate(_for_each(self._look, len(paths), "Looking at audio"))
        # Once more, without threads: libsndfile has one error number for all of them (its issue 610).
        if problems := {number: problem for number, failed in found if failed and (problem := self._look(number))}:
            raise UnreadableAudioError(
                f"{len(problems)} audio file(s) cannot be read: {shorten(problems.values(), 3)}; repair or remove them",
                problems,
            )
        divisor = np.gcd(self.rates, sample_rate_hz)
        self._up, self._down = sample_rate_hz // divisor, self.rates // divisor
        self.frames = -(-self._stored * self._up // self._down)
        for rate in np.unique(self.rates).tolist():
            self._resamplers[rate] = require("torchaudio.transforms", "audio").Resample(rate, sample_rate_hz)

    def _look(self, number: int) -> str | None:
        soundfile = require("soundfile", "audio")
        path = self.paths[number]
        try:
            about = os.stat(path)
            if not stat.S_ISREG(about.st_mode):  # opening a named pipe would block
                return f"{path} (no file)"
            if not about.st_size:
                return f"{path} (empty)"
            self._on_disk[number] = about.st_dev, about.st_ino
            with soundfile.SoundFile(path) as file:
                self.rates[number], self._stored[number] = file.samplerate, file.frames
                self._from_start[number] = file.format == "MP3" or file.subtype == "VORBIS"
                if not file.frames:
                    return f"{path} (empty)"
                common = math.gcd(file.samplerate, self.sample_rate_hz)
                if file.samplerate * self.sample_rate_hz > _LARGEST_FILTER * common**2:
                    return f"{path} ({file.samplerate} Hz, which has no small ratio to {self.sample_rate_hz} Hz)"
                if file.format in ("WAV", "WAVEX"):
                    cut = re.search(r"^ *data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
                    if cut and int(cut[2]) < int(cut[1]) < 2**31 - 2**16:  # a stream's header holds the largest number
                        return f"{path} (truncated: {cut[2]} of {cut[1]} bytes)"
                elif file.format != "MP3":
                    file.seek(file.frames - 1)
                    if len(file.read(1)) != 1:
                        return f"{path} (truncated)"
        except UnicodeError:
            return f"{path!r} (its name is no UTF-8)"
        except Exception as error:  # of any decoder
            return f"{path} ({'truncated' if self._stored[number] else _reason(error)})"
        return None

    def check_different(self) -> None:
        """Raise InputError for a recording under two names (links, nested roots): it could be in two splits."""
        first: dict[tuple[int, int], int] = {}
        doubled = [
            " is ".join(dict.fromkeys((self.paths[number], self.paths[first[place]])))  # nested roots give one path
            for number, place in enumerate(self._on_disk)
            if place[1] and first.setdefault(place, number) != number  # some file systems have no inode numbers
        ]
        if doubled:
            raise InputError(
                f"{len(doubled)} audio file(s) are found twice, by links or nested roots: "
                f"{shorten(doubled, 3)}; remove one of each pair, or change pattern or root"
            )

    def read(self, number: int, start: int, count: int) -> Tensor:
        """Read samples ``start`` to ``start + count`` of the resampled file as (count,) float32."""
        up, down = int(self._up[number]), int(self._down[number])
        if up == down:
            return self._decode(number, start, count).clamp_(-1, 1)
        # Blocks of `down` stored samples become blocks of `up` samples; the filter reaches some blocks to both sides.
        reach = math.ceil(6 * down / (min(up, down) * 0.99) / down) + 1
        first = max(0, start // up - reach)
        last = min(int(self._stored[number]), (-(-(start + count) // up) + reach) * down)
        samples = self._decode(number, first * down, last - first * down)
        resampled = self._resamplers[int(self.rates[number])](samples)
        result: Tensor = resampled[start - first * up :][:count].clamp(-1, 1)
        return result

    def probe(self, seconds: float) -> np.ndarray:
        """Read the middle of each file, and those that are silent there as a whole; return which are silent, (N,) bool.

        Args:
            seconds: Length of the part that is read.
        """
        silent = np.zeros(len(self.paths), bool)

        def examine(number: int) -> None:
            whole = int(self._stored[number])
            count = min(whole, round(seconds * self.rates[number]))
            if is_silent(self._decode(number, (whole - count) // 2, count)):
                silent[number] = count == whole or self._is_silent(number)

        _check_each(examine, len(self.paths), "Examining audio")
        return silent

    def _is_silent(self, number: int) -> bool:
        """Return whether a whole file is silent; it is read in blocks, since a small file may last for days."""
        whole, total, squares = int(self._stored[number]), 0.0, 0.0
        block = int(_BLOCK_S * self.rates[number])
        for start in range(0, whole, block):
            samples = self._decode(number, start, min(block, whole - start)).double()
            total, squares = total + float(samples.sum()), squares + float(samples.square().sum())
            if squares / whole - (total / whole) ** 2 > 4 * _SILENT**2 and start == 0:
                return False
        return squares / whole - (total / whole) ** 2 < _SILENT**2

    def _decode(self, number: int, start: int, count: int) -> Tensor:
        soundfile = require("soundfile", "audio")
        path = self.paths[number]
        try:
            with soundfile.SoundFile(path) as file:
                if self._from_start[number]:
                    for begin in range(0, start, _SKIPPED):
                        file.read(min(_SKIPPED, start - begin), dtype="float32")
                else:
                    file.seek(start)
                samples = torch.from_numpy(file.read(count, dtype="float32", always_2d=True))
        except Exception as error:  # of any decoder
            raise InputError(f"{path} cannot be decoded ({_reason(error)}); repair or remove it") from error
        if len(samples) != count:
            raise InputError(f"{path} is truncated: sample {start + len(samples)} is missing; repair or remove it")
        mono = samples.mean(1) if samples.shape[1] > 1 else samples[:, 0]
        if samples.shape[1] > 1 and (power := float(samples.square().mean())) > _SILENT**2:
            self.canceled[number] |= float(mono.square().mean()) < _CANCELED * power
        loudest = float(mono.abs().amax())  # NaN and infinity pass through a maximum
        self.clipped[number] |= loudest > _CLIPPED
        if not loudest <= LOUDEST:
            found = f"samples up to {loudest:.6g}" if math.isfinite(loudest) else "samples that are NaN or infinite"
            raise InputError(f"{path} has {found}; expected audio in [-1, 1]: repair or remove it")
        return mono


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if getattr(error, "code", None) == 0:  # libsndfile's error number was reset by another thread
        return "no reason is known"
    return str(error).rpartition(": ")[2].rstrip(".").lower()


def _check_each(work: Callable[[int], None], count: int, what: str) -> None:
    """Call ``work`` for 0..count-1 in threads; one error names all files that cannot be read."""

    def problem(number: int) -> str | None:
        try:
            work(number)
        except InputError as error:
            return str(error)
        return None

    if problems := {number: text for number, text in enumerate(_for_each(problem, count, what)) if text}:
        first = next(iter(problems.values()))
        more = f" ({len(problems)} such audio files)" if len(problems) > 1 else ""
        raise UnreadableAudioError(first + more, problems)


def _for_each(work: Callable[[int], str | None], count: int, what: str) -> list[str | None]:
    """Call ``work`` for 0..count-1 in threads; libsndfile and the resampler release Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results: Iterable[str | None] = threads.map(work, range(count))
        return list(track(results, what, total=count, transient=True, disable=count < 2000))
