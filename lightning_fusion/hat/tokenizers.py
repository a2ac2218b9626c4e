"""Texts of a target with the tokenizers of sources, whose token ids mean other words."""

import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.batch import Batch
from lightning_fusion.data.text.tokenized import TokenizedDataModule
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.data.views.base import innermost
from lightning_fusion.errors import InputError
from lightning_fusion.hyperparameters import constructor_arguments
from lightning_fusion.registry.card import TOKENIZER, Card
from lightning_fusion.registry.registry import ExpertRegistry
from lightning_fusion.registry.summaries import labeled_batches


def tokenizer_of(preprocessing: Any) -> str | None:
    """Return the fingerprint of the tokenizer in a preprocessing; ``None`` if there is none."""
    found: str | None = (preprocessing or {}).get("tokenizer")
    return found


class TargetSamples:
    """Labeled samples of a target as each source reads them: texts with the source's tokenizer, all others as they are.

    Args:
        target: Data module of the target.
        registry: Registry, from which the tokenizers of other sources are read.
    """

    def __init__(self, target: FusionDataModule, registry: ExpertRegistry) -> None:
        self.target, self.registry = target, registry
        self.labeled = list(labeled_batches(target))
        self.preprocessing = getattr(target, "preprocessing", None)
        self._others: dict[str, tuple[Any, Sequence[Batch], str]] = {}

    def read_by(self, card: Card) -> tuple[Any, Sequence[Batch], str | None]:
        """Return the preprocessing and the batches for a source, and the text of its tokenizer if that is another.

        Raises:
            InputError: If the tokenizer of the source is another than that of the target, and was not published.
        """
        wanted = tokenizer_of(card.preprocessing)
        if wanted is None or wanted == tokenizer_of(self.preprocessing):
            return self.preprocessing, self.labeled, None
        if wanted not in self._others:
            self._others[wanted] = self._tokenized(card)
        return self._others[wanted]

    def bytes_of_others(self, cards: Iterable[Card]) -> int:
        """Return the size of the published tokenizers of sources, each once, without that of the target."""
        found = {tokenizer_of(card.preprocessing): card.files[TOKENIZER] for card in cards if TOKENIZER in card.files}
        own = tokenizer_of(self.preprocessing)
        return sum(file["bytes"] for fingerprint, file in found.items() if fingerprint != own)

    def _tokenized(self, card: Card) -> tuple[Any, Sequence[Batch], str]:
        inside = innermost(self.target)
        if not isinstance(inside, TokenizedDataModule) or "tokenizer" not in constructor_arguments(type(inside)):
            raise InputError(f"its input are tokens, and those of the target come from {type(inside).__name__}")
        text = self.registry.tokenizer(card)
        if text is None:
            raise InputError(
                "its tokenizer is another than the target's, and is not in the registry; publish the source again, or "
                "set tokenizer of the target's data to the one that it was trained with"
            )
        with tempfile.TemporaryDirectory(prefix="lightning-fusion-") as folder:
            TextTokenizer.parse(text).save(folder)
            data: Any = self.target.variant(tokenizer=folder, **self._uncached(inside))
            return data.preprocessing, list(labeled_batches(data)), text

    @staticmethod
    def _uncached(data: FusionDataModule) -> dict[str, Any]:
        return {"cache": None} if "cache" in constructor_arguments(type(data)) else {}
