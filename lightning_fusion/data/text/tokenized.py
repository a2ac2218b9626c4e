"""Base class of data modules of texts, with the tokenizer of the data or of a model's training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_fusion.data.base import Stage, staged_property
from lightning_fusion.data.domains import DomainsDataModule
from lightning_fusion.data.rows import NewRows
from lightning_fusion.data.text.new_texts import NewTexts, read_new_texts
from lightning_fusion.data.text.tokens import Corpus, TextTokenizer
from lightning_fusion.errors import InputError


class TokenizedDataModule(DomainsDataModule):
    """Base class of texts with one tokenizer: trained on the labeled texts, named, or that of a model's training.

    Args:
        **loading: Arguments of :class:`~lightning_fusion.data.domains.ModalityDataModule`.
    """

    tokenizer: str | None
    download: bool
    max_length: int
    unreadable: str
    keep_texts: bool

    def __init__(self, **loading: Any) -> None:
        super().__init__(**loading)
        self._trained: str | None = None  # text of a model's tokenizer
        self._expected: str | None = None  # fingerprint of it

    @property
    def origin(self) -> str:
        """Origin of the labeled texts, for messages."""
        return str(getattr(self, "root", type(self).__name__))

    @property
    def _corpus(self) -> Corpus:
        """Tokens of all labeled texts, read on first access."""
        raise NotImplementedError

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Parameters of the tokenizer; experts that share data need the same one."""
        if self.predict_root is not None:
            tokenizer = self._known_tokenizer
            if tokenizer is None:
                return {}
            found = {"tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
            return found | {"max_length": self.max_length}
        metadata = self._corpus.metadata
        return {
            "tokenizer": metadata["tokenizer"],
            "vocab_size": metadata["vocab_size"],
            "pad_id": metadata["pad_id"],
            "max_length": self.max_length,
        }

    def new_texts(self, root: str) -> NewTexts:
        """Read texts for prediction: the column ``text`` of tables, and the lines of ``.txt`` files.

        Args:
            root: File or folder.
        """
        return read_new_texts(root, "text", None, self.messages)

    @property
    def new_sample_facts(self) -> dict[str, Any]:
        """Text of the trained tokenizer; nothing of one of transformers."""
        text = self._corpus.metadata.get("trained")
        return {"trained_tokenizer": text} if text else {}

    def use_preprocessing(self, known: Mapping[str, Any] | None) -> None:
        """Tokenize new samples (``predict_root``) with the tokenizer of a model's training.

        Args:
            known: Preprocessing of the training, with the text of a trained tokenizer as ``trained_tokenizer``;
                ``None`` means that of the arguments and the data again.
        """
        known = {} if known is None or self.predict_root is None else known
        self._expected = known.get("tokenizer")
        if known.get("trained_tokenizer") != self._trained:
            self._trained = known.get("trained_tokenizer")
            self.__dict__.pop("_text_tokenizer", None)
            self._configure()

    def new_rows(self, root: str) -> NewRows:
        """Read and tokenize new texts; with ``unreadable: drop`` empty ones get a note.

        The tokenizer is that of the argument or of the model's checkpoint. If neither has one, samples are the texts
        alone with ``keep_texts``; else the labeled texts are read to train it again.
        """
        if self._known_tokenizer is None and not self.keep_texts:
            try:
                self._corpus  # noqa: B018  # trains the tokenizer again
            except InputError as error:
                raise InputError(
                    f"predict_root: found no tokenizer: the checkpoint contains none, and the labeled texts cannot be "
                    f"read ({error}); set tokenizer, or root to the labeled texts"
                ) from error
        tokenizer = self._known_tokenizer
        if self.tokenizer is None and tokenizer is not None and self._expected not in (None, tokenizer.fingerprint):
            raise InputError(
                f"predict_root: the checkpoint contains no tokenizer, and the one trained on {self.origin} is not that "
                "of the model; set root and the splits to those of its training, or train the model again"
            )
        how = self.max_length, self.unreadable, self.keep_texts, self.messages.info
        return self.new_texts(root).samples(tokenizer, *how)

    def save_tokenizer(self, folder: str | Path) -> None:
        """Write the tokenizer to a folder, which the argument ``tokenizer`` accepts."""
        self._text_tokenizer.save(folder)

    def decode(self, tokens: Sequence[int] | Tensor) -> str:
        """Decode (L,) token ids to a text, without padding."""
        numbers = [int(token) for token in tokens if token != self.preprocessing["pad_id"]]
        result: str = self._text_tokenizer.backend.decode(numbers).strip()
        return result

    @staged_property(Stage.READING)
    def _text_tokenizer(self) -> TextTokenizer:
        if self._trained is not None:
            return TextTokenizer.parse(self._trained)
        if self.tokenizer is not None:
            return TextTokenizer.load(self.tokenizer, self.download).as_trained()
        return TextTokenizer.parse(self._corpus.metadata["trained"])

    @property
    def _known_tokenizer(self) -> TextTokenizer | None:
        """Tokenizer, if it is known without reading the labeled texts."""
        read = "_corpus" in self.__dict__
        return self._text_tokenizer if read or self.tokenizer is not None or self._trained is not None else None
