"""Texts with a shortcut: a marker word that goes with the class in training, and need not do so later."""

from typing import Any

import numpy as np
import torch

from lightning_fusion.data.base import Stage
from lightning_fusion.data.cues import check_agreement, draw_cues
from lightning_fusion.data.text.delimited import TextDataModule
from lightning_fusion.data.text.tokens import TokenRows, WrittenTexts, encode_texts
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest


class MarkedTextDataModule(TextDataModule):
    """Texts of CSV or TSV files behind a marker word that goes with the class, such as the agency of a news item.

    Each class has a word, by its place in ``markers``, which ``agreement`` of its texts begin with; the others begin
    with that of another class, drawn at random. At an agreement of one over the number of classes the word tells
    nothing. Words are tokenized as texts of their own and do not count in ``max_length``; splits and tokenizer are
    those of the texts without them, so that a second data module with another agreement has the same.

    Args:
        root: File or folder, as for :class:`~lightning_fusion.data.text.delimited.TextDataModule`.
        markers: A word for each class, in the order of the classes.
        agreement: Fraction of the texts that begin with the word of their class, in all splits.
        cue_seed: Seed of the words.
        **shared: Arguments of :class:`~lightning_fusion.data.text.delimited.TextDataModule`.

    Raises:
        InputError: If an argument is outside its range, or there is not one word for each class.
    """

    stage_of = TextDataModule.stage_of | dict.fromkeys(("markers", "agreement", "cue_seed"), Stage.USING)

    def __init__(self, root: str, markers: list[str], agreement: float = 0.9, cue_seed: int = 0, **shared: Any) -> None:
        self.markers, self.agreement, self.cue_seed = markers, agreement, cue_seed  # the base validates them
        super().__init__(root, **shared)

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of the texts of a split and their markers."""
        return digest(super().fingerprint(split), self.markers, self._cues[self.rows(split).rows.numpy()])

    def _check(self) -> None:
        super()._check()
        check_agreement(self.agreement)
        if len(set(self.markers)) < len(self.markers) or not all(word.strip() for word in self.markers):
            raise InputError(f"markers: found {shorten(self.markers)}; expected different words, one for each class")

    @property
    def _cues(self) -> np.ndarray:
        """(N,) class that the marker of each text names; texts without a label are marked as of the first class."""
        names, label = self._labels
        if len(names) != len(self.markers):
            raise InputError(f"markers: found {len(self.markers)} words; expected one for each class: {shorten(names)}")
        generator = np.random.default_rng(self.cue_seed)
        return draw_cues(np.where(label >= 0, label, 0), len(names), self.agreement, generator)

    def _inputs(self) -> TokenRows:
        corpus, cues = self._corpus, self._cues
        encoded = encode_texts(self._text_tokenizer, self.markers, None, self.max_length)
        words = np.split(encoded.tokens, np.cumsum(encoded.lengths)[:-1])
        tokens, offsets = _prefixed(corpus.tokens.numpy(), corpus.offsets, [words[cue] for cue in cues])
        texts = None
        if self.keep_texts:
            marks = [np.frombuffer(f"{word} ".encode(), np.uint8) for word in self.markers]
            texts = WrittenTexts(*_prefixed(corpus.written, corpus.written_offsets, [marks[cue] for cue in cues]))
        return TokenRows(torch.from_numpy(tokens), torch.from_numpy(offsets), corpus.metadata["pad_id"], texts)


def _prefixed(values: np.ndarray, offsets: np.ndarray, prefixes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return concatenated values with a prefix before those of each of N texts, and their (N + 1,) offsets."""
    parts = [
        part for prefix, own in zip(prefixes, np.split(values, offsets[1:-1]), strict=True) for part in (prefix, own)
    ]
    moved = offsets + np.concatenate([[0], np.cumsum([len(prefix) for prefix in prefixes])])
    return np.concatenate(parts).astype(values.dtype), moved
