"""Answers of a finished run of the recipe frugal for new samples."""

from typing import Any

from lightning_fusion.baselines import BestSingle, LogisticStacking, MostConfident, SoftmaxAverage
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.frugal.module import FrugalFoEModule
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.recipes.frugal.rows import AVERAGE, BEST, CONFIDENT, MAIN, STACKING
from lightning_fusion.recipes.pool_modules import BaselineModule
from lightning_fusion.recipes.serving import FinishedRun
from lightning_fusion.store import MANIFEST

_RULES: dict[str, Any] = {
    AVERAGE: SoftmaxAverage,
    BEST: BestSingle,
    CONFIDENT: MostConfident,
    STACKING: LogisticStacking,
}


def answer(run: FinishedRun, method: str, seed: int, target: None) -> Any:
    """Return the module of a row of the table; the policy queries experts as needed for each sample.

    Args:
        run: The finished run.
        method: Name of the row.
        seed: Seed whose models answer.
        target: None.
    """
    folder = run.seed_folder(seed)
    pool = ExpertPool(run.load_experts(folder / "experts", run.serving["experts"]), run.serving["classes"])
    if method == MAIN:
        return FrugalFoEModule(FrugalFoE.load(run.own(folder / "policy" / MANIFEST).parent), pool)
    return BaselineModule(pool, run.load_baseline(seed, method, _RULES[method]))
