"""Sensor series: windows of recordings, or ready features, of domains such as people and devices."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.data.base import SPLITS, Batch, FusionDataModule, RowDataset
from lightning_fusion.data.patterns import compile_pattern, find_files
from lightning_fusion.data.sensor.layouts import array_columns, check_positions, numbered_columns
from lightning_fusion.data.sensor.recordings import SERIES_SUFFIXES, TIMESTAMP_UNITS, RecordingFormat
from lightning_fusion.data.sensor.series import find_other_scales
from lightning_fusion.data.sensor.sources import (
    UCI_SIGNALS,
    Arrangement,
    Source,
    arrange,
    from_files,
    from_nothing,
    from_table,
    from_uci_har,
)
from lightning_fusion.data.sensor.windows import Cut, Features, Windows, cut_windows
from lightning_fusion.data.splits import stratified_sessions
from lightning_fusion.data.statistics import mean_and_deviation, window_facts
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import keep_plain

_CHOICES: dict[str, tuple[Any, ...]] = {
    "source": ("files", "uci_har", "table", "synthetic"),
    "timestamp_unit": tuple(TIMESTAMP_UNITS),
    "scale_over": ("all", "own"),
}
_WINDOW_S = 2.0
_ONLY = {  # arguments that mean something to some sources only, and those sources
    "pattern": ("files",),
    "channels": ("files", "uci_har", "table"),
    "columns": ("files",),
    "timestamp": ("files",),
    "recorded_rate_hz": ("files",),
    "piece_s": ("files", "uci_har"),
    "limits": ("files",),
    "leave_out": ("table",),
    "window_s": ("files", "synthetic"),
    "step_s": ("files", "synthetic"),
    "heterogeneity": ("synthetic",),
}
_READING = {
    *("source", "root", "pattern", "channels", "label", "columns", "delimiter", "header", "missing", "leave_out"),
    *("timestamp", "timestamp_unit", "sample_rate_hz", "recorded_rate_hz", "max_gap_s", "limits", "cache"),
    "piece_s",
    *("heterogeneity", "domain_fields", "group_field", "session_fields", "split_field"),
}
_CUTTING = {"window_s", "step_s", "min_agreement", "labels", "ignored_labels"}
_SPLITTING = {"val_share", "test_share", "seed"}


class SensorDataModule(FusionDataModule):
    """Windows of sensor recordings (or rows of ready features) with domains; splits share no recording.

    Sources:

    - ``files``: a recording per file under ``root``, as CSV, npz (an array per channel) or npy (T, columns). The path
      ``pattern`` names fields, ``{subject}_{execution}_{device}.csv`` say, which make up domains, groups and sessions.
    - ``uci_har``: the layout of UCI HAR under ``root``: windows that were cut already, a text file per signal, with
      the fields ``subject`` and ``split``. A run of windows of one subject and activity counts as a recording.
    - ``table``: one delimited file ``root`` of ready features, a row per sample; fields are columns.
    - ``synthetic``: made-up motion of 4 people with 2 devices each
      (:func:`~lightning_fusion.data.synthetic.synthetic_motion`), for tests: no file, no network; its fields are
      ``person``, ``device`` and ``session``.

    Recordings are resampled to one rate and kept as one float32 array, in memory or mapped from the ``cache``; windows
    are views of it. A window has the label of most of its samples. Inside each domain (each group, where
    ``session_fields`` are given) whole sessions are drawn for validation and testing, such that the labels' shares
    are alike; windows overlap, so splitting them one by one would test on what was trained on.

    The loader gives values as recorded, (B, channels, T) or (B, features); on the device they are augmented (in
    training) and normalised.

    Args:
        source: Where the samples come from, see above.
        root: Folder of the recordings, or the table's file.
        pattern: How paths relative to ``root`` are made, with ``{fields}``; ``*`` is any part of a name, ``**`` any
            folders.
        channels: Columns or arrays to read, in this order; an npz array (T, n) stands for its columns ``acc_0``,
            ``acc_1``... A mapping ``{wrist: [x1, y1], leg: [x2, y2]}`` names the columns of each body position in a
            file: ``position`` is a field then, the positions of one file stay in one split, and they belong to one
            group. For ``uci_har`` the signals, total acceleration and gyroscope where None; for a ``table`` the
            features, all other columns where None.
        label: Column or array of labels, or a field of the pattern.
        domain_fields: Fields whose values, joined by ``_``, name a sample's domain. None: ``person`` and ``device`` of
            the synthetic source, ``subject`` of ``uci_har``, else a single domain.
        group_field: Field that says to whom a domain belongs (a person with two devices, say); :attr:`groups`. The
            domain itself where None.
        session_fields: Fields that name what was recorded together: samples that agree in them, and in the group, are
            never in two splits. Each recording (each row of a table) by itself where None.
        split_field: Field that says ``train``, ``val`` or ``test`` itself. A part of ``train`` is drawn where no
            recording is of ``val``.
        domain: Name or names of the domains that are used, with their own classes; all where None. Splits do not
            depend on it.
        labels: All labels there may be, in the order of the targets; any other is an error. None: those that are
            found, by name.
        ignored_labels: Labels that count as none, such as that of transitions.
        columns: Names of the columns, for ``files`` that do not name them: npy, or CSV without a first line of names.
        delimiter: Between columns; a blank for any white space.
        header: Whether a table, or a CSV recording, begins with a line of names. If not, its columns are called by
            number (0, 1, 2...) where ``columns`` does not name them.
        missing: What stands for a missing value in a table; so does an empty cell. Missing values are replaced with
            the median of the training samples.
        leave_out: Columns of a table that are neither feature nor field, such as its row number.
        timestamp: Column or array of timestamps; samples are equally spaced where None.
        timestamp_unit: ``s``, ``ms``, ``us`` or ``ns``.
        sample_rate_hz: What recordings are resampled to.
        recorded_rate_hz: The rate at which they were recorded. With timestamps it is checked, to a tenth; without
            them it is believed (``sample_rate_hz`` where None).
        piece_s: Cut files where the label changes, and longer bouts into parts of this length or more; each piece then
            counts as a recording when splits are drawn. For long files, of which a domain has one or two. No window
            spans two pieces. None: a file is one recording.
        max_gap_s: Timestamps further apart are a gap; windows across it are left out.
        limits: Smallest and largest value of channels, ``{x_acc: [-80, 80]}``: finds recordings in another unit.
        window_s: Length of a window; 2 s where None.
        step_s: From one window's start to the next; half a window where None.
        min_agreement: Share of a window's samples that must have its label; other windows are left out.
        heterogeneity: Of the synthetic source: how far people and devices differ, from 0 (not).
        val_share: Share of the sessions of each domain for validation.
        test_share: Share of them for testing.
        mean: Of each channel, subtracted; that of the training windows where None.
        std: Of each channel, divided by; likewise.
        scale_over: Whose training windows give ``mean``, ``std`` and a table's medians for missing values: ``all``
            domains', so that experts read each other's data as they read their own; or those of its ``own`` domains
            in use. Where sites cannot see each other's files, give all of them the same ``mean`` and ``std``.
        augmentation: Module applied to batches before they are normalised, in training only.
        cache: Folder in which the array of samples is kept for the next run, which maps it into memory; the files are
            read in each run where None.
        batch_size: Samples per batch and process.
        num_workers: Loader processes.
        seed: Of splits and order.

    Raises:
        InputError: Where an argument does not fit the source or a file cannot be read as it says.

    Example:
        >>> data = SensorDataModule(source="synthetic", domain="p0_phone", batch_size=16)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch.input.shape, data.classes, data.groups[data.domains[0]], data.statistics().shape
        (torch.Size([16, 6, 100]), ['activity_0', 'activity_1', 'activity_2', 'activity_3'], 'p0', torch.Size([132]))
    """

    source: str
    root: str | None
    pattern: str | None
    channels: list[str | int] | dict[str, list[str | int]] | None
    label: str | int
    domain_fields: list[str | int] | None
    group_field: str | int | None
    session_fields: list[str | int] | None
    split_field: str | int | None
    domain: str | int | list[str | int] | None
    labels: list[str | int] | None
    ignored_labels: list[str | int] | None
    columns: list[str] | None
    delimiter: str
    header: bool
    missing: str
    leave_out: list[str | int] | None
    timestamp: str | None
    timestamp_unit: str
    sample_rate_hz: float
    recorded_rate_hz: float | None
    piece_s: float | None
    max_gap_s: float
    limits: dict[str, list[float]] | None
    window_s: float | None
    step_s: float | None
    min_agreement: float
    heterogeneity: float | None
    val_share: float
    test_share: float
    mean: list[float] | None
    std: list[float] | None
    scale_over: Literal["all", "own"]
    augmentation: nn.Module | None
    cache: str | None

    def __init__(
        self,
        source: Literal["files", "uci_har", "table", "synthetic"] = "files",
        root: str | None = None,
        pattern: str | None = None,
        channels: list[str | int] | dict[str, list[str | int]] | None = None,
        label: str | int = "label",
        domain_fields: list[str | int] | None = None,
        group_field: str | int | None = None,
        session_fields: list[str | int] | None = None,
        split_field: str | int | None = None,
        domain: str | int | list[str | int] | None = None,
        labels: list[str | int] | None = None,
        ignored_labels: list[str | int] | None = None,
        columns: list[str] | None = None,
        delimiter: str = ",",
        header: bool = True,
        missing: str = "?",
        leave_out: list[str | int] | None = None,
        timestamp: str | None = None,
        timestamp_unit: Literal["s", "ms", "us", "ns"] = "s",
        sample_rate_hz: float = 50.0,
        recorded_rate_hz: float | None = None,
        piece_s: float | None = None,
        max_gap_s: float = 0.5,
        limits: dict[str, list[float]] | None = None,
        window_s: float | None = None,
        step_s: float | None = None,
        min_agreement: float = 0.5,
        heterogeneity: float | None = None,
        val_share: float = 0.1,
        test_share: float = 0.2,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        scale_over: Literal["all", "own"] = "all",
        augmentation: nn.Module | None = None,
        cache: str | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        augmentation = None  # a module is no plain data; what the command line parsed is recorded all the same
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
        return self._arrangement.domains

    @property
    def own_domains(self) -> list[str]:
        """Names of the domains that are used: those of ``domain``, or all."""
        return [self.domains[number] for number in self._own[0]]

    @property
    def groups(self) -> dict[str, str]:
        """To whom each domain belongs."""
        return self._arrangement.groups

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How recorded values become network input: ``(value - mean) / std``, channels first."""
        mean, std = self._scale
        facts: dict[str, Any] = {"channels": self._source.channels, "mean": mean.tolist(), "std": std.tolist()}
        if self.source == "table":
            return facts | {"missing": self._fill.tolist()}
        return facts | {"sample_rate_hz": self.sample_rate_hz, "samples": self._length}

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the samples of a split, as recorded: what a domain may publish about itself.

        For series the mean over windows of each of the eleven numbers of
        :func:`~lightning_fusion.data.statistics.window_facts`, then their standard deviations, channel by channel: 132
        numbers for 6 channels. For a table the mean and the standard deviation of each feature.

        Returns:
            (S,) float32.
        """
        dataset = self.rows(split)
        inputs = dataset.inputs
        assert isinstance(inputs, (Windows, Features))
        chunks = inputs.chunks(dataset.rows)
        if isinstance(inputs, Windows):
            chunks = (window_facts(chunk).flatten(1) for chunk in chunks)
        return torch.cat(mean_and_deviation(chunks)).float()

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the samples of all recordings, and of windows, labels and preprocessing of one split."""
        dataset = self.rows(split)
        rows = dataset.rows
        starts = self._cut.starts[rows.numpy()]
        return digest(
            self._source.series.fingerprint, starts, dataset.targets[rows], dataset.domains[rows], self.preprocessing
        )

    # ------------------------------------------------------------- Lightning

    def prepare_data(self) -> None:
        """Fill the cache, once per machine."""
        if self.cache is not None:
            self._source  # noqa: B018

    def setup(self, stage: str | None = None) -> None:
        """Read, cut and split the recordings; cheap when repeated."""
        self.rows("train")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augmentation (in training) and normalisation, on the device."""
        if not isinstance(batch, Batch):
            return batch
        augment = self.augmentation is not None and self.trainer is not None and self.trainer.training
        return batch._replace(input=self.preprocess(batch.input, augment))

    def preprocess(self, inputs: Tensor, augment: bool = False) -> Tensor:
        """Turn values as recorded, (B, channels, T) or (B, features), into normalised network input of that shape."""
        floats = inputs.float()
        if augment and self.augmentation is not None:
            floats = self.augmentation(floats)
        mean, std = (value.to(floats.device) for value in self._scale)
        if floats.ndim == 3:
            mean, std = mean[:, None], std[:, None]
        return (floats - mean) / std

    def rows(self, split: str) -> RowDataset:
        """The data set of one split: ``train``, ``val`` or ``test``, of the domains in use."""
        if split not in SPLITS:
            raise InputError(f"there is no split {split!r}; expected {shorten(SPLITS)}")
        if split not in self._datasets:
            self._datasets[split] = self._dataset(split)
        return self._datasets[split]

    # -------------------------------------------------------------- internals

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        if _READING & set(arguments):
            self._source_cache: Source | None = None
            self._arrangement_cache: Arrangement | None = None
        if (_READING | _CUTTING) & set(arguments):
            self._cut_cache: Cut | None = None
            self._label_cache: tuple[list[str], np.ndarray] | None = None
        if (_READING | _CUTTING | _SPLITTING) & set(arguments):
            self._split_cache: np.ndarray | None = None
            self._of_all: dict[str, Any] = {}  # measured over all domains: variants with the same splits share it
        self._datasets: dict[str, RowDataset] = {}
        self._scale_cache: tuple[Tensor, Tensor] | None = None
        self._of_own: dict[str, Any] = {}  # measured over the domains in use
        self._own_cache: tuple[list[int], list[int]] | None = None
        self._check()

    def _check(self) -> None:
        self._check_choices(_CHOICES)
        if self.piece_s is not None and self.session_fields:
            raise InputError(
                "session_fields keeps whole sessions in one split, piece_s draws splits piece by piece; remove one"
            )
        if isinstance(self.channels, dict) and self.source != "files":
            raise InputError(f"channels names positions, which source {self.source} does not have; give a list")
        for name, sources in _ONLY.items():
            if getattr(self, name) is not None and self.source not in sources:
                raise InputError(f"{name} is for source {shorten(sources)}; remove it, or change source {self.source}")
        if (self.root is None) != (self.source == "synthetic"):
            what = "needs no root; remove it" if self.root else "needs root: where the recordings are"
            raise InputError(f"source {self.source} {what}, or change source")
        if self.source == "synthetic" and self.cache is not None:
            raise InputError("source synthetic has no file to cache; remove cache")
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; expected at least 1")
        for name in ("sample_rate_hz", "recorded_rate_hz", "piece_s", "window_s", "step_s", "max_gap_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}; expected a number above 0")
        if not 0 < self.min_agreement <= 1:
            raise InputError(f"min_agreement is {self.min_agreement}; expected a share above 0, 1 at most")
        if self.heterogeneity is not None and self.heterogeneity < 0:
            raise InputError(f"heterogeneity is {self.heterogeneity}; expected 0 or more")
        for name in ("val_share", "test_share"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a share between 0 and 1")
        if self.val_share + self.test_share >= 1:
            raise InputError(
                f"val_share {self.val_share} and test_share {self.test_share} leave nothing to train on; lower them"
            )
        if self.source in ("files", "synthetic") and min(self._length, self._step) < 1 + (self._length < 2):
            raise InputError(
                f"window_s and step_s give windows of {self._length} samples every {self._step} at sample_rate_hz "
                f"{self.sample_rate_hz:g}; expected at least 2 samples, every 1"
            )
        if doubled := [name for name in _texts(self.channels) if _texts(self.channels).count(name) > 1]:
            raise InputError(f"channels names {doubled[0]} more than once; each is read once")
        if self.source == "files":
            self._check_files()
        for name, ends in (self.limits or {}).items():
            if name not in self._channel_names or len(ends) != 2 or not ends[0] < ends[1]:
                raise InputError(f"limits of {name} is {ends}; expected a name among channels, and [smallest, largest]")
        known = _texts(self.labels)
        both = [*known, *_texts(self.ignored_labels)]
        if self.labels is not None and (len(known) < 2 or len(set(both)) < len(both)):
            raise InputError(f"labels is {known}; expected two or more different names, none of them in ignored_labels")

    def _check_files(self) -> None:
        if not self.channels:
            raise InputError("source files needs channels: the columns or arrays to read, [x_acc, y_acc, z_acc] say")
        if self.pattern is None:
            raise InputError(
                "source files needs pattern: how paths under root are made, such as {subject}/{recording}.csv, where "
                "each part that varies has a name in braces"
            )
        compile_pattern(self.pattern)
        check_positions(self._positions)
        if self._piece is not None and self._piece < self._length:
            raise InputError(f"piece_s {self.piece_s:g} is shorter than a window; raise it, or lower window_s")

    @property
    def _positions(self) -> dict[str, list[str]]:
        """Names of the channels of each position in a file; none where files hold one."""
        named = self.channels if isinstance(self.channels, dict) else {}
        return {str(position): _texts(columns) for position, columns in named.items()}

    @property
    def _channel_names(self) -> list[str]:
        """All columns to read."""
        named = (name for columns in self._positions.values() for name in columns)
        return list(dict.fromkeys(named if isinstance(self.channels, dict) else _texts(self.channels)))

    @property
    def _piece(self) -> int | None:
        """Samples of a piece of a recording, at least."""
        return None if self.piece_s is None else round(self.piece_s * self.sample_rate_hz)

    @property
    def _length(self) -> int:
        """Samples of a window."""
        if self.source == "uci_har":
            return self._source.window
        return round((self.window_s or _WINDOW_S) * self.sample_rate_hz) if self.source != "table" else 1

    @property
    def _step(self) -> int:
        if self.source in ("uci_har", "table"):
            return self._length
        return round((self.step_s or (self.window_s or _WINDOW_S) / 2) * self.sample_rate_hz)

    # ---- reading

    @property
    def _source(self) -> Source:
        """All samples, read when they are first wanted."""
        if self._source_cache is None:
            self._source_cache = self._read()
        return self._source_cache

    def _read(self) -> Source:
        channels, label = self._channel_names, str(self.label)
        if self.source == "synthetic":
            return from_nothing(self.sample_rate_hz, 1.0 if self.heterogeneity is None else self.heterogeneity)
        assert self.root is not None
        if self.source == "uci_har":
            return from_uci_har(self.root, channels or UCI_SIGNALS, self._piece)
        if self.source == "table":
            fields = [*_texts(self.domain_fields), *_texts(self.session_fields)]
            fields += [str(name) for name in (self.group_field, self.split_field) if name is not None]
            left = _texts(self.leave_out)
            return from_table(self.root, label, fields, channels, left, self.delimiter, self.header, self.missing)
        assert self.pattern is not None
        hint = "a field in braces for each part of a name that varies"
        found = find_files(self.root, self.pattern, SERIES_SUFFIXES, "recording", hint)
        first = str(Path(self.root, found[0].name))
        columns, positions = self.columns, self._positions
        if columns is None and not self.header and not first.lower().endswith(".npz"):
            columns = numbered_columns(first, self.delimiter)
        if first.lower().endswith(".npz"):
            single = array_columns(first, channels)
            channels, *of_position = (
                [one for name in names for one in single.get(name, [name])] for names in (channels, *positions.values())
            )
            positions = dict(zip(positions, of_position, strict=True))
            check_positions(positions)
        how = RecordingFormat(
            channels=tuple(channels),
            sample_rate_hz=self.sample_rate_hz,
            label=None if label in found[0].fields else label,
            timestamp=self.timestamp,
            timestamp_unit=self.timestamp_unit,
            recorded_rate_hz=self.recorded_rate_hz,
            columns=None if columns is None else tuple(columns),
            delimiter=self.delimiter,
            max_gap_s=self.max_gap_s,
            limits=self.limits or {},
        )
        return from_files(self.root, found, label, how, self.cache, positions, self._piece)

    @property
    def _arrangement(self) -> Arrangement:
        """To whom the recordings belong."""
        if self._arrangement_cache is None:
            fields, group = _texts(self.domain_fields), None if self.group_field is None else str(self.group_field)
            if self.domain_fields is None:
                fields = {"uci_har": ["subject"], "synthetic": ["person", "device"]}.get(self.source, [])
                group = "person" if group is None and self.source == "synthetic" else group
            split = None if self.split_field is None else str(self.split_field)
            arrangement = arrange(self._source, fields, group, _texts(self.session_fields), split)
            if self.source == "files":
                self._tell_scales(arrangement)
            self._arrangement_cache = arrangement
        return self._arrangement_cache

    def _tell_scales(self, arrangement: Arrangement) -> None:
        series, names = self._source.series, self._source.names
        seen = [np.add.reduceat(series.labels == number, series.begins) > 0 for number in range(len(series.names))]
        alike = np.unique(np.stack([arrangement.domain, *seen], 1), axis=0, return_inverse=True)[1].reshape(-1)
        of_domain = [series.rms[arrangement.domain == number] for number in range(len(arrangement.domains))]
        typical = np.array([np.median(rms, 0) for rms in of_domain])
        for what, found, likes, called in (
            ("recording", find_other_scales(series.rms, alike), "others of the same domain and labels", names),
            ("domain", find_other_scales(typical, np.zeros(len(typical))), "the others", arrangement.domains),
        ):
            if len(found):
                self._tell(
                    f"{len(found)} {what}(s) have values more than 4 times larger or smaller than {likes}: "
                    f"{shorten((called[number] for number in found), 3)}. Another unit? Convert them, or set limits to "
                    "refuse them"
                )

    def _tell(self, message: str, warn: bool = True) -> None:
        if message not in self._told:
            self._told.add(message)
            (rank_zero_warn if warn else rank_zero_info)(message)

    # ---- windows, labels and splits

    @property
    def _cut(self) -> Cut:
        if self._cut_cache is None:
            source, ignored = self._source, set(_texts(self.ignored_labels))
            self._refuse_unknown_labels(ignored)
            cut = cut_windows(source.series, self._length, self._step, self.min_agreement, ignored)
            count, what = len(source.names), "recordings" if self.piece_s is None else "pieces of recordings"
            if cut.too_short:
                self._tell(
                    f"{cut.too_short} of {count} {what} are shorter than a window ({self._length} samples) and are "
                    "left out; lower window_s to use them"
                )
            if not len(cut.starts):
                raise InputError(
                    f"none of {cut.dropped} windows of {self._length} samples has a label; lower window_s or "
                    f"min_agreement ({self.min_agreement:g}), or change label or ignored_labels"
                )
            if cut.dropped:
                self._tell(
                    f"{cut.dropped} of {cut.dropped + len(cut.starts)} windows have no label (min_agreement "
                    f"{self.min_agreement:g}) or span a gap, and are left out",
                    warn=False,
                )
            self._cut_cache = cut
        return self._cut_cache

    def _refuse_unknown_labels(self, ignored: set[str]) -> None:
        series, known = self._source.series, _texts(self.labels)
        for number, name in enumerate(series.names if known else []):
            if name not in known and name not in ignored:
                place = int(np.argmax(series.labels == number))
                recording = int(np.searchsorted(series.begins, place, side="right")) - 1
                where = self._source.names[recording]
                if self.source in ("files", "synthetic"):
                    where += f", at {(place - series.begins[recording]) / self.sample_rate_hz:.2f} s,"
                raise InputError(
                    f"{where} has the label {name!r}; expected one of {shorten(known, 9)}: add it to labels, or to "
                    "ignored_labels"
                )

    @property
    def _labels(self) -> tuple[list[str], np.ndarray]:
        """All classes, and the class of each window."""
        if self._label_cache is None:
            names, label = self._source.series.names, self._cut.label
            known = _texts(self.labels) or sorted(names[number] for number in np.unique(label))
            place = np.array([known.index(name) if name in known else -1 for name in names])
            self._label_cache = known, place[label]
        return self._label_cache

    @property
    def _domain_of_window(self) -> np.ndarray:
        return self._arrangement.domain[self._cut.recording]

    @property
    def _own(self) -> tuple[list[int], list[int]]:
        """Numbers of the domains, and of the classes, that are used."""
        if self._own_cache is None:
            domains, (known, label) = self.domains, self._labels
            chosen, classes = list(range(len(domains))), list(range(len(known)))
            if self.domain is not None:
                wanted = _texts(self.domain if isinstance(self.domain, list) else [self.domain])
                if not wanted or not set(wanted) <= set(domains):
                    raise InputError(
                        f"domain is {self.domain!r}; expected one or several of the {len(domains)} domains "
                        f"{shorten(domains, 9)}"
                    )
                chosen = sorted({domains.index(name) for name in wanted})
                classes = np.unique(label[np.isin(self._domain_of_window, chosen)]).tolist()
            if len(classes) < 2:
                raise InputError(
                    f"domain {shorten(domains[number] for number in chosen)} has "
                    f"{shorten(known[number] for number in classes) or 'no'} as its only class; a classifier needs "
                    "two: leave this domain out, or change domain_fields"
                )
            self._own_cache = chosen, classes
        return self._own_cache

    @property
    def _split(self) -> np.ndarray:
        """(N,) the split of each window: 0, 1, 2 for train, val, test."""
        if self._split_cache is None:
            who, cut, (known, label) = self._arrangement, self._cut, self._labels
            counts = np.zeros((len(who.scope), len(known)), np.int64)
            np.add.at(counts, (who.unit[cut.recording], label), 1)
            if who.split is None:
                of_unit = stratified_sessions(counts, who.scope, self.val_share, self.test_share, self.seed)
            else:
                of_unit = self._splits_that_are_named(counts)
            self._split_cache = of_unit[who.unit][cut.recording]
            self._tell_domains()
        return self._split_cache

    def _splits_that_are_named(self, counts: np.ndarray) -> np.ndarray:
        """(U,) splits that the field names, with a part of ``train`` for validation where it names none."""
        who = self._arrangement
        assert who.split is not None
        of_unit = np.zeros(len(counts), np.int64)
        of_unit[who.unit] = who.split
        if (mixed := of_unit[who.unit] != who.split).any():
            raise InputError(
                f"split_field {self.split_field}: {self._source.names[int(np.argmax(mixed))]} is in another split than "
                "what was recorded together with it; change session_fields or split_field"
            )
        if not (of_unit == 1).any():
            train = np.flatnonzero(of_unit == 0)
            drawn = stratified_sessions(counts[train], who.scope[train], 0.0, self.val_share, self.seed)
            of_unit[train[drawn == 2]] = 1
        return of_unit

    def _tell_domains(self) -> None:
        """Warn of domains without samples in some split, and of those with one class."""
        names, domain, split = self.domains, self._domain_of_window, self._split_cache
        held = np.zeros((len(names), len(SPLITS)), bool)
        held[domain, split] = True
        if self._arrangement.split is None and len(lacking := np.flatnonzero(~held.all(1))):
            hint = (
                ""
                if self.piece_s is not None or self.source not in _ONLY["piece_s"]
                else ". piece_s cuts long files into pieces"
            )
            self._tell(
                f"{len(lacking)} of {len(names)} domain(s) have too few recordings for three splits, and lack "
                f"validation or test samples: {shorten(names[number] for number in lacking)}{hint}"
            )
        kinds = np.unique(np.stack([domain, self._labels[1]], 1), axis=0)[:, 0]
        if len(single := np.flatnonzero(np.bincount(kinds, minlength=len(names)) == 1)) and len(names) > 1:
            self._tell(
                f"{len(single)} of {len(names)} domains have one class only, and train no expert: "
                f"{shorten(names[number] for number in single)}"
            )

    def _dataset(self, split: str) -> RowDataset:
        (known, label), (_, classes), rows = self._labels, self._own, self._rows_of(split)
        local = np.full(len(known), -1)
        local[classes] = np.arange(len(classes))
        member = self._domain_of_window[:, None] == np.arange(len(self.domains))
        return RowDataset(self._inputs(), torch.from_numpy(local[label]), torch.from_numpy(member), rows)

    def _rows_of(self, split: str) -> Tensor:
        rows = np.flatnonzero((self._split == SPLITS.index(split)) & np.isin(self._domain_of_window, self._own[0]))
        if not len(rows):
            raise InputError(
                f"the {split} split of domain {shorten(self.own_domains)} has no sample; it needs more recordings, or "
                "change val_share, test_share, domain or session_fields"
                + (", or cut long files into pieces with piece_s" if self.source in _ONLY["piece_s"] else "")
            )
        return torch.from_numpy(rows)

    def _over_training(self, what: str, measure: Callable[[Tensor], Any]) -> Any:
        """Something about the training rows that ``scale_over`` says, measured once."""
        own = self._rows_of("train")  # refuses domains that are not there
        everybody = self.scale_over == "all"
        known = self._of_all if everybody else self._of_own
        if what not in known:
            known[what] = measure(torch.from_numpy(np.flatnonzero(self._split == 0)) if everybody else own)
        return known[what]

    @property
    def _fill(self) -> Tensor:
        """(features,) what stands in for missing values of a table: medians of training samples."""
        return self._over_training("fill", self._measured_fill)

    def _measured_fill(self, rows: Tensor) -> Tensor:
        values = self._source.series.samples
        fill = values[rows].nanmedian(0).values
        if fill.isnan().any():
            name = self._source.channels[int(fill.isnan().nonzero()[0])]
            whose = f" of domain {shorten(self.own_domains)}" if self.scale_over == "own" else ""
            raise InputError(
                f"{self.root}: column {name} has no value in any training sample{whose}; add it to leave_out"
            )
        if count := int(values.isnan().sum()):
            columns = int(values.isnan().any(0).sum())
            self._tell(
                f"{count} of {values.numel()} values, in {columns} of {values.shape[1]} features, are missing: "
                "replaced with the medians of the training samples",
                warn=False,
            )
        return fill

    def _inputs(self) -> Windows | Features:
        samples = self._source.series.samples
        if self.source == "table":
            return Features(samples, self._fill)
        return Windows(samples, torch.from_numpy(self._cut.starts), self._length)

    def _measured_scale(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        flat = (chunk.movedim(1, -1).reshape(-1, len(self._source.channels)) for chunk in self._inputs().chunks(rows))
        mean, std = (values.float() for values in mean_and_deviation(flat))
        std[std <= 1e-6 * mean.abs()] = 1.0  # a channel that never moves
        return mean, std

    @property
    def _scale(self) -> tuple[Tensor, Tensor]:
        """(channels,) mean and standard deviation of the normalisation."""
        if self._scale_cache is None:
            channels = self._source.channels
            for name in ("mean", "std"):
                values = getattr(self, name)
                if values is not None and len(values) != len(channels):
                    raise InputError(
                        f"{name} has {len(values)} values for {len(channels)} channels {shorten(channels, 9)}"
                    )
            if self.std is not None and min(self.std) <= 0:
                raise InputError(f"std is {self.std}; expected numbers above 0")
            mean, std = torch.empty(0), torch.empty(0)
            if self.mean is None or self.std is None:
                mean, std = self._over_training("scale", self._measured_scale)
            self._scale_cache = (
                mean if self.mean is None else torch.tensor(self.mean, dtype=torch.float32),
                std if self.std is None else torch.tensor(self.std, dtype=torch.float32),
            )
        return self._scale_cache


def _texts(values: Iterable[str | int] | None) -> list[str]:
    """Names as texts: YAML reads 33 as a number."""
    return [str(value) for value in values or ()]
