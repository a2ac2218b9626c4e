"""Answers of a finished run of the recipe acorl for new samples."""

from typing import Any

import numpy as np
import torch

from lightning_fusion.acorl.fusion import LinearHead, fit_output_weights
from lightning_fusion.baselines import SoftmaxAverage
from lightning_fusion.checkpoints import read_checkpoint
from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.recipes.acorl.classification import late_file
from lightning_fusion.recipes.acorl.trials import ChainTrialsModule
from lightning_fusion.recipes.pool_modules import BaselineModule, LateFusionModule, WeightedAverage
from lightning_fusion.recipes.serving import FinishedRun


def answer(run: FinishedRun, method: str, seed: int, target: None) -> Any:
    """Return the module of a row of the table: a member, or the fusion of a chain.

    Args:
        run: The finished run.
        method: Name of the row.
        seed: Seed whose models answer.
        target: None.
    """
    folder, members = run.seed_folder(seed), run.serving["members"].get(method)
    if members is None:
        raise InputError(f"run: {run.folder / 'results.json'} names no members of {method}; run the recipe again")
    pool = ExpertPool(run.load_experts(folder / "members", members), run.serving["classes"])
    if run.serving["verification"]:
        return ChainTrialsModule(pool, run.serving["parameters"][str(seed)].get(method))
    if method.endswith("late fusion"):
        return LateFusionModule(pool, _late_head(run.own(folder / "fusers" / f"{late_file(members)}.ckpt")))
    if not method.endswith("weighted output fusion"):
        return BaselineModule(pool, SoftmaxAverage())
    outputs = run.outputs(seed)
    places = [outputs.names.index(name) for name in members]
    known = torch.from_numpy(outputs.scattered("val")[:, places].copy())
    weights = fit_output_weights(known, torch.from_numpy(np.array(outputs["val"].target)))
    return BaselineModule(pool, WeightedAverage(weights))


def _late_head(path: Any) -> LinearHead:
    """Return the trained head of late fusion."""
    state = read_checkpoint(str(path), "run")["state_dict"]
    own = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    head = LinearHead(len(own["linear.bias"]), own["mean"], own["scale"])
    head.load_state_dict(own)
    return head.eval()
