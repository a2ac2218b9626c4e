"""FoE for regression: scorers of texts are fused to foretell what people think of them."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_fusion import plotting
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.data.text.readers import read_table
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.recipes.report import Report
from lightning_fusion.recipes.runner import check_seeds, claim_folder

MAIN = "FoE (gradient boosting)"
AVERAGE = "mean of experts"
BEST = "best single expert on training rows"
ORACLE = "oracle (best expert of each aspect)"


def text_evaluation(
    data: str,
    experts: list[str],
    aspects: list[str],
    output: str,
    group_field: str | None = None,
    test_share: float = 0.4,
    max_iter: int = 100,
    learning_rate: float = 0.1,
    min_samples_leaf: int = 20,
    seeds: list[int] | None = None,
    overwrite: bool = False,
) -> Report:
    """Fuse scores that experts gave to texts, and compare their correlation with human judgement by aspect.

    For each seed and aspect a gradient-boosting regressor reads the scores of all experts and learns the human score
    on the training rows; the Pearson correlation is that of the test rows. Experts are judged by their scores as they
    are: a correlation has no scale. Their mean is of scores that are brought to deviation 1 over the training rows.

    Args:
        data: CSV, TSV or JSON-lines file, a text per row: a column of numbers for each expert and each aspect.
        experts: Columns of the experts' scores.
        aspects: Columns of human scores.
        output: Folder of the run.
        group_field: Column; rows that agree in it, texts about one article say, stay in one part.
        test_share: Of the rows, or of the groups.
        max_iter: Trees of a fuser.
        learning_rate: Of the fuser.
        min_samples_leaf: Of a tree.
        seeds: Draws of the parts; [0, 1, 2, 3, 4] where None.
        overwrite: Replace another run in ``output``.

    Raises:
        InputError: If columns or values do not fit, or ``output`` holds another run.
    """
    seeds = [0, 1, 2, 3, 4] if seeds is None else seeds
    check_seeds(seeds)
    if not 0 < test_share < 1 or max_iter < 1 or min_samples_leaf < 1 or not learning_rate > 0:
        raise InputError("test_share must be between 0 and 1; max_iter, min_samples_leaf and learning_rate above 0")
    scores, human, group = _read(data, experts, aspects, group_field)
    config: dict[str, Any] = {
        "content": digest(scores, human, group),
        "experts": experts,
        "aspects": aspects,
        "group_field": group_field,
        "test_share": test_share,
        "max_iter": max_iter,
        "learning_rate": learning_rate,
        "min_samples_leaf": min_samples_leaf,
        "seeds": seeds,
    }
    folder, _ = claim_folder(output, "text_evaluation", config, overwrite)
    report = Report(
        "text_evaluation", config, metric="Pearson correlation", title="mean Pearson correlation on test rows"
    )
    settings = {"max_iter": max_iter, "learning_rate": learning_rate, "min_samples_leaf": min_samples_leaf}
    for seed in seeds:
        kept, held = stratified_split(np.zeros(group.max() + 1, int), test_share, seed)
        _score(report, scores, human, (np.isin(group, kept), np.isin(group, held)), experts, aspects, settings, seed)
    report.data = {"rows": len(scores), "groups": int(group.max() + 1), "experts": ", ".join(experts)}
    report.text = _table(report, aspects)
    report.save(folder, MAIN)  # the results are safe before anything is drawn
    values = {
        method: [_by_aspect(report, method, name) for name in aspects] for method in report.methods(report.metric)
    }
    title = "Correlation with human scores by aspect"
    figure = plotting.grouped_bars(values, aspects, label=report.metric, title=title)
    report.save(folder, MAIN, {"aspects": (figure, f"{title}, mean over seeds.")})
    report.print(MAIN, folder, Console(markup=False))
    return report


def _read(
    data: str, experts: list[str], aspects: list[str], group_field: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (N, K), human scores (N, A) and group numbers (N,)."""
    if not experts or not aspects or set(experts) & set(aspects):
        raise InputError("experts and aspects: name at least one column each, and none as both")
    columns = [*experts, *aspects]
    needed = list(dict.fromkeys([*columns, *([group_field] if group_field is not None else [])]))
    values, groups = [], []
    for line, row in read_table(Path(data), needed):
        numbers = []
        for name in columns:
            try:
                number = float(row.get(name))  # type: ignore[arg-type]
            except (TypeError, ValueError):
                number = float("nan")
            if not np.isfinite(number):
                raise InputError(f"{data}, line {line}: {name} is {row.get(name)!r}; expected a number")
            numbers.append(number)
        values.append(numbers)
        groups.append(str(row[group_field]) if group_field is not None else str(line))
    group = np.unique(np.array(groups), return_inverse=True)[1] if groups else np.empty(0, int)
    if len(set(groups)) < 4:
        raise InputError(f"{data}: found {len(set(groups))} row(s) or group(s); expected four at least")
    array = np.array(values)
    if flat := [name for name, column in zip(columns, array.T, strict=True) if np.ptp(column) == 0]:
        raise InputError(f"{data}: {shorten(flat)} is the same number in all rows; it correlates with nothing")
    return array[:, : len(experts)], array[:, len(experts) :], group


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; 0 where one of the two does not vary.

    Example:
        >>> correlation(np.array([1.0, 2.0, 3.0]), np.array([6.0, 4.0, 2.0]))
        -1.0
    """
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one @ one) * (other @ other))
    return float(np.clip(one @ other / scale, -1, 1)) if scale > 0 else 0.0


def _score(
    report: Report,
    scores: np.ndarray,
    human: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray],
    experts: list[str],
    aspects: list[str],
    settings: dict[str, Any],
    seed: int,
) -> None:
    train, test = parts
    spread = scores[train].std(0)
    mean = (scores[:, spread > 0] / spread[spread > 0]).mean(1)  # who always says the same in training has no unit
    alone = np.array(
        [[correlation(scores[test, k], human[test, a]) for k in range(len(experts))] for a in range(len(aspects))]
    )
    known = np.array(
        [[correlation(scores[train, k], human[train, a]) for k in range(len(experts))] for a in range(len(aspects))]
    )
    found = {f"single expert {name}": alone[:, number] for number, name in enumerate(experts)}
    found[BEST] = alone[:, known.mean(0).argmax()]
    found[AVERAGE] = np.array([correlation(mean[test], values[test]) for values in human.T])
    found[ORACLE] = alone.max(1)
    fusers = {
        "linear stacking (ridge)": lambda: make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))),
        MAIN: lambda: HistGradientBoostingRegressor(**settings, early_stopping=False, random_state=seed),
    }
    count, leaf = int(train.sum()), settings["min_samples_leaf"]
    if count < 2 * leaf:
        report.notes.append(
            f"Seed {seed}: {count} training rows cannot be split into leaves of {leaf} (min_samples_leaf): {MAIN} "
            f"answers all alike; give more rows, {2 * leaf} at least, or smaller leaves."
        )
    for method, build in fusers.items():
        fitted = (build().fit(scores[train], values[train]).predict(scores[test]) for values in human.T)
        found[method] = np.array([correlation(one, values[test]) for one, values in zip(fitted, human.T, strict=True)])
    for method, by_aspect in found.items():
        report.add(method, report.metric, by_aspect.mean(), seed)
        for name, value in zip(aspects, by_aspect, strict=True):
            report.add(method, report.metric, value, seed, domain=name)


def _by_aspect(report: Report, method: str, aspect: str) -> float:
    rows = [row["value"] for row in report.rows if (row["method"], row.get("domain")) == (method, aspect)]
    return float(np.mean(rows))


def _table(report: Report, aspects: list[str]) -> list[str]:
    methods = report.methods(report.metric)
    lines = ["", "Pearson correlation by aspect, mean over seeds:", ""]
    lines += [f"| method | {' | '.join(aspects)} |", "|---" * (len(aspects) + 1) + "|"]
    for method in methods:
        lines.append(f"| {method} | {' | '.join(f'{_by_aspect(report, method, name):.3f}' for name in aspects)} |")
    return lines
