"""Speech: features of a batch at once, and a loader that decodes while the network trains."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile
import torch
import torch.nn.functional as F
from measuring import Result, interleave
from torch import Tensor, nn
from torchvision.models import resnet18

from lightning_fusion import SpeakerDataModule
from lightning_fusion.data.audio.features import LogMel
from lightning_fusion.data.synthetic import synthetic_voices

BATCH, CROP_S, RATE = 64, 2.0, 16_000
REPEATS = 5
"""Batches per timing of the features: one takes a moment in which a neighbor's load counts."""
TRAIN_BATCH, STEPS = 32, 8


@contextmanager
def flac_files() -> Iterator[str]:
    """The synthetic twin as FLAC files of 8 s, a folder per speaker."""
    waveforms, speakers, _ = synthetic_voices(num_speakers=40, utterances=9, duration_s=8.0, sample_rate_hz=RATE)
    with TemporaryDirectory() as root:
        for row, (waveform, speaker) in enumerate(zip(waveforms, speakers.tolist(), strict=True)):
            folder = Path(root) / f"speaker_{speaker}"
            folder.mkdir(exist_ok=True)
            soundfile.write(folder / f"{row}.flac", waveform, RATE)
        yield root


def log_mel() -> list[Result]:
    """A batch at once against one utterance after the other."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    results = []
    for device in devices:
        features, waveforms = LogMel().to(device), torch.randn(BATCH, round(CROP_S * RATE), device=device)

        def finish(found: Tensor) -> None:
            found[-1, -1, -1].item()  # waits for the device

        def at_once(features: LogMel = features, waveforms: Tensor = waveforms) -> None:
            for _ in range(REPEATS):
                finish(features(waveforms))

        def one_by_one(features: LogMel = features, waveforms: Tensor = waveforms) -> None:
            for _ in range(REPEATS):
                finish(torch.cat([features(waveform[None]) for waveform in waveforms]))

        times = interleave({"at once": lambda run=at_once: run, "each": lambda run=one_by_one: run}, repeats=15)
        what = f"log-mel of {BATCH} crops of {CROP_S:g} s at once / one by one, {device}"
        results.append(Result.of_pairs("audio", what, times["at once"], times["each"], 1.1))
    return results


def training_step(data: SpeakerDataModule) -> Callable[[Tensor, Tensor], None]:
    """One step of a ResNet-18 on the features of (B, T) waveforms."""
    network = resnet18(num_classes=len(data.classes))
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def step(waveforms: Tensor, targets: Tensor) -> None:
        loss = F.cross_entropy(network(data.preprocess(waveforms)[:, None]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def waiting_share(data: SpeakerDataModule) -> list[float]:
    """Of each step after the first, the time spent waiting for the loader, over the time of the step."""
    step, shares = training_step(data), []
    batches = iter(data.train_dataloader())
    for number in range(STEPS + 1):
        requested = time.perf_counter()
        batch = next(batches)
        came = time.perf_counter()
        step(batch.input, batch.target)
        if number:  # the first one waits for the workers to start
            shares.append((came - requested) / (time.perf_counter() - requested))
    return shares


def measure() -> list[Result]:
    """Features, and waiting with and without workers."""
    results = log_mel()
    with flac_files() as root:
        for workers, target in ((2, 0.05), (0, None)):
            data = SpeakerDataModule(
                root=root,
                crop_s=CROP_S,
                batch_size=TRAIN_BATCH,
                train_crops=2,
                num_workers=workers,
                memory_limit_gb=0.0,
            )
            data.setup("fit")
            shares = sorted(waiting_share(data))
            what = f"waiting for FLAC files / step of a ResNet-18 on {TRAIN_BATCH} crops, {workers} workers"
            results.append(Result("audio", what, shares[len(shares) // 2], target, shares[0], shares[-1]))
    return results
