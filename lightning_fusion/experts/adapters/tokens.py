"""Tokens of texts as input of models of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError, shorten

_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model")


def load_tokenizer(path: str, download: bool = False) -> TextTokenizer | None:
    """Return the tokenizer of a model; ``None`` if its folder has none, or it cannot be read.

    Args:
        path: Folder of the model, or its name on the hub.
        download: Download missing files from the hub.
    """
    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in _TOKENIZER):
        return None
    try:
        return TextTokenizer.load(path, download)
    except InputError as error:
        rank_zero_warn(f"the tokens of {path} are not compared with those of the data: {error}")
        return None


def tokenizer_fingerprint(path: str) -> str | None:
    """Return the fingerprint of the tokenizer of a local model, as a data module with ``tokenizer: path`` computes it.

    ``None`` if there is no tokenizer, or it cannot be read.
    """
    tokenizer = load_tokenizer(path) if Path(path).is_dir() else None
    return None if tokenizer is None else tokenizer.fingerprint


def longest_text(model: nn.Module) -> int | None:
    """Return the number of learned positions of a model; ``None`` if it has none."""
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and name.rpartition(".")[2] in (
            "position_embeddings",
            "embed_positions",
            "wpe",
        ):
            before = 0 if table.padding_idx is None else table.padding_idx + 1  # places begin behind that of padding
            return table.num_embeddings - before - int(getattr(table, "offset", 0))
    return None


def check_tokens(input: Any, vocab_size: int, path: str, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Return tokens and mask of a batch; raise InputError for tokens outside the vocabulary."""
    if not isinstance(input, Mapping) or not {"input_ids", "attention_mask"} <= set(input):
        found = f"the keys {shorten(input)}" if isinstance(input, Mapping) else f"a {type(input).__name__}"
        raise InputError(f"the model {path} reads a dict of input_ids and attention_mask (B, L); found {found}")
    ids = input["input_ids"]
    if ids.numel() and not torch.compiler.is_compiling():  # values are not available during export
        low, high = torch.stack(ids.aminmax()).tolist()  # one synchronization
        if low < 0 or high >= vocab_size:
            raise InputError(
                f"input_ids: found token {low if low < 0 else high}; the model {path} has a vocabulary of {vocab_size} "
                f"tokens (0 to {vocab_size - 1}): set the data's tokenizer to the model's own"
            )
    if longest is not None and ids.shape[1] > longest:
        raise InputError(
            f"the model {path} reads {longest} tokens at most; found {ids.shape[1]}: lower the data's max_length, or "
            "max_read and max_new_tokens"
        )
    return ids, input["attention_mask"]


def gathered(ids: Tensor, mask: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Move the tokens of a (B, L) bool mask behind the others, in stable order; returns tokens and mask (B, L)."""
    order = last.to(torch.uint8).argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over unmasked tokens; attention may give NaN at positions that only attend to padding."""
    weight = mask.to(states.dtype)[:, :, None]
    return torch.where(weight > 0, states, 0).sum(1) / weight.sum(1).clamp_min(1)
