"""Result of a source selection: criteria of each source, transferred bytes, and the selected experts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from lightning_fusion.experts.expert import Expert
from lightning_fusion.registry.card import Card, Transfer

_FEWEST = 4  # sources for a rank correlation


@dataclass
class SelectionRow:
    """Criteria of one source; ``None`` if they were not computed.

    Attributes:
        name: Name of the source.
        similarity: a_i, similarity of its statistics to the target's.
        coverage: Fraction of the target's classes that the source has.
        centroid_similarity: c_i, mean cosine of the class centroids of the shared classes under its encoder.
        centroid_score: s(c_i) = (1 + c_i) / 2.
        accuracy: Acc_i on the target's labeled samples of shared classes, Laplace-smoothed.
        score: r_i, which ranks the kept sources.
        kept: Whether it passed the first stage.
        chosen: Whether it was selected.
        reason: Why it is not eligible; empty for eligible sources.
    """

    name: str
    similarity: float | None = None
    coverage: float = 0.0
    centroid_similarity: float | None = None
    centroid_score: float | None = None
    accuracy: float | None = None
    score: float | None = None
    kept: bool = False
    chosen: bool = False
    reason: str = ""


@dataclass
class Ledger:
    """Bytes that a selection read, by file.

    The target only reads; its statistics and labels are not sent.

    Attributes:
        transfers: The transfers in order.
        send_all: Bytes of the index, all cards, and all files of the sources that are eligible by their cards.
    """

    transfers: list[Transfer]
    send_all: int

    @property
    def total(self) -> int:
        """Bytes transferred, including broken reads."""
        return sum(one.num_bytes for one in self.transfers)

    @property
    def saving(self) -> float:
        """Fraction of ``send_all`` that was not read."""
        return 1 - self.total / self.send_all

    @property
    def stages(self) -> dict[str, dict[str, int]]:
        """Bytes by stage and direction."""
        result: dict[str, dict[str, int]] = {}
        for one in self.transfers:
            result.setdefault(one.stage, {"down": 0, "up": 0})[one.direction] += one.num_bytes
        return result

    def as_dict(self) -> dict[str, Any]:
        """Return the totals as plain data, without single files."""
        return {"stages": self.stages, "total": self.total, "send_all": self.send_all, "saving": self.saving}


def rank_correlations(rows: Sequence[SelectionRow]) -> dict[str, float | None]:
    """Estimate at the target how well each part ranks the sources: Spearman's correlation with their accuracy.

    Args:
        rows: Sources that were run on the target's labels.

    Returns:
        The correlations of ``statistics`` (a_i) and ``centroid`` (c_i); ``None`` with fewer than four sources, without
        the part or accuracies, and where one of them is the same for all.

    Example:
        >>> rows = [SelectionRow("a", 0.1 * n, 1.0, 0.5, accuracy=0.2 * n) for n in range(4)]
        >>> rank_correlations(rows)
        {'statistics': 1.0, 'centroid': None}
    """
    found: dict[str, float | None] = {}
    for part, key in (("statistics", "similarity"), ("centroid", "centroid_similarity")):
        pairs = [(getattr(row, key), row.accuracy) for row in rows]
        known = [pair for pair in pairs if None not in pair]
        told = len(known) >= _FEWEST and all(len(set(values)) > 1 for values in zip(*known, strict=True))
        found[part] = _spearman(known) if told else None
    return found


def _spearman(pairs: Sequence[tuple[Any, ...]]) -> float:
    from scipy.stats import spearmanr  # slow to import

    return round(float(spearmanr(pairs).statistic), 6)


@dataclass
class Selection:
    """Selected sources, with the criteria of all sources.

    Attributes:
        table: A row per source: selected ones by rank, kept ones by rank, the others by similarity, ineligible ones by
            name.
        ledger: Transferred bytes.
        experts: Selected experts by name, best first.
        cards: Cards of the selected experts.
        classes: Classes of the target.
        rank_by: Criterion of ``score``.
        correlations: Rank correlation (Spearman) of each part with the accuracy on the target's labels, over the kept
            sources; ``None`` if it cannot be told, see :func:`rank_correlations`.
    """

    table: list[SelectionRow]
    ledger: Ledger
    experts: dict[str, Expert] = field(repr=False)
    cards: dict[str, Card] = field(repr=False)
    classes: list[str]
    rank_by: str
    correlations: dict[str, float | None] = field(default_factory=dict)

    @property
    def uncovered(self) -> list[str]:
        """Classes of the target that no selected source has."""
        known = {label for expert in self.experts.values() for label in expert.classes}
        return [label for label in self.classes if label not in known]

    def as_dict(self) -> dict[str, Any]:
        """Return the selection as plain data, for ``results.json``."""
        return {
            "rank_by": self.rank_by,
            "correlations": self.correlations,
            "table": [asdict(row) for row in self.table],
            "ledger": self.ledger.as_dict(),
            "uncovered": self.uncovered,
        }

    def __rich__(self) -> Group:
        """Return the table and the ledger for ``rich.print``."""
        rows = Table(
            title=f"Sources ranked by {self.rank_by} (a: statistics, c: centroids, accuracy: smoothed, r: score)",
            box=SIMPLE,
        )
        rows.collapse_padding, rows.pad_edge = True, False  # fits long names into eighty columns
        rows.add_column("source", overflow="fold")
        for heading in ("a", "coverage", "c", "s(c)", "accuracy", "r"):
            rows.add_column(heading, justify="right")
        rows.add_column("")
        for row in self.table:
            values = (
                row.similarity,
                row.coverage,
                row.centroid_similarity,
                row.centroid_score,
                row.accuracy,
                row.score,
            )
            verdict = "ineligible" if row.reason else "selected" if row.chosen else "kept" if row.kept else ""
            shown = ("" if value is None else f"{value:.3f}" for value in values)
            rows.add_row(escape(row.name), *shown, verdict)
        bytes_read = Table("bytes read")
        for heading in ("down", "up"):
            bytes_read.add_column(heading, justify="right")
        for stage, count in self.ledger.stages.items():
            bytes_read.add_row(stage, f"{count['down']:,}", f"{count['up']:,}")
        bytes_read.add_row("all models", f"{self.ledger.send_all:,}", "0")
        measured = sum(row.accuracy is not None for row in self.table)
        few, known = 0 < measured < _FEWEST, self.correlations
        parts = [f"{part} {'not known' if value is None else f'{value:.2f}'}" for part, value in known.items()]
        told = f"unknown, too few sources ({measured} of at least {_FEWEST})" if few else ", ".join(parts)
        reasons = [f"rank correlation with the accuracy on the target's labels: {told}"] if told else []
        reasons += [escape(f"{row.name}: {row.reason}") for row in self.table if row.reason]
        return Group(rows, *reasons, f"{self.ledger.saving:.0%} fewer bytes than all models", bytes_read)
