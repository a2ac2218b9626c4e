"""Base class of all sources of texts: tokens, splits, domains, cache and loaders."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_fusion.data.base import SPLITS, Stage, staged_property
from lightning_fusion.data.domains import check_label_names
from lightning_fusion.data.names import (
    RENAME,
    check_discrete,
    merge_message,
    missing_message,
    read_labels,
    rename_labels,
    similar_message,
)
from lightning_fusion.data.rows import Origins, RowDataset, Rows
from lightning_fusion.data.samplers import LengthSampler
from lightning_fusion.data.targets import untested_message
from lightning_fusion.data.text.splits import FUSER_TRAIN, FUSER_VAL, LEFT_OUT, TRAIN, draw_splits
from lightning_fusion.data.text.texts import Texts, number_labels
from lightning_fusion.data.text.tokenized import TokenizedDataModule
from lightning_fusion.data.text.tokens import Corpus, TextTokenizer, TokenRows, WrittenTexts, load_corpus
from lightning_fusion.data.text.words import bag_of_words
from lightning_fusion.errors import EmptySplitError, InputError, shorten, suggestion
from lightning_fusion.extras import require
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import constructor_arguments

_READ_AS = 9  # version of the reading code: cache entries of other versions are ignored
_FRACTIONS = ("val_fraction", "test_fraction", "fuser_fraction")


class BaseTextDataModule(TokenizedDataModule):
    """Labeled texts with domains, tokenized once; no text is in two splits.

    Splits are drawn by domain and label, if the source names none. Texts that differ only in case, whitespace or
    Unicode form are placed in one split; if the source names the splits, such texts are left out of training (and
    validation) if they are in a later split.

    The input of a batch is a dict of ``input_ids`` and ``attention_mask``, (B, L) int64, padded to its longest text;
    ``keep_texts`` adds the texts as the list ``text``.

    A source is a subclass: its constructor passes ``**shared`` on, stores its own arguments as attributes and ends with
    ``self._configure()``, which validates them; it implements :meth:`read`, and :meth:`files` to support a cache.
    Sources with named columns derive from :class:`~lightning_fusion.data.text.columns.ColumnTextDataModule`.

    Args:
        role: ``expert`` for the training data of experts; ``fuser`` for the texts held out for a fuser.
        domain: Names of the selected domains, with their own classes, for the role ``expert``. ``None`` (default)
            selects all. Splits do not depend on it.
        labels: All permitted labels, in the order of the targets; any other is an error. ``None`` means the labels in
            the data, sorted by name, all of which must occur in the training split. A mapping ``{Good: good}`` renames
            labels.
        tokenizer: Folder of a transformers tokenizer, or its name on the hub; ``None`` trains a byte-level byte-pair
            tokenizer on the training texts of the experts of all domains.
        vocab_size: Maximum number of tokens of the trained tokenizer.
        lowercase: Convert texts to lower case before a trained tokenizer.
        download: Permit downloads from the hub.
        max_length: Maximum number of tokens of a text; longer texts are truncated, and counted in a warning.
        unreadable: ``raise`` an error for texts that are empty or contain unknown tokens only, or ``drop`` them.
        fuser_fraction: Fraction of the texts outside the test split that is held out for the fuser.
        val_fraction: Fraction of the texts for validation (for the role ``fuser``, of those held out).
        test_fraction: Fraction of the texts for testing.
        cache: Folder in which the tokens are cached for later runs, which map them into memory.
        bucket: Train on batches of texts of similar length.
        augmentation: Module applied to the dict of a batch in training only, such as
            :class:`~lightning_fusion.data.text.augmentation.TokenDropout`.
        keep_texts: Batches contain the texts as well, under ``text``, for experts with a tokenizer of their own.
        **loading: ``batch_size``, ``num_workers``, ``seed`` and ``predict_root`` of
            :class:`~lightning_fusion.data.domains.ModalityDataModule`.

    Raises:
        InputError: If an argument is out of range, or a file or text cannot be read.
    """

    has_roles = True
    out_of_scope = "drop"  # an argument of sources with out-of-scope texts
    unlabeled: str | None = "drop"  # an argument of sources with unlabeled texts
    stage_of = {
        **dict.fromkeys((*_FRACTIONS, "seed"), Stage.SPLITTING),
        **dict.fromkeys(("role", "domain", "labels", "bucket", "augmentation", "keep_texts"), Stage.USING),
        **dict.fromkeys(("batch_size", "num_workers"), Stage.USING),
    }

    def __init__(
        self,
        role: Literal["expert", "fuser"] = "expert",
        domain: str | list[str] | None = None,
        labels: list[str | int] | dict[str | int, str | int] | None = None,
        tokenizer: str | None = None,
        vocab_size: int = 2048,
        lowercase: bool = True,
        download: bool = False,
        max_length: int = 256,
        unreadable: Literal["raise", "drop"] = "raise",
        fuser_fraction: float = 0.0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        cache: str | None = None,
        bucket: bool = True,
        augmentation: nn.Module | None = None,
        keep_texts: bool = False,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        require("tokenizers", "text")  # fails here, not after all texts are read
        self.role, self.domain, self.labels, self.bucket, self.keep_texts = role, domain, labels, bucket, keep_texts
        self.tokenizer, self.vocab_size, self.lowercase, self.download = tokenizer, vocab_size, lowercase, download
        self.max_length, self.unreadable, self.cache, self.augmentation = max_length, unreadable, cache, augmentation
        self.fuser_fraction, self.val_fraction, self.test_fraction = fuser_fraction, val_fraction, test_fraction

    # ------------------------------------------------ what a source implements

    def read(self) -> Texts:
        """Read all texts; implemented by a source."""
        raise NotImplementedError(f"{type(self).__name__} must implement read()")

    def files(self) -> list[Path]:
        """Return the files that :meth:`read` reads; their names, sizes and times identify a cache entry."""
        raise NotImplementedError(f"{type(self).__name__} must implement files() to have a cache")

    def preprocess(self, inputs: Any, augment: bool = False) -> Any:
        """Return the dict of a batch, augmented in training."""
        return self.augmentation(inputs) if augment and self.augmentation is not None else inputs

    # --------------------------------------------------------------- metadata

    @property
    def domains(self) -> list[str]:
        """Names of all domains, the columns of ``Batch.domain``; domains do not overlap."""
        return self._corpus.domains

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary, the number of rows of a network's embedding."""
        result: int = self._corpus.metadata["vocab_size"]
        return result

    @vocab_size.setter
    def vocab_size(self, most: int) -> None:
        """Set the maximum size of a tokenizer that is not trained yet."""
        self._most_tokens = most

    def statistics(self, split: str = "train") -> Tensor:
        """Return light statistics of the texts of a split: a hashed bag of words, independent of the tokenizer.

        Returns:
            (512,) float32, the result of :func:`~lightning_fusion.data.text.words.bag_of_words`.
        """
        corpus = self._corpus
        return torch.from_numpy(bag_of_words(corpus.words, corpus.word_offsets, self.rows(split).rows.numpy()))

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of the tokens of all texts and of samples, labels and preprocessing of one split."""
        dataset = self.rows(split)
        rows = dataset.rows
        return digest(
            self._corpus.metadata["fingerprint"], rows, dataset.targets[rows], dataset.domains[rows], self.preprocessing
        )

    def origins(self, index: Tensor) -> Origins:
        """Return file (or table) and line (or number) of each text."""
        corpus, rows = self._corpus, index.numpy()
        return Origins(corpus.metadata["files"], corpus.file[rows], corpus.line[rows], "line")

    def content_digests(self, dataset: RowDataset, rows: Tensor) -> np.ndarray:
        """Return digests of the texts, independent of the tokenizer."""
        result: np.ndarray = self._corpus.digest[rows.numpy()]
        return result

    # ------------------------------------------------------------- Lightning

    def prepare_data(self) -> None:
        """Fill the cache, once per machine."""
        if self.cache is not None and self.predict_root is None:
            self._corpus  # noqa: B018  # computed on access: fills the cache

    def train_dataloader(self) -> DataLoader[Any]:
        """Return batches of texts of similar length, in an order that depends on (seed, epoch)."""
        if not self.bucket:
            return self._loader("train")
        dataset = self.rows("train")
        assert isinstance(dataset.inputs, TokenRows)
        return self._loader("train", partial(LengthSampler, lengths=dataset.inputs.lengths[dataset.rows]))

    # -------------------------------------------------------------- internals

    def _first_stage(self, changed: Iterable[str]) -> Stage:
        first = super()._first_stage(changed)  # the tokenizer is trained on training texts only
        return Stage.READING if first == Stage.SPLITTING and self.tokenizer is None else first

    def _check(self) -> None:
        super()._check()
        self._check_role()
        self._check_choices({"unreadable": ("raise", "drop")})
        if self.cache is not None and type(self).files is BaseTextDataModule.files:
            raise InputError(f"cache: {type(self).__name__} reads no file to cache; remove cache")
        self._check_minimum(4, "max_length")
        if self._most_tokens < 260:
            raise InputError(
                f"vocab_size is {self._most_tokens}; expected at least 260: 256 byte tokens plus special tokens"
            )
        self._check_held_out(self.val_fraction, self.test_fraction)
        self._check_fractions("fuser_fraction", zero=True)
        if self.role == "fuser" and not self.fuser_fraction:
            raise InputError(
                "the role fuser needs texts that no expert trains on; set fuser_fraction, such as 0.25, "
                "for experts and fuser alike"
            )
        check_label_names(self.labels)

    # ---- reading

    def _read(self) -> Texts:
        texts = self.read()
        if not texts.texts:
            raise InputError(f"{self.origin} has no text; expected a row per text")
        if texts.splits and len(texts.splits) != len(texts.texts):
            raise InputError(f"{self.origin}: some texts name a split and others do not; name it for all")
        if not any(texts.labels):
            raise InputError(
                f"none of {len(texts.texts)} texts of {self.origin} is labeled; change label or ignored_labels"
            )
        if without := texts.labels.count(""):
            self.messages.info(f"{without} of {len(texts.texts)} texts have no label")
        return texts

    @property
    def _entry(self) -> Path | None:
        if self.cache is None:
            return None
        stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files()]
        own = sorted(constructor_arguments(type(self)).keys() - constructor_arguments(BaseTextDataModule).keys())
        own = [name for name in own if self.stage_of.get(name) != Stage.USING]
        how: list[Any] = [_READ_AS, str(type(self)), [getattr(self, name, None) for name in own]]
        how += [self.max_length, self.unreadable]
        if self.tokenizer is None:
            how += [self._most_tokens, self.lowercase, *(getattr(self, name) for name in sorted((*_FRACTIONS, "seed")))]
        else:
            folder = Path(self.tokenizer)
            inside = sorted(folder.iterdir()) if folder.is_dir() else []
            how += [self.tokenizer, [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in inside]]
        return Path(self.cache, f"text_{digest(stats, how)}")

    @staged_property(Stage.READING)
    def _corpus(self) -> Corpus:
        """Tokens of all texts, read on first access."""
        corpus = load_corpus(self._read, self._tokenizer_of, self.max_length, self.unreadable, self._entry)
        count, metadata = len(corpus.label), corpus.metadata
        if metadata["cut"]:
            tell = self.messages.warn if metadata["cut"] > count / 2 else self.messages.info
            tell(f"truncated {metadata['cut']} of {count} texts longer than max_length ({self.max_length} tokens)")
        lost, places = metadata["left_out"]
        if lost:
            self.messages.warn(f"{lost} texts are unreadable and are left out: {places}")
        message, serious = metadata.get("duplicates", (None, False))
        (self.messages.warn if serious else self.messages.info)(message)
        self.messages.warn(merge_message(metadata["merged"], "labels"))
        self.messages.warn(similar_message(corpus.domains, "domains", "rename one in the data"))
        return corpus

    def _tokenizer_of(self, texts: Texts, group: np.ndarray) -> TextTokenizer:
        if self.tokenizer is not None:
            return TextTokenizer.load(self.tokenizer, self.download).as_trained()
        label, domain = (number_labels(names)[1] for names in (texts.labels, texts.domains))
        split = self._draw(label, domain, np.array(texts.splits or [-1] * len(label)), group)
        rows = np.flatnonzero(split == TRAIN).tolist()
        chosen = [texts.texts[row] for row in rows]
        chosen += [] if texts.pairs is None else [texts.pairs[row] for row in rows]
        return TextTokenizer.train(chosen, self._most_tokens, self.lowercase)

    # ---- labels and splits

    @staged_property(Stage.USING)
    def _labels(self) -> tuple[list[str], np.ndarray]:
        """Names of all classes, and the class index of each text; -1 for texts that are not used."""
        corpus = self._corpus
        listed, renamed = read_labels(self.labels)
        names = rename_labels(corpus.labels, renamed)
        found = self._in_scope(~corpus.out_of_scope, names)
        known = listed or found
        if not listed:
            check_discrete(known, "labels")
        self.messages.warn(None if listed else similar_message(known, "labels", RENAME))
        self.messages.warn(None if listed else missing_message(known, "labels", "set ignored_labels to them"))
        if strange := [name for name in found if name not in known]:
            raise InputError(
                f"{self.origin} has the label {strange[0]!r}; expected one of {shorten(known, 9)}: add it to labels"
                f"{suggestion(strange[0], known)}"
            )
        known = [*known, *(self._in_scope(corpus.out_of_scope, names) if self.out_of_scope == "keep" else [])]
        number = {name: place for place, name in enumerate(known)}
        return known, np.array([*(number.get(name, -1) for name in names), -1])[corpus.label]  # the last: no label

    def _in_scope(self, rows: np.ndarray, names: Sequence[str]) -> list[str]:
        """Return the sorted ``names`` of the labels of the texts in a (N,) bool mask."""
        return sorted({names[number] for number in np.unique(self._corpus.label[rows]) if number >= 0})

    @property
    def _domain_of(self) -> np.ndarray:
        return self._corpus.domain

    def _check_own(self, chosen: list[int], classes: list[int]) -> None:
        super()._check_own(chosen, classes)
        listed, renamed = read_labels(self.labels)
        (known, label), corpus = self._labels, self._corpus
        if self.test_fraction:
            self.messages.warn(untested_message(label, self._split, known, "texts"))
        if not listed:
            trained = np.unique(label[np.isin(corpus.domain, chosen) & np.isin(self._split, (TRAIN, FUSER_TRAIN))])
            inside = self._in_scope(~corpus.out_of_scope, rename_labels(corpus.labels, renamed))
            if unseen := [known[n] for n in classes if n not in trained and known[n] in inside]:
                raise InputError(
                    f"the label {shorten(unseen)} is in no training text of domain "
                    f"{shorten(corpus.domains[number] for number in chosen)}; remove its rows, or list all labels in "
                    "labels"
                )

    @staged_property(Stage.SPLITTING)
    def _split(self) -> np.ndarray:
        """(N,) split of each text; LEFT_OUT for unlabeled texts."""
        corpus = self._corpus
        split = self._draw(corpus.label, corpus.domain, corpus.split, corpus.group)
        lost = (split == LEFT_OUT) & (corpus.label >= 0)
        if lost.any():
            self.messages.info(
                f"{lost.sum()} of {len(corpus.label)} texts are in a later split as well, and are left out of training "
                f"or validation, such as {self._place(int(np.argmax(lost)))}"
            )
        return split

    def _unlabeled_training(self) -> np.ndarray:
        """(N,) bool, the unlabeled texts that are named in no later split, and equal none of one or of the fuser's."""
        corpus, split = self._corpus, self._split
        held = corpus.group[~np.isin(split, (TRAIN, LEFT_OUT))]
        result: np.ndarray = (corpus.label < 0) & (corpus.split <= TRAIN) & ~np.isin(corpus.group, held)
        return result

    def _place(self, row: int) -> str:
        """File and line of a text, for messages."""
        corpus = self._corpus
        return f"{corpus.metadata['files'][corpus.file[row]]}, line {corpus.line[row]}"

    def _draw(self, label: np.ndarray, domain: np.ndarray, named: np.ndarray, group: np.ndarray) -> np.ndarray:
        fractions, labeled = {name: getattr(self, name) for name in _FRACTIONS}, label >= 0
        split, columns = np.full(len(label), LEFT_OUT), (label, domain, named, group)
        split[labeled] = draw_splits(*(each[labeled] for each in columns), seed=self.seed, **fractions)
        return split

    def _rows_of(self, split: str) -> Tensor:
        code, corpus = SPLITS.index(split), self._corpus
        codes = self._split
        if self.role == "fuser" and split != "test":
            own = {"train": FUSER_TRAIN, "val": FUSER_VAL}[split]
            code = own if (codes == own).any() else code if split == "val" else own
        used = np.isin(corpus.domain, self._own[0])
        if self.domain is None and self.out_of_scope == "keep" and split != "train":
            used |= corpus.out_of_scope
        own_split = codes == code
        if split == "train" and self.role == "expert" and self.unlabeled == "keep":
            own_split |= self._unlabeled_training()
        rows = np.flatnonzero(own_split & used)
        if not len(rows):
            raise EmptySplitError(
                f"the {split} split of domain {shorten(self.own_domains)} has no text; it needs more texts, or change "
                "val_fraction, test_fraction, fuser_fraction, domain or the splits of the source"
            )
        return torch.from_numpy(rows)

    def _inputs(self) -> Rows:
        corpus = self._corpus
        texts = WrittenTexts(corpus.written, corpus.written_offsets) if self.keep_texts else None
        return TokenRows(corpus.tokens, torch.from_numpy(corpus.offsets), corpus.metadata["pad_id"], texts)
