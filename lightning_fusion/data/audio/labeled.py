"""Classification of recordings of several speakers."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from lightning_fusion.data.audio.datamodule import AudioFilesDataModule, BaseAudioDataModule
from lightning_fusion.data.audio.splits import AudioSplit, split_recordings, split_speakers
from lightning_fusion.data.base import SPLITS, Stage, staged_property
from lightning_fusion.data.domains import check_label_names, chosen_domains
from lightning_fusion.data.names import (
    RENAME,
    as_labels,
    as_names,
    check_discrete,
    missing_message,
    read_labels,
    rename_labels,
    similar_message,
)
from lightning_fusion.data.targets import UNLABELED, untested_message
from lightning_fusion.errors import InputError, shorten, suggestion


class BaseLabeledAudioDataModule(BaseAudioDataModule):
    """Recordings with labels as classes; base class of all sources for classification.

    With ``split_by: speaker`` the splits are disjoint in speakers; with ``split_by: recording`` every speaker is in
    all splits, with different recordings, so that there can be an expert for each speaker.

    Args:
        domain: Names of the selected domains, with their own labels. ``None`` (default) selects all. Splits do not
            depend on it.
        split_by: ``speaker``, or ``recording``: recordings are drawn within each domain and label, with
            ``val_speakers`` and ``test_speakers`` as fractions.
        domain_field: Field of the recordings whose values name the domains. ``None`` means a single domain.
        labels: All permitted labels, in the order of the targets; any other is an error. A mapping ``{Yes: yes}``
            renames labels. ``None`` (default) means the labels of the training recordings, sorted by name.
        ignored_labels: Labels of recordings that count as unlabeled, such as those of a folder ``unlabeled``.
        unlabeled: What happens to unlabeled recordings in training: ``keep`` gives them the target -100, ``drop``
            leaves them out. ``None`` (default) keeps them for :class:`~lightning_fusion.TargetDataModule`, and leaves
            them out otherwise. Validation and testing use labeled recordings only.
        **shared: Arguments of :class:`~lightning_fusion.data.audio.datamodule.BaseAudioDataModule`.
    """

    needs = ("speaker", "label")
    splits_may_be_empty = True
    stage_of = BaseAudioDataModule.stage_of | dict.fromkeys(
        ("domain", "split_by", "labels", "ignored_labels", "unlabeled"), Stage.SPLITTING
    )

    def __init__(
        self,
        domain: str | int | list[str | int] | None = None,
        split_by: Literal["speaker", "recording"] = "speaker",
        domain_field: str | None = "speaker",
        labels: list[str | int] | dict[str | int, str | int] | None = None,
        ignored_labels: list[str | int] | None = None,
        unlabeled: Literal["keep", "drop"] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(domain_field=domain_field, **shared)
        self.domain, self.split_by, self.labels = domain, split_by, labels
        self.ignored_labels, self.unlabeled = ignored_labels, unlabeled

    @property
    def classes(self) -> list[str]:
        """Labels of the training recordings, sorted; those of ``labels``, if it lists them."""
        labels = self.label_of_file
        return read_labels(self.labels)[0] or sorted({labels[file] for file in self.split.files["train"]} - {""})

    @staged_property(Stage.SPLITTING)
    def label_of_file(self) -> list[str]:
        """Label of each recording, with the new names of ``labels``; an empty text for unlabeled recordings."""
        written, (listed, renamed) = self.layout.fields["label"], read_labels(self.labels)
        ignored = {*as_labels(self.ignored_labels, "ignored_labels"), ""}
        found = sorted(set(written) - ignored)
        if not found:
            raise InputError(
                f"none of {len(written)} recordings is labeled (as {self.layout.names[0]}); change pattern or "
                "ignored_labels"
            )
        name = dict(zip(found, rename_labels(found, renamed), strict=True))
        if strange := [label for label in found if listed and label not in listed]:
            raise InputError(
                f"{self.layout.names[written.index(strange[0])]} has the label {strange[0]!r}; expected one of "
                f"{shorten(listed, 9)}: add it to labels, or to ignored_labels{suggestion(strange[0], listed)}"
            )
        if not listed:
            names = sorted(set(name.values()))
            check_discrete(names, "labels")
            self.messages.warn(similar_message(names, "labels", RENAME))
            self.messages.warn(missing_message(names, "labels", "set ignored_labels to them"))
        if (without := sum(label in ignored for label in written)) and self.messages.first("unlabeled recordings"):
            self.messages.info(f"{without} of {len(written)} recordings have no label")
        return [name.get(label, "") for label in written]

    def whole_split(self) -> AudioSplit:
        """Assign speakers or recordings of all domains to splits; unlabeled recordings are in training or left out."""
        labels = np.array(self.label_of_file, object)
        labeled, layout = np.flatnonzero(labels != ""), self.layout
        if self.split_by == "recording":
            _, label = np.unique(labels[labeled], return_inverse=True)
            number = self._domain_of_file()[1][labeled]
            val: Any = 0.1 if self.val_speakers is None else self.val_speakers  # a number: see _check
            test: Any = 0.2 if self.test_speakers is None else self.test_speakers
            files = split_recordings(label + (label.max() + 1) * number, float(val), float(test), self.seed)
        else:
            for split in ("val", "test"):
                if (tree := layout.tree_of(split)) and not np.isin(layout.files_of(tree), labeled).any():
                    raise InputError(f"{split}_root: no recording under {layout.roots[tree]} is labeled; remove it")
            wanted = {"val": self.val_speakers, "test": self.test_speakers}
            files = split_speakers(
                layout.select(labeled), wanted, {}, least=1, seeds=dict.fromkeys(wanted, self.seed)
            ).files
        files = {split: labeled[own] for split, own in files.items()}
        if self.unlabeled == "keep":
            files["train"] = np.union1d(files["train"], self._unlabeled_training(files))
        return AudioSplit(files, np.arange(len(layout.speakers)))

    def _unlabeled_training(self, files: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the unlabeled recordings that may be trained on, given the labeled ones of each split."""
        layout, without = self.layout, np.array([label == "" for label in self.label_of_file])
        if self.split_by == "speaker":
            without[layout.files_of(layout.tree_of("val") or -1)] = False
            without[layout.files_of(layout.tree_of("test") or -1)] = False
            without &= ~np.isin(layout.speaker, layout.speaker[np.concatenate([files["val"], files["test"]])])
        return np.flatnonzero(without)

    def cut(self) -> AudioSplit:
        """Assign speakers or recordings to splits, and select those of the chosen domains."""
        names, number = self._domain_of_file()
        cut = self.whole_split()
        classes, label = np.unique(self.label_of_file, return_inverse=True)
        if not classes[0]:  # unlabeled recordings
            classes, label = classes[1:], label - 1
        split = np.full(len(label), -1)
        for place, files in enumerate(cut.files[name] for name in SPLITS):
            split[files] = place
        if self.test_speakers != 0:
            self.messages.warn(untested_message(label, split, classes.tolist(), "recordings"))
        if self.domain is not None:
            own = chosen_domains(self.domain, names)
            cut.files = {split: files[np.isin(number[files], own)] for split, files in cut.files.items()}
            wanted = {"val": self.val_speakers, "test": self.test_speakers}
            if empty := [split for split, own in cut.files.items() if not len(own) and wanted.get(split) != 0]:
                raise InputError(
                    f"the {empty[0]} split has no recording of domain {shorten(as_names(self.domain))}; set split_by: "
                    "recording, or change val_speakers and test_speakers"
                )
        return cut

    def targets(self) -> np.ndarray:
        """Return the (N,) int64 class of each recording; -100 for labels that are not in the training split."""
        labels, names = self.label_of_file, self.classes
        for split in ("val", "test"):
            if unknown := sorted({labels[file] for file in self.split.files[split]} - set(names)):
                raise InputError(
                    f"the training speakers have no label {shorten(unknown)}, which {split} speakers have; change "
                    "val_speakers, test_speakers or seed"
                )
        number = {name: position for position, name in enumerate(names)}
        return np.array([number.get(label, UNLABELED) for label in labels])

    def _check(self) -> None:
        super()._check()
        check_label_names(self.labels, self.ignored_labels)
        self._check_choices({"split_by": ("speaker", "recording"), "unlabeled": ("keep", "drop", None)})
        for name in ("val_speakers", "test_speakers"):
            wanted = getattr(self, name)
            fraction = wanted is None or (not isinstance(wanted, list) and wanted < 1)
            if self.split_by == "recording" and not fraction:
                raise InputError(
                    f"{name} is {wanted}, and split_by: recording draws fractions of the recordings; give a fraction "
                    f"below 1 as {name}"
                )


