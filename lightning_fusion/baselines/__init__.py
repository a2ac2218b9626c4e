"""What each method must beat: rules on plain arrays of outputs (N, K, C), fitted on the same rows as the method."""

from lightning_fusion.baselines.base import Baseline
from lightning_fusion.baselines.cascade import confidence_cascade
from lightning_fusion.baselines.cost_points import CostPoint
from lightning_fusion.baselines.fixed import BestSingle, MajorityVote, MostConfident, SoftmaxAverage
from lightning_fusion.baselines.frugal_ml import FRUGAL_ML_TRADE_OFFS, FrugalMLStrategy, frugal_ml, frugal_ml_strategy
from lightning_fusion.baselines.majority_class import majority_class
from lightning_fusion.baselines.neighbors import KNORAE, NearestNeighbors
from lightning_fusion.baselines.oracles import cheapest_right, oracle_expert, oracle_selection
from lightning_fusion.baselines.stacking import LogisticStacking
from lightning_fusion.baselines.subsets import (
    SubsetFusion,
    best_static_subsets,
    exhaustive_subsets,
    random_subsets,
    subset_point,
)

BASELINES: dict[str, type[Baseline]] = {
    "best single expert": BestSingle,
    "softmax average": SoftmaxAverage,
    "most confident": MostConfident,
    "majority vote": MajorityVote,
    "logistic stacking": LogisticStacking,
    "k-nearest neighbors": NearestNeighbors,
    "KNORA-E": KNORAE,
}
"""This library's baselines by the name that tables print; recipes take more of them as ``baselines``."""

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
    "NearestNeighbors",
    "SoftmaxAverage",
    "SubsetFusion",
    "best_static_subsets",
    "cheapest_right",
    "confidence_cascade",
    "exhaustive_subsets",
    "frugal_ml",
    "frugal_ml_strategy",
    "majority_class",
    "oracle_expert",
    "oracle_selection",
    "random_subsets",
    "subset_point",
]
