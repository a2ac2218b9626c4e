"""Names of the rows of the recipe foe."""

from collections.abc import Iterable
from typing import Any

MAIN = "FoE (label)"
FUSERS: dict[str, dict[str, Any]] = {
    MAIN: {"target": "label"},
    "FoE (expert target, random)": {"target": "expert", "expert_target": "random"},
    "FoE (expert target, best)": {"target": "expert", "expert_target": "best"},
}
"""Arguments of :class:`~lightning_fusion.FoEFuserModule` for each row."""
ONE_TARGET = "FoE (expert target)"
"""Replaces both expert-target rows where no sample has two expert targets: they are then identical."""
WITH_REPRESENTATIONS = "FoE (label, with representations)"
"""Our extension: FoE that also reads the experts' representations."""
ONE_EXPERT: dict[str, dict[str, Any]] = {
    "FoE (label, outputs of one expert)": FUSERS[MAIN],
    "FoE (expert target, outputs of one expert)": FUSERS["FoE (expert target, best)"],
}
"""The paper's ablation: FoE that reads the outputs of one expert, with either target."""
CENTRALIZED = "centralized model (shares data)"


def by_simplicity(baselines: Iterable[str]) -> tuple[str, ...]:
    """Return the methods that can answer new samples, the simplest first (our choice).

    The average has no parameters; the best single expert is one choice, and the least expensive to query; further fixed
    rules, linear and neighbor rules, baselines of the user's own, and networks follow.

    Args:
        baselines: Names of all baselines.
    """
    fixed = ["softmax average", "best single expert", "most confident", "majority vote", "logistic stacking"]
    known = [*fixed, "k-nearest neighbors", "KNORA-E"]
    own = [name for name in baselines if name not in known]
    return (*known, *own, MAIN, ONE_TARGET, *list(FUSERS)[1:], WITH_REPRESENTATIONS)


def fuser_file(method: str) -> str:
    """Return the name of a row's checkpoint, without its suffix.

    Example:
        >>> fuser_file("FoE (expert target, best)")
        'expert_target_best'
    """
    return method.replace("FoE (", "").replace(")", "").replace(", ", "_").replace(" ", "_")
