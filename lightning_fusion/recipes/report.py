"""Files that a recipe writes: ``results.json``, ``report.md`` and figures."""

import json
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.stats import t

from lightning_fusion import plotting
from lightning_fusion.files import write_text
from lightning_fusion.metrics import balanced_accuracy
from lightning_fusion.terminal import open_console

MEANS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda right, targets: float(np.mean(right)),
    "balanced accuracy": balanced_accuracy,
}
"""Metrics of correct predictions, from ``right`` (N,) in [0, 1] and ``targets`` (N,) classes."""
Figures = dict[str, tuple[Figure, str]]
"""Figures and their captions, by the name of the file without its suffix."""
_PACKAGES = ("lightning-fusion", "torch", "torchvision", "lightning", "scikit-learn", "numpy")


class Gain(NamedTuple):
    """A mean paired difference and its 95 % interval; ``None`` for a single pair.

    Example:
        >>> Gain(0.05, 0.01, 0.09).points(), Gain(-0.05, None, None).points(2)
        ('+5.0 [+1.0, +9.0]', '-5.00')
    """

    mean: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return both bounds of the interval; ``None`` if there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def points(self, decimals: int = 1) -> str:
        """Format in points, hundredths of the metric."""
        mean, *bounds = (f"{100 * value:+.{decimals}f}" for value in (self.mean, *(self.interval or ())))
        return f"{mean} [{', '.join(bounds)}]" if bounds else mean


def paired_gain(values: Sequence[float], against: Sequence[float]) -> Gain:
    """Compute the mean paired difference and its 95 % interval by Student's t.

    If all differences are equal, the interval has zero width (``scipy.stats.t.interval`` returns NaN).

    Example:
        >>> [round(value, 3) for value in paired_gain([0.5, 0.6, 0.7], [0.4, 0.4, 0.6])]
        [0.133, -0.01, 0.277]
    """
    difference = np.asarray(values, float) - np.asarray(against, float)
    mean = float(difference.mean())
    if len(difference) < 2:
        return Gain(mean, None, None)
    half = float(t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference)))
    return Gain(mean, mean - half, mean + half)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    r"""Return the lines of a Markdown table; vertical bars in cells are escaped, line breaks are blanks.

    Example:
        >>> markdown_table(["method", "accuracy"], [["a|b", "0.5"]])
        ['| method | accuracy |', '|---|---|', '| a\\|b | 0.5 |']
    """
    lines = [
        " | ".join(" ".join(cell.splitlines()).replace("|", "\\|") for cell in cells) for cells in (headings, *rows)
    ]
    return [f"| {lines[0]} |", "|---" * len(headings) + "|", *(f"| {line} |" for line in lines[1:])]


