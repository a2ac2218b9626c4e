"""What each method must beat: rules on plain arrays of outputs (N, K, C), fitted on the same rows as the method."""

from lightning_fusion.baselines.fitted import KNORAE, LogisticStacking, NearestNeighbours
from lightning_fusion.baselines.fixed import (
    Baseline,
    BestSingle,
    MajorityVote,
    MostConfident,
    SoftmaxAverage,
    oracle_expert,
    oracle_selection,
)

BASELINES: dict[str, type[Baseline]] = {
    "best single expert": BestSingle,
    "softmax average": SoftmaxAverage,
    "most confident": MostConfident,
    "majority vote": MajorityVote,
    "logistic stacking": LogisticStacking,
    "nearest neighbours": NearestNeighbours,
    "KNORA-E": KNORAE,
}
"""Every baseline by the name that tables print."""

__all__ = [
    "BASELINES",
    "KNORAE",
    "Baseline",
    "BestSingle",
    "LogisticStacking",
    "MajorityVote",
    "MostConfident",
    "NearestNeighbours",
    "SoftmaxAverage",
    "oracle_expert",
    "oracle_selection",
]
