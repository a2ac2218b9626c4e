"""What all sources of sensor data share: domains, splits of whole recordings, normalization and loaders."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.data.base import SPLITS, Stage, made_at
from lightning_fusion.data.domains import DomainsDataModule, as_names, check_label_names
from lightning_fusion.data.sensor.arrangement import Arrangement, Source, arrange, named_splits, poor_domains
from lightning_fusion.data.sensor.windows import Cut, RowInputs, Windows, cut_windows
from lightning_fusion.data.splits import stratified_sessions
from lightning_fusion.data.statistics import mean_and_deviation, window_facts
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest


class BaseSensorDataModule(DomainsDataModule):
    """Windows of sensor recordings, or rows of features, with domains; splits share no recording.

    A source of data is a subclass with the arguments that it needs and :meth:`read_source`. Its constructor hands
    ``**shared`` on, keeps its own arguments under their names, and ends with ``_configure``, which checks them::

        class Pendulums(BaseSensorDataModule):
            def __init__(self, root: str, **shared: Any) -> None:
                super().__init__(**shared)
                self.root = root
                self._configure()

    Inside each domain (each group, where ``session_fields`` are given) whole sessions are drawn for validation and
    testing, such that the fractions of the labels are alike; windows overlap, so splitting them one by one would test
    on what was trained on. The loader gives values as recorded, (B, channels, T) or (B, features); on the device they
    are augmented (in training) and normalized.

    Args:
        domain_fields: Fields whose values, joined by ``_``, name a sample's domain. None: those that the source's class
            names, else a single domain.
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
        val_fraction: Fraction of the sessions of each domain for validation.
        test_fraction: Fraction of them for testing.
        mean: Of each channel, subtracted; that of the training windows where None.
        std: Of each channel, divided by; likewise.
        normalization_scope: Whose training windows give ``mean``, ``std`` and a table's medians for missing values:
            ``all`` domains', so that experts read each other's data as they read their own; or those of its ``own``
            domains in use. Where sites cannot see each other's files, give all of them the same ``mean`` and ``std``.
        augmentation: Module applied to batches before they are normalized, in training only.
        **loading: ``batch_size``, ``num_workers`` and ``seed``, see
            :class:`~lightning_fusion.data.domains.ModalityDataModule`.

    Raises:
        InputError: Where arguments contradict one another, or do not fit the data.
    """

    default_domain_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that name the domain where ``domain_fields`` is None."""
    default_group_field: ClassVar[str | None] = None
    """Field that names the group where neither ``domain_fields`` nor ``group_field`` is given."""
    stage_of = {
        **dict.fromkeys(("labels", "ignored_labels"), Stage.CUTTING),
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
        labels: list[str | int] | None = None,
        ignored_labels: list[str | int] | None = None,
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
        self.mean, self.std, self.normalization_scope = mean, std, normalization_scope

    # ------------------------------------------------------- what a source says

    def read_source(self) -> Source:
        """Read all recordings, or rows, whatever the domain: what a subclass implements."""
        raise NotImplementedError(f"{type(self).__name__} must implement read_source()")

    def cut_samples(self, source: Source, ignored: set[str]) -> Cut:
        """Windows of the source: here those that it was cut into when it was recorded.

        Args:
            source: All recordings.
            ignored: Labels that count as none.
        """
        cut = cut_windows(source.series, self._length, self._length, 0.5, ignored)
        if not len(cut.starts):
            raise InputError(f"none of {cut.dropped} samples has a label; change label or ignored_labels")
        if cut.dropped:
            self.notices.inform(f"{cut.dropped} of {cut.dropped + len(cut.starts)} samples have no label: left out")
        return cut

    # ------------------------------------------------------------------ facts

    @property
    def domains(self) -> list[str]:
        """Names of all domains, the columns of ``Batch.domain``; they do not overlap."""
        return self._arrangement.domains

    @property
    def groups(self) -> dict[str, str]:
        """To whom each domain belongs."""
        return self._arrangement.groups

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How recorded values become network input: ``(value - mean) / std``, channels first."""
        mean, std = self._scale
        return {"channels": self._source.channels, "mean": mean.tolist(), "std": std.tolist()}

    def statistics(self, split: str = "train") -> Tensor:
        """Light statistics of the samples of a split, as recorded: what a domain may publish about itself.

        For series the mean over windows of each of the eleven numbers of
        :func:`~lightning_fusion.data.statistics.window_facts`, then their standard deviations, channel by channel: 132
        numbers for 6 channels. For a table the mean and the standard deviation of each feature.

        Returns:
            (S,) float32.
        """
        dataset = self.rows(split)
        chunks = self._inputs().chunks(dataset.rows)
        return torch.cat(
            mean_and_deviation(window_facts(chunk).flatten(1) if chunk.ndim == 3 else chunk for chunk in chunks)
        ).float()

    def fingerprint(self, split: str) -> str:
        """A fingerprint of the samples of all recordings, and of windows, labels and preprocessing of one split."""
        dataset = self.rows(split)
        rows = dataset.rows
        starts = self._cut.starts[rows.numpy()]
        return digest(
            self._source.series.fingerprint, starts, dataset.targets[rows], dataset.domains[rows], self.preprocessing
        )

    # ------------------------------------------------------------- Lightning

    def preprocess(self, inputs: Tensor, augment: bool = False) -> Tensor:
        """Turn values as recorded, (B, channels, T) or (B, features), into normalized network input of that shape."""
        floats = inputs.float()
        if augment and self.augmentation is not None:
            floats = self.augmentation(floats)
        mean, std = (value.to(floats.device) for value in self._scale)
        if floats.ndim == 3:
            mean, std = mean[:, None], std[:, None]
        return (floats - mean) / std

    # -------------------------------------------------------------- internals

    def _configure(self, **arguments: Any) -> None:
        super()._configure(**arguments)
        self._of_all  # noqa: B018  # made now, so that variants share it

    def _check(self) -> None:
        super()._check()
        self._check_choices({"normalization_scope": ("all", "own")})
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

    @made_at(Stage.READING)
    def _source(self) -> Source:
        """All samples, read when they are first wanted."""
        return self.read_source()

    @made_at(Stage.READING)
    def _arrangement(self) -> Arrangement:
        """To whom the recordings belong."""
        fields, group = as_names(self.domain_fields), None if self.group_field is None else str(self.group_field)
        if self.domain_fields is None:
            fields, group = list(self.default_domain_fields), group or self.default_group_field
        split = None if self.split_field is None else str(self.split_field)
        return arrange(self._source, fields, group, as_names(self.session_fields), split)

    # ---- windows, labels and splits

    @made_at(Stage.CUTTING)
    def _cut(self) -> Cut:
        source, known, ignored = self._source, as_names(self.labels), set(as_names(self.ignored_labels))
        series = source.series
        for number, name in enumerate(series.names if known else []):
            if name not in known and name not in ignored:
                place = int(np.argmax(series.labels == number))
                recording = int(np.searchsorted(series.begins, place, side="right")) - 1
                raise InputError(
                    f"{self._where(recording, place - int(series.begins[recording]))} has the label {name!r}; expected "
                    f"one of {shorten(known, 9)}: add it to labels, or to ignored_labels"
                )
        return self.cut_samples(source, ignored)

    def _where(self, recording: int, sample: int) -> str:
        """A sample of a recording, for messages."""
        return self._source.names[recording]

    @made_at(Stage.CUTTING)
    def _labels(self) -> tuple[list[str], np.ndarray]:
        """All classes, and the class of each window."""
        names, label = self._source.series.names, self._cut.label
        known = as_names(self.labels) or sorted(names[number] for number in np.unique(label))
        place = np.array([known.index(name) if name in known else -1 for name in names])
        return known, place[label]

    @made_at(Stage.CUTTING)
    def _domain_of(self) -> np.ndarray:
        return self._arrangement.domain[self._cut.recording]

    @made_at(Stage.SPLITTING)
    def _split(self) -> np.ndarray:
        """(N,) the split of each window: 0, 1, 2 for train, val, test."""
        who, cut, (known, label) = self._arrangement, self._cut, self._labels
        counts = np.zeros((len(who.scope), len(known)), np.int64)
        np.add.at(counts, (who.unit[cut.recording], label), 1)
        if who.split is None:
            of_unit = stratified_sessions(counts, who.scope, self.val_fraction, self.test_fraction, self.seed)
        else:
            of_unit = named_splits(who, self._source.names, counts, self.val_fraction, self.seed)
        split = of_unit[who.unit][cut.recording]
        for message in poor_domains(who, self._domain_of, label, split, self._more_sessions()):
            self.notices.warn(message)
        return split

    def _more_sessions(self) -> str:
        """How this source may be divided into more sessions, for messages; an empty text where it may not."""
        return ""

    def _rows_of(self, split: str) -> Tensor:
        rows = np.flatnonzero((self._split == SPLITS.index(split)) & np.isin(self._domain_of, self._own[0]))
        if not len(rows):
            raise InputError(
                f"the {split} split of domain {shorten(self.own_domains)} has no sample; it needs more recordings, or "
                "change val_fraction, test_fraction, domain or session_fields"
                + (f", or {hint}" if (hint := self._more_sessions()) else "")
            )
        return torch.from_numpy(rows)

    # ---- inputs and their scale

    def _inputs(self) -> RowInputs:
        """What gives the inputs of some rows."""
        return Windows(self._source.series.samples, torch.from_numpy(self._cut.starts), self._length)

    @property
    def _length(self) -> int:
        """Samples of a window."""
        return self._source.window

    @made_at(Stage.SPLITTING)
    def _of_all(self) -> dict[str, Any]:
        """What was measured over the training rows of all domains."""
        return {}

    def _over_training(self, what: str, measure: Callable[[Tensor], Any]) -> Any:
        """Something about the training rows that ``normalization_scope`` says; that of all is measured once."""
        own = self._rows_of("train")  # rejects domains that are not there
        if self.normalization_scope == "own":
            return measure(own)
        if what not in self._of_all:
            self._of_all[what] = measure(torch.from_numpy(np.flatnonzero(self._split == 0)))
        return self._of_all[what]

    def _measured_scale(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        flat = (chunk.movedim(1, -1).reshape(-1, len(self._source.channels)) for chunk in self._inputs().chunks(rows))
        mean, std = (values.float() for values in mean_and_deviation(flat))
        std[std <= 1e-6 * mean.abs()] = 1.0  # a channel that never moves
        return mean, std

    @made_at(Stage.USING)
    def _scale(self) -> tuple[Tensor, Tensor]:
        """(channels,) mean and standard deviation of the normalization."""
        channels = self._source.channels
        self._check_scale(len(channels), f" {shorten(channels, 9)}")
        mean, std = torch.empty(0), torch.empty(0)
        if self.mean is None or self.std is None:
            mean, std = self._over_training("scale", self._measured_scale)
        return (
            mean if self.mean is None else torch.tensor(self.mean, dtype=torch.float32),
            std if self.std is None else torch.tensor(self.std, dtype=torch.float32),
        )