@dataclass
class Report:
    """Results by seed, and the files written from them.

    Attributes:
        recipe: Name of the recipe.
        config: Its configuration.
        data: Description of the data: sizes, classes, domains, fingerprint.
        rows: One dict per value: method, metric, split, seed, value, and optionally domain, cost, bytes.
        notes: Warnings and remarks, such as skipped methods.
        seconds: Duration of the parts.
        metric: The metric of the table.
        title: Description of the metric, in the table's title.
        beside: Further metrics of the table.
        text: Further lines of ``report.md``, in Markdown.
    """

    recipe: str
    config: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    metric: str = "accuracy"
    title: str = "test accuracy"
    beside: tuple[str, ...] = ()
    text: list[str] = field(default_factory=list)

    def add(self, method: str, metric: str, value: float, seed: int, split: str = "test", **more: Any) -> None:
        """Add one value."""
        self.rows.append(
            {"method": method, "metric": metric, "split": split, "seed": seed, "value": float(value), **more}
        )

    def add_right(self, method: str, right: np.ndarray, targets: np.ndarray, seed: int, **more: Any) -> None:
        """Add all metrics of correct predictions ``right``, (N,) in [0, 1], for (N,) targets."""
        for metric, mean in MEANS.items():
            self.add(method, metric, mean(right, targets), seed, **more)

    def took(self, part: str, start: float) -> None:
        """Add the seconds since ``start`` (from :func:`time.perf_counter`) to a part of the run."""
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def select(self, **fields: Any) -> list[dict[str, Any]]:
        """Return the rows with these values of their fields, by seed; ``None`` selects rows without the field."""
        found = [row for row in self.rows if all(row.get(name) == value for name, value in fields.items())]
        return sorted(found, key=lambda row: row["seed"])

    def values(self, method: str, metric: str = "accuracy", split: str = "test", **fields: Any) -> list[float]:
        """Return the values of a method, ordered by seed: over all data, unless ``domain`` is given."""
        rows = self.select(method=method, metric=metric, split=split, **{"domain": None} | fields)
        return [row["value"] for row in rows]

    def methods(self, metric: str = "accuracy") -> list[str]:
        """Return the methods in the order in which they were added."""
        return list(dict.fromkeys(row["method"] for row in self.rows if row["metric"] == metric))

    def summary(self, main: str, metric: str | None = None) -> list[dict[str, Any]]:
        """Return mean and deviation over seeds of each method, and the gain of ``main`` over the other methods.

        ``metric=None`` (default) uses the metric of the report.

        ``gain`` is ``None`` in rows of other methods; rows of ``main`` name the reference method in ``against``.
        """
        metric = metric or self.metric
        result: list[dict[str, Any]] = []
        own = self.values(main, metric)
        for method in self.methods(metric):
            values = self.values(method, metric)
            entry: dict[str, Any] = {
                "method": method,
                "metric": metric,
                "mean": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
            result.append(entry | {"gain": None, "gain_low": None, "gain_high": None, "against": None})
        for entry in [entry for entry in result if entry["method"] != main]:
            other = self.values(entry["method"], metric)
            if len(other) == len(own):
                mean, low, high = paired_gain(own, other)
                first = next(e for e in result if e["method"] == main)
                gains = {"gain": mean, "gain_low": low, "gain_high": high, "against": entry["method"]}
                result.append(first | gains)
        return result

    def save(self, folder: Path, main: str, figures: Figures | None = None) -> None:
        """Write ``results.json``, ``report.md`` and a file ``<name>.png`` of each figure.

        Args:
            folder: Folder to write to.
            main: The method whose gains are reported.
            figures: Figures and their captions by name.
        """
        self.seconds = _longest(self.seconds, folder / "results.json")
        versions = {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()}
        results = {
            "recipe": self.recipe,
            "config": self.config,
            "data": self.data,
            "versions": versions,
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "rows": self.rows,
            "summary": [row for metric in (self.metric, *self.beside) for row in self.summary(main, metric)],
            "notes": self.notes,
        }
        write_text(folder / "results.json", json.dumps(results, indent=1))
        figures = figures or {}
        for name, (figure, _) in figures.items():
            plotting.save(figure, folder / f"{name}.png")
        write_text(folder / "report.md", self._markdown(main, figures, versions))

    def table(self, main: str) -> Table:
        """Return the summary as a table for the terminal."""
        seeds = len(self.values(main, self.metric))
        title = f"{self.recipe}: {self.title}" + (f", mean of {seeds} seeds" if seeds > 1 else ", one seed")
        table = Table("method", title=title)
        for heading in (self.metric, *self.beside, f"gain of {main}"):
            table.add_column(heading, justify="right")
        for cells in self._cells(main):
            style = "bold" if cells[0] == main else None
            table.add_row(*map(escape, cells), style=style)
        return table

    def print(self, main: str, folder: Path, console: Console | None = None) -> None:
        """Print the table, the notes and the paths of the files."""
        console = open_console() if console is None else console
        console.print(self.table(main))
        for note in same_of_seeds(self.notes):
            console.print(f"- {note}", markup=False)
        console.print(f"report: {folder / 'report.md'}   results: {folder / 'results.json'}", soft_wrap=True)

    def _cells(self, main: str) -> list[tuple[str, ...]]:
        """Yield method, metric, further metrics, and the gain over it."""
        entries = self.summary(main)
        gains = {entry["against"]: entry for entry in entries if entry["against"]}
        more = [{row["method"]: row for row in self.summary(main, metric)} for metric in self.beside]
        cells = []
        for entry in sorted(entries, key=lambda entry: entry["method"] != main):  # other methods keep their order
            if entry["against"]:
                continue
            gain = gains.get(entry["method"])
            text = Gain(gain["gain"], gain["gain_low"], gain["gain_high"]).points() if gain else ""
            others = (_spread(rows.get(entry["method"])) for rows in more)
            cells.append((entry["method"], _spread(entry), *others, text))
        return cells

    def _markdown(self, main: str, figures: Figures, versions: Mapping[str, str]) -> str:
        seeds = len(self.values(main, self.metric))
        lines = [f"# Recipe `{self.recipe}`", ""]
        lines += [f"- {name}: {value}" for name, value in self.data.items()]
        title = self.title[0].upper() + self.title[1:]
        how = (
            f"{title}, mean ± standard deviation of {seeds} seeds. Gains are in points, paired by seed, with a 95 % "
            "interval (Student's t)."
            if seeds > 1
            else f"{title} of one seed. Gains are in points; intervals need more than one seed."
        )
        headings = ["method", self.metric, *self.beside, f"gain of {main}"]
        rows = [[f"**{cell}**" if cell and cells[0] == main else cell for cell in cells] for cells in self._cells(main)]
        lines += ["", how, "", *markdown_table(headings, rows)]
        lines += ["", *(f"- {note}" for note in same_of_seeds(self.notes)), "", *self.text, ""]
        for name, (_, caption) in figures.items():
            lines += [f"![{caption}]({name}.png)", "", caption, ""]
        took = ", ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        lines += [f"Duration: {took}.", "", "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".", ""]
        return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", "\n".join(lines))  # names are free text, and no HTML


