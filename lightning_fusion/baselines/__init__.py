"""What each method must beat: rules on plain arrays of outputs (N, K, C), fitted on the same rows as the method."""

from lightning_fusion.baselines.cascade import confidence_cascade
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
from lightning_fusion.baselines.frugal_ml import FRUGAL_ML_TRADE_OFFS, FrugalMLStrategy, frugal_ml, frugal_ml_strategy
from lightning_fusion.baselines.subsets import (
    CostPoint,
    SubsetFusion,
    best_static_subsets,
    cheapest_right,
    exhaustive_subsets,
    random_subsets,
    subset_point,
    zero_cost,
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
    "FRUGAL_ML_TRADE_OFFS",
    "KNORAE",
    "Baseline",
    "BestSingle",
    "CostPoint",
    "FrugalMLStrategy",
    "LogisticStacking",
    "MajorityVote",
    "MostConfident",
    "NearestNeighbours",
    "SoftmaxAverage",
    "SubsetFusion",
    "best_static_subsets",
    "cheapest_right",
    "confidence_cascade",
    "exhaustive_subsets",
    "frugal_ml",
    "frugal_ml_strategy",
    "oracle_expert",
    "oracle_selection",
    "random_subsets",
    "subset_point",
    "zero_cost",
]
