"""Tokenizers, and one array of the tokens of all texts, in memory or mapped from a cache."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.duplicates import Samples, duplicates_message
from lightning_fusion.data.names import LabelForms
from lightning_fusion.data.text.texts import Texts, normalize, number_labels
from lightning_fusion.data.text.words import hash_words
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import require
from lightning_fusion.files import digest, row_digests
from lightning_fusion.store import StoreWriter, cached

_CHUNK = 2048
_SPECIAL = ("[PAD]", "[UNK]", "[SEP]")
_NAMED = dict(zip(("pad_token", "unk_token", "sep_token"), _SPECIAL, strict=True))
PAIR = " \x1f "
"""Separator of the two texts of a pair in stored texts."""


class TextTokenizer:
    """Tokenizer of texts: a trained ``tokenizers.Tokenizer``, or one of transformers.

    Args:
        backend: A ``tokenizers.Tokenizer``, or the result of ``transformers.AutoTokenizer``.
        pad_id: Id of the padding token.
        unknown_id: Id of the unknown token; ``None`` if the vocabulary covers all texts.
    """

    def __init__(self, backend: Any, pad_id: int = 0, unknown_id: int | None = None) -> None:
        self.backend, self.pad_id, self.unknown_id = backend, pad_id, unknown_id
        self._own = not hasattr(backend, "save_pretrained")

    @classmethod
    def train(cls, texts: Sequence[str], vocab_size: int, lowercase: bool) -> "TextTokenizer":
        """Train a byte-level byte-pair encoding (Sennrich et al., 2016; Radford et al., 2019); deterministic.

        The alphabet is the 256 bytes, so that no token is unknown. A pair of texts is joined by ``[SEP]``.

        Args:
            texts: Training texts.
            vocab_size: Maximum number of tokens.
            lowercase: Convert texts to lower case first.
        """
        tokenizers = require("tokenizers", "text")
        backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=_SPECIAL[1]))
        steps = [tokenizers.normalizers.NFKC(), *([tokenizers.normalizers.Lowercase()] if lowercase else [])]
        backend.normalizer = tokenizers.normalizers.Sequence(steps)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(_SPECIAL),
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(cls._joining(backend))

    @staticmethod
    def _joining(backend: Any) -> Any:
        backend.post_processor = require("tokenizers", "text").processors.TemplateProcessing(
            single="$A", pair="$A [SEP] $B", special_tokens=[("[SEP]", backend.token_to_id("[SEP]"))]
        )
        return backend

    @classmethod
    def load(cls, name: str, download: bool) -> "TextTokenizer":
        """Load a tokenizer of transformers, from a folder or by its name on the hub.

        Raises:
            InputError: If there is no such tokenizer, or it cannot pad a batch.
        """
        transformers = require("transformers", "text")
        try:
            backend = transformers.AutoTokenizer.from_pretrained(name, local_files_only=not download)
        except Exception as error:  # transformers and tokenizers raise many types, bare Exception as well
            hint = "" if download else "; set tokenizer to its folder, or set download: true"
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"tokenizer: found none named {name}{hint} ({first})") from error
        if len(backend.get_vocab()) <= len(backend.all_special_ids):
            raise InputError(f"tokenizer: {name} has special tokens only; add the missing files of the tokenizer")
        pad = backend.pad_token_id if backend.pad_token_id is not None else backend.eos_token_id
        if pad is None:
            raise InputError(f"tokenizer: {name} has neither a padding token nor an end-of-text token; add one")
        return cls(backend, pad, backend.unk_token_id)

    def as_trained(self) -> "TextTokenizer":
        """Return the trained tokenizer that :meth:`save` wrote, which :meth:`dump` describes; any other as it is."""
        if self._own or not hasattr(self.backend, "backend_tokenizer") or self.backend.special_tokens_map != _NAMED:
            return self
        return self.parse(self.backend.backend_tokenizer.to_str())

    @classmethod
    def parse(cls, text: str) -> "TextTokenizer":
        """Create a tokenizer from the text of :meth:`dump`.

        Raises:
            InputError: If the text describes no tokenizer.
        """
        try:
            return cls(require("tokenizers", "text").Tokenizer.from_str(text))
        except Exception as error:  # tokenizers raises bare Exception
            raise InputError(f"tokenizer: the stored one is damaged ({' '.join(str(error).split())[:200]})") from error

    def dump(self) -> str:
        """Return a trained tokenizer as text; an empty text for those of transformers."""
        return self.backend.to_str() if self._own else ""

    def save(self, folder: str | Path) -> None:
        """Write a folder that :meth:`load` and ``transformers.AutoTokenizer`` read."""
        backend = self.backend
        if self._own:
            backend = require("transformers", "text").PreTrainedTokenizerFast(tokenizer_object=backend, **_NAMED)
        backend.save_pretrained(folder)

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary: the largest token id plus one."""
        result: int = max(self.backend.get_vocab().values()) + 1
        return result

    @property
    def fingerprint(self) -> str:
        """Fingerprint of vocabulary, merges and text normalization; independent of the tokenizer's name."""
        backend = self.backend if self._own else getattr(self.backend, "backend_tokenizer", None)
        if backend is None:
            return digest(sorted(self.backend.get_vocab().items()))
        kept = json.loads(backend.to_str())
        return digest(
            json.dumps(
                [kept.get(name) for name in ("normalizer", "pre_tokenizer", "model", "post_processor", "added_tokens")],
                sort_keys=True,
            )
        )

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
    ) -> tuple[list[list[int]], int, list[int]]:
        """Return the token ids of each text, the number of truncated texts, and the texts without known tokens."""
        if self._own:
            self.backend.enable_truncation(max_length)
            both = texts if pairs is None else list(zip(texts, pairs, strict=True))
            found = self.backend.encode_batch(both)
            ids = [one.ids for one in found]
            cut = sum(bool(one.overflowing) for one in found)
            empty = [row for row, one in enumerate(ids) if not one]
            return ids, cut, empty
        given = {"add_special_tokens": True, "return_attention_mask": False, "return_token_type_ids": False}
        seconds = {} if pairs is None else {"text_pair": list(pairs)}
        ids = self.backend(list(texts), **seconds, **given, verbose=False)["input_ids"]
        long = [row for row, one in enumerate(ids) if len(one) > max_length]
        if long:
            seconds = {} if pairs is None else {"text_pair": [pairs[row] for row in long]}
            cut = self.backend(
                [texts[row] for row in long], **seconds, **given, truncation=True, max_length=max_length
            )["input_ids"]
            for row, one in zip(long, cut, strict=True):
                ids[row] = one
        idle = {*self.backend.all_special_ids} | {self.unknown_id}
        return ids, len(long), [row for row, one in enumerate(ids) if idle.issuperset(one)]


