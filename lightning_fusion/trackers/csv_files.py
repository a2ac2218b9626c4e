"""CSV files."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_fusion.files import atomic_write
from lightning_fusion.trackers.base import Cell, Tracker, as_key


class CSVTracker(Tracker):
    """A folder of CSV files; the stages of a run of a recipe are its subfolders.

    There are no figures and no artifacts: those of a recipe are in the folder of the run.
    """

    names_one_run = ()

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Write a table beside ``metrics.csv``."""
        path = Path(self.logger.log_dir) / f"{as_key(name)}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as draft, open(draft, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
