"""Input of a program: samples of one shape, or texts as tokens of any length."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightning_fusion.data.normalization import Normalization
from lightning_fusion.data.samples.images import ImagePreprocessing
from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.export.preparation import RoundedImages

TOKENS = ("input_ids", "attention_mask")


def recorded_shape(pool: ExpertPool) -> tuple[list[int] | None, int | None]:
    """Return the shape of a sample, or the longest text, that the experts record of their training; None if unknown.

    Args:
        pool: The experts; the first that records anything counts.
    """
    for expert in pool.members.values():
        known, given = expert.preprocessing or {}, expert.preprocess
        if isinstance(given, ImagePreprocessing):
            return [given.channels, *given.size], None
        if "tokenizer" in known:
            return None, known.get("max_length")
        size = known.get("image_size")
        sides = [size, size] if isinstance(size, int) else expert.new_sample_facts.get("sample_size")
        if "channels" in known and sides and isinstance(known["channels"], int):
            return [known["channels"], *sides], None
        if "samples" in known and "mean" in known:
            return [len(known["mean"]), known["samples"]], None
    return None, None


class ProgramInput:
    """Samples for the trace and the parity check of a program.

    Args:
        shape: Shape of one sample. ``None`` for texts.
        max_tokens: For texts: number of tokens of the longest one.
        pool: The experts.

    Raises:
        InputError: If neither or both are given, and the experts do not record it.
    """

    def __init__(self, shape: Sequence[int] | None, max_tokens: int | None, pool: ExpertPool) -> None:
        if shape is None and max_tokens is None:
            shape, max_tokens = recorded_shape(pool)
        if (shape is None) == (max_tokens is None):
            raise InputError("input_shape, max_tokens: give one of them: the shape of a sample, or the longest text")
        if max_tokens is not None and max_tokens < 2:
            raise InputError(f"max_tokens is {max_tokens}; expected at least 2")
        if shape is not None and any(side < 1 for side in shape):
            raise InputError(f"input_shape is {list(shape)}; expected positive sizes of one sample, without the batch")
        self.of_texts, self.vocabulary = max_tokens is not None, _vocabulary(pool)
        self.shape = tuple(shape) if shape is not None else None
        self.max_tokens = max_tokens or 0
        self.way: nn.Module | None = None
        batch = {0: torch.export.Dim.DYNAMIC}
        tokens = batch | {1: torch.export.Dim("tokens", min=1, max=max_tokens)} if max_tokens is not None else {}
        self.dynamic: Any = dict.fromkeys(TOKENS, tokens) if self.of_texts else batch
        self.dtype = "int64" if self.of_texts else "float32"

    @property
    def described(self) -> Any:
        """The shape of a batch, None for its size; of texts, of each tensor."""
        if self.shape is None:
            return {name: [None, f"up to {self.max_tokens}"] for name in TOKENS}
        return [None, *self.shape]

    def draw(self, rows: int) -> Any:
        """Return random samples; of texts, every other draw is half as long."""
        if self.shape is not None:
            values = torch.randn(rows, *self.shape)
            way = self.way.normalization if isinstance(self.way, RoundedImages) else self.way
            if isinstance(way, Normalization) and len(self.shape) and self.shape[0] == len(way.mean):
                values = way.inverse(values)
            return values
        length = max(2, self.max_tokens // (1 if rows % 2 else 2))
        lengths = torch.randint(1, length + 1, (rows, 1))
        lengths[0] = length
        ids = torch.randint(self.vocabulary, (rows, length))
        return dict(zip(TOKENS, (ids, (torch.arange(length) < lengths).long()), strict=True))

    def check(self, network: nn.Module) -> Any:
        """Return the output for two samples.

        Raises:
            InputError: If the network rejects them.
        """
        try:
            with torch.no_grad():
                return network(self.draw(2))
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = str(error).strip().partition("\n")[0]
            what = f"max_tokens: the experts reject a text of {self.max_tokens} tokens"
            if self.shape is not None:
                what = f"input_shape: the experts reject a sample of shape {list(self.shape)}"
            raise InputError(f"{what}: {reason}") from error


def _vocabulary(pool: ExpertPool) -> int:
    """Size of the vocabulary of all experts, if known."""
    members: list[Expert] = list(pool.members.values())
    recorded = [(expert.preprocessing or {}).get("vocab_size") for expert in members]
    networks = [getattr(expert.network, "vocab_size", None) for expert in members]
    return min([int(n) for n in (*recorded, *networks) if n], default=2)