@dataclass
class Corpus:
    """Concatenated tokenized texts.

    Attributes:
        tokens: int32, in memory or mapped from a file.
        offsets: (N + 1,) int64, start of each text.
        words: int16, hashes of the words of all texts, below :data:`BUCKETS`.
        word_offsets: (N + 1,) int64.
        written: uint8, the texts in UTF-8; the two texts of a pair are joined by :data:`PAIR`.
        written_offsets: (N + 1,) int64.
        label: (N,) int64, indices of ``labels``; -1 for unlabeled texts.
        domain: (N,) int64, indices of ``domains``; -1 for none.
        split: (N,) split that the source names, -1 for none.
        group: (N,) int64, equal for equal texts.
        out_of_scope: (N,) bool.
        file: (N,) int64, indices of ``metadata["files"]``.
        line: (N,) int64, line (or number) of each text in its file.
        digest: (N,) uint64, of the text as read.
        labels: Names of the labels.
        domains: Names of the domains.
        metadata: Contains ``vocab_size``, ``pad_id``, ``tokenizer`` (its fingerprint), ``trained`` (its text), ``cut``
            (number of truncated texts), ``left_out`` (number and places of unreadable texts), ``merged`` (written forms
            of labels that have several), ``files`` (names of files or tables), ``duplicates`` (a message, and whether
            it is a warning), ``fingerprint`` (of the corpus).
    """

    tokens: Tensor
    offsets: np.ndarray
    words: np.ndarray
    word_offsets: np.ndarray
    written: np.ndarray
    written_offsets: np.ndarray
    label: np.ndarray
    domain: np.ndarray
    split: np.ndarray
    group: np.ndarray
    out_of_scope: np.ndarray
    file: np.ndarray
    line: np.ndarray
    digest: np.ndarray
    labels: list[str]
    domains: list[str]
    metadata: dict[str, Any]


