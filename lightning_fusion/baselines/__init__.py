"""Baselines: rules on arrays of outputs (N, K, C), fitted on the same samples as the methods."""

from lightning_fusion.baselines.base import Baseline
from lightning_fusion.baselines.cascade import confidence_cascade
from lightning_fusion.baselines.cost_points import CostPoint
from lightning_fusion.baselines.fixed import BestSingle, MajorityVote, MostConfident, SoftmaxAverage
from lightning_fusion.baselines.frugal_ml import FRUGAL_ML_TRADE_OFFS, FrugalMLStrategy, frugal_ml, frugal_ml_strategy
from lightning_fusion.baselines.majority_class import majority_class
from lightning_fusion.baselines.neighbors import KNORAE, NearestNeighbors
from lightning_fusion.baselines.oracles import least_expensive_correct, oracle_expert, oracle_selection
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
"""Baselines by their name in tables; recipes take further ones as ``baselines``."""

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
    "confidence_cascade",
    "exhaustive_subsets",
    "frugal_ml",
    "frugal_ml_strategy",
    "least_expensive_correct",
    "majority_class",
    "oracle_expert",
    "oracle_selection",
    "random_subsets",
    "subset_point",
]
