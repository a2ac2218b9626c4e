"""What all sources of texts share: tokens, splits, domains, the cache and the loaders."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_fusion.data.base import SPLITS, Rows, Stage, made_at
from lightning_fusion.data.domains import DomainsDataModule, as_names, check_label_names
from lightning_fusion.data.samplers import LengthSampler
from lightning_fusion.data.text.splits import FUSER_TRAIN, FUSER_VAL, LEFT_OUT, TRAIN, draw_splits
from lightning_fusion.data.text.texts import Texts, normalize
from lightning_fusion.data.text.tokens import Corpus, TextTokenizer, TokenRows, load_corpus
from lightning_fusion.data.text.words import bag_of_words
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import require
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import constructor_arguments

_READ_AS = 4  # counts changes of how files are read: entries of a cache that were read otherwise are left alone
_FRACTIONS = ("val_fraction", "test_fraction", "fuser_fraction")


class BaseTextDataModule(DomainsDataModule):
    """Labeled texts with domains, tokenized once; no text is in two splits.

    Splits are drawn by domain and label, where the source names none. Texts that are equal but for case, blanks and
    Unicode's forms go to one split together; where the source names the splits, such texts are left out of training
    (and validation) if they are in a later split.

    A batch's input is a dict of ``input_ids`` and ``attention_mask``, (B, L) int64, as wide as its longest text.

    A source is a subclass: its constructor hands ``**shared`` on, keeps the source's own arguments under their names
    and ends with ``self._configure()``, which checks them; and it implements :meth:`read`, and :meth:`files` where a
    cache is to be of use. Sources with named columns derive from
    :class:`~lightning_fusion.data.text.columns.ColumnTextDataModule` instead.

    Args:
        role: ``expert`` gives what experts train on; ``fuser`` gives the texts that were held out for a fuser.
        domain: Name or names of the domains in use, with their own classes, for role ``expert``; all where None.
            Splits do not depend on it.
        labels: All labels there may be, in the order of the targets; any other is an error. None: those that are
            found, by name, each of which training must contain.
        tokenizer: Folder of a tokenizer of transformers, or its name on the hub; None trains one on the texts on which
            experts of all domains train (byte-level byte pairs).
        vocab_size: Tokens of the trained tokenizer, at most.
        lowercase: Whether letters lose their case before a trained tokenizer.
        download: Whether what is named on the hub may be fetched from there.
        max_length: Tokens of a text, at most; longer ones are cut, and counted in a warning.
        unreadable: ``refuse`` texts that are empty or have unknown tokens only, or ``drop`` them.
        fuser_fraction: Of the texts that are not for testing, held out for the fuser.
        val_fraction: Of the texts for validation (for role ``fuser``, of those held out).
        test_fraction: Of the texts for testing.
        cache: Folder in which the tokens are kept for the next run, which maps them into memory.
        bucket: Train on batches of texts of similar length.
        **loading: ``batch_size``, ``num_workers`` and ``seed``, see
            :class:`~lightning_fusion.data.domains.ModalityDataModule`.

    Raises:
        InputError: If an argument is out of range, or a file or text cannot be read.
    """

    has_roles = True
    out_of_scope = "drop"  # sources that mark texts of no class take it as an argument
    stage_of = {
        **dict.fromkeys((*_FRACTIONS, "seed"), Stage.SPLITTING),
        **dict.fromkeys(("role", "domain", "labels", "bucket", "batch_size", "num_workers"), Stage.USING),
    }

    def __init__(
        self,
        role: Literal["expert", "fuser"] = "expert",
        domain: str | list[str] | None = None,
        labels: list[str | int] | None = None,
        tokenizer: str | None = None,
        vocab_size: int = 2048,
        lowercase: bool = True,
        download: bool = False,
        max_length: int = 256,
        unreadable: Literal["refuse", "drop"] = "refuse",
        fuser_fraction: float = 0.0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        cache: str | None = None,
        bucket: bool = True,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        require("tokenizers", "text")  # here, and not after all texts are read
        self.role, self.domain, self.labels, self.bucket = role, domain, labels, bucket
        self.tokenizer, self.vocab_size, self.lowercase, self.download = tokenizer, vocab_size, lowercase, download
        self.max_length, self.unreadable, self.cache = max_length, unreadable, cache
        self.fuser_fraction, self.val_fraction, self.test_fraction = fuser_fraction, val_fraction, test_fraction

    # ------------------------------------------------------- what a source says

    def read(self) -> Texts:
        """All texts; a source implements this."""
        raise NotImplementedError(f"{type(self).__name__} must implement read()")

    def files(self) -> list[Path]:
        """The files that :meth:`read` reads: names, sizes and times tell whether a cache is of them."""
        raise NotImplementedError(f"{type(self).__name__} must implement files() to have a cache")

    @property
    def origin(self) -> str:
        """Where the texts come from, for messages."""
        return str(getattr(self, "root", type(self).__name__))

    # ------------------------------------------------------------------ facts

    @property
    def domains(self) -> list[str]:
        """Names of all domains, the columns of ``Batch.domain``; they do not overlap."""
        return self._corpus.domains

    @property
    def vocab_size(self) -> int:
        """Numbers that tokens may have; a network's embedding needs as many rows."""
        return self._corpus.facts["vocab_size"]

    @vocab_size.setter
    def vocab_size(self, most: int) -> None:
        """Take the argument of this name, for a tokenizer that is yet to be trained."""
        self._most_tokens = most

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How texts become network input; experts that read each other's data need the same tokenizer."""
        facts = self._corpus.facts
        return {
            "tokenizer": facts["tokenizer"],
            "vocab_size": facts["vocab_size"],
            "pad_id": facts["pad_id"],
            "max_length": self.max_length,
        }

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the texts of a split: a hashed bag of words, whatever the tokenizer.

        Returns:
            (512,) float32, see :func:`~lightning_fusion.data.text.words.bag_of_words`.
        """
        corpus = self._corpus
        return torch.from_numpy(bag_of_words(corpus.words, corpus.word_offsets, self.rows(split).rows.numpy()))

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the tokens of all texts, and of rows, labels and preprocessing of one split."""
        dataset = self.rows(split)
        rows = dataset.rows
        return digest(
            self._corpus.facts["fingerprint"], rows, dataset.targets[rows], dataset.domains[rows], self.preprocessing
        )

    def save_tokenizer(self, folder: str | Path) -> None:
        """Write the tokenizer as a folder that ``tokenizer: FOLDER`` reads, elsewhere too."""
        self._text_tokenizer.save(folder)

    def decode(self, tokens: Sequence[int] | Tensor) -> str:
        """The text of the tokens of a row, (L,), as the tokenizer writes it; padding is left out."""
        numbers = [int(token) for token in tokens if token != self.preprocessing["pad_id"]]
        return self._text_tokenizer.backend.decode(numbers).strip()

    # ------------------------------------------------------------- Lightning

    def prepare_data(self) -> None:
        """Fill the cache, once per machine."""
        if self.cache is not None:
            self._corpus  # noqa: B018

    def train_dataloader(self) -> DataLoader:
        """Batches of texts of similar length, in an order that depends on (seed, epoch)."""
        if not self.bucket:
            return self._loader("train")
        dataset = self.rows("train")
        assert isinstance(dataset.inputs, TokenRows)
        return self._loader("train", partial(LengthSampler, lengths=dataset.inputs.lengths[dataset.rows]))

    # -------------------------------------------------------------- internals

    def _first_stage(self, changed: Iterable[str]) -> Stage:
        first = super()._first_stage(changed)  # a tokenizer is trained on training texts only
        return Stage.READING if first == Stage.SPLITTING and self.tokenizer is None else first

    def _check(self) -> None:
        super()._check()
        self._check_role()
        self._check_choices({"unreadable": ("refuse", "drop")})
        if self.cache is not None and type(self).files is BaseTextDataModule.files:
            raise InputError(f"cache: {type(self).__name__} has no file to cache; remove cache")
        self._check_least(4, "max_length")
        if self._most_tokens < 260:
            raise InputError(f"vocab_size is {self._most_tokens}; expected at least 260: 256 bytes and special tokens")
        self._check_held_out(self.val_fraction, self.test_fraction)
        self._check_fractions("fuser_fraction", zero=True)
        if self.role == "fuser" and not self.fuser_fraction:
            raise InputError(
                "role fuser reads texts that no expert trains on; set fuser_fraction, the same for all, 0.25 say"
            )
        check_label_names(self.labels)

    # ---- reading

    def _read(self) -> Texts:
        texts = self.read()
        if not texts.texts:
            raise InputError(f"{self.origin} has no text; expected a row per text")
        if texts.splits and len(texts.splits) != len(texts.texts):
            raise InputError(f"{self.origin}: some texts are of a named split and others are not; name it for all")
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

    @made_at(Stage.READING)
    def _corpus(self) -> Corpus:
        """All texts as tokens, read when they are first wanted."""
        corpus = load_corpus(self._read, self._tokenizer_of, self.max_length, self.unreadable, self._entry)
        count, facts = len(corpus.label), corpus.facts
        if facts["cut"]:
            tell = self.notices.warn if facts["cut"] > count / 2 else self.notices.inform
            tell(f"{facts['cut']} of {count} texts are longer than max_length ({self.max_length} tokens): cut")
        if facts["left_out"]:
            self.notices.warn(f"{facts['left_out']} texts have nothing to read and are left out")
        for what, names in (("labels", corpus.labels), ("domains", corpus.domains)):
            found: dict[str, list[str]] = {}
            for name in names:
                found.setdefault(normalize(name), []).append(name)
            for alike in found.values():
                if len(alike) > 1:
                    self.notices.warn(
                        f"the {what} {shorten(map(repr, alike))} differ by case only, and count as {len(alike)}"
                    )
        return corpus

    def _tokenizer_of(self, texts: Texts, group: np.ndarray) -> TextTokenizer:
        if self.tokenizer is not None:
            return TextTokenizer.load(self.tokenizer, self.download)
        label, domain = (np.unique(np.array(names), return_inverse=True)[1] for names in (texts.labels, texts.domains))
        domain = np.where(np.array(texts.domains) == "", -1, domain)
        split = self._draw(label, domain, np.array(texts.splits or [-1] * len(label)), group)
        rows = np.flatnonzero(split == TRAIN).tolist()
        chosen = [texts.texts[row] for row in rows]
        chosen += [] if texts.pairs is None else [texts.pairs[row] for row in rows]
        return TextTokenizer.train(chosen, self._most_tokens, self.lowercase)

    @made_at(Stage.READING)
    def _text_tokenizer(self) -> TextTokenizer:
        if self.tokenizer is None:
            return TextTokenizer.parse(self._corpus.facts["trained"])
        return TextTokenizer.load(self.tokenizer, self.download)

    # ---- labels and splits

    @made_at(Stage.USING)
    def _labels(self) -> tuple[list[str], np.ndarray]:
        """All classes, and the class of each text; -1 for texts that are not used."""
        corpus = self._corpus
        found = self._in_scope(~corpus.out_of_scope)
        known = as_names(self.labels) or found
        if strange := [name for name in found if name not in known]:
            raise InputError(
                f"{self.origin} has the label {strange[0]!r}; expected one of {shorten(known, 9)}: add it to labels"
            )
        known = [*known, *(self._in_scope(corpus.out_of_scope) if self.out_of_scope == "keep" else [])]
        number = {name: place for place, name in enumerate(known)}
        return known, np.array([number.get(name, -1) for name in corpus.labels])[corpus.label]

    def _in_scope(self, rows: np.ndarray) -> list[str]:
        """Names of the labels of the texts of a (N,) bool mask, sorted."""
        corpus = self._corpus
        return [corpus.labels[number] for number in np.unique(corpus.label[rows])]

    @property
    def _domain_of(self) -> np.ndarray:
        return self._corpus.domain

    def _check_own(self, chosen: list[int], classes: list[int]) -> None:
        super()._check_own(chosen, classes)
        if self.labels is None:
            (known, label), corpus = self._labels, self._corpus
            trained = np.unique(label[np.isin(corpus.domain, chosen) & np.isin(self._split, (TRAIN, FUSER_TRAIN))])
            inside = self._in_scope(~corpus.out_of_scope)
            if unseen := [known[n] for n in classes if n not in trained and known[n] in inside]:
                raise InputError(
                    f"the label {shorten(unseen)} is in no training text of domain "
                    f"{shorten(corpus.domains[number] for number in chosen)}; remove its rows, or list all labels in "
                    "labels"
                )

    @made_at(Stage.SPLITTING)
    def _split(self) -> np.ndarray:
        """(N,) the split of each text."""
        corpus = self._corpus
        split = self._draw(corpus.label, corpus.domain, corpus.split, corpus.group)
        if lost := int((split == LEFT_OUT).sum()):
            self.notices.inform(
                f"{lost} of {len(corpus.label)} texts are in a later split as well, and are left out of training "
                "or validation"
            )
        return split

    def _draw(self, label: np.ndarray, domain: np.ndarray, named: np.ndarray, group: np.ndarray) -> np.ndarray:
        fractions = {name: getattr(self, name) for name in _FRACTIONS}
        return draw_splits(label, domain, named, group, seed=self.seed, **fractions)

    def _rows_of(self, split: str) -> Tensor:
        code, corpus = SPLITS.index(split), self._corpus
        codes = self._split
        if self.role == "fuser" and split != "test":
            own = {"train": FUSER_TRAIN, "val": FUSER_VAL}[split]
            code = own if (codes == own).any() else code if split == "val" else own
        used = np.isin(corpus.domain, self._own[0])
        if self.domain is None and self.out_of_scope == "keep" and split != "train":
            used |= corpus.out_of_scope
        rows = np.flatnonzero((codes == code) & used)
        if not len(rows):
            raise InputError(
                f"the {split} split of domain {shorten(self.own_domains)} has no text; it needs more texts, or change "
                "val_fraction, test_fraction, fuser_fraction, domain or the splits of the source"
            )
        return torch.from_numpy(rows)

    def _inputs(self) -> Rows:
        corpus = self._corpus
        return TokenRows(corpus.tokens, torch.from_numpy(corpus.offsets), corpus.facts["pad_id"])
