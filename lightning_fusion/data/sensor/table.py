"""Tables of precomputed features, a row per sample."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.base import Stage, staged_property
from lightning_fusion.data.names import LabelForms, as_names
from lightning_fusion.data.new_files import find_new_files
from lightning_fusion.data.rows import NewRows, Origins
from lightning_fusion.data.sensor.arrangement import Source
from lightning_fusion.data.sensor.datamodule import BaseSensorDataModule
from lightning_fusion.data.sensor.layouts import numbered_columns
from lightning_fusion.data.sensor.new_tables import NewTables, read_new_tables
from lightning_fusion.data.sensor.series import NO_LABEL, Series, check_labels
from lightning_fusion.data.sensor.windows import RowInputs
from lightning_fusion.data.tables import check_delimiter, check_header, read_columns, read_header
from lightning_fusion.errors import InputError, nearest_path, shorten
from lightning_fusion.files import digest


class FeatureTableDataModule(BaseSensorDataModule):
    r"""Samples from a table of precomputed features; columns that are not features are fields.

    Rows are split one by one within a domain; if several rows come from one recording, set ``session_fields`` to the
    column that identifies it. Missing values are replaced by the median of the training samples.

    Args:
        root: Path of the delimited file, a row per sample.
        label: Column of labels; an empty cell, or ``missing``, marks an unlabeled row.
        channels: Columns that are features. ``None`` (default) means all other columns.
        leave_out: Columns that are neither feature nor field, such as a row number.
        columns: Names of the columns of a file without a header. ``numbered`` names them 0, 1, 2...
        delimiter: One character; a blank for any whitespace.
        missing: Marker of a missing value; empty cells are missing as well.
        encoding: Encoding of the file, such as ``utf-16``.
        **shared: Arguments of :class:`~.datamodule.BaseSensorDataModule`.

    Raises:
        InputError: If the file or a column does not exist, or a row does not match the columns.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "table.csv")
        >>> lines = [f"{number},{-number},{'ab'[number % 2]},{number % 3}" for number in range(60)]
        >>> _ = path.write_text("\n".join(["mean,peak,activity,person", *lines]))
        >>> data = FeatureTableDataModule(str(path), label="activity", domain_fields=["person"], domain=1)
        >>> data.preprocessing["channels"], data.classes, len(data.rows("train"))
        (['mean', 'peak'], ['a', 'b'], 14)
    """

    def __init__(
        self,
        root: str,
        label: str | int = "label",
        channels: list[str | int] | None = None,
        leave_out: list[str | int] | None = None,
        columns: list[str] | Literal["numbered"] | None = None,
        delimiter: str = ",",
        missing: str = "?",
        encoding: str = "utf-8",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.root, self.label, self.channels, self.leave_out = root, label, channels, leave_out
        self.columns, self.delimiter, self.missing, self.encoding = columns, delimiter, missing, encoding
        self._configure()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Parameters of the normalization: medians for missing values, then ``(value - mean) / std``."""
        found = super().preprocessing
        return found if not found or self._fill.isnan().any() else found | {"missing": self._fill.tolist()}

    unit = "rows"

    def read_source(self) -> Source:
        """Read each row as a recording of one sample."""
        path, label, features = self.root, str(self.label), as_names(self.channels)
        if not Path(path).is_file():
            raise InputError(f"root: found no file {path}{nearest_path(path)}; expected one delimited file of features")
        columns = (
            numbered_columns(path, self.delimiter, self.encoding)
            if self.columns == "numbered"
            else as_names(self.columns)
        )
        names = columns or read_header(path, self.delimiter, self.encoding)
        fields = [*as_names(self.domain_fields), *as_names(self.session_fields)]
        fields += [*as_names(self.group_field), *as_names(self.split_field)]
        texts = list(dict.fromkeys([label, *fields]))
        aside = {*texts, *as_names(self.leave_out)}
        if unknown := sorted({*aside, *features} - {*names}):
            if not columns:
                check_header(path, names, [*texts, *features])
            hint = "; with columns: numbered the names are 0, 1, 2, ..." if self.columns == "numbered" else ""
            raise InputError(f"{path} has no column {shorten(unknown)}; its columns are {shorten(names, 9)}{hint}")
        chosen = features or [name for name in names if name not in aside]
        values, labels = read_columns(path, chosen, texts, columns or None, self.delimiter, self.missing, self.encoding)
        first = 1 if columns else 2
        if not len(values):
            raise InputError(f"{path} is empty: found no row of features")
        absent = np.isin(labels, np.array(["", "nan", self.missing], object))
        for name, blank in zip(texts, absent.T, strict=True):
            if name in fields and blank.any():
                row = int(blank.argmax()) + first
                raise InputError(f"{path}, row {row}: {name} is missing; fill it in, or remove the row")
        if np.isinf(values).any():
            row, place = np.argwhere(np.isinf(values))[0].tolist()
            raise InputError(f"{path}, row {row + first}: {chosen[place]} is infinite; repair or remove the row")
        forms, known = LabelForms(), ~absent[:, 0]
        codes = np.full(len(values), NO_LABEL, np.int16)
        found, numbers = np.unique([forms(name) for name in labels[known, 0]], return_inverse=True)
        check_labels(found.tolist())
        codes[known] = numbers
        count, floats = len(values), values.astype(np.float32)
        series = Series(
            torch.from_numpy(floats),
            codes,
            found.tolist(),
            np.arange(count),
            np.ones(count, np.int64),
            np.empty((count, 0)),
            digest(floats, codes, found.tolist()),
            forms.merged,
        )
        rows = [f"{path}, row {row + first}," for row in range(count)]
        return Source(series, rows, dict(zip(texts, labels.T, strict=True)), chosen)

    def new_rows(self, root: str) -> NewRows:
        """Read the rows of a table, or of all tables in a folder and the folders in it, without labels.

        The tables have the columns of the training, in any order if the file names them.
        """
        return self._new.samples(self._fill, Features(self._new.values, self._fill))

    @staged_property(Stage.USING)
    def _new(self) -> NewTables:
        """Rows of the new tables."""
        suffixes = {".csv", ".tsv", Path(self.root).suffix.lower()} - {""}
        names, paths = find_new_files(str(self.predict_root), suffixes, "table", self.messages)
        return read_new_tables(names, paths, self._read_new, self.messages)

    @property
    def _channels(self) -> list[str]:
        if self.predict_root is None:
            return super()._channels
        if not self._new.channels:
            self.new_samples  # noqa: B018  # raises InputError: no table can be read
        return self._new.channels

    def _read_new(self, path: str) -> tuple[list[str], np.ndarray, np.ndarray, str]:
        """Return features, values, and line of each row (or its number) of a new table."""
        header = read_header(path, self.delimiter, self.encoding)
        columns = as_names(self.columns)
        if self.columns == "numbered":
            columns = [str(number) for number in range(len(header))]
        elif len(columns) == len(header) + 1:
            columns = [name for name in columns if name != str(self.label)]
        aside = {str(self.label), *as_names(self.leave_out), *as_names(self.domain_fields)}
        aside |= {*as_names(self.session_fields), *as_names(self.group_field), *as_names(self.split_field)}
        rest = [name for name in columns or header if name not in aside]
        chosen = as_names(self.channels) or list(self._carried.get("channels", ())) or rest
        if not chosen:
            raise InputError(f"{path} has no feature; its columns are {shorten(columns or header, 9)}")
        values = read_columns(path, chosen, [], columns or None, self.delimiter, self.missing, self.encoding)[0]
        if not len(values):
            raise InputError(f"{path} is empty: found no row of features")
        return chosen, values, *self._lines(path, len(values))

    def origins(self, index: Tensor) -> Origins:
        """Return the line of each sample in the file; the row if lines and rows differ."""
        rows = self._cut.starts[index.numpy()]
        position, unit = self._lines(self.root, len(self._source.names))
        return Origins([self.root], np.zeros(len(rows), np.int64), position[rows], unit)

    def _lines(self, path: str, count: int) -> tuple[np.ndarray, str]:
        """Return the line of each row of a table, or its number if lines and rows differ."""
        with open(path, "rb") as file:
            lines = np.array([number for number, line in enumerate(file, 1) if line.strip()], np.int64)
        lines = lines[0 if self.columns else 1 :]
        return (lines, "line") if len(lines) == count else (np.arange(count) + (1 if self.columns else 2), "row")

    def _check(self) -> None:
        super()._check()
        check_delimiter(self.delimiter)
        self._check_different(as_names(self.channels))

    def _inputs(self) -> "Features":
        return Features(self._values, self._fill)

    @staged_property(Stage.CUTTING)
    def _values(self) -> Tensor:
        """(N, features) values of the samples: rows with an ignored label are left out."""
        values, rows = self._source.series.samples, self._cut.starts
        return values if len(rows) == len(values) else values[torch.from_numpy(rows)]

    @staged_property(Stage.USING)
    def _fill(self) -> Tensor:
        """(features,) replacements of missing values: medians of the training samples."""
        if "missing" in self._carried:
            return torch.tensor(self._carried["missing"], dtype=torch.float32)
        if self.predict_root is not None:
            values = self._new.values
            return values.nanmedian(0).values if self.normalization_scope == "own" else values.new_full((1,), torch.nan)
        result: Tensor = self._over_training("fill", self._measured_fill)
        return result

    def _measured_fill(self, rows: Tensor) -> Tensor:
        values = self._values
        fill = values[rows].nanmedian(0).values
        if fill.isnan().any():
            name = self._source.channels[int(fill.isnan().nonzero()[0])]
            whose = f" of domain {shorten(self.own_domains)}" if self.normalization_scope == "own" else ""
            raise InputError(
                f"{self.root}: column {name} has no value in any training sample{whose}; add it to leave_out"
            )
        if count := int(values.isnan().sum()):
            columns = int(values.isnan().any(0).sum())
            self.messages.info(
                f"{count} of {values.numel()} values, in {columns} of {values.shape[1]} features, are missing and "
                "replaced by the medians of the training samples"
            )
        return fill


class Features(RowInputs):
    """Features of a table; missing values are replaced on access.

    Args:
        values: (N, features) float32, NaN for missing values.
        fill: (features,) replacements of missing values.
    """

    def __init__(self, values: Tensor, fill: Tensor) -> None:
        self.values, self.fill = values, fill

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the (B, features) values of some rows."""
        values = self.values[rows]
        return torch.where(values.isnan(), self.fill, values)
