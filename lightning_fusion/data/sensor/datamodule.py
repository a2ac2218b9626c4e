"""Base class of all sources of sensor data: domains, splits of whole recordings, normalization and loaders."""

from collections import Counter
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.data.base import SPLITS, Stage, staged_property
from lightning_fusion.data.domains import check_label_names
from lightning_fusion.data.duplicates import Samples, equal_rows
from lightning_fusion.data.names import (
    RENAME,
    as_labels,
    as_names,
    canonical_label,
    check_discrete,
    merge_forms,
    merge_message,
    missing_message,
    read_labels,
    similar_message,
)
from lightning_fusion.data.rows import Origins
from lightning_fusion.data.sensor.arrangement import (
    Arrangement,
    Source,
    arrange,
    constant_channels,
    joined_fields,
    named_splits,
    poor_domains,
    repeated_marks,
)
from lightning_fusion.data.sensor.incomplete import complete_source, incomplete_message, missing_channels
from lightning_fusion.data.sensor.normalization import ChannelNormalization
from lightning_fusion.data.sensor.series import rename_series
from lightning_fusion.data.sensor.windows import Cut, RowInputs, Windows, cut_windows
from lightning_fusion.data.splits import stratified_sessions
from lightning_fusion.data.statistics import mean_and_deviation, window_statistics
from lightning_fusion.data.targets import untested_message
from lightning_fusion.errors import EmptySplitError, InputError, shorten, suggestion
from lightning_fusion.files import digest


