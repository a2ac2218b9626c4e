"""torchmetrics classes for pools of models, and functions for curves of cost, of coverage and of verification."""

from lightning_fusion.metrics.balanced import balanced_accuracy
from lightning_fusion.metrics.diversity import BestExpertAccuracy, PairwiseDiversity
from lightning_fusion.metrics.representation import LinearCKA, heldout_linear_r2, linear_cka
from lightning_fusion.metrics.selective import RiskCoverage, area_under_cost_curve, risk_coverage
from lightning_fusion.metrics.verification import (
    ErrorCurve,
    Verification,
    bootstrap_eer,
    equal_error_rate,
    error_curve,
    min_dcf,
    plot_det,
    trial_scores,
)

__all__ = [
    "BestExpertAccuracy",
    "ErrorCurve",
    "LinearCKA",
    "PairwiseDiversity",
    "RiskCoverage",
    "Verification",
    "area_under_cost_curve",
    "balanced_accuracy",
    "bootstrap_eer",
    "equal_error_rate",
    "error_curve",
    "heldout_linear_r2",
    "linear_cka",
    "min_dcf",
    "plot_det",
    "risk_coverage",
    "trial_scores",
]
