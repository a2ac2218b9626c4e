"""Diagnostics of a fitted policy and of a batch of predictions."""

from collections.abc import Sequence

import torch

from lightning_fusion.extras import installed
from lightning_fusion.frugal.prediction import FrugalPrediction
from lightning_fusion.frugal.search import Calibration

OOD_FRACTION = 0.1
"""Minimum fraction of out-of-distribution samples in a batch for a warning of :meth:`FrugalFoE.predict`."""
_FEWEST = 100  # minimum number of samples of a batch
_MANY = 1000  # minimum number of calibration samples for the hint on the compiled search


def fit_diagnostics(calibration: Calibration, loss: str, trade_off: float | None) -> list[str]:
    """Return warnings about M, a slow search, costs without effect, and a fuser of all experts below the best expert.

    Args:
        calibration: Calibration of the fit.
        loss: Loss of the policy; costs and fuser are checked for ``zero_one`` only.
        trade_off: Trade-off of the policy; ``None`` if it was found from a budget.
    """
    found: list[str] = []
    targets, names, count = calibration.targets, calibration.names, calibration.num_neighbors
    if count > len(targets) / 4:
        found.append(
            f"neighbors is {count} of {len(targets)} calibration samples: the estimated risks, and so the decisions, "
            f"are similar for all samples; add samples, or set neighbors to {max(1, len(targets) // 4)} or less"
        )
    if targets.device.type == "cpu" and len(targets) >= _MANY and not installed("numba"):
        found.append(
            f"found no package numba: with {len(targets)} calibration samples a decision on a CPU takes about 3 to 6 "
            "times as long as with it; pip install 'lightning-fusion[fast]'"
        )
    if loss != "zero_one":
        return found
    if trade_off is not None:
        found += _cost_diagnostics(calibration.costs, trade_off, len(targets))
    step = -(-len(targets) // 1000)  # some thousand samples suffice
    rows = torch.arange(0, len(targets), step, device=targets.device)
    right = (calibration.outputs[:, rows].argmax(2) == targets[rows]).sum(1)
    wrong = int(calibration.losses((), [tuple(range(len(names)))], rows).sum())
    if len(rows) - wrong < int(right.max()):
        found.append(
            f"the fuser of all experts ({1 - wrong / len(rows):.3f} right) is below expert "
            f"{names[int(right.argmax())]} alone ({int(right.max()) / len(rows):.3f}): too few calibration samples, or "
            "outputs that do not separate the classes"
        )
    return found


def _cost_diagnostics(costs: Sequence[float], trade_off: float, rows: int) -> list[str]:
    """Return warnings about costs that prohibit or permit every query."""
    cheapest = min((cost for cost in costs if cost > 0), default=0.0)
    if trade_off * cheapest > 1:
        return [
            f"trade_off * cost is {trade_off * cheapest:.3g} for the least expensive expert: none saves over 1 error "
            "per sample, so no second one is ever queried; scale the costs, or lower trade_off"
        ]
    largest = trade_off * max(costs)
    if 0 < largest * rows < 1:
        return [
            f"trade_off * cost is {largest:.3g} for the most expensive expert, less than one error in {rows} "
            "calibration samples: costs have no effect, as any gain pays for a query; scale the costs, or raise "
            f"trade_off, which is the loss per unit of cost, above {1 / (rows * max(costs)):.2g}"
        ]
    return []


def prediction_diagnostics(prediction: FrugalPrediction, trade_off: float) -> list[str]:
    """Return warnings about a policy that does not match a batch of 100 samples or more.

    Args:
        prediction: Predictions of the batch.
        trade_off: Trade-off of the policy.
    """
    found: list[str] = []
    count, experts = prediction.queried.shape
    if count < _FEWEST:
        return found
    everyone = float(prediction.queried.all(1).float().mean())
    if everyone > 0.5 and experts > 2 and trade_off > 0:
        found.append(
            f"{everyone:.1%} of {count} samples queried every expert: the trade-off is too small, or these samples are "
            "unlike the calibration set"
        )
    ood = float(prediction.ood.float().mean())
    if ood > OOD_FRACTION:
        found.append(
            f"{ood:.1%} of {count} samples are out-of-distribution, far from the calibration set: estimated risks do "
            "not hold there; fit the policy on samples like these"
        )
    return found