class BaseSensorDataModule(ChannelNormalization):
    """Windows of sensor recordings, or rows of features, with domains; splits share no recording.

    A source is a subclass that implements :meth:`read_source`. Its constructor passes ``**shared`` on, stores its own
    arguments as attributes, and ends with ``_configure``, which validates them::

        class Pendulums(BaseSensorDataModule):
            def __init__(self, root: str, **shared: Any) -> None:
                super().__init__(**shared)
                self.root = root
                self._configure()

    Within each domain (each group, if ``session_fields`` are given) whole sessions are drawn for validation and
    testing, with similar fractions of the labels; overlapping windows of one session in two splits would leak training
    data. The loader yields values as recorded, (B, channels, T) or (B, features); on the device they are augmented (in
    training) and normalized.

    Args:
        domain_fields: Fields whose values, joined by ``_``, name the domain of a sample. ``None`` means the default of
            the source, else a single domain.
        group_field: Field that names the group of a domain, such as a person with two devices (:attr:`groups`).
            ``None`` (default) means that each domain is a group.
        session_fields: Fields that identify a session: samples that agree in them, and in the group, are never in two
            splits. ``None`` (default) means that each recording (each row of a table) is a session.
        split_field: Field with the value ``train``, ``val`` or ``test``. A part of ``train`` is drawn for validation
            if no recording is in ``val``.
        domain: Names of the selected domains, with their own classes. ``None`` (default) selects all. Splits do not
            depend on it.
        labels: All permitted labels, in the order of the targets; any other is an error. ``None`` means the labels in
            the data, sorted by name. A mapping ``{Open: open}`` renames labels.
        ignored_labels: Labels of samples that count as unlabeled, such as transitions.
        unlabeled: What happens to unlabeled samples in training: ``keep`` gives them the target -100, ``drop`` leaves
            them out. ``None`` (default) keeps them for :class:`~lightning_fusion.TargetDataModule`, and leaves them
            out otherwise. Validation and testing use labeled samples only.
        val_fraction: Fraction of the sessions of each domain for validation.
        test_fraction: Fraction of the sessions of each domain for testing.
        mean: Mean of each channel, subtracted. ``None`` (default) uses that of the training windows, or for a trained
            model the mean in its checkpoint, whatever recordings are present.
        std: Standard deviation of each channel, divided by. ``None`` (default) as for ``mean``.
        normalization_scope: Domains whose training windows determine ``mean``, ``std`` and the medians for missing
            values of a table: ``all``, so that all experts share one preprocessing; or ``own``, the selected ones:
            each model is trained and used with the statistics of the domain at hand.
            Where sites cannot share files, pass the same ``mean`` and ``std`` to all of them.
        augmentation: Module applied to batches before they are normalized, in training only, such as
            :class:`~lightning_fusion.data.sensor.augmentation.SensorAugmentation`.
        **loading: ``batch_size``, ``num_workers``, ``seed`` and ``predict_root`` of
            :class:`~lightning_fusion.data.domains.ModalityDataModule`.

    Raises:
        InputError: If arguments are inconsistent, or do not match the data.
    """

    unit: ClassVar[str] = "recordings"
    """What the rows of a source are called in messages."""
    default_domain_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that name the domain if ``domain_fields`` is None."""
    default_group_field: ClassVar[str | None] = None
    """Field that names the group if neither ``domain_fields`` nor ``group_field`` is given."""
    other_columns: ClassVar[str] = ""
    """How a source reads files whose channels have other names, for messages."""
    _constant: dict[str, list[str]]  # channels without any change, by the name of a recording
    _incomplete: Source | None  # recordings that lack channels, and are left out
    _absent: dict[str, tuple[str, list[str]]]  # by domain without others, one of these and the channels that it lacks
    stage_of = {
        **dict.fromkeys(("labels", "ignored_labels", "unlabeled"), Stage.CUTTING),
        **dict.fromkeys(("val_fraction", "test_fraction", "seed"), Stage.SPLITTING),
        **dict.fromkeys(("domain", "mean", "std", "normalization_scope", "augmentation"), Stage.USING),
        **dict.fromkeys(("batch_size", "num_workers"), Stage.USING),
    }

    def __init__(
        self,
        domain_fields: list[str | int] | None = None,
        group_field: str | int | None = None,
        session_fields: list[str | int] | None = None,
        split_field: str | int | None = None,
        domain: str | int | list[str | int] | None = None,
        labels: list[str | int] | dict[str | int, str | int] | None = None,
        ignored_labels: list[str | int] | None = None,
        unlabeled: Literal["keep", "drop"] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        normalization_scope: Literal["all", "own"] = "all",
        augmentation: nn.Module | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        self.domain_fields, self.group_field, self.session_fields = domain_fields, group_field, session_fields
        self.split_field, self.domain, self.labels, self.ignored_labels = split_field, domain, labels, ignored_labels
        self.val_fraction, self.test_fraction, self.augmentation = val_fraction, test_fraction, augmentation
        self.unlabeled = unlabeled
        self.mean, self.std, self.normalization_scope = mean, std, normalization_scope

    # ------------------------------------------------ what a source implements

    def read_source(self) -> Source:
        """Read all recordings, or rows, of all domains; implemented by a source."""
        raise NotImplementedError(f"{type(self).__name__} must implement read_source()")

    def cut_samples(self, source: Source, ignored: set[str]) -> Cut:
        """Return the windows of the source; by default each recording is a sequence of ready windows.

        Args:
            source: Source of all recordings.
            ignored: Labels of samples that count as unlabeled.
        """
        cut = cut_windows(source.series, self._length, self._length, 0.5, ignored, self.unlabeled == "keep")
        if not (cut.label >= 0).any():
            found = cut.dropped + len(cut.starts)
            raise InputError(f"none of {found} samples is labeled; change label or ignored_labels")
        if cut.dropped:
            self.messages.info(f"left out {cut.dropped} of {cut.dropped + len(cut.starts)} samples without a label")
        return cut

    # --------------------------------------------------------------- metadata

    @property
    def domains(self) -> list[str]:
        """Names of all domains, the columns of ``Batch.domain``; domains do not overlap."""
        return self._arrangement.domains

    @property
    def groups(self) -> dict[str, str]:
        """Group of each domain."""
        return self._arrangement.groups

    def statistics(self, split: str = "train") -> Tensor:
        """Return light statistics of the samples of a split, as recorded, which a domain may publish.

        For series the mean over windows of each of the eleven statistics of
        :func:`~lightning_fusion.data.statistics.window_statistics`, then their standard deviations, channel by channel:
        132 numbers for 6 channels. For a table the mean and the standard deviation of each feature.

        Returns:
            (S,) float32.
        """
        dataset = self.rows(split)
        chunks = self._inputs().chunks(dataset.rows)
        return torch.cat(
            mean_and_deviation(window_statistics(chunk).flatten(1) if chunk.ndim == 3 else chunk for chunk in chunks)
        ).float()

    def notes(self, index: Tensor) -> list[str]:
        """Return the constant channels of each sample's recording."""
        names = [self._source.names[recording] for recording in self._cut.recording[index.numpy()].tolist()]
        constant = {name: f"constant {', '.join(channels)}" for name, channels in self._constant.items()}
        return [constant.get(name, "") for name in names]

    def origins(self, index: Tensor) -> Origins:
        """Return the recording of each window, and its start in seconds."""
        source, rows = self._source, index.numpy()
        if source.origins is not None:
            window = self._cut.starts[rows] // source.window
            assert source.origins.position is not None
            return source.origins._replace(file=source.origins.file[window], position=source.origins.position[window])
        files, first, file = np.unique(np.array(source.names, object), return_index=True, return_inverse=True)
        file = file[self._cut.recording[rows]]  # pieces of one recording have its name
        begins, starts = source.series.begins[first][file], self._cut.starts[rows]
        seconds = (starts - begins) / self._rate + source.series.skipped_s(begins, starts)
        return Origins(files.tolist(), file, seconds, "start_s")

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of all samples and of windows, labels and preprocessing of one split."""
        dataset = self.rows(split)
        rows = dataset.rows
        starts = self._cut.starts[rows.numpy()]
        return digest(
            self._source.series.fingerprint, starts, dataset.targets[rows], dataset.domains[rows], self.preprocessing
        )

    # -------------------------------------------------------------- internals

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        self._of_all  # noqa: B018  # made now, so that variants share it

    def _check(self) -> None:
        super()._check()
        self._check_choices({"normalization_scope": ("all", "own"), "unlabeled": ("keep", "drop", None)})
        self._check_held_out(self.val_fraction, self.test_fraction)
        check_label_names(self.labels, self.ignored_labels)

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}; expected a number above 0")

    def _check_different(self, channels: list[str]) -> None:
        if doubled := [name for name in channels if channels.count(name) > 1]:
            raise InputError(f"channels names {doubled[0]} more than once; each is read once")

    # ---- reading

    @staged_property(Stage.READING)
    def _source(self) -> Source:
        """All samples, read on first access."""
        source, self._incomplete = complete_source(self.read_source())
        self._constant = constant_channels(source)
        if self._constant:
            each = (f"{name} ({shorten(channels)})" for name, channels in self._constant.items())
            self.messages.warn(
                f"{len(self._constant)} of {len(source.names)} recordings have a constant channel: {shorten(each, 3)}; "
                "was the sensor off? Remove them, or leave the channel out of channels"
            )
        if marks := repeated_marks(source, {channel for still in self._constant.values() for channel in still}):
            self.messages.warn(
                f"{len(marks)} of {len(source.channels)} channels have one value far from all others in many samples: "
                f"{shorten(marks, 3)}. Does it mark missing values? Remove these samples, or split the recordings there"
            )
        return source

    @staged_property(Stage.READING)
    def _arrangement(self) -> Arrangement:
        """Domain, group, session and split of each recording."""
        fields, group = as_names(self.domain_fields), None if self.group_field is None else str(self.group_field)
        if self.domain_fields is None:
            fields, group = list(self.default_domain_fields), group or self.default_group_field
        split = None if self.split_field is None else str(self.split_field)
        for name in fields:
            if name in self._source.fields:
                written = {value: canonical_label(value) for value in sorted(map(str, set(self._source.fields[name])))}
                self.messages.warn(merge_message(merge_forms(written), f"values of {name}"))
        arrangement = arrange(self._source, fields, group, as_names(self.session_fields), split)
        self._absent = {}
        if (others := self._incomplete) is not None:
            domain = joined_fields(others, fields).tolist()
            rest = (arrangement.domains[number] for number in arrangement.domain)
            pieces = {(name, of) for name, of in zip(self._source.names, rest, strict=True)}  # of one recording: once
            total = Counter([*domain, *(of for _, of in pieces)])
            self.messages.warn(incomplete_message(others, domain, total, self.other_columns))
            found = [*zip(domain, others.names, missing_channels(others), strict=True)][::-1]  # the first one counts
            self._absent = {name: (file, lacks) for name, file, lacks in found if name not in arrangement.domains}
        self.messages.warn(similar_message(arrangement.domains, "domains", "rename one in the data"))
        return arrangement

    # ---- windows, labels and splits

    @staged_property(Stage.CUTTING)
    def _renamed(self) -> Source:
        """The source with the new names of ``labels``."""
        series = self._source.series
        self.messages.warn(merge_message(series.merged, "labels"))
        renamed = read_labels(self.labels)[1]
        return replace(self._source, series=rename_series(series, renamed)) if renamed else self._source

    @staged_property(Stage.CUTTING)
    def _cut(self) -> Cut:
        source, known = self._renamed, read_labels(self.labels)[0]
        ignored, series = set(as_labels(self.ignored_labels, "ignored_labels")), source.series
        for number, name in enumerate(series.names if known else []):
            if name not in known and name not in ignored:
                place = int(np.argmax(series.labels == number))
                recording = int(np.searchsorted(series.begins, place, side="right")) - 1
                raise InputError(
                    f"{self._where(recording, place - int(series.begins[recording]))} has the label {name!r}; expected "
                    f"one of {shorten(known, 9)}: add it to labels, or to ignored_labels"
                    f"{suggestion(name, known)}"
                )
        return self.cut_samples(source, ignored)

    @staged_property(Stage.USING)
    def _own(self) -> tuple[list[int], list[int]]:
        for name in map(canonical_label, as_names(self.domain) if self._arrangement and self._absent else []):
            if name in self._absent:
                file, lacks = self._absent[name]
                raise InputError(
                    f"domain {name} has no recording with all channels: {file} lacks {shorten(lacks, 9)}; select "
                    "another domain, or leave these channels out of channels"
                )
        result: tuple[list[int], list[int]] = super()._own
        return result

    def _where(self, recording: int, sample: int) -> str:
        """Describe a sample of a recording, for messages."""
        return self._source.names[recording]

    @staged_property(Stage.CUTTING)
    def _labels(self) -> tuple[list[str], np.ndarray]:
        """Names of all classes, and the class index of each window; -1 for unlabeled windows."""
        names, label = self._renamed.series.names, self._cut.label
        listed = read_labels(self.labels)[0]
        known = listed or sorted(names[number] for number in np.unique(label[label >= 0]))
        if not listed:  # of all samples: a form of few samples wins no window
            ignored = as_labels(self.ignored_labels, "ignored_labels")
            counted = sorted(set(names) - set(ignored))
            check_discrete(counted, "labels")
            self.messages.warn(similar_message(counted, "labels", RENAME))
            self.messages.warn(missing_message(counted, "labels", "set ignored_labels to them"))
        place = np.array([*(known.index(name) if name in known else -1 for name in names), -1])  # the last: no label
        return known, place[label]

    @staged_property(Stage.CUTTING)
    def _domain_of(self) -> np.ndarray:
        result: np.ndarray = self._arrangement.domain[self._cut.recording]
        return result

    @staged_property(Stage.SPLITTING)
    def _split(self) -> np.ndarray:
        """(N,) split of each window: 0, 1, 2 for train, val, test; -1 for windows that are not used."""
        who, cut, (known, label) = self._arrangement, self._cut, self._labels
        counts = np.zeros((len(who.scope), len(known)), np.int64)
        labeled = label >= 0
        np.add.at(counts, (who.unit[cut.recording[labeled]], label[labeled]), 1)
        if who.split is None:
            of_unit = stratified_sessions(counts, who.scope, self.val_fraction, self.test_fraction, self.seed)
            of_unit[counts.sum(1) == 0] = SPLITS.index("train")
        else:
            of_unit = named_splits(who, self._source.names, counts, self.val_fraction, self.seed)
        split = of_unit[who.unit][cut.recording]
        split[~labeled & (split != SPLITS.index("train"))] = -1  # they cannot be scored
        own = self._domain_of[labeled]
        if self.val_fraction and self.test_fraction:
            for message in poor_domains(who, own, label[labeled], split[labeled], self._more_sessions()):
                self.messages.warn(message)
            self.messages.warn(untested_message(label, split, known, "windows"))
        self._report_duplicates(self._source, self.unit, self._equal_recordings, lambda: self._described(split))
        result: np.ndarray = split
        return result

    def _equal_recordings(self) -> np.ndarray:
        """Return the (R,) first recording of the same content for each; pieces of one recording are not compared."""
        series = self._source.series
        samples = series.samples.numpy()
        if (series.lengths == 1).all():
            return equal_rows(samples)
        first = equal_rows(samples, series.begins, series.lengths)
        whole = np.unique(np.array(self._source.names, object), return_inverse=True)[1]
        several = np.isin(first, first[whole != whole[first]])  # of more than one recording
        return np.where(several, first, np.arange(len(first)))

    def _described(self, split: np.ndarray) -> Samples:
        """Labels, domains and splits of all recordings, given the split of each window."""
        who, series = self._arrangement, self._renamed.series
        of_recording = np.full(len(series.lengths), -1)
        of_recording[self._cut.recording] = split
        codes: dict[bytes, int] = {}
        parts = zip(series.begins, series.begins + series.lengths, strict=True)
        return Samples(
            lambda row: self._source.names[row].rstrip(","),
            np.array([codes.setdefault(series.labels[begin:end].tobytes(), len(codes)) for begin, end in parts]),
            domain=who.domain,
            split=of_recording,
            domains=who.domains,
            splits=SPLITS,
        )

    def _more_sessions(self) -> str:
        """Return a hint on how to divide this source into more sessions, for messages; may be empty."""
        return ""

    def _rows_of(self, split: str) -> Tensor:
        rows = np.flatnonzero((self._split == SPLITS.index(split)) & np.isin(self._domain_of, self._own[0]))
        if not len(rows):
            raise EmptySplitError(
                f"the {split} split of domain {shorten(self.own_domains)} has no sample; it needs more recordings, or "
                "change val_fraction, test_fraction, domain or session_fields"
                + (f", or {hint}" if (hint := self._more_sessions()) else "")
            )
        return torch.from_numpy(rows)

    # ---- inputs

    def _inputs(self) -> RowInputs:
        """Inputs of all samples, indexed by a tensor."""
        return Windows(self._source.series.samples, torch.from_numpy(self._cut.starts), self._length)

    @property
    def _rate(self) -> float:
        """Samples per second."""
        rate: float = getattr(self, "sample_rate_hz", 1.0)
        return rate

    @property
    def _length(self) -> int:
        """Number of samples of a window."""
        return self._source.window
