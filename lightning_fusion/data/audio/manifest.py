"""Recordings that a table lists with their labels."""

from pathlib import Path
from typing import Any

import numpy as np

from lightning_fusion.data.audio.files import Recordings
from lightning_fusion.data.audio.labeled import BaseLabeledAudioDataModule
from lightning_fusion.data.audio.layout import AudioLayout
from lightning_fusion.data.text.readers import read_table
from lightning_fusion.errors import InputError, nearest_path, shorten


class ManifestAudioDataModule(BaseLabeledAudioDataModule):
    """Recordings that a CSV, TSV or JSON-lines file lists, with a label and optionally a speaker in each row.

    Args:
        root: The file. Relative paths in it begin at its folder.
        path_field: Column of the paths of the recordings.
        label_field: Column of the labels; an empty cell means an unlabeled recording.
        speaker_field: Column of the speakers. ``None`` (default): each recording counts as a speaker of its own.
        domain_field: Column whose values name the domains, or ``speaker``. ``None`` (default) means a single domain.
        memory_limit_gb: Recordings larger than this (4 bytes per sample) stay on disk and are read batch by batch.
        **shared: Arguments of :class:`~lightning_fusion.data.audio.labeled.BaseLabeledAudioDataModule` (``domain``,
            ``split_by``, ``labels``) and :class:`~lightning_fusion.data.audio.datamodule.BaseAudioDataModule`.

    Raises:
        InputError: If a column, a cell or a recording is missing, or a recording is listed twice.

    Example:
        >>> data = ManifestAudioDataModule("words.csv", speaker_field="who", split_by="recording")
        >>> data.variant(frontend="waveform").preprocessing["frontend"]
        'waveform'
    """

    def __init__(
        self,
        root: str,
        path_field: str = "path",
        label_field: str = "label",
        speaker_field: str | None = None,
        domain_field: str | None = None,
        memory_limit_gb: float = 4.0,
        **shared: Any,
    ) -> None:
        super().__init__(domain_field=domain_field, **shared)
        self.root, self.path_field, self.label_field, self.speaker_field = root, path_field, label_field, speaker_field
        self.memory_limit_gb = memory_limit_gb
        self._configure()

    def read_layout(self) -> AudioLayout:
        """Read the table, and check that the recordings exist."""
        if not Path(self.root).is_file():
            raise InputError(f"root: found no file {self.root}{nearest_path(self.root)}; expected a table")
        own = {"path": self.path_field, "label": self.label_field}
        own |= {} if self.speaker_field is None else {"speaker": self.speaker_field}
        if self.domain_field is not None and self.domain_field not in own:
            own[self.domain_field] = self.domain_field
        folder = Path(self.root).resolve().parent
        fields: dict[str, list[str]] = {name: [] for name in own}
        lines: dict[str, int] = {}
        for line, row in read_table(Path(self.root), list(dict.fromkeys(own.values()))):
            values = {name: "" if row[column] is None else str(row[column]).strip() for name, column in own.items()}
            path = values["path"]
            if not path or not (folder / path).is_file():
                raise InputError(
                    f"{self.root}, line {line}: {self.path_field} is {path!r}, and {folder / path} is no file; paths "
                    "are relative to the folder of the table"
                )
            if (first := lines.setdefault(path, line)) != line:
                raise InputError(f"{self.root} lists {path} twice, in lines {first} and {line}; remove one")
            if empty := [own[name] for name in values if name not in ("path", "label") and not values[name]]:
                raise InputError(f"{self.root}, line {line}: {shorten(empty)} is empty; expected a name")
            for name, value in values.items():
                fields[name].append(value)
        names = fields.pop("path")
        if not names:
            raise InputError(f"{self.root} has no row; expected one for each recording")
        fields.setdefault("speaker", names)
        return AudioLayout(names, fields, np.zeros(len(names), np.int64), {0: str(folder)})

    def read_recordings(self, layout: AudioLayout) -> Recordings:
        """Inspect the files, and decode them if they fit into memory."""
        return Recordings.of_files(layout.paths(), self.sample_rate_hz, self.memory_limit_gb)

    def _check(self) -> None:
        super()._check()
        if not self.memory_limit_gb >= 0:
            raise InputError(f"memory_limit_gb is {self.memory_limit_gb}; expected at least 0")
