"""Texts: tokenised once, batches of similar length, the masked mean."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Result, interleave
from torch import nn
from torch.utils.data import DataLoader

from lightning_fusion import TextDataModule
from lightning_fusion.data.text.datamodule import BaseTextDataModule
from lightning_fusion.data.text.public import ReviewsTextDataModule
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.encoders import TextTransformer

WORDS, TEXTS, LONGEST, BATCH = 3000, 4000, 256, 32


def reviews(folder: Path) -> BaseTextDataModule:
    """Texts of 5 to 400 words, most of them short, as reviews are; real ones where they are unpacked."""
    real = Path(os.environ.get("LIGHTNING_FUSION_DATA", "")) / "blitzer"
    if real.is_dir():
        return ReviewsTextDataModule(str(real), max_length=LONGEST, batch_size=BATCH, cache=str(folder))
    draw = np.random.default_rng(0)
    words = np.array(["".join(draw.choice(list("aeioubdfgklmnprst"), draw.integers(3, 9))) for _ in range(WORDS)])
    lengths = np.clip(draw.lognormal(4.3, 0.9, TEXTS), 5, 400).astype(int)
    lines = [
        f"{' '.join(words[draw.zipf(1.3, n) % WORDS])},{('bad', 'good')[row % 2]}" for row, n in enumerate(lengths)
    ]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *lines]))
    return TextDataModule(
        root=str(folder / "reviews.csv"), max_length=LONGEST, batch_size=BATCH, cache=str(folder / "cache")
    )


def tokenised_once(data: BaseTextDataModule, folder: Path) -> Result:
    """An epoch of training batches, against one whose loader tokenises each batch with the same tokenizer."""
    data.save_tokenizer(folder / "tokenizer")
    backend = TextTokenizer.load(str(folder / "tokenizer"), download=False).backend.backend_tokenizer
    backend.enable_truncation(LONGEST)
    backend.enable_padding(pad_id=data.preprocessing["pad_id"])
    rows = data.rows("train").rows
    texts, target = data.read(), data.rows("train").targets[rows]
    pairs = [(texts.texts[row], int(label)) for row, label in zip(rows.tolist(), target, strict=True)]

    def collate(batch: list[tuple[str, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = backend.encode_batch([text for text, _ in batch])
        ids = torch.tensor([one.ids for one in found])
        return ids, torch.tensor([one.attention_mask for one in found]), torch.tensor([label for _, label in batch])

    def ours() -> Callable[[], object]:
        loader = data.train_dataloader()
        return lambda: sum(len(batch.target) for batch in loader)

    def theirs() -> Callable[[], object]:
        loader = DataLoader(pairs, BATCH, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
        return lambda: sum(len(batch[2]) for batch in loader)

    times = interleave({"ours": ours, "theirs": theirs}, repeats=5)
    compared = "an epoch of batches tokenised once / tokenised in the loader"
    return Result.of_pairs("text", compared, times["ours"], times["theirs"], 1 / 3)


def bucketed(data: BaseTextDataModule) -> Result:
    """An epoch of training steps on batches of similar length, against batches in random order; padding is dynamic."""

    def side(bucket: bool) -> Callable[[], object]:
        network = TextTransformer(2, data.vocab_size, width=32, layers=1, heads=4)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
        loader = data.variant(bucket=bucket).train_dataloader()

        def run() -> None:
            for batch in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(batch.input), batch.target).backward()
                optimizer.step()

        return run

    times = interleave({"ours": partial(side, True), "theirs": partial(side, False)}, repeats=3)
    compared = "an epoch of training, batches of similar length / in random order"
    return Result.of_pairs("text", compared, times["ours"], times["theirs"], 1 / 1.5)


class PlainMean(nn.Module):
    """The mean over all places, padding too."""

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, D) from (B, L, D)."""
        return states.mean(1)


def pooling(data: BaseTextDataModule) -> Result:
    """An encoder's forward pass with the masked mean, against one with the mean of all places."""
    rows = data.rows("test")
    inputs: Any = [rows[torch.arange(first, first + BATCH)].input for first in range(0, 5 * BATCH, BATCH)]

    def side(pool: nn.Module | None) -> Callable[[], object]:
        network = TextTransformer(2, data.vocab_size, width=64, layers=2, heads=4).eval()
        if pool is not None:
            network.pool = pool  # type: ignore[assignment]

        def run() -> None:
            with torch.inference_mode():
                for batch in inputs:
                    network(batch)

        return run

    times = interleave({"ours": partial(side, None), "theirs": partial(side, PlainMean())}, repeats=9)
    return Result.of_pairs("text", "encoder with masked mean / plain mean", times["ours"], times["theirs"], 1.02)


def measure() -> list[Result]:
    """All of them, on the same texts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = reviews(folder)
        data.setup()
        own = data.variant(domain=data.domains[0]) if len(data.domains) > 1 else data  # a quarter: an epoch is minutes
        return [tokenised_once(data, folder), bucketed(own), pooling(own)]
