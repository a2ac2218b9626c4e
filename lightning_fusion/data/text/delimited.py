"""Texts in CSV and TSV files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lightning_fusion.data.text.columns import ColumnTextDataModule, Table
from lightning_fusion.data.text.readers import JSON_SUFFIXES, read_delimited
from lightning_fusion.data.text.texts import find_tables, split_of
from lightning_fusion.errors import InputError


class TextDataModule(ColumnTextDataModule):
    r"""Labeled texts with domains from CSV or TSV files, tokenized once; no text is in two splits.

    Other sources have their own classes: JSON lines
    (:class:`~lightning_fusion.data.text.json_lines.JSONTextDataModule`), Hugging Face data sets
    (:class:`~lightning_fusion.data.text.huggingface.HuggingFaceTextDataModule`), synthetic reviews
    (:class:`~lightning_fusion.data.text.synthetic.SyntheticTextDataModule`) and public data sets
    (:mod:`lightning_fusion.data.text.public`). Splits, tokens and batches are described in
    :class:`~lightning_fusion.data.text.datamodule.BaseTextDataModule`.

    Args:
        root: A file, or a folder with a file per split, named after it (``train.csv``, ``validation.csv``,
            ``test.csv``).
        columns: Names of the columns of files without a header.
        delimiter: Column delimiter. ``None`` (default) means a tab for ``.tsv`` and a comma otherwise.
        quoting: ``csv``: quotes enclose cells that contain the delimiter, quotes or line breaks. ``none``: quotes are
            part of the texts, and each line is a row. ``None`` (default) means ``none`` if the delimiter is a tab,
            and ``csv`` otherwise.
        encoding: Encoding of the files.
        **shared: Arguments of :class:`~lightning_fusion.data.text.columns.ColumnTextDataModule` (roles of columns) and
            :class:`~lightning_fusion.data.text.datamodule.BaseTextDataModule` (splits, tokens and batches).

    Raises:
        InputError: If an argument is out of range, or a row is invalid (with file and line).

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "reviews.csv")
        >>> rows = [f"{word} thing {n},{word}" for word in ("good", "bad") for n in range(10)]
        >>> _ = file.write_text("\n".join(["text,label", *rows]))
        >>> data = TextDataModule(root=str(file), batch_size=16)
        >>> batch = next(iter(data.train_dataloader()))
        >>> sorted(batch.input), data.classes, len(batch.target), data.statistics().shape
        (['attention_mask', 'input_ids'], ['bad', 'good'], 14, torch.Size([512]))
    """

    def __init__(
        self,
        root: str,
        columns: list[str] | None = None,
        delimiter: str | None = None,
        quoting: Literal["csv", "none"] | None = None,
        encoding: str = "utf-8",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.root, self.columns, self.encoding = root, columns, encoding
        self.delimiter, self.quoting = delimiter, quoting
        self._configure()

    def files(self) -> list[Path]:
        """Return the file, or the files of the folder."""
        found = find_tables(self.root, (".csv", ".tsv"), self.messages)
        if found[0].suffix.lower() in JSON_SUFFIXES:
            raise InputError(
                f"root: {found[0]} is JSON; use lightning_fusion.data.text.json_lines.JSONTextDataModule, or set "
                "root to CSV files"
            )
        return found

    def tables(self) -> Iterator[Table]:
        """Yield the rows of each file."""
        files = self.files()
        for path in files:
            how = self.encoding, self.delimiter, self.columns, self.quoting
            rows = read_delimited(path, self.fields.needed, *how, tell=self.messages.warn)
            yield str(path), rows, split_of(path) if len(files) > 1 else None

    def _check(self) -> None:
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise InputError(f"delimiter is {self.delimiter!r}; expected one character, such as ';'")
        self._check_choices({"quoting": ("csv", "none", None)})
        super()._check()
