"""A forecast, before a complementary model is trained, of whether the reversal is likely to pay."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_fusion.acorl.fusion import right_answers
from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.acorl.projection import Adversary
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.errors import InputError
from lightning_fusion.experts.outputs.split import OutputsSplit
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.schedules import Constant

LEAST_R2 = 0.35
"""R2 of the projections below which they find too little that could be removed."""
MOST_KEPT = 0.5
"""Fraction of their accuracy above chance that experts which live on a broken cue keep at most on shifted samples."""
LEAST_OTHER = 0.1
"""Accuracy that other cues must give to a network trained on few shifted samples: on others of them above that of the
experts and chance, and on samples as trained above chance."""
LEAST_SAMPLES = 50
"""Shifted samples below which a network of their half tells nothing: by 20 it finds no other cue in colored digits."""
_STEPS = 100  # of that network, on all of its samples
_READ_ROWS = 1024


class Learned(NamedTuple):
    """What new networks learn from a half of few shifted samples.

    Attributes:
        shifted: Their accuracy on the other half; NaN with fewer than 50 samples, whose half is too little.
        trained: Their accuracy on the validation split as trained.
    """

    shifted: float
    trained: float


_UNKNOWN = Learned(math.nan, math.nan)


@dataclass(frozen=True)
class Forecast:
    """What a briefly trained network and the experts tell about the reversal.

    ACoRL pays where three conditions hold together: the experts live on a cue that breaks, the projections predict from
    a new network what the experts know beyond the class, and another cue, which the experts do not use, is in the
    training data as well and nearly as easy to learn.

    Attributes:
        r2: Fraction of the variance of the experts' residuals that the projections predict on validation samples, of
            the expert that is predicted best.
        accuracy: Validation accuracy of the experts' mean, as trained.
        shifted: Its accuracy on the shifted samples; NaN without any.
        other: Accuracy of new networks that are trained on a half of the shifted samples, on the other half: the broken
            cue tells nothing there; NaN without any.
        chance: Frequency of the most frequent class among the shifted samples, else one over the number of classes.
        samples: Number of shifted samples.
        other_trained: Accuracy of these networks on the validation split as trained: whether their cue is in the
            training data; NaN if unknown.
        chance_trained: Frequency of the most frequent class there.

    Example:
        >>> Forecast(r2=0.5, accuracy=0.9, shifted=0.1, other=0.5, chance=0.1, samples=100).pays
        True
        >>> print(*Forecast(r2=0.0, accuracy=0.9, shifted=0.1, other=0.5, chance=0.1, samples=100).reasons, sep="; ")
        the projections explain 0% of what the experts know beyond the class: there is too little to remove; ...
    """

    r2: float
    accuracy: float
    shifted: float
    other: float
    chance: float
    samples: int
    other_trained: float = math.nan
    chance_trained: float = math.nan

    @property
    def pays(self) -> bool:
        """Whether all conditions that can be seen hold; without shifted samples that is R2 alone.

        Of several seeds, :func:`verdict` says what they tell together.
        """
        return all(self._conditions().values())

    @property
    def reasons(self) -> list[str]:
        """A sentence for each condition, and for each that cannot be seen."""
        return [*self._sentences().values(), *self._unknown()]

    @property
    def objections(self) -> list[str]:
        """The sentences of the conditions on shifted samples that do not hold: the reversal may do harm.

        A small R2 is none: where there is too little to remove, the reversal has little effect of any kind.
        """
        holds = self._conditions()
        return [sentence for name, sentence in self._sentences().items() if name != "r2" and not holds[name]]

    def _sentences(self) -> dict[str, str]:
        """A sentence for each condition that can be seen, by name."""
        holds = self._conditions()
        removable = "there is something to remove" if holds["r2"] else "there is too little to remove"
        known = f"the projections explain {max(self.r2, 0):.0%} of what the experts know beyond the class"
        found = {"r2": f"{known}: {removable}"}
        if "shifted" in holds:
            lives = "they live on a cue that breaks" if holds["shifted"] else "they do not live on a cue that breaks"
            found["shifted"] = f"experts {self.accuracy:.2f} as trained, {self.shifted:.2f} shifted: {lives}"
        if "other" in holds:
            easy = "a cue that they lack is at hand" if holds["other"] else "no cue that they lack is easy to learn"
            few = f"a network trained on {self.samples // 2} shifted samples"
            found["other"] = (
                f"{few} {self.other:.2f} on others, the experts {self.shifted:.2f}, chance {self.chance:.2f}: {easy}"
            )
        if "trained" in holds:
            there = "the cue is in the training data" if holds["trained"] else "the cue is not in the training data"
            found["trained"] = (
                f"that network {self.other_trained:.2f} as trained, the most frequent class {self.chance_trained:.2f}: "
                f"{there}"
            )
        return found

    def _unknown(self) -> list[str]:
        """A sentence about the conditions that cannot be seen, if there are any."""
        if math.isnan(self.shifted):
            return ["without shifted samples nothing is known of the experts' cue, or of others"]
        if math.isnan(self.other):
            return [f"{self.samples} shifted samples, fewer than {LEAST_SAMPLES}, tell nothing of other cues"]
        return []

    def _conditions(self) -> dict[str, bool]:
        conditions = {"r2": self.r2 >= LEAST_R2}
        if not math.isnan(self.shifted):
            conditions["shifted"] = self.shifted - self.chance <= MOST_KEPT * (self.accuracy - self.chance)
        if not math.isnan(self.other):
            conditions["other"] = self.other - max(self.chance, self.shifted) >= LEAST_OTHER
        if not math.isnan(self.other_trained):
            conditions["trained"] = self.other_trained - self.chance_trained >= LEAST_OTHER
        return conditions


def verdict(forecasts: Sequence[Forecast]) -> str:
    """Return what the forecasts of several seeds say together: ``pays``, ``does not pay`` or ``uncertain``.

    The majority decides. R2 alone decides where all seeds are on one side of its threshold: where they are on both
    sides, and most have no objection, the forecast is uncertain (our choice).

    Args:
        forecasts: One for each seed.

    Example:
        >>> low, high = (Forecast(r2, 0.9, 0.1, 0.5, chance=0.1, samples=100) for r2 in (0.3, 0.4))
        >>> verdict([low, low]), verdict([low, low, high]), verdict([low, high, high])
        ('does not pay', 'uncertain', 'pays')
    """
    paying = sum(found.pays for found in forecasts)
    if paying > len(forecasts) / 2:
        return "pays"
    if paying and sum(not found.objections for found in forecasts) > len(forecasts) / 2:
        return "uncertain"
    return "does not pay"


def build_probe(**arguments: Any) -> ACoRLModule:
    """Return the module of a plain network beside which projections learn what they can predict from it.

    The network is trained as by :class:`~lightning_fusion.ExpertModule`, for a few epochs: the strength is 0.

    Args:
        **arguments: ``network``, ``experts``, ``features`` and others of :class:`~lightning_fusion.ACoRLModule`.
    """
    return ACoRLModule(schedule=Constant(0.0), **arguments)


def forecast(
    adversary: Adversary,
    probe: str,
    outputs: ExpertOutputs,
    shifted: ExpertOutputs | None = None,
    rows: np.ndarray | None = None,
    other: Learned = _UNKNOWN,
) -> Forecast:
    """Forecast whether the reversal pays, from the validation split.

    Args:
        adversary: The projections of a module of :func:`build_probe`, after its training.
        probe: Name of the probe's network in the stores; all others are the experts.
        outputs: Outputs and representations of probe and experts on the validation split, as trained.
        shifted: Outputs of the experts on a validation split of the shifted kind; ``None`` without one.
        rows: (n,) positions of the shifted samples that are used; ``None`` uses all.
        other: Result of :func:`learned_from` on them.

    Raises:
        InputError: If the first store has no representations.
    """
    experts = [name for name in outputs.names if name != probe]
    part = outputs["val"]
    if missing := [name for name in outputs.names if name not in part.representations]:
        raise InputError(f"the store has no representations of {missing[0]}; collect with keep_representations=True")
    r2 = max(_explained(adversary, probe, part).values())
    chance = 1 / len(outputs.classes)
    if shifted is None:
        return Forecast(r2, _accuracy(outputs, experts), math.nan, math.nan, chance, 0)
    drawn = np.arange(len(shifted["val"].target)) if rows is None else rows
    chance = _most_frequent(np.asarray(shifted["val"].target)[drawn])
    return Forecast(
        r2=r2,
        accuracy=_accuracy(outputs, experts),
        shifted=_accuracy(shifted, experts, drawn),
        other=other.shifted,
        chance=chance,
        samples=len(drawn),
        other_trained=other.trained,
        chance_trained=_most_frequent(part.target),
    )


@torch.no_grad()
def _explained(adversary: Adversary, probe: str, part: OutputsSplit) -> dict[str, float]:
    """R2 of each projection on some samples."""
    known = {name: torch.tensor(np.asarray(values)) for name, values in part.representations.items()}
    target = torch.tensor(np.asarray(part.target))
    return {name: 1 - float(loss) for name, loss in adversary.cpu().losses(known[probe], known, target).items()}


def _most_frequent(target: Any) -> float:
    """Frequency of the most frequent class."""
    return float(np.bincount(np.asarray(target)).max() / len(target))


def _accuracy(outputs: ExpertOutputs, names: Sequence[str], rows: np.ndarray | None = None) -> float:
    """Validation accuracy of the mean of some members."""
    right = right_answers(outputs, "val", names)
    return float((right if rows is None else right[rows]).mean())


def learned_from(
    network: Callable[[int], nn.Module],
    data: FusionDataModule,
    rows: Tensor,
    trained: FusionDataModule,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    seed: int = 0,
) -> Learned:
    """Train new networks on a half of few validation samples, and evaluate them on the other half and as trained.

    Args:
        network: Factory, called with the number of classes.
        data: Data module of the shifted kind.
        rows: (n,) positions in its validation split.
        trained: Data of the training, on whose validation split they are evaluated as well.
        optimizer: Called with the weights; AdamW, 1e-3 by default.
        seed: Seed of the weights.
    """
    if len(rows) < LEAST_SAMPLES:
        return _UNKNOWN
    halves = [_read(data, part) for part in (rows[::2].sort()[0], rows[1::2].sort()[0])]
    right, as_trained = 0.0, 0.0
    with torch.random.fork_rng(), torch.enable_grad():
        for fitted, tested in (halves, halves[::-1]):
            torch.manual_seed(seed)
            made = network(len(data.classes))
            update = (optimizer or partial(torch.optim.AdamW, lr=1e-3))(made.parameters())
            for _ in range(_STEPS):
                update.zero_grad()
                functional.cross_entropy(made(fitted.input), fitted.target).backward()
                update.step()
            made.eval()
            right += _right(made, tested)
            for part in torch.arange(len(trained.rows("val"))).split(_READ_ROWS):
                as_trained += _right(made, _read(trained, part)) / 2
    return Learned(right / len(rows), as_trained / len(trained.rows("val")))


def _read(data: FusionDataModule, rows: Tensor) -> Any:
    """Batch of some validation samples."""
    return data.on_after_batch_transfer(data.rows("val")[rows], 0)


@torch.no_grad()
def _right(network: nn.Module, batch: Any) -> int:
    """Number of right answers."""
    return int((network(batch.input).argmax(1) == batch.target).sum())
