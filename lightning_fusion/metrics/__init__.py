"""torchmetrics classes for pools of models."""

from lightning_fusion.metrics.diversity import BestExpertAccuracy, PairwiseDiversity

__all__ = ["BestExpertAccuracy", "PairwiseDiversity"]
