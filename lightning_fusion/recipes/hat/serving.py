"""Answers of a finished run of the recipe hat for new samples of a target."""

from typing import Any

from lightning_fusion.baselines import SoftmaxAverage
from lightning_fusion.errors import InputError, shorten, suggestion
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.files import file_key
from lightning_fusion.recipes.hat.ensembles import Ensemble
from lightning_fusion.recipes.hat.plan import AVERAGE, BEST, STUDENT
from lightning_fusion.recipes.hat.report import ENSEMBLE, LOCAL, TUNED
from lightning_fusion.recipes.hat.seed import read_answers
from lightning_fusion.recipes.pool_modules import BaselineModule
from lightning_fusion.recipes.serving import FinishedRun


def answer(run: FinishedRun, method: str, seed: int, target: str | None) -> Any:
    """Return the module of a method for a target: one model, or the average of its selected sources.

    Args:
        run: The finished run.
        method: One of :data:`~lightning_fusion.recipes.hat.plan.SIMPLICITY`.
        seed: Seed whose models answer.
        target: Name of the target domain. ``None`` means the only one.

    Raises:
        InputError: If the run has several targets and none is named, or no such target.
    """
    folder, targets = run.seed_folder(seed), run.serving["targets"]
    name = targets[0] if target is None and len(targets) == 1 else target
    if name is None or name not in targets:
        raise InputError(
            f"target: found {name or 'none'}; name the target whose models answer, one of {shorten(targets, 40)}"
            f"{suggestion(name or '', targets)}"
        )
    found = read_answers(run.own(folder / "targets" / f"{file_key(name)}.json"))
    if method == ENSEMBLE:
        experts = {source: run.load_expert(_source(folder, source)) for source in found["sources"]}
        path = run.own(folder / "ensembles" / f"{file_key(name)}.pt")
        return Ensemble.load(experts, run.serving["classes"], path)
    if method in (AVERAGE, BEST):
        sources = found["sources"] if method == AVERAGE else [found["best_source"]]
        experts = {source: run.load_expert(_source(folder, source)) for source in sources}
    else:
        kind = {LOCAL: "local", TUNED: "fine_tuned"}.get(method, "students")
        experts = {name: run.load_expert(folder / kind / f"{file_key(name)}.ckpt")}
    return BaselineModule(ExpertPool(experts, run.serving["classes"]), SoftmaxAverage())


def _source(folder: Any, name: str) -> Any:
    """Return the path of a source's checkpoint; students may be sources of later targets."""
    path = folder / "sources" / f"{file_key(name)}.ckpt"
    student = folder / "students" / f"{file_key(name.removesuffix(STUDENT))}.ckpt"
    return student if name.endswith(STUDENT) and not path.is_file() else path
