"""Texts with labels and domains, tokenised once."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_fusion.data.base import SPLITS, FusionDataModule, RowDataset
from lightning_fusion.data.samplers import LengthSampler, draws_order, slice_loader
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.data.statistics import bag_of_words
from lightning_fusion.data.text.public import from_ag_news, from_clinc150, from_reviews, from_tweeteval, synthetic_texts
from lightning_fusion.data.text.sources import Fields, Texts, files_of, from_files, from_huggingface, normalise
from lightning_fusion.data.text.tokens import Corpus, TextTokenizer, TokenRows, load_corpus
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import keep_plain

_CHOICES = {
    "source": ("files", "huggingface", "reviews", "clinc150", "tweeteval", "ag_news", "synthetic"),
    "role": ("expert", "fuser"),
    "out_of_scope": ("drop", "keep"),
    "unreadable": ("refuse", "drop"),
}
_TABLES = ("files", "huggingface", "ag_news")
_ONLY = {  # arguments that mean something to some sources only, and those sources
    "text": _TABLES,
    "label": _TABLES,
    "pair": _TABLES,
    "domain_fields": _TABLES,
    "split_field": ("files", "huggingface"),
    "out_of_scope_label": ("files", "huggingface"),
    "columns": ("files",),
    "delimiter": ("files", "huggingface"),
    "overlap": ("synthetic",),
}
_AG_NEWS = ("class", "title", "description")
_READING = {
    *("source", "root", "text", "label", "pair", "domain_fields", "split_field", "columns", "delimiter", "encoding"),
    *("tokenizer", "vocab_size", "lowercase", "download", "max_length", "unreadable", "overlap", "cache"),
    "out_of_scope_label",
}
_READ_AS = 3  # counts changes of how files are read: entries of a cache that were read otherwise are left alone
_SPLITTING = {"val_share", "test_share", "fuser_share", "seed"}
_TRAIN, _VAL, _TEST, _FUSER_TRAIN, _FUSER_VAL, _NOWHERE = 0, 1, 2, 3, 4, -1


class TextDataModule(FusionDataModule):
    """Labelled texts with domains, tokenised once; no text stands in two splits.

    Sources:

    - ``files``: CSV, TSV or JSON lines with named columns, one file as ``root``, or a folder with a file per split
      whose name begins with it (``train.csv``, ``validation.csv``, ``test.csv``).
    - ``huggingface``: a data set directory as ``datasets.save_to_disk`` writes it, or Parquet, Arrow, CSV or JSON lines
      per split. Arrow and Parquet want pyarrow.
    - ``reviews``: ``<domain>/{positive,negative}.review`` with ``<review_text>`` blocks (Blitzer et al., 2007).
    - ``clinc150``: ``data_full.json`` and ``domains.json``; its own splits, and queries out of scope.
    - ``tweeteval``: a folder per task; its own splits. Classes are called ``task/label``.
    - ``ag_news``: ``test.csv`` and ``classes.txt``; columns ``class``, ``title``, ``description``.
    - ``synthetic``: made-up reviews (:func:`~lightning_fusion.data.text.public.synthetic_texts`) for tests.

    Splits are drawn by domain and label, where the source names none. Texts that are equal but for case, blanks and
    Unicode's forms go to one split together; where the source names the splits, such texts are left out of training
    (and validation) if they stand in a later split.

    A batch's input is a dict of ``input_ids`` and ``attention_mask``, (B, L) int64, as wide as its longest text.

    Args:
        source: Where the texts come from, see above.
        root: The file, or the folder.
        text: Column of the text; ``text`` where None (``description`` for ``ag_news``).
        label: Column of the label; ``label`` where None (``class`` for ``ag_news``).
        pair: Column of a second text.
        domain_fields: Columns whose values, joined by ``_``, name a domain (slashes and dots become one, for names of
            experts hold none); a single domain where None.
        split_field: Column that says ``train``, ``val`` or ``test``. A part of ``train`` is
            drawn where none is ``val``.
        columns: Names of the columns, for files that do not begin with them.
        delimiter: Between columns; a tab for ``.tsv``, else a comma, where None. Quotes are those of CSV.
        encoding: Of the files; ``latin-1`` for ``reviews``, else ``utf-8``, where None.
        role: ``expert`` gives what experts train on; ``fuser`` gives the texts that were held out for a fuser.
        domain: Name or names of the domains in use, with their own classes, for role ``expert``; all where None.
            Splits do not depend on it.
        labels: All labels there may be, in the order of the targets; any other is an error. None: those that are
            found, by name, each of which training must hold.
        out_of_scope_label: Label of the texts in one's own files that are of none of the classes; such a row needs no
            domain.
        out_of_scope: ``keep`` gives texts out of scope (``clinc150`` has some) in validation and test where no
            ``domain`` is chosen: of no domain, and with a class of their own, the last, which no expert knows.
            Answering them is always wrong, so risk-coverage curves over these splits measure abstention.
        tokenizer: Folder of a tokenizer of transformers, or its name on the hub; None trains one on the texts on which
            experts of all domains train (byte-level byte pairs).
        vocab_size: Tokens of the trained tokenizer, at most.
        lowercase: Whether letters lose their case before a trained tokenizer.
        download: Whether a tokenizer may be fetched from the hub.
        max_length: Tokens of a text, at most; longer ones are cut, and counted aloud.
        unreadable: ``refuse`` texts that are empty or hold unknown tokens only, or ``drop`` them.
        overlap: Of the synthetic source: from 0, domains share no word, to 1, they share all; 0.3 where None.
        fuser_share: Share of the texts that are not for testing which is held out for the fuser.
        val_share: Share of the texts for validation (for role ``fuser``, of those held out).
        test_share: Share of the texts for testing.
        cache: Folder in which the tokens are kept for the next run, which maps them into memory.
        bucket: Train on batches of texts of similar length.
        batch_size: Samples per batch and process.
        num_workers: Loader processes.
        seed: Of splits and order.

    Raises:
        InputError: Where an argument does not fit the source, or a file or text cannot be read.

    Example:
        >>> data = TextDataModule(source="synthetic", domain="domain_0", batch_size=16)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> sorted(batch.input), data.classes, data.vocab_size <= 2048, data.statistics().shape
        (['attention_mask', 'input_ids'], ['bad', 'good'], True, torch.Size([512]))
    """

    has_roles = True
    source: str
    root: str | None
    text: str | None
    label: str | None
    pair: str | None
    domain_fields: list[str] | None
    split_field: str | None
    columns: list[str] | None
    delimiter: str | None
    encoding: str | None
    role: str
    domain: str | list[str] | None
    labels: list[str | int] | None
    out_of_scope_label: str | None
    out_of_scope: str
    tokenizer: str | None
    lowercase: bool
    download: bool
    max_length: int
    unreadable: str
    overlap: float | None
    fuser_share: float
    val_share: float
    test_share: float
    cache: str | None
    bucket: bool

    def __init__(
        self,
        source: Literal["files", "huggingface", "reviews", "clinc150", "tweeteval", "ag_news", "synthetic"] = "files",
        root: str | None = None,
        text: str | None = None,
        label: str | None = None,
        pair: str | None = None,
        domain_fields: list[str] | None = None,
        split_field: str | None = None,
        columns: list[str] | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        role: Literal["expert", "fuser"] = "expert",
        domain: str | list[str] | None = None,
        labels: list[str | int] | None = None,
        out_of_scope_label: str | None = None,
        out_of_scope: Literal["drop", "keep"] = "drop",
        tokenizer: str | None = None,
        vocab_size: int = 2048,
        lowercase: bool = True,
        download: bool = False,
        max_length: int = 256,
        unreadable: Literal["refuse", "drop"] = "refuse",
        overlap: float | None = None,
        fuser_share: float = 0.0,
        val_share: float = 0.1,
        test_share: float = 0.2,
        cache: str | None = None,
        bucket: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.save_hyperparameters(logger=False)
        keep_plain(self)
        self._told: set[str] = set()
        self._configure(**arguments)

    # ------------------------------------------------------------------ facts

    @property
    def classes(self) -> list[str]:
        """Names of the labels; with ``domain``, only of those that the chosen domains have."""
        return [self._labels[0][number] for number in self._own[1]]

    @property
    def domains(self) -> list[str]:
        """Names of all domains, the columns of ``Batch.domain``; they do not overlap."""
        return self._corpus.domains

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains that are used: those of ``domain``, or all."""
        return [self.domains[number] for number in self._own[0]]

    @property
    def vocab_size(self) -> int:
        """Numbers that tokens may have; a network's embedding needs as many rows."""
        return self._corpus.facts["vocab_size"]

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
            (512,) float32, see :func:`~lightning_fusion.data.statistics.bag_of_words`.
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
        self._text_tokenizer().save(folder)

    def decode(self, tokens: Sequence[int] | Tensor) -> str:
        """The text of the tokens of a row, (L,), as the tokenizer writes it; padding is left out."""
        numbers = [int(token) for token in tokens if token != self.preprocessing["pad_id"]]
        return self._text_tokenizer().backend.decode(numbers).strip()

    # ------------------------------------------------------------- Lightning

    def prepare_data(self) -> None:
        """Fill the cache, once per machine."""
        if self.cache is not None:
            self._corpus  # noqa: B018

    def setup(self, stage: str | None = None) -> None:
        """Read, tokenise and split the texts; cheap when repeated."""
        self.rows("train")

    def train_dataloader(self) -> DataLoader:
        """Batches of texts of similar length, in an order that depends on (seed, epoch)."""
        dataset = self.rows("train")
        shuffle = draws_order(self.trainer)
        if not self.bucket:
            return self._loader("train", shuffle)
        assert isinstance(dataset.inputs, TokenRows)
        kind = partial(LengthSampler, lengths=dataset.inputs.lengths[dataset.rows])
        return slice_loader(dataset, self.batch_size, shuffle, self.seed, self.num_workers, kind)

    def rows(self, split: str) -> RowDataset:
        """The data set of one split: ``train``, ``val`` or ``test``, of the role and the domains in use."""
        if split not in SPLITS:
            raise InputError(f"there is no split {split!r}; expected {shorten(SPLITS)}")
        if split not in self._datasets:
            self._datasets[split] = self._dataset(split)
        return self._datasets[split]

    # -------------------------------------------------------------- internals

    def _configure(self, **arguments: Any) -> None:
        if "vocab_size" in arguments:
            self._wanted_tokens = arguments["vocab_size"]
        super()._configure(**{name: value for name, value in arguments.items() if name != "vocab_size"})
        again = _READING | (_SPLITTING if self.tokenizer is None else set())  # the tokenizer reads training texts only
        if again & set(arguments):
            self._corpus_cache: Corpus | None = None
            self._tokenizer_cache: TextTokenizer | None = None
        if (again | _SPLITTING) & set(arguments):
            self._split_cache: np.ndarray | None = None
        self._datasets: dict[str, RowDataset] = {}
        self._label_cache: tuple[list[str], np.ndarray] | None = None
        self._own_cache: tuple[list[int], list[int]] | None = None
        self._check()

    def _check(self) -> None:
        self._check_choices(_CHOICES)
        for name, sources in _ONLY.items():
            if getattr(self, name) is not None and self.source not in sources:
                raise InputError(f"{name} is for source {shorten(sources)}; remove it, or change source {self.source}")
        if (self.root is None) != (self.source == "synthetic"):
            what = "needs no root; remove it" if self.root else "needs root: where the texts are"
            raise InputError(f"source {self.source} {what}, or change source")
        if self.source == "synthetic" and self.cache is not None:
            raise InputError("source synthetic has no file to cache; remove cache")
        if self.out_of_scope == "keep" and self.source != "clinc150" and self.out_of_scope_label is None:
            raise InputError(
                f"source {self.source} knows no text out of scope; set out_of_scope: drop, or in one's own files "
                "out_of_scope_label"
            )
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("max_length", self.max_length, 4),
            ("vocab_size", self._wanted_tokens, 260),
        ):
            if value < least:
                why = ": 256 bytes and special tokens" if name == "vocab_size" else ""
                raise InputError(f"{name} is {value}; expected at least {least}{why}")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise InputError(f"delimiter is {self.delimiter!r}; expected one character, ';' say")
        if self.overlap is not None and not 0 <= self.overlap <= 1:
            raise InputError(f"overlap is {self.overlap}; expected 0 (disjoint) to 1 (identical)")
        for name in ("val_share", "test_share", "fuser_share"):
            if not (0 if name == "fuser_share" else 1e-9) <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a share between 0 and 1")
        if self.val_share + self.test_share >= 1:
            raise InputError(
                f"val_share {self.val_share} and test_share {self.test_share} leave nothing to train on; lower them"
            )
        if self.role == "fuser" and not self.fuser_share:
            raise InputError(
                "role fuser reads texts that no expert trains on; set fuser_share, the same for all, 0.25 say"
            )
        if self.role == "fuser" and self.domain is not None:
            raise InputError("domain selects what one expert trains on; set role: expert, or remove domain")
        known = _texts(self.labels)
        if self.labels is not None and (len(known) < 2 or len(set(known)) < len(known)):
            raise InputError(f"labels is {known}; expected two or more different names")

    # ---- reading

    @property
    def _fields(self) -> Fields:
        news = self.source == "ag_news"
        return Fields(
            self.text or ("description" if news else "text"),
            self.label or ("class" if news else "label"),
            self.pair,
            tuple(self.domain_fields or ()),
            self.split_field,
            _AG_NEWS if news else None if self.columns is None else tuple(self.columns),
            "," if news else self.delimiter,
            None if self.out_of_scope_label is None else str(self.out_of_scope_label).strip(),
        )

    def _read(self) -> Texts:
        if self.source == "synthetic":
            return synthetic_texts(0.3 if self.overlap is None else self.overlap)
        assert self.root is not None
        files = files_of(self.source, self.root)
        encoding = self.encoding or ("latin-1" if self.source == "reviews" else "utf-8")
        if self.source == "files":
            texts = from_files(files, self._fields, encoding)
        elif self.source == "huggingface":
            texts = from_huggingface(files, self._fields, encoding, self.root)
        elif self.source == "reviews":
            texts = from_reviews(files, encoding)
        elif self.source == "clinc150":
            texts = from_clinc150(files, encoding)
        elif self.source == "tweeteval":
            texts = from_tweeteval(files, encoding, self.root)
        else:
            texts = from_ag_news(files, self._fields, encoding)
        if not texts.texts:
            raise InputError(f"{self.root} holds no text; expected a row per text")
        if texts.splits and len(texts.splits) != len(texts.texts):
            raise InputError(f"{self.root}: some files are called after a split and others are not; rename them")
        if self.out_of_scope_label is not None and not any(texts.out_of_scope):
            raise InputError(
                f"out_of_scope_label: no text of {self.root} has the label {self.out_of_scope_label!r}; the labels are "
                f"{shorten(sorted(set(texts.labels)), 9)}"
            )
        return texts

    @property
    def _entry(self) -> Path | None:
        if self.cache is None:
            return None
        assert self.root is not None
        files = files_of(self.source, self.root)
        stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        how: list[Any] = [_READ_AS, self.source, self._fields, self.encoding, self.max_length, self.unreadable]
        if self.tokenizer is None:
            how += [self._wanted_tokens, self.lowercase, *(getattr(self, name) for name in sorted(_SPLITTING))]
        else:
            folder = Path(self.tokenizer)
            inside = sorted(folder.iterdir()) if folder.is_dir() else []
            how += [self.tokenizer, [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in inside]]
        return Path(self.cache, f"text_{digest(stats, how)}")

    @property
    def _corpus(self) -> Corpus:
        """All texts as tokens, read when they are first wanted."""
        if self._corpus_cache is None:
            corpus = load_corpus(self._read, self._tokenizer_of, self.max_length, self.unreadable, self._entry)
            count, facts = len(corpus.label), corpus.facts
            if facts["cut"]:
                self._tell(
                    f"{facts['cut']} of {count} texts are longer than max_length ({self.max_length} tokens): cut",
                    warn=facts["cut"] > count / 2,
                )
            if facts["left_out"]:
                self._tell(f"{facts['left_out']} texts hold nothing to read and are left out")
            for what, names in (("labels", corpus.labels), ("domains", corpus.domains)):
                for alike in _alike(names):
                    self._tell(f"the {what} {shorten(map(repr, alike))} differ by case only, and count as {len(alike)}")
            self._corpus_cache = corpus
        return self._corpus_cache

    def _tokenizer_of(self, texts: Texts, group: np.ndarray) -> TextTokenizer:
        if self.tokenizer is not None:
            return TextTokenizer.load(self.tokenizer, self.download)
        label, domain = (np.unique(np.array(names), return_inverse=True)[1] for names in (texts.labels, texts.domains))
        domain = np.where(np.array(texts.domains) == "", -1, domain)
        split = self._draw(label, domain, np.array(texts.splits or [-1] * len(label)), group)
        rows = np.flatnonzero(split == _TRAIN).tolist()
        chosen = [texts.texts[row] for row in rows]
        chosen += [] if texts.pairs is None else [texts.pairs[row] for row in rows]
        return TextTokenizer.train(chosen, self._wanted_tokens, self.lowercase)

    def _text_tokenizer(self) -> TextTokenizer:
        if self._tokenizer_cache is None:
            trained = self._corpus.facts["trained"]
            loaded = self.tokenizer is not None
            self._tokenizer_cache = (
                TextTokenizer.load(str(self.tokenizer), self.download) if loaded else TextTokenizer.parse(trained)
            )
        return self._tokenizer_cache

    def _tell(self, message: str, warn: bool = True) -> None:
        if message not in self._told:
            self._told.add(message)
            (rank_zero_warn if warn else rank_zero_info)(message)

    # ---- labels and splits

    @property
    def _labels(self) -> tuple[list[str], np.ndarray]:
        """All classes, and the class of each text; -1 for texts that are not used."""
        if self._label_cache is None:
            corpus = self._corpus
            outside = sorted({corpus.labels[number] for number in np.unique(corpus.label[corpus.out_of_scope])})
            found = [corpus.labels[number] for number in np.unique(corpus.label[~corpus.out_of_scope])]
            known = _texts(self.labels) or found
            if strange := [name for name in found if name not in known]:
                raise InputError(
                    f"{self.root} has the label {strange[0]!r}; expected one of {shorten(known, 9)}: add it to labels"
                )
            known = [*known, *(outside if self.out_of_scope == "keep" else [])]
            number = {name: place for place, name in enumerate(known)}
            place = np.array([number.get(name, -1) for name in corpus.labels])
            self._label_cache = known, place[corpus.label]
        return self._label_cache

    @property
    def _own(self) -> tuple[list[int], list[int]]:
        """Numbers of the domains, and of the classes, that are used."""
        if self._own_cache is None:
            domains, (known, label), corpus = self.domains, self._labels, self._corpus
            chosen, classes = list(range(len(domains))), list(range(len(known)))
            if self.domain is not None:
                wanted = _texts(self.domain if isinstance(self.domain, list) else [self.domain])
                if not wanted or not set(wanted) <= set(domains):
                    raise InputError(
                        f"domain is {self.domain!r}; expected one or several of the {len(domains)} domains "
                        f"{shorten(domains, 9)}"
                    )
                chosen = sorted({domains.index(name) for name in wanted})
                classes = np.unique(label[np.isin(corpus.domain, chosen)]).tolist()
            of_label = self._fields.domains == (self._fields.label,)  # a domain is a class: nothing is classified
            if len(classes) < 2 and not of_label:
                raise InputError(
                    f"domain {shorten(domains[number] for number in chosen)} has "
                    f"{shorten(known[number] for number in classes) or 'no'} as its only class; a classifier needs "
                    "two: choose several domains, or change domain_fields"
                )
            self._own_cache = chosen, classes
            self._refuse_unseen_labels()
        return self._own_cache

    def _refuse_unseen_labels(self) -> None:
        if self.labels is not None:
            return
        assert self._own_cache is not None
        chosen, classes = self._own_cache
        corpus, (known, label) = self._corpus, self._labels
        used = np.isin(corpus.domain, chosen)
        trained = np.unique(label[used & np.isin(self._split, (_TRAIN, _FUSER_TRAIN))])
        if unseen := [known[number] for number in classes if number not in trained and known[number] in self._inside]:
            raise InputError(
                f"the label {shorten(unseen)} is in no training text of domain {shorten(self.own_domains)}; remove its "
                "rows, or list all labels in labels"
            )

    @property
    def _inside(self) -> set[str]:
        corpus = self._corpus
        return {corpus.labels[number] for number in np.unique(corpus.label[~corpus.out_of_scope])}

    @property
    def _split(self) -> np.ndarray:
        """(N,) the split of each text."""
        if self._split_cache is None:
            corpus = self._corpus
            self._split_cache = self._draw(corpus.label, corpus.domain, corpus.split, corpus.group)
            if lost := int((self._split_cache == _NOWHERE).sum()):
                self._tell(
                    f"{lost} of {len(corpus.label)} texts stand in a later split as well, and are left out of training "
                    "or validation",
                    warn=False,
                )
        return self._split_cache

    def _draw(self, label: np.ndarray, domain: np.ndarray, named: np.ndarray, group: np.ndarray) -> np.ndarray:
        """(N,) splits: those that the source names, or drawn ones, by domain and label, of groups of equal texts."""
        _, first, of_row = np.unique(group, return_index=True, return_inverse=True)
        strata = (domain * (label.max() + 1) + label)[first]
        latest = np.full(len(first), -1)
        np.maximum.at(latest, of_row, named)
        split = np.where(latest >= 0, latest, _TRAIN)
        free = np.flatnonzero(split == _TRAIN)

        def draw(rows: np.ndarray, share: float, purpose: int) -> tuple[np.ndarray, np.ndarray]:
            if not share or not len(rows):
                return rows, rows[:0]
            kept, held = stratified_split(strata[rows], share, self.seed * 1009 + purpose)
            return rows[kept], rows[held]

        share = self.val_share
        if (latest < 0).all():
            free, test = draw(free, self.test_share, 1)
            split[test] = _TEST
            share /= 1 - self.test_share
        free, fuser = draw(free, self.fuser_share, 2)
        split[fuser] = _FUSER_TRAIN
        if not (latest == _VAL).any():
            split[draw(free, share, 3)[1]] = _VAL
            split[draw(fuser, share, 4)[1]] = _FUSER_VAL
        result = split[of_row]
        result[(named >= 0) & (named < latest[of_row])] = _NOWHERE
        return result

    def _rows_of(self, split: str) -> Tensor:
        code, corpus = SPLITS.index(split), self._corpus
        codes = self._split
        if self.role == "fuser" and split != "test":
            own = {"train": _FUSER_TRAIN, "val": _FUSER_VAL}[split]
            code = own if (codes == own).any() else code if split == "val" else own
        used = np.isin(corpus.domain, self._own[0])
        if self.domain is None and self.out_of_scope == "keep" and split != "train":
            used |= corpus.out_of_scope
        rows = np.flatnonzero((codes == code) & used)
        if not len(rows):
            raise InputError(
                f"the {split} split of domain {shorten(self.own_domains)} has no text; it needs more texts, or change "
                "val_share, test_share, fuser_share, domain or the splits of the source"
            )
        return torch.from_numpy(rows)

    def _dataset(self, split: str) -> RowDataset:
        corpus, (known, label), (_, classes) = self._corpus, self._labels, self._own
        local = np.full(len(known) + 1, -1)  # the last for texts that are not used
        local[classes] = np.arange(len(classes))
        member = corpus.domain[:, None] == np.arange(len(self.domains))
        inputs = TokenRows(corpus.tokens, torch.from_numpy(corpus.offsets), corpus.facts["pad_id"])
        return RowDataset(inputs, torch.from_numpy(local[label]), torch.from_numpy(member), self._rows_of(split))


def _alike(names: Sequence[str]) -> list[list[str]]:
    """Names that are the same but for the case of letters."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(normalise(name), []).append(name)
    return [same for same in found.values() if len(same) > 1]


def _texts(values: Iterable[str | int] | None) -> list[str]:
    """Names as texts: YAML reads 33 as a number."""
    return [str(value) for value in values or ()]
