"""Figures: functions of arrays that return a matplotlib ``Figure``, for reports and loggers.

Figures are not registered with pyplot, so they need not be closed. Names are drawn verbatim: ``$5_to_$10`` is not
parsed as a formula.
"""

from lightning_fusion.plotting.calibration import reliability
from lightning_fusion.plotting.comparisons import (
    grouped_bars,
    overlap_curves,
    permutation_importance,
    reversal_strengths,
    target_accuracies,
)
from lightning_fusion.plotting.costs import cost_curves, queries, risk_coverage_curves, traffic
from lightning_fusion.plotting.det import det_curves
from lightning_fusion.plotting.maps import attribution_maps, confusion, diagnosis, heat_map
from lightning_fusion.plotting.page import save
from lightning_fusion.plotting.samples import pictures
from lightning_fusion.plotting.sweeps import sweep_trials

__all__ = [
    "attribution_maps",
    "confusion",
    "cost_curves",
    "det_curves",
    "diagnosis",
    "grouped_bars",
    "heat_map",
    "overlap_curves",
    "permutation_importance",
    "pictures",
    "queries",
    "reliability",
    "reversal_strengths",
    "risk_coverage_curves",
    "save",
    "sweep_trials",
    "target_accuracies",
    "traffic",
]
