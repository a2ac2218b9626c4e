"""Pairs of texts from files, for generative experts and their fuser."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_fusion.data.splits import stratified_split
from lightning_fusion.data.text.columns import Fields, names_of_values
from lightning_fusion.data.text.readers import read_table
from lightning_fusion.data.text.texts import Texts, normalize
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest, write_text
from lightning_fusion.generation.pairs import TextPairsDataModule

_WHOLE = 1 << 20  # tokens
_EXPERT, _EXPERT_VAL, _FUSER, _FUSER_VAL, _TEST = range(5)
_PARTS = ("training the experts", "validating the experts", "training the fuser", "validating the fuser", "testing")
_ROLES = {
    "expert": {"train": _EXPERT, "val": _EXPERT_VAL},
    "fuser": {"train": _FUSER, "val": _FUSER_VAL, "test": _TEST},
}


class PairFiles:
    """Pairs of input and target texts of several domains, in five parts with disjoint input texts.

    Experts and fuser each have a training and a validation part; the rest is the test part. No expert is trained on the
    fuser's parts. Parts are drawn within domains. One byte-level tokenizer is trained on the experts' training texts,
    inputs and targets of all domains, unless one is given.

    Args:
        root: A CSV, TSV or JSON file.
        domain_fields: Columns whose values, joined by ``_``, name the domain; slashes and dots in them become
            underscores.
        read: Column of the input texts.
        write: Column of the target texts.
        columns: Names of the columns of files without a header.
        value_names: Names of the values of some columns: ``{class: {"1": World, "2": Sports}}``.
        delimiter: Column delimiter. ``None`` (default) selects it by the suffix.
        quoting: ``csv``, or ``none`` where quotes are part of the texts. ``None`` (default) means ``none`` for tabs.
        encoding: Encoding of the files.
        test_fraction: Fraction of all pairs for testing.
        fuser_fraction: Fraction of all pairs for the fuser; a fifth of it validates.
        val_fraction: Fraction of all pairs for the experts' validation.
        vocab_size: Maximum number of tokens.
        lowercase: Convert texts to lower case.
        max_read: Maximum number of tokens of an input text; longer ones are truncated.
        max_write: Maximum number of tokens of a target text in training; evaluation uses the whole text.
        batch_size: Number of pairs per batch of the experts' training.
        ask_batch_size: Number of texts per batch of the experts' inference.
        seed: Random seed of the parts and of the order of samples.
        tokenizer: Folder of a tokenizer of transformers, or of the model that it belongs to, in place of a trained one;
            ``vocab_size`` and ``lowercase`` do not apply to it.

    Raises:
        InputError: If fractions leave a part empty, or, when the file is read, if its content is invalid.
    """

    def __init__(
        self,
        root: str,
        domain_fields: list[str],
        read: str = "description",
        write: str = "title",
        columns: list[str] | None = None,
        value_names: dict[str, dict[str | int, str]] | None = None,
        delimiter: str | None = None,
        quoting: Literal["csv", "none"] | None = None,
        encoding: str = "utf-8",
        test_fraction: float = 0.2,
        fuser_fraction: float = 0.2,
        val_fraction: float = 0.06,
        vocab_size: int = 4096,
        lowercase: bool = True,
        max_read: int = 64,
        max_write: int = 24,
        batch_size: int = 32,
        ask_batch_size: int = 128,
        seed: int = 0,
        tokenizer: str | None = None,
    ) -> None:
        self.arguments: dict[str, Any] = {name: value for name, value in locals().items() if name != "self"}
        if min(test_fraction, fuser_fraction, val_fraction) <= 0 or test_fraction + fuser_fraction + val_fraction >= 1:
            raise InputError(
                f"test_fraction is {test_fraction}, fuser_fraction {fuser_fraction}, val_fraction {val_fraction}; "
                "expected fractions above 0 with a sum below 1"
            )
        if min(max_read, max_write, batch_size, ask_batch_size) < 1:
            raise InputError("max_read, max_write, batch_size and ask_batch_size must be at least 1")
        if not domain_fields:
            raise InputError("domain_fields: found none; name the column(s) of the domain of a pair")
        self.root, self.columns, self.encoding = root, columns, encoding
        self.delimiter, self.quoting = delimiter, quoting
        self.fields = Fields(read, write, domains=tuple(domain_fields), names=names_of_values(value_names))
        self.test_fraction, self.fuser_fraction, self.val_fraction = test_fraction, fuser_fraction, val_fraction
        self.vocab_size, self.lowercase, self.max_read, self.max_write = vocab_size, lowercase, max_read, max_write
        self.batch_size, self.ask_batch_size, self.seed = batch_size, ask_batch_size, seed
        self.tokenizer_folder = tokenizer

    def variant(self, **arguments: Any) -> "PairFiles":
        """Return the same data with other arguments."""
        return PairFiles(**(self.arguments | arguments))

    # ----------------------------------------------------------------- texts

    @cached_property
    def texts(self) -> Texts:
        """Return all pairs: input ``texts``, target ``labels``, ``domains``; empty inputs raise InputError."""
        texts = Texts(forms=str.strip)  # texts to write, not labels
        how: dict[str, Any] = {"delimiter": self.delimiter, "columns": self.columns, "quoting": self.quoting}
        rows = read_table(Path(self.root), self.fields.needed, self.encoding, **how)
        self.fields.add(texts, self.root, rows)
        if blank := [row for row, text in enumerate(texts.texts) if not text.strip()]:
            raise InputError(f"{texts.place(blank[0])}: {self.fields.text} is empty; write it, or remove the row")
        return texts

    @property
    def domains(self) -> list[str]:
        """Names of the domains."""
        return sorted(set(self.texts.domains))

    @cached_property
    def part(self) -> np.ndarray:
        """Return the (N,) part of each pair; pairs with equal input texts are in the same part."""
        first: dict[str, int] = {}
        group = np.array([first.setdefault(normalize(text), row) for row, text in enumerate(self.texts.texts)])
        leader = np.flatnonzero(group == np.arange(len(group)))
        _, stratum = np.unique(np.array(self.texts.domains), return_inverse=True)
        part = np.full(len(group), _EXPERT)

        def draw(rows: np.ndarray, share: float, kind: int) -> np.ndarray:
            kept, held = stratified_split(stratum[rows], share, self.seed * 1009 + kind)
            part[rows[held]] = kind
            result: np.ndarray = rows[kept]
            return result

        rows = draw(leader, self.test_fraction, _TEST)
        rows = draw(rows, self.fuser_fraction / (1 - self.test_fraction), _FUSER)
        draw(rows, self.val_fraction / (1 - self.test_fraction - self.fuser_fraction), _EXPERT_VAL)
        draw(np.flatnonzero(part == _FUSER), 0.2, _FUSER_VAL)
        part = part[group]
        owner = np.array(self.texts.domains)
        for kind, name in enumerate(_PARTS):
            if lacking := sorted(set(owner.tolist()) - set(owner[part == kind].tolist())):
                raise InputError(
                    f"{self.root}: the part for {name} has no pair of the domain(s) {shorten(lacking)}; give more "
                    "pairs, or change test_fraction, fuser_fraction or val_fraction"
                )
        result: np.ndarray = part
        return result

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """Tokenizer trained on the experts' training texts, or the given one."""
        if self.tokenizer_folder is not None:
            return TextTokenizer.load(self.tokenizer_folder, download=False)
        rows = np.flatnonzero(self.part == _EXPERT)
        texts = [text for row in rows for text in (self.texts.texts[row], self.texts.labels[row])]
        return TextTokenizer.train(texts, self.vocab_size, self.lowercase)

    @cached_property
    def _tokens(self) -> tuple[list[list[int]], list[list[int]]]:
        """Tokens of all input and target texts, not truncated."""
        read, _, _ = self.tokenizer.encode(self.texts.texts, None, _WHOLE)
        write, _, _ = self.tokenizer.encode(self.texts.labels, None, _WHOLE)
        return read, write

    def tell_cut(self) -> str | None:
        """Return how many texts are truncated, as a sentence; ``None`` if none are."""
        limits = {"read": self.max_read, "write": self.max_write}
        both = zip(limits, self._tokens, strict=True)
        cut = {name: sum(len(text) > limits[name] for text in texts) for name, texts in both}
        counts = [
            f"{cut[name]} to {name} are longer than max_{name} ({limits[name]} tokens)" for name in cut if cut[name]
        ]
        return (
            f"Of {len(self.part)} pairs, {' and '.join(counts)}: experts receive truncated texts." if counts else None
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        more = {} if self.tokenizer_folder is None else {"skip_special_tokens": True}
        result: str = self.tokenizer.backend.decode(list(tokens), **more).strip()
        return result

    def save_tokenizer(self, folder: str | Path) -> Path:
        """Write a ``tokenizer.json``, which transformers and this library read."""
        if self.tokenizer_folder is not None:
            self.tokenizer.save(folder)
            return Path(folder)
        path = Path(folder) / "tokenizer.json"
        write_text(path, self.tokenizer.dump())
        return path

    # ----------------------------------------------------------- data modules

    def rows(self, role: Literal["expert", "fuser"], split: str) -> np.ndarray:
        """Return the numbers of the pairs of a role's split, in file order."""
        return np.flatnonzero(self.part == _ROLES[role][split])

    def module(self, role: Literal["expert", "fuser"], domain: str | None = None) -> TextPairsDataModule:
        """Return the data module of a role, of one domain or of all; that of the fuser also has a test split."""
        read, write = self._tokens
        longest = self.max_write if role == "expert" else _WHOLE
        number = {name: place for place, name in enumerate(self.domains)}
        splits = {}
        for split in _ROLES[role]:
            rows = self.rows(role, split)
            splits[split] = (
                [read[row][: self.max_read] for row in rows],
                [write[row][:longest] for row in rows],
                [number[self.texts.domains[row]] for row in rows],
            )
        own = None if domain is None else [domain]
        pad_id = self.tokenizer.pad_id
        size = self.batch_size if role == "expert" else self.ask_batch_size
        return TextPairsDataModule(splits, self.domains, own, size, self.seed, pad_id, self.preprocessing)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How texts become tokens, as an expert's checkpoint stores it."""
        own = {} if self.tokenizer_folder is not None else {"lowercase": self.lowercase}
        return {**own, "tokenizer": self.tokenizer.fingerprint}

    def fingerprint(self) -> str:
        """Fingerprint of all pairs and of their parts."""
        return digest(self.texts.texts, self.texts.labels, self.texts.domains, self.part)
