"""What a fit and a batch of predictions say about a policy that does not suit its data."""

import torch

from lightning_fusion.extras import installed
from lightning_fusion.frugal.prediction import FrugalPrediction
from lightning_fusion.frugal.search import Calibration

OOD_FRACTION = 0.1
"""Fraction of out-of-distribution samples in a batch from which on :meth:`FrugalFoE.predict` warns."""
_FEWEST = 100  # samples of a batch that are judged
_MANY = 1000  # calibration samples from which on a compiled search is missed


def fit_diagnostics(calibration: Calibration, loss: str, trade_off: float) -> list[str]:
    """A slow search, a cost that no query is worth, and a fuser of all experts that is worse than the best one alone.

    Args:
        calibration: Of the fit.
        loss: ``zero_one``, or another one, of which nothing is said.
        trade_off: That was given.
    """
    found: list[str] = []
    targets, names = calibration.targets, calibration.names
    if targets.device.type == "cpu" and len(targets) >= _MANY and not installed("numba"):
        found.append(
            f"found no package numba: with {len(targets)} calibration samples a decision on a CPU takes about 3 to 6 "
            "times as long as with it; pip install 'lightning-fusion[fast]'"
        )
    if loss != "zero_one":
        return found
    cheapest = min((cost for cost in calibration.costs if cost > 0), default=0.0)
    if trade_off * cheapest > 1:
        found.append(
            f"trade_off * cost is {trade_off * cheapest:.3g} for the cheapest expert: none can save more than 1 error "
            "per sample, so no second one is ever queried; scale the costs, or lower trade_off"
        )
    step = -(-len(targets) // 1000)  # some thousand samples tell
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


def prediction_diagnostics(prediction: FrugalPrediction, trade_off: float) -> list[str]:
    """What a batch of predictions says about a policy that does not fit, for 100 samples or more.

    Args:
        prediction: Of the batch.
        trade_off: Of the policy.
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
