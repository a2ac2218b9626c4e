"""Texts of Hugging Face data sets: folders of ``save_to_disk``, Parquet and Arrow files, and the hub."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fusion.data.base import SPLITS
from lightning_fusion.data.text.columns import ColumnTextDataModule, Table
from lightning_fusion.data.text.new_texts import NewTexts
from lightning_fusion.data.text.readers import check_columns
from lightning_fusion.data.text.texts import SPLIT_NAMES
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import require

_SAVED = ("dataset_dict.json", "state.json")  # of save_to_disk
_ARROW = {".parquet": "parquet", ".arrow": "arrow"}


class HuggingFaceTextDataModule(ColumnTextDataModule):
    """Labeled texts with domains from a data set that the package ``datasets`` reads.

    A folder written by ``save_to_disk`` is mapped into memory; files of any other folder (Parquet, Arrow, JSON lines,
    CSV, as on the hub, with splits defined by file and folder names or by ``README.md``) are streamed. ``ClassLabel``
    names become class names. A data set with a single split is split at random.

    Args:
        path: A folder, a file, or the name of a data set on the hub, which requires ``download: true`` unless it is in
            the cache of Hugging Face.
        name: Configuration of a data set that has several.
        revision: Branch, tag or commit of a data set on the hub.
        splits: Names of the splits in the data set: ``{val: validation_matched}``; others are left out. ``None`` means
            splits with the usual names (train, validation, test).
        **shared: Arguments of :class:`~lightning_fusion.data.text.columns.ColumnTextDataModule` (roles of columns) and
            :class:`~lightning_fusion.data.text.datamodule.BaseTextDataModule` (splits, tokens and batches).

    Raises:
        InputError: If an argument is out of range, ``datasets`` is missing, or it cannot read the data set.

    Example:
        >>> import tempfile
        >>> from datasets import ClassLabel, Dataset
        >>> rows = {"text": [f"thing {n}" for n in range(20)], "label": [n % 2 for n in range(20)]}
        >>> folder = tempfile.mkdtemp()
        >>> made = Dataset.from_dict(rows).cast_column("label", ClassLabel(names=["bad", "good"]))
        >>> made.save_to_disk(folder)
        >>> HuggingFaceTextDataModule(path=folder).classes
        ['bad', 'good']
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        revision: str | None = None,
        splits: dict[str, str] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.path, self.name, self.revision, self.splits = path, name, revision, splits
        self._configure()

    @property
    def origin(self) -> str:
        """Name of the data set, for messages."""
        return self.path

    def prepare_data(self) -> None:
        """Download the data set if ``download`` is set, and fill the cache, once per machine."""
        if self.download and self.predict_root is None and not Path(self.path).exists():
            self._load()
        super().prepare_data()

    def files(self) -> list[Path]:
        """Return the files of a folder; for a data set on the hub, those in the cache of Hugging Face."""
        base = Path(self.path)
        if not base.exists():
            return [Path(file["filename"]) for each in self._load().values() for file in each.cache_files]
        return [base] if base.is_file() else sorted(path for path in base.rglob("*") if path.is_file())

    def tables(self) -> Iterator[Table]:
        """Yield the rows of each split."""
        found = self._load()
        wanted = self._wanted_splits(found)
        needed = self.fields.needed
        for split, name in wanted.items():
            check_columns(found[name].column_names or [], needed, f"{self.path}, split {name},")
            rows = self._rows(found[name].select_columns(needed))
            yield f"{self.path}, split {name}", rows, SPLITS.index(split) if len(wanted) > 1 else None

    def new_texts(self, root: str) -> NewTexts:
        """Read the text columns of a data set for prediction, or of files as all sources of texts do.

        Args:
            root: Folder of ``save_to_disk``, ``.parquet`` or ``.arrow`` file, or any other file or folder.
        """
        base = Path(root)
        own = base.suffix.lower() in _ARROW or any((base / name).is_file() for name in _SAVED)
        if not own:
            return super().new_texts(root)
        texts, needed = NewTexts(), [self.text, *([] if self.pair is None else [self.pair])]
        for name, dataset in self.variant(path=root)._load().items():
            check_columns(dataset.column_names or [], needed, f"{root}, split {name},")
            place = base.name if base.is_file() else name
            texts.add(place, enumerate(dataset.select_columns(needed), 1), self.text, self.pair)
        return texts

    def _rows(self, dataset: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
        numbered = {
            column: feature
            for column, feature in (dataset.features or {}).items()
            if hasattr(feature, "int2str") and column not in (self.value_names or {})
        }
        with self._errors_as_input_errors():
            for number, row in enumerate(dataset, 1):
                for column, feature in numbered.items():
                    value = row[column]  # -1 is an unknown label
                    row[column] = None if value is None or value < 0 else feature.int2str(value)
                yield number, row

    def _wanted_splits(self, found: Mapping[str, Any]) -> dict[str, str]:
        if self.splits is not None:
            if missing := sorted({name for name in self.splits.values() if name not in found}):
                raise InputError(f"splits: {self.path} has no split {shorten(missing)}; it has {shorten(found, 9)}")
            return self.splits
        if len(found) == 1:
            return dict.fromkeys(SPLITS[:1], next(iter(found)))
        wanted = {SPLITS[SPLIT_NAMES[name.lower()]]: name for name in found if name.lower() in SPLIT_NAMES}
        if rest := [name for name in found if name not in wanted.values()]:
            raise InputError(
                f"{self.path} has the split {shorten(rest)} beside {shorten(wanted.values()) or 'no other'}; select "
                "those to use with splits, such as {train: train, test: test}"
            )
        return wanted

    def _load(self) -> Any:
        """Return splits by name: mapped or streamed from a folder or file, or mapped from the cache of the hub."""
        library = require("datasets", "text")
        base = Path(self.path)
        with self._errors_as_input_errors():
            if any((base / name).is_file() for name in _SAVED):
                found = library.load_from_disk(str(base))
                return {"train": found} if isinstance(found, library.Dataset) else found
            if base.is_file():
                kind = _ARROW.get(base.suffix.lower())
                if kind is None:
                    raise InputError(
                        f"path: {base} is neither a .parquet nor an .arrow file; for CSV use "
                        "lightning_fusion.TextDataModule, for JSON "
                        "lightning_fusion.data.text.json_lines.JSONTextDataModule"
                    )
                return library.load_dataset(kind, data_files=str(base.resolve()), streaming=True)
            if base.is_dir():
                return library.load_dataset(str(base.resolve()), self.name, streaming=True)
            with _hub(library, self.download):
                return library.load_dataset(self.path, self.name, revision=self.revision, keep_in_memory=False)

    @contextmanager
    def _errors_as_input_errors(self) -> Iterator[None]:
        """Convert the various errors of ``datasets`` and pyarrow to an InputError of one line."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if Path(self.path).exists():
                hint = "replace files that are damaged or of another format"
            elif self.download:
                hint = "check path, name, revision and the network"
            else:
                hint = "set path to an existing folder, or download: true to fetch it from the hub"
            raise InputError(f"path: {self.path} cannot be read by datasets ({reason}); {hint}") from error

    def _check(self) -> None:
        if self.splits is not None and (not self.splits or not set(self.splits) <= set(SPLITS)):
            raise InputError(f"splits is {self.splits}; expected {shorten(SPLITS)} or some of them as keys")
        super()._check()


@contextmanager
def _hub(library: Any, online: bool) -> Iterator[None]:
    """Restrict ``datasets`` to its cache, unless ``online``."""
    before = library.config.HF_HUB_OFFLINE
    library.config.HF_HUB_OFFLINE = before or not online
    try:
        yield
    finally:
        library.config.HF_HUB_OFFLINE = before
