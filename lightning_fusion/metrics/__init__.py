"""torchmetrics classes for pools of models, and functions for curves of cost and of coverage."""

from lightning_fusion.metrics.diversity import BestExpertAccuracy, PairwiseDiversity
from lightning_fusion.metrics.selective import RiskCoverage, area_under_cost_curve, risk_coverage

__all__ = ["BestExpertAccuracy", "PairwiseDiversity", "RiskCoverage", "area_under_cost_curve", "risk_coverage"]
