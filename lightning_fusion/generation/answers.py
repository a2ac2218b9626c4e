"""Batched inference of generative experts, with a cache of finished batches."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_fusion.errors import InputError
from lightning_fusion.files import digest
from lightning_fusion.generation.expert import GenerativeExpert, write
from lightning_fusion.store import ArrayStore, DamagedStoreError, MissingStoreError, StoreWriter

_ANSWERS = "answers of a batch"

Kind = Literal["both", "input", "text"]
"""Requested results: a text and the embedding of input and text; the embedding of the input; a text."""


@dataclass
class InferenceSettings:
    """Settings of the inference of generative experts.

    Attributes:
        max_new_tokens: Maximum number of tokens of a generated text.
        batch_size: Number of samples per batch.
        device: Device of the experts.
        folder: Cache of finished batches, from which a killed run resumes; ``None`` caches nothing.
        precision: Name of the number format, part of the key of the cache.
        context: Function that returns the context of inference, for mixed precision.
        convert: Function that converts an expert's network to the precision.
    """

    max_new_tokens: int
    batch_size: int
    device: torch.device | str = "cpu"
    folder: Path | None = None
    precision: str = "32-true"
    context: Callable[[], AbstractContextManager[Any]] = torch.no_grad
    convert: Callable[[Any], Any] = field(default=lambda network: network)


def run_expert(
    expert: GenerativeExpert, rows: Sequence[np.ndarray], kind: Kind, how: InferenceSettings
) -> tuple[list[np.ndarray], np.ndarray]:
    """Run one expert on N texts.

    The expert is loaded only for texts that are not cached, and released before this returns. Texts of similar length
    are batched together; equal ones are processed once.

    Args:
        expert: Generative expert.
        rows: N arrays of tokens.
        kind: Requested results.
        how: Settings of the inference: device, batch size, cache.

    Returns:
        N arrays of generated tokens, empty ones for ``kind`` "input", and (N, D) float32 embeddings, D = 0 for "text".

    Raises:
        InputError: If an embedding is not finite.
    """
    keys = [hashlib.blake2b(np.ascontiguousarray(row, np.int64).tobytes(), digest_size=16).digest() for row in rows]
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    kept = _Kept(expert, kind, how)
    missing = sorted((number for key, number in first.items() if key not in kept.answers), key=lambda n: len(rows[n]))
    if missing:
        _work(expert, rows, keys, missing, kind, how, kept)
    found = [kept.answers[key] for key in keys]
    width = len(found[0][1]) if found else 0
    return [text for text, _ in found], np.array([vector for _, vector in found], np.float32).reshape(len(rows), width)


def _work(
    expert: GenerativeExpert,
    rows: Sequence[np.ndarray],
    keys: Sequence[bytes],
    missing: Sequence[int],
    kind: Kind,
    how: InferenceSettings,
    kept: "_Kept",
) -> None:
    with expert.loaded(how.device) as network, torch.no_grad():
        network = how.convert(network)
        for start in range(0, len(missing), how.batch_size):
            numbers = missing[start : start + how.batch_size]
            input = pad_rows([rows[number] for number in numbers], network.pad_id, how.device)
            with how.context():
                if kind == "both":
                    text, embedding = write(network, input, how.max_new_tokens)
                elif kind == "input":
                    embedding, text = network.embed(input), input["input_ids"][:, :0]
                else:
                    text, embedding = network.generate(input, how.max_new_tokens), torch.zeros(len(numbers), 0)
            vectors, tokens = embedding.float().cpu().numpy(), text.cpu().numpy()
            if not np.isfinite(vectors).all():
                raise InputError(f"expert {expert.metadata()['checkpoint']}: an embedding is NaN or infinite")
            texts = [row[row != network.pad_id] for row in tokens]
            kept.add([keys[number] for number in numbers], texts, vectors)


def pad_rows(rows: Sequence[np.ndarray], pad_id: int = 0, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Pad B arrays of tokens to a batch of ``input_ids`` and ``attention_mask`` (B, L).

    Example:
        >>> pad_rows([np.array([5]), np.array([6, 7])])["input_ids"].tolist()
        [[5, 0], [6, 7]]
    """
    width = max([1, *(len(row) for row in rows)])
    ids, mask = np.full((len(rows), width), pad_id, np.int64), np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}


class _Kept:
    """Cache of results by the bytes of their input; each batch is a store named by its content."""

    def __init__(self, expert: GenerativeExpert, kind: Kind, how: InferenceSettings) -> None:
        self.answers: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self.folder: Path | None = None
        if how.folder is None:
            return
        tokens = "" if kind == "input" else f"-{how.max_new_tokens}"
        name = f"{expert.fingerprint}-{how.precision}{tokens}"
        self.folder = how.folder / f"{name}-{kind}"
        self.folder.mkdir(parents=True, exist_ok=True)
        if kind == "text":  # a cached embedding of a text includes the text
            self._read(how.folder / f"{name}-both", vectors=False)
        self._read(self.folder, vectors=True)

    def _read(self, folder: Path, vectors: bool) -> None:
        for path in sorted(folder.glob("*/")):
            try:
                part = ArrayStore(path, _ANSWERS)
            except MissingStoreError:  # a run was killed while writing this batch
                continue
            except DamagedStoreError as error:
                rank_zero_warn(f"{error}: these texts are processed again")
                continue
            texts = np.split(np.array(part["tokens"]), part["lengths"].cumsum()[:-1])
            embeddings = np.array(part["embeddings"][:, : None if vectors else 0])
            rows = zip(part["keys"], texts, embeddings, strict=True)
            self.answers.update({key.tobytes(): (text, vector) for key, text, vector in rows})

    def add(self, keys: Sequence[bytes], texts: Sequence[np.ndarray], embeddings: np.ndarray) -> None:
        rows = zip(keys, texts, embeddings, strict=True)
        self.answers.update({key: (text, vector) for key, text, vector in rows})
        if self.folder is None:
            return
        with StoreWriter(self.folder / digest(*keys), _ANSWERS, overwrite=True, wait=True) as writer:
            writer["keys"] = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 16)
            writer["lengths"] = np.array([len(text) for text in texts], np.int64)
            writer["tokens"] = np.concatenate([*texts, np.empty(0, np.int64)]).astype(np.int64)
            writer["embeddings"] = embeddings
            writer.commit({})
