"""Files that a recipe writes: ``results.json``, ``report.md`` and figures."""

import json
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
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
from lightning_fusion.files import sealed, write_text
from lightning_fusion.markdown import markdown_table, one_line
from lightning_fusion.metrics import balanced_accuracy
from lightning_fusion.recipes.advice import HEADINGS, Advice, Scores, Validation
from lightning_fusion.terminal import open_console
from lightning_fusion.trackers.base import Cell

MEANS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda right, targets: float(np.mean(right)),
    "balanced accuracy": balanced_accuracy,
}
"""Metrics of correct predictions, from ``right`` (N,) in [0, 1] and ``targets`` (N,) classes."""
Figures = dict[str, tuple[Figure, str]]
"""Figures and their captions, by the name of the file without its suffix."""
RESULTS = "results.json"
"""Name of the file with the results; it contains a digest of its other entries."""
SERVING_FORMAT = 2
"""Format of ``serving``; a run of another one is run again, which resumes it."""
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
        main: The method whose gains are reported.
        text: Further lines of ``report.md``, in Markdown.
        validation: Results on validation samples of the methods that can answer new samples.
        advice: The method that answers new samples, if validation results exist.
        serving: What the recipe needs to answer new samples with the run, plain data; ``None`` if it does not.
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
    main: str = ""
    text: list[str] = field(default_factory=list)
    validation: Validation = field(default_factory=Validation)
    advice: Advice | None = None
    serving: dict[str, Any] | None = None

    def add(self, method: str, metric: str, value: float, seed: int, split: str = "test", **more: Any) -> None:
        """Add one value."""
        self.rows.append(
            {"method": method, "metric": metric, "split": split, "seed": seed, "value": float(value), **more}
        )

    def add_right(self, method: str, right: np.ndarray, targets: np.ndarray, seed: int, **more: Any) -> None:
        """Add all metrics of correct predictions ``right``, (N,) in [0, 1], for (N,) targets."""
        for metric, mean in MEANS.items():
            self.add(method, metric, mean(right, targets), seed, **more)

    def validate(self, method: str, scores: Scores, seed: int, queries: float, excluded: str = "") -> None:
        """Add the result on validation samples of a method that can answer new samples.

        Args:
            method: Name of the method.
            scores: Its result.
            seed: Seed of the run.
            queries: Mean number of experts that are queried for a sample.
            excluded: Why the run cannot advise it, as a sentence about "it"; empty if it can.
        """
        self.validation.add(method, seed, scores, queries, excluded)
        self.add(method, self.validation.metric or self.metric, scores.value, seed, "val", num_queries=queries)

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
        """Return the methods with test results, in the order in which they were added."""
        rows = (row for row in self.rows if row["metric"] == metric and row["split"] == "test")
        return list(dict.fromkeys(row["method"] for row in rows))

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

    def metrics(self, main: str) -> dict[str, float]:
        """Return the means of a method over seeds, as ``<split>_<metric>``, on validation where it was measured."""
        found = {}
        for metric in dict.fromkeys((self.metric, *self.beside, self.validation.metric or self.metric)):
            for split in ("val", "test"):
                if values := self.values(main, metric, split):
                    found[f"{split}_{re.sub(r'[^a-z0-9]+', '_', metric.lower()).strip('_')}"] = float(np.mean(values))
        return found

    def columns(self, main: str) -> tuple[list[str], list[list[Cell]]]:
        """Return the headings and the rows of the table with numbers, for trackers."""
        headings = ["method"]
        for metric in (self.metric, *self.beside):
            headings += [metric, f"{metric}, standard deviation"]
        tables = [
            {entry["method"]: entry for entry in self.summary(main, metric) if not entry["against"]}
            for metric in (self.metric, *self.beside)
        ]
        gains = {entry["against"]: entry for entry in self.summary(main) if entry["against"]}
        rows: list[list[Cell]] = []
        for method in tables[0]:
            row: list[Cell] = [method]
            for table in tables:
                row += [table.get(method, {}).get(name) for name in ("mean", "std")]
            rows.append(row + [gains.get(method, {}).get(name) for name in ("gain", "gain_low", "gain_high")])
        return [*headings, f"gain of {main}", "gain, lower bound", "gain, upper bound"], rows

    def save(self, folder: Path, main: str, figures: Figures | None = None) -> None:
        """Write ``results.json``, ``report.md`` and a file ``<name>.png`` of each figure.

        Args:
            folder: Folder to write to.
            main: The method whose gains are reported.
            figures: Figures and their captions by name.
        """
        self.seconds = _longest(self.seconds, folder / RESULTS)
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
            "advice": None if self.advice is None else self.advice.record(),
            "serving": None if self.serving is None else {"format": SERVING_FORMAT, **self.serving},
        }
        write_text(folder / RESULTS, json.dumps(sealed(json.loads(json.dumps(results))), indent=1))
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
        if self.advice is not None:
            console.print(f"advice: {self.advice.sentence()}", markup=False)
            for remark in self.advice.remarks():
                console.print(f"        {remark}", markup=False)
        page = folder / "report.html"
        more = f"   in a browser: {page}" if page.is_file() else ""
        console.print(f"report: {folder / 'report.md'}   results: {folder / 'results.json'}{more}", soft_wrap=True)

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
        lines += [one_line(f"- {name}: {value}") for name, value in self.data.items()]
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
        lines += [
            "",
            *(one_line(f"- {note}") for note in same_of_seeds(self.notes)),
            "",
            *self.advice_lines(),
            *self.text,
            "",
        ]
        for name, (_, caption) in figures.items():
            lines += [f"![{one_line(caption)}]({name}.png)", "", one_line(caption), ""]
        took = ", ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        lines += [f"Duration: {took}.", "", "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".", ""]
        return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", "\n".join(lines))  # names are free text, and no HTML

    def advice_lines(self) -> list[str]:
        """Return the lines of the advice, in Markdown; none without one."""
        if self.advice is None:
            return []
        headings = [heading.format(metric=self.advice.metric) for heading in HEADINGS]
        who = "The run advises" if self.serving is None else "`lightning-fusion predict --run` answers with"
        return [
            "## Advice",
            "",
            one_line(f"{who} {self.advice.sentence()}."),
            *self.advice.remarks(),
            "",
            *markdown_table(headings, self.advice.rows()),
            "",
            "Means over seeds ± standard errors, which are paired for differences. *Queries*: experts per sample. "
            "*Seed*: the one with the best validation result, whose models answer. Test samples are not used.",
            "",
        ]


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
