"""Criteria on validation samples that select a way to train later members, and see what these add or do not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from lightning_fusion.acorl.forecast import Forecast
from lightning_fusion.acorl.fusion import fit_output_weights, right_answers
from lightning_fusion.experts.outputs.store import ExpertOutputs


@dataclass(frozen=True)
class Criterion:
    """The accuracy of a pool on some validation samples.

    Attributes:
        outputs: Outputs of all members.
        rows: (n,) positions in the validation split; samples of a larger weight occur several times.
        groups: (n,) groups, of which the worst counts; ``None`` means the mean over all.
    """

    outputs: ExpertOutputs
    rows: np.ndarray
    groups: np.ndarray | None = None

    def value(self, pool: Sequence[str]) -> float:
        """Return the accuracy of the mean of a pool's probabilities."""
        right = right_answers(self.outputs, "val", pool)[self.rows]
        if self.groups is None:
            return float(right.mean())
        return min(float(right[self.groups == group].mean()) for group in np.unique(self.groups))

    def weights(self, pool: Sequence[str]) -> np.ndarray:
        """Return the weights (K,) of the pool that maximize the likelihood of these samples."""
        places = [self.outputs.names.index(name) for name in pool]
        known = torch.from_numpy(self.outputs.scattered("val")[self.rows][:, places])
        target = torch.from_numpy(np.asarray(self.outputs["val"].target)[self.rows]).long()
        found: np.ndarray = fit_output_weights(known, target).numpy()
        return found


class Choice(NamedTuple):
    """An arm that was chosen for its strength, and why.

    Attributes:
        arm: Name of the arm.
        reason: Reason, in one sentence.
    """

    arm: str
    reason: str


def choose_strength(pools: Mapping[str, Sequence[str]], forecast: Forecast, samples: Criterion) -> Choice:
    """Choose the strength of the reversal: 0 where the forecast has objections, else the best one on shifted samples.

    The reversal does harm where the first member uses a cue that holds as well; validation as trained does not show it.

    Args:
        pools: Names of the members of each arm's pool, by the name of the arm, from strength 0 upwards; of equal ones
            the first is chosen.
        forecast: Forecast by the same shifted samples.
        samples: The shifted samples.
    """
    names = list(pools)
    if forecast.objections:
        return Choice(names[0], f"strength 0: {'; '.join(forecast.objections)}")
    values = [samples.value(pool) for pool in pools.values()]
    best = int(np.argmax(values))
    compared = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True))
    return Choice(names[best], f"accuracy of the pool: {compared}")


def criteria(
    trained: ExpertOutputs, shifted: ExpertOutputs, first: str, counts: Sequence[int], weight: float, seed: int
) -> dict[str, Criterion]:
    """Return criteria by name.

    Args:
        trained: Outputs on the validation split as trained.
        shifted: Outputs on the shifted validation split.
        first: Name of the first member, whose errors have a weight, or are a group.
        counts: Numbers of shifted samples; 0 stands for the criteria without any.
        weight: Weight of the errors of the first member.
        seed: Seed of the draw of shifted samples.
    """
    right = right_answers(trained, "val", [first])
    every = np.arange(len(right))
    found = {}
    if 0 in counts:
        found["as trained"] = Criterion(trained, every)
        found[f"errors of the first member weigh {weight:g}"] = Criterion(
            trained, np.repeat(every, np.where(right, 1, round(weight)))
        )
        found["worse of its errors and the rest"] = Criterion(trained, every, right)
    total = len(shifted["val"].target)
    return found | {
        f"{count} shifted samples": Criterion(shifted, draw_rows(total, count, seed)) for count in counts if count
    }


def draw_rows(total: int, count: int, seed: int) -> np.ndarray:
    """Draw positions of samples; those of a smaller count are among those of a larger one.

    Example:
        >>> len(draw_rows(50, 20, 0)), len(draw_rows(50, 100, 0))
        (20, 50)
    """
    drawn: np.ndarray = np.random.default_rng(seed).permutation(total)[:count]
    return drawn