class WrittenTexts:
    """Texts as they were read, by position; two texts are a pair.

    Args:
        written: uint8, the texts in UTF-8, see :class:`Corpus`.
        offsets: (N + 1,) int64, start of each text.

    Example:
        >>> WrittenTexts(np.frombuffer(b"good tea", np.uint8), np.array([0, 4, 8]))[torch.tensor([1, 0])]
        [' tea', 'good']
    """

    def __init__(self, written: np.ndarray, offsets: np.ndarray) -> None:
        self.written, self.offsets = written, offsets

    @classmethod
    def of(cls, texts: Sequence[str], pairs: Sequence[str] | None = None) -> "WrittenTexts":
        """Store N texts, or pairs of texts.

        Example:
            >>> WrittenTexts.of(["good", "bad"], ["tea", "milk"])[torch.tensor([1])]
            [('bad', 'milk')]
        """
        written = [text.encode("utf-8", "surrogatepass") for text in _joined(texts, pairs)]
        ends = np.cumsum([len(one) for one in written])
        return cls(np.frombuffer(b"".join(written), np.uint8), np.concatenate([[0], ends]).astype(np.int64))

    def __getitem__(self, rows: Tensor) -> list[str | tuple[str, ...]]:
        """Return some texts."""
        parts = [self.written[self.offsets[row] : self.offsets[row + 1]].tobytes() for row in rows.tolist()]
        texts = [part.decode("utf-8", "surrogatepass") for part in parts]
        return [tuple(text.split(PAIR, 1)) if PAIR in text else text for text in texts]


class TokenRows:
    """Inputs of texts: a batch is one gather from the array of tokens, padded to its longest text.

    Args:
        tokens: int32, concatenated tokens of all texts.
        offsets: (N + 1,) int64, start of each text.
        pad_id: Id of the padding token.
        texts: The texts, which a batch contains under ``text``. ``None`` (default) leaves them out.

    Example:
        >>> rows = TokenRows(torch.tensor([5, 6, 7, 8], dtype=torch.int32), torch.tensor([0, 1, 4]), pad_id=0)
        >>> rows[torch.tensor([0, 1])]["input_ids"].tolist()
        [[5, 0, 0], [6, 7, 8]]
    """

    def __init__(self, tokens: Tensor, offsets: Tensor, pad_id: int, texts: WrittenTexts | None = None) -> None:
        self.tokens, self.offsets, self.pad_id, self.texts = tokens, offsets, pad_id, texts
        self.lengths = offsets[1:] - offsets[:-1]

    def __getitem__(self, rows: Tensor) -> dict[str, Any]:
        """Return ``input_ids`` and ``attention_mask`` (B, L) of some texts."""
        lengths = self.lengths[rows, None]
        place = torch.arange(int(lengths.max()))
        mask = place < lengths
        taken = self.tokens[(self.offsets[rows, None] + place).clamp_(max=len(self.tokens) - 1)]
        ids, there = taken.long().masked_fill_(~mask, self.pad_id), mask.long()
        return {"input_ids": ids, "attention_mask": there} | ({} if self.texts is None else {"text": self.texts[rows]})


def load_corpus(
    read: Callable[[], Texts],
    choose_tokenizer: Callable[[Texts, np.ndarray], TextTokenizer],
    max_length: int,
    unreadable: str,
    entry: Path | None = None,
) -> Corpus:
    """Read and tokenize texts, or map the tokens that an earlier run cached.

    Args:
        read: Function that reads the texts, called if they are not cached.
        choose_tokenizer: Function of the texts and their groups that returns a tokenizer.
        max_length: Maximum number of tokens of a text.
        unreadable: ``raise`` an error for texts that are empty or contain unknown tokens only, or ``drop`` them.
        entry: Folder in a cache; ``None`` keeps the tokens in memory.

    Raises:
        InputError: If a text cannot be read, or the entry is damaged.
    """
    make = partial(_tokenize, read, choose_tokenizer, max_length, unreadable)
    if entry is None:
        arrays, metadata = make()
    else:

        def write(writer: StoreWriter) -> dict[str, Any]:
            made, metadata = make()
            for name, array in made.items():
                writer[name] = array
            return metadata

        store = cached(entry, "tokens of texts", write, writable=True)  # torch requires writable arrays
        arrays, metadata = {name: np.asarray(array) for name, array in store.items()}, store.metadata
    tokens = torch.from_numpy(arrays.pop("tokens"))
    return Corpus(tokens, **arrays, labels=metadata["labels"], domains=metadata["domains"], metadata=metadata)


