"""Answers of a finished run of the recipe foe for new samples."""

from functools import partial
from typing import Any

from lightning_fusion.baselines import BASELINES, Baseline, SoftmaxAverage
from lightning_fusion.described import imported_class
from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.recipes.foe.rows import CENTRALIZED, fuser_file
from lightning_fusion.recipes.pool_modules import BaselineModule
from lightning_fusion.recipes.serving import IMPORTS, FinishedRun


def answer(run: FinishedRun, method: str, seed: int, target: None) -> Any:
    """Return the module of a row of the table.

    Args:
        run: The finished run.
        method: Name of the row.
        seed: Seed whose models answer.
        target: None.
    """
    folder, classes = run.seed_folder(seed), run.serving["classes"]
    if method == CENTRALIZED:
        pool = ExpertPool({"centralized": run.load_expert(folder / "centralized.ckpt")}, classes)
        return BaselineModule(pool, SoftmaxAverage())
    pool = ExpertPool(run.load_experts(folder / "experts", run.serving["experts"]), classes)
    named = run.config.get("baselines") or {}
    if not isinstance(named, dict):
        raise InputError(
            f"run: {run.folder / 'results.json'} is damaged (config.baselines is no mapping); run the recipe again"
        )
    own = named.get(method)
    if own is None and method not in BASELINES:
        return run.load_fuser(folder / "fusers" / f"{fuser_file(method)}.ckpt", pool)
    build = BASELINES[method] if own is None else _own_baseline(method, own)
    return BaselineModule(pool, run.load_baseline(seed, method, build))


def _own_baseline(method: str, described: str | dict[str, Any]) -> Any:
    """Return the factory of a baseline of the user's own, which is described by a path, or with arguments."""
    spec: dict[str, Any] = described if isinstance(described, dict) else {"class_path": described}
    path = spec.get("class_path")
    if (kind := imported_class(path, Baseline)) is None:
        raise InputError(f"run: the baseline {method} is of the class {path}, which is not imported; {IMPORTS}")
    return partial(kind, **(spec.get("init_args") or {}))
