"""Single test samples of the recipe frugal: queried experts, their weights and the cost."""

import numpy as np
import torch

from lightning_fusion.experts.outputs.datamodule import OutputsDataModule
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.recipes.frugal.rows import MAIN
from lightning_fusion.recipes.frugal.study import Study
from lightning_fusion.recipes.inspection import Inspection, domain_names, draw, named, of_classes

WEIGHTING = (
    "Weights: how much the fused probabilities change if the output of a queried expert is replaced by a uniform one, "
    "as fractions of all queried experts' changes. Answers of experts that were not queried are shown in gray: the "
    "policy does not read them."
)


def inspect_policy(study: Study) -> Inspection:
    """Return test samples of the policy of the table.

    Args:
        study: The seed.
    """
    answer, targets = study.answer, study.goal["test"]
    probabilities, queried = answer.probabilities.cpu().numpy(), answer.queried.cpu().numpy()
    chosen, drawn = draw(probabilities.argmax(1) == targets, study.seed)
    part, places = study.outputs["test"], study.test_positions[chosen]
    outputs = study.arrays["test"][chosen]
    numbers = {"cost": answer.cost, "risk": answer.risk, "out-of-distribution": answer.ood}
    return of_classes(
        f"{MAIN}, seed {study.seed}",
        drawn,
        outputs,
        probabilities[chosen],
        targets[chosen],
        study.outputs.classes,
        study.outputs.names,
        names=named(OutputsDataModule(study.outputs), np.asarray(part.index)[places]),
        domains=domain_names(np.asarray(part.domain, bool)[places], study.outputs.domains),
        weights=query_weights(study.policy, outputs, queried[chosen]),
        weighting=WEIGHTING,
        queried=queried[chosen],
        numbers={name: values.cpu().numpy()[chosen] for name, values in numbers.items()},
    )


def query_weights(policy: FrugalFoE, outputs: np.ndarray, queried: np.ndarray) -> np.ndarray:
    """Return the (N, K) weights of the queried experts in the fused answers; rows sum to 1, or are 0 without a query.

    The weight of an expert is proportional to the total variation distance between the answer and the one in which its
    output is uniform (our choice), as in :meth:`FoEFuserModule.expert_weights
    <lightning_fusion.FoEFuserModule.expert_weights>`.

    Args:
        policy: The fitted policy.
        outputs: (N, K, C) outputs in the policy's order.
        queried: (N, K) bool.
    """
    weights = np.zeros(queried.shape)
    subsets, of = np.unique(queried, axis=0, return_inverse=True)
    for number, subset in enumerate(subsets):
        members = np.flatnonzero(subset)
        rows = np.flatnonzero(of.ravel() == number)
        if not len(members):
            continue
        names = [policy.names[k] for k in members]
        own = torch.from_numpy(np.nan_to_num(outputs[rows])).transpose(0, 1).contiguous()  # others are not read
        changed = own.repeat(1, 1 + len(members), 1)
        for place, k in enumerate(members, 1):
            changed[k, place * len(rows) : (place + 1) * len(rows)] = 1 / outputs.shape[2]
        fused = policy.fuse(names, changed).double().cpu().numpy().reshape(1 + len(members), len(rows), -1)
        distances = np.abs(fused[1:] - fused[0]).sum(2).T / 2 + 1e-12
        weights[np.ix_(rows, members)] = distances / distances.sum(1, keepdims=True)
    return weights
