"""Ways to train further members beside a first one, as compared by the recipe acorl_shift."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_fusion.acorl.arguments import PAPER
from lightning_fusion.acorl.diversity import Diversity, ErrorDiversity, ErrorReweighting
from lightning_fusion.acorl.module import ACoRLModule
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.schedules import Constant, DANNRamp

PLAIN, REWEIGHTING = "plain", "error reweighting"


@dataclass(frozen=True)
class Arm:
    """One way to train the members after the first one.

    Attributes:
        strength: Largest lambda; 0 turns the reversal off.
        diversity: Terms that compare answers.
        joint: Train the projections jointly, as the paper is summarized.
        longer: Factor of the number of epochs.
        projection: Argument of :class:`~lightning_fusion.ACoRLModule` where there is a reversal.
    """

    strength: float = 0.0
    diversity: Sequence[Diversity] = ()
    joint: bool = False
    longer: float = 1.0
    projection: Callable[[int, int], nn.Module] | None = None

    @property
    def alone(self) -> tuple[list[Diversity], bool, float]:
        """What the arm is but for its reversal."""
        return list(self.diversity), self.joint, self.longer

    def build(self, pool: Mapping[str, Expert], shared: Mapping[str, Any]) -> ExpertModule:
        """Return the module that trains the member.

        Args:
            pool: The earlier members, frozen, by name; none for the first member itself.
            shared: Arguments of :class:`~lightning_fusion.ExpertModule` that all members share.
        """
        if not pool or not (self.strength or self.diversity):
            return ExpertModule(**shared)
        how: dict[str, Any] = {"diversity": list(self.diversity)}
        how["schedule"] = DANNRamp(self.strength) if self.strength else Constant(0.0)
        if self.strength:  # without a reversal nothing depends on the projections
            how |= {"projection": self.projection} | (PAPER if self.joint else {})
        return ACoRLModule(experts=dict(pool), **how, **shared)


def study_arms(
    strengths: Sequence[float],
    reweighting: float,
    error_diversity: float,
    longer: float,
    projection: Callable[[int, int], nn.Module] | None = None,
) -> dict[str, Arm]:
    """Return the arms of the study, by name: controls, the reversal at each strength, alone and with reweighting.

    The first strength has the arms of the joint training and of error diversity.
    """
    weigh, differ = ErrorReweighting(reweighting), ErrorDiversity(error_diversity)
    arms = {PLAIN: Arm(), f"plain, {longer:g} x epochs": Arm(longer=longer)}
    arms |= {REWEIGHTING: Arm(diversity=[weigh]), "error diversity": Arm(diversity=[differ])}
    first = f"ACoRL {strengths[0]:g}"
    arms |= {f"{first}, joint": Arm(strengths[0], joint=True, projection=projection)}
    for strength in strengths:
        name = f"ACoRL {strength:g}"
        arms[name] = Arm(strength, projection=projection)
        arms[f"{name} + {REWEIGHTING}"] = Arm(strength, [weigh], projection=projection)
    return arms | {f"{first} + error diversity": Arm(strengths[0], [differ], projection=projection)}


def families(arms: Mapping[str, Arm]) -> dict[str, list[str]]:
    """Return names of arms among which one may be selected: the reversal alone, and all of equal epochs."""
    equal = {name: arm for name, arm in arms.items() if arm.longer == 1 and not arm.joint}
    return {"reversal alone": [name for name, arm in equal.items() if not arm.diversity], "all arms": list(equal)}


def by_strength(arms: Mapping[str, Arm]) -> dict[str, list[str]]:
    """Return names of arms that differ in strength alone, from 0 upwards, by the name of that of strength 0."""
    found = {}
    for control in (PLAIN, REWEIGHTING):
        if control in arms:
            alike = {name: arm.strength for name, arm in arms.items() if arm.alone == arms[control].alone}
            found[control] = sorted(alike, key=alike.__getitem__)
    return {control: names for control, names in found.items() if len(names) > 1}


def chosen_label(count: int, control: str) -> str:
    """Return the label of the row of a strength that was chosen.

    Example:
        >>> chosen_label(20, "plain"), chosen_label(20, "error reweighting")
        ('ACoRL by 20 samples', 'ACoRL by 20 samples + error reweighting')
    """
    return f"ACoRL by {count} samples" + ("" if control == PLAIN else f" + {control}")
