"""Metrics of torchmetrics for pools of models, and functions for cost and risk-coverage curves."""

from lightning_fusion.metrics.balanced import balanced_accuracy
from lightning_fusion.metrics.diversity import BestExpertAccuracy, PairwiseDiversity
from lightning_fusion.metrics.representation import LinearCKA, heldout_linear_r2, linear_cka
from lightning_fusion.metrics.selective import RiskCoverage, area_under_cost_curve, risk_coverage

__all__ = [
    "BestExpertAccuracy",
    "LinearCKA",
    "PairwiseDiversity",
    "RiskCoverage",
    "area_under_cost_curve",
    "balanced_accuracy",
    "heldout_linear_r2",
    "linear_cka",
    "risk_coverage",
]
