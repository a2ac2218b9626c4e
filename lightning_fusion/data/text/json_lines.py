"""Texts in JSON lines or JSON arrays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_fusion.data.text.columns import ColumnTextDataModule, Table
from lightning_fusion.data.text.readers import JSON_SUFFIXES, read_json
from lightning_fusion.data.text.texts import find_tables, split_of


class JSONTextDataModule(ColumnTextDataModule):
    r"""Labeled texts with domains from JSON lines (an object per line) or JSON arrays of objects.

    Args:
        root: A file, or a folder with a file per split, named after it (``train.jsonl``, ``test.jsonl``).
        encoding: Encoding of the files.
        **shared: Arguments of :class:`~lightning_fusion.data.text.columns.ColumnTextDataModule` (roles of keys) and
            :class:`~lightning_fusion.data.text.datamodule.BaseTextDataModule` (splits, tokens and batches).

    Raises:
        InputError: If an argument is out of range, or a row is invalid (with file and line).

    Example:
        >>> import json, tempfile
        >>> file = Path(tempfile.mkdtemp(), "reviews.jsonl")
        >>> rows = [{"body": f"{word} thing {n}", "stars": word} for word in ("five", "one") for n in range(10)]
        >>> _ = file.write_text("\n".join(map(json.dumps, rows)))
        >>> JSONTextDataModule(root=str(file), text="body", label="stars").classes
        ['five', 'one']
    """

    def __init__(self, root: str, encoding: str = "utf-8", **shared: Any) -> None:
        super().__init__(**shared)
        self.root, self.encoding = root, encoding
        self._configure()

    def files(self) -> list[Path]:
        """Return the file, or the files of the folder."""
        return find_tables(self.root, JSON_SUFFIXES, self.messages)

    def tables(self) -> Iterator[Table]:
        """Yield the rows of each file."""
        files = self.files()
        for path in files:
            rows = read_json(path, self.fields.needed, self.encoding, self.messages.warn, optional=self.label)
            yield str(path), rows, split_of(path) if len(files) > 1 else None
