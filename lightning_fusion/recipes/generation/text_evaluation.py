"""FoE for regression: scorers of texts are fused to predict human ratings of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lightning_fusion import plotting
from lightning_fusion.data.names import canonical_label
from lightning_fusion.data.splits import stratified_split
from lightning_fusion.data.text.readers import read_table
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest
from lightning_fusion.markdown import markdown_table
from lightning_fusion.recipes.report import Figures, Report
from lightning_fusion.recipes.runner import Recipe, Run, run_recipe
from lightning_fusion.recipes.seed_run import describe_arguments

MAIN = "FoE (gradient boosting)"
AVERAGE = "mean of experts"
BEST = "best single expert (training set)"
ORACLE = "oracle (best expert of each aspect)"


def text_evaluation(
    data: str,
    experts: list[str],
    aspects: list[str],
    output: str,
    group_field: str | None = None,
    test_fraction: float = 0.4,
    max_iter: int = 100,
    learning_rate: float = 0.1,
    min_samples_leaf: int = 20,
    seeds: list[int] | None = None,
    overwrite: bool = False,
) -> Report:
    """Fuse experts' scores of texts, and compare the correlations with human ratings by aspect.

    For each seed and aspect a gradient-boosting regressor is trained to predict the human score from the scores of all
    experts; the Pearson correlation is computed on the test samples. The mean of experts uses scores scaled to
    deviation 1 on the training samples.

    Args:
        data: CSV, TSV or JSON-lines file with a text per row and a numeric column for each expert and each aspect.
        experts: Columns of the experts' scores.
        aspects: Columns of human scores.
        output: Folder of the run.
        group_field: Column of groups; samples of a group, such as texts about one article, stay in one part.
        test_fraction: Fraction of the samples, or of the groups, in the test part.
        max_iter: Number of trees of a fuser.
        learning_rate: Learning rate of a fuser.
        min_samples_leaf: Minimum number of samples in a leaf of a tree.
        seeds: Random seeds of the splits; [0, 1, 2, 3, 4] by default.
        overwrite: Replace another run in ``output``.

    Raises:
        InputError: If columns or values are invalid, or ``output`` contains another run.
    """
    recorded = describe_arguments(locals())
    if not 0 < test_fraction < 1 or max_iter < 1 or min_samples_leaf < 1 or not learning_rate > 0:
        raise InputError("test_fraction must be between 0 and 1; max_iter, min_samples_leaf and learning_rate above 0")
    scores, human, group = _read(data, experts, aspects, group_field)
    settings = {"max_iter": max_iter, "learning_rate": learning_rate, "min_samples_leaf": min_samples_leaf}
    recipe = _TextEvaluation(
        name="text_evaluation",
        main=MAIN,
        config=recorded | {"content": digest(scores, human, group)},
        metric="Pearson correlation",
        title="mean Pearson correlation on test rows",
        scores=scores,
        human=human,
        group=group,
        experts=experts,
        aspects=aspects,
        test_fraction=test_fraction,
        settings=settings,
    )
    return run_recipe(recipe, output, [0, 1, 2, 3, 4] if seeds is None else seeds, overwrite=overwrite)


def _read(
    data: str, experts: list[str], aspects: list[str], group_field: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read scores (N, K), human scores (N, A) and group numbers (N,)."""
    if not experts or not aspects or set(experts) & set(aspects):
        raise InputError("experts and aspects: name at least one column each, and none as both")
    columns = [*experts, *aspects]
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise InputError(f"experts and aspects: found {shorten(twice)} twice; name each column once")
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
        groups.append(str(line) if group_field is None else canonical_label(row[group_field] or ""))
        if not groups[-1]:
            raise InputError(f"{data}, line {line}: {group_field} is empty; expected the group of the text")
    group = np.unique(np.array(groups), return_inverse=True)[1] if groups else np.empty(0, int)
    if len(set(groups)) < 4:
        raise InputError(f"{data}: found {len(set(groups))} row(s) or group(s); expected four at least")
    array = np.array(values)
    if flat := [name for name, column in zip(columns, array.T, strict=True) if np.ptp(column) == 0]:
        raise InputError(f"{data}: {shorten(flat)} is the same number in all rows; it correlates with nothing")
    return array[:, : len(experts)], array[:, len(experts) :], group


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Compute Pearson's correlation; 0 if one of the two is constant.

    Example:
        >>> correlation(np.array([1.0, 2.0, 3.0]), np.array([6.0, 4.0, 2.0]))
        -1.0
    """
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt((one @ one) * (other @ other))
    return float(np.clip(one @ other / scale, -1, 1)) if scale > 0 else 0.0


@dataclass(kw_only=True)
class _TextEvaluation(Recipe):
    scores: np.ndarray
    """(N, K) scores of the experts."""
    human: np.ndarray
    """(N, A) human scores."""
    group: np.ndarray
    """(N,) group numbers."""
    experts: list[str]
    aspects: list[str]
    test_fraction: float
    settings: dict[str, Any]
    """Arguments of the fusers."""

    def run_seed(self, run: Run, seed: int) -> None:
        """Draw the parts, fit all fusers on one and test them on the other."""
        parts = stratified_split(np.zeros(self.group.max() + 1, int), self.test_fraction, seed)
        train, test = (np.isin(self.group, part) for part in parts)
        self.score(run.report, train, test, seed)

    def conclude(self, run: Run) -> None:
        """Describe the data, and the correlations by aspect."""
        report = run.report
        report.data = {
            "rows": len(self.scores),
            "groups": int(self.group.max() + 1),
            "experts": ", ".join(self.experts),
        }
        rows = [[method, *(f"{value:.3f}" for value in values)] for method, values in self.by_aspect(report).items()]
        report.text = ["", "Pearson correlation by aspect, mean over seeds:", ""]
        report.text += markdown_table(["method", *self.aspects], rows)

    def figures(self, run: Run) -> Figures:
        """Return the figure of the correlation of every method by aspect."""
        title = "Correlation with human scores by aspect"
        figure = plotting.grouped_bars(self.by_aspect(run.report), self.aspects, label=self.metric, title=title)
        return {"aspects": (figure, f"{title}, mean over seeds.")}

    def by_aspect(self, report: Report) -> dict[str, list[float]]:
        """Return the mean correlation over seeds of each method, by aspect."""
        return {
            method: [float(np.mean(report.values(method, self.metric, domain=name))) for name in self.aspects]
            for method in report.methods(self.metric)
        }

    def score(self, report: Report, train: np.ndarray, test: np.ndarray, seed: int) -> None:
        """Add the correlations of one seed; ``train`` and ``test`` are (N,) bool."""
        scores, human = self.scores, self.human
        spread = scores[train].std(0)
        mean = (scores[:, spread > 0] / spread[spread > 0]).mean(1)  # constant scores cannot be scaled
        known, alone = (
            np.array([[correlation(one, values) for one in scores[part].T] for values in human[part].T])
            for part in (train, test)
        )
        found = {f"single expert {name}": alone[:, number] for number, name in enumerate(self.experts)}
        found[BEST] = alone[:, known.mean(0).argmax()]
        found[AVERAGE] = np.array([correlation(mean[test], values[test]) for values in human.T])
        found[ORACLE] = alone.max(1)
        fusers: dict[str, Callable[[], Any]] = {
            "linear stacking (ridge)": lambda: make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))),
            MAIN: lambda: HistGradientBoostingRegressor(**self.settings, early_stopping=False, random_state=seed),
        }
        count, leaf = int(train.sum()), self.settings["min_samples_leaf"]
        if count < 2 * leaf:
            report.notes.append(
                f"Seed {seed}: {count} training rows cannot be split into leaves of {leaf} (min_samples_leaf): {MAIN} "
                f"predicts a constant; provide at least {2 * leaf} rows, or reduce min_samples_leaf."
            )
        for method, build in fusers.items():
            fitted = (build().fit(scores[train], values[train]).predict(scores[test]) for values in human.T)
            found[method] = np.array([correlation(one, y[test]) for one, y in zip(fitted, human.T, strict=True)])
        for method, by_aspect in found.items():
            report.add(method, report.metric, by_aspect.mean(), seed)
            for name, value in zip(self.aspects, by_aspect, strict=True):
                report.add(method, report.metric, value, seed, domain=name)