class EncodedTexts(NamedTuple):
    """Token ids of N texts.

    Attributes:
        tokens: int32, concatenated.
        lengths: (N,) int64 numbers of tokens.
        unknown: (N,) bool, texts without known tokens.
        cut: Number of truncated texts.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    unknown: np.ndarray
    cut: int


def encode_texts(
    tokenizer: TextTokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> EncodedTexts:
    """Tokenize texts, chunk by chunk.

    Args:
        tokenizer: Tokenizer.
        texts: N texts.
        pairs: N second texts; ``None`` if there are none.
        max_length: Maximum number of tokens of a text.
    """
    parts, lengths, cut, idle = [np.zeros(0, np.int32)], [], 0, []
    for start in range(0, len(texts), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        ids, more, unknown = tokenizer.encode(texts[chunk], None if pairs is None else pairs[chunk], max_length)
        parts.append(np.fromiter((number for one in ids for number in one), np.int32))
        lengths += [len(one) for one in ids]
        idle += [start + row for row in unknown]
        cut += more
    unknown_rows = np.zeros(len(texts), bool)
    unknown_rows[idle] = True
    return EncodedTexts(np.concatenate(parts), np.array(lengths, np.int64), unknown_rows, cut)


def _tokenize(
    read: Callable[[], Texts],
    choose_tokenizer: Callable[[Texts, np.ndarray], TextTokenizer],
    max_length: int,
    unreadable: str,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    texts = read()
    second = texts.pairs or [""] * len(texts.texts)
    blank = np.array([not (one.strip() or two.strip()) for one, two in zip(texts.texts, second, strict=True)], bool)
    texts, left_out = _without(texts, blank, unreadable, "empty")
    group = _groups(texts)
    tokenizer = choose_tokenizer(texts, group)
    encoded = encode_texts(tokenizer, texts.texts, texts.pairs, max_length)
    known, long = ~encoded.unknown, encoded.lengths
    texts, others = _without(texts, encoded.unknown, unreadable, "made of unknown tokens only")
    tokens, long, group = encoded.tokens[np.repeat(known, long)], long[known], group[known]
    joined = list(_joined(texts.texts, texts.pairs))
    hashes = [hash_words(text) for text in joined]
    written = WrittenTexts.of(texts.texts, texts.pairs)
    label_names, label = number_labels(texts.labels)
    domain_names = sorted({name for name in texts.domains if name})
    number = {name: place for place, name in enumerate(domain_names)} | {"": -1}
    arrays = {
        "tokens": tokens,
        "offsets": np.concatenate([[0], np.cumsum(long)]),
        "words": np.concatenate(hashes),
        "word_offsets": np.concatenate([[0], np.cumsum([len(one) for one in hashes])]),
        "written": written.written,
        "written_offsets": written.offsets,
        "label": label,
        "domain": np.array([number[name] for name in texts.domains]),
        "split": np.array(texts.splits or [-1] * len(long)),
        "group": group,
        "out_of_scope": np.array(texts.out_of_scope, bool),
    }
    metadata = {
        "labels": label_names,
        "domains": domain_names,
        "vocab_size": tokenizer.vocab_size,
        "pad_id": tokenizer.pad_id,
        "tokenizer": tokenizer.fingerprint,
        "trained": tokenizer.dump(),
        "cut": encoded.cut,
        "left_out": [len(left_out + others), shorten(left_out + others, 3)],
        "merged": texts.forms.merged if isinstance(texts.forms, LabelForms) else {},
    }
    metadata["fingerprint"] = digest(*arrays.values(), label_names, domain_names, metadata["tokenizer"])
    arrays["digest"] = row_digests(joined)
    files: dict[str, int] = {}
    arrays["file"] = np.array([files.setdefault(place, len(files)) for place, _ in texts.where], np.int64)
    arrays["line"] = np.array([line for _, line in texts.where], np.int64)
    metadata["files"] = list(files)
    first = np.unique(group, return_index=True)[1][np.unique(group, return_inverse=True)[1]]
    if (first != np.arange(len(first))).any():
        domain = arrays["domain"]
        samples = Samples(texts.place, label, task=domain, domain=domain, domains=domain_names)
        message, kinds = duplicates_message(first, "texts", samples)
        metadata["duplicates"] = [message, "labels" in kinds]
    return arrays, metadata


def _without(texts: Texts, wrong: np.ndarray, unreadable: str, what: str) -> tuple[Texts, list[str]]:
    """Return the texts without some of them, and the places of the latter."""
    if not wrong.any():
        return texts, []
    rows = np.flatnonzero(wrong)
    if unreadable == "raise":
        raise InputError(
            f"{texts.place(int(rows[0]))}: the text is {what}"
            + (f", as are {len(rows) - 1} more" if len(rows) > 1 else "")
            + "; repair or remove it, or set unreadable: drop"
        )
    if wrong.all():
        raise InputError(f"all {len(rows)} texts are {what}; change the column of texts, or the tokenizer")
    return texts.kept(~wrong), [texts.place(row) for row in rows.tolist()]


def _joined(texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[str]:
    if pairs is None:
        return iter(texts)
    return (f"{one}{PAIR}{two}" for one, two in zip(texts, pairs, strict=True))


def _groups(texts: Texts) -> np.ndarray:
    """Return the (N,) first position with the same normalized text."""
    first: dict[str, int] = {}
    return np.array(
        [first.setdefault(normalize(text), row) for row, text in enumerate(_joined(texts.texts, texts.pairs))]
    )
