"""TensorBoard."""

from collections.abc import Iterable, Sequence

from matplotlib.figure import Figure

from lightning_fusion.markdown import markdown_table
from lightning_fusion.trackers.base import Cell, Tracker


class TensorBoardTracker(Tracker):
    """A folder of TensorBoard; the stages of a run of a recipe are its subfolders.

    TensorBoard has no artifacts: files of a recipe are in the folder of the run.
    """

    shows_figures = True
    names_one_run = ()

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Record a table as text in Markdown."""
        cells = [[f"{cell:.6g}" if isinstance(cell, float) else _text(cell) for cell in row] for row in rows]
        self.logger.experiment.add_text(name, "\n".join(markdown_table(columns, cells)))

    def log_figure(self, name: str, figure: Figure, step: int | None = None) -> None:
        """Record an image."""
        self.logger.experiment.add_figure(name, figure, step, close=False)


def _text(cell: Cell) -> str:
    return "" if cell is None else str(cell)
