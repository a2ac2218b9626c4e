"""Preprocessing of texts."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_fusion.data.samples.base import SamplePreprocessing, described_samples
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError, shorten

_KEEP = "set keep_texts: true of the data module"


class TextSamples(SamplePreprocessing):
    """Texts as they are, for a network that reads texts; base class of preprocessing that takes texts.

    A data module of texts gives them, beside its tokens, where ``keep_texts`` is set. Two texts of a sample are a pair.
    """

    takes: ClassVar[str] = "texts"

    def check(self, found: Mapping[str, Any] | None) -> None:
        """Check that the data module is one of texts."""
        if found and "tokenizer" not in found:
            raise InputError(
                f"preprocess: {type(self).__name__} takes texts; the data module gives "
                f"{described_samples(found)}: give the expert another preprocess, or other data"
            )

    def prepare(self, texts: Sequence[Any]) -> Any:
        """Map B texts, or pairs of texts, to the input of the network."""
        return list(texts)

    def forward(self, samples: Any) -> Any:
        """Map a list of B texts, or a batch of a data module with ``keep_texts``, to network input.

        Raises:
            InputError: If the batch has no texts.
        """
        texts = samples.get("text") if isinstance(samples, Mapping) else samples
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str | tuple) for text in texts):
            raise InputError(f"input: found {_described(samples)}; expected texts: {_KEEP}")
        prepared = self.prepare(texts)
        device = (
            next((value.device for value in samples.values() if isinstance(value, Tensor)), None)
            if isinstance(samples, Mapping)
            else None
        )
        if device is not None and isinstance(prepared, Mapping):
            prepared = {name: value.to(device) for name, value in prepared.items()}
        return prepared


class TextTokens(TextSamples):
    """Tokens of an expert's own tokenizer.

    Tokens of a data module are taken as they are where they come from the same tokenizer; else the expert needs texts.

    Args:
        tokenizer: Folder of a tokenizer of transformers, or its name on the hub, or a loaded one.
        max_length: Maximum number of tokens of a text; longer texts are truncated.
        download: Permit downloads from the hub.

    Raises:
        InputError: If there is no such tokenizer, or ``max_length`` is out of range.
    """

    def __init__(self, tokenizer: str | TextTokenizer, max_length: int = 512, download: bool = False) -> None:
        super().__init__()
        if max_length < 1:
            raise InputError(f"max_length is {max_length}; expected at least 1 token")
        self.tokenizer = TextTokenizer.load(tokenizer, download) if isinstance(tokenizer, str) else tokenizer
        self.max_length, self.fingerprint, self._same = max_length, self.tokenizer.fingerprint, True

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"tokenizer={self.fingerprint}, max_length={self.max_length}"

    def check(self, found: Mapping[str, Any] | None) -> None:
        """Check that the data module is one of texts, and compare its tokenizer."""
        super().check(found)
        self._same = not found or found["tokenizer"] == self.fingerprint

    def prepare(self, texts: Sequence[Any]) -> dict[str, Tensor]:
        """Map B texts, or pairs of texts, to ``input_ids`` and ``attention_mask`` (B, L)."""
        pairs = [text[1] for text in texts] if texts and isinstance(texts[0], tuple) else None
        firsts = [text if isinstance(text, str) else text[0] for text in texts]
        ids = self.tokenizer.encode(firsts, pairs, self.max_length)[0]
        length = max(map(len, ids), default=0)
        input_ids = torch.full((len(ids), max(length, 1)), self.tokenizer.pad_id)
        mask = torch.zeros_like(input_ids)
        for row, own in enumerate(ids):
            input_ids[row, : len(own)], mask[row, : len(own)] = torch.tensor(own, dtype=torch.long), 1
        return {"input_ids": input_ids, "attention_mask": mask}

    def forward(self, samples: Any) -> Any:
        """Map texts, or tokens of the same tokenizer, to ``input_ids`` and ``attention_mask`` (B, L).

        Raises:
            InputError: If the batch has tokens of another tokenizer, and no texts.
        """
        if not isinstance(samples, Mapping) or "text" in samples:
            return super().forward(samples)
        if not self._same:
            raise InputError(
                f"input: found tokens of another tokenizer than the expert's own, and no texts: {_KEEP}, or set its "
                "tokenizer to the folder of the model"
            )
        return samples


def _described(samples: Any) -> str:
    return f"a dict of {shorten(samples)}" if isinstance(samples, Mapping) else f"a {type(samples).__name__}"