def _longest(seconds: Mapping[str, float], earlier: Path) -> dict[str, float]:
    """Return the durations of a resumed run: the longest of each part, since reused parts take no time."""
    try:
        known = json.loads(earlier.read_text(encoding="utf-8"))["seconds"]
        return {name: max(seconds.get(name, 0.0), known.get(name, 0.0)) for name in {**known, **seconds}}
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError, RecursionError):  # missing or damaged
        return dict(seconds)


_FIGURE = re.compile(r"^Seed \d+|\d+(\.\d+)?%|\d+\.\d+")


def same_of_seeds(notes: Sequence[str]) -> list[str]:
    """Merge notes that differ only in their seed and figures.

    Example:
        >>> same_of_seeds(["Seed 0, FoE: only 43.1% are right", "Other", "Seed 2, FoE: only 41.2% are right"])
        ['Seeds 0, 2 (values of the first), FoE: only 43.1% are right', 'Other']
    """
    groups: dict[str, list[str]] = {}
    for note in notes:
        groups.setdefault(_FIGURE.sub("#", note), []).append(note)
    merged = []
    for same in groups.values():
        found = [re.match(r"Seed (\d+)", note) for note in same]
        if len(same) == 1 or not all(found):
            merged += same
        else:
            seeds = ", ".join(dict.fromkeys(match[1] for match in found if match))
            merged.append(re.sub(r"^Seed \d+", f"Seeds {seeds} (values of the first)", same[0]))
    return merged


def _spread(entry: Mapping[str, Any] | None) -> str:
    """Format mean and deviation of a row of the summary."""
    if entry is None:
        return ""
    return f"{entry['mean']:.3f}" + (f" ± {entry['std']:.3f}" if entry["std"] is not None else "")