class LabeledAudioDataModule(AudioFilesDataModule, BaseLabeledAudioDataModule):
    """WAV, FLAC, MP3, Ogg or AIFF files under a folder, with label and speaker in their paths.

    Args:
        **shared: Arguments of :class:`~lightning_fusion.data.audio.datamodule.AudioFilesDataModule` (``root``,
            ``pattern``, ``val_root``, ``test_root``, ``memory_limit_gb``), :class:`BaseLabeledAudioDataModule`
            (``domain``, ``split_by``, ``domain_field``) and
            :class:`~lightning_fusion.data.audio.datamodule.BaseAudioDataModule`.

    Raises:
        InputError: If an argument does not match the files, or a file cannot be read.

    Example:
        >>> data = LabeledAudioDataModule("data/fsdd", "{label}_{speaker}_{utterance}.wav", split_by="recording")
        >>> data.variant(domain="lucas").domain
        'lucas'
    """

    def __init__(self, root: str, pattern: str, **shared: Any) -> None:
        super().__init__(root=root, pattern=pattern, **shared)
        self._configure()

    def _check(self) -> None:
        super()._check()
        for split in ("val", "test"):
            if self.split_by == "recording" and getattr(self, f"{split}_root") is not None:
                raise InputError(f"split_by: recording draws fractions of the recordings of root: remove {split}_root")
