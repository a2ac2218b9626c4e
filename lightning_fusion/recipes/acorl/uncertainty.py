"""How well a pair knows what it does not know: calibration, and detection of shifted samples."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import entr
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_fusion.experts.outputs.store import ExpertOutputs

METRICS = ("calibration error", "shifted calibration error", "detection by disagreement", "detection by entropy")
"""Names of what :func:`uncertainty` returns, in this order."""


def uncertainty(trained: ExpertOutputs, shifted: ExpertOutputs, names: Sequence[str]) -> dict[str, float]:
    """Return calibration errors of the mean of some members, and how well they detect shifted samples, on test.

    Args:
        trained: Outputs on the test split as trained.
        shifted: Outputs on the shifted one.
        names: Names of the members.

    Returns:
        By the names of :data:`METRICS`: the expected calibration errors of both (15 bins; Guo et al., On Calibration
        of Modern Neural Networks, ICML 2017); AUROC of the Jensen-Shannon divergence of the members, and of the entropy
        of their mean, with the shifted samples as positives.
    """
    errors, scores = [], []
    for outputs in (trained, shifted):
        places = [outputs.names.index(name) for name in names]
        each = outputs.scattered("test")[:, places].astype(np.float64)
        target = torch.tensor(np.asarray(outputs["test"].target)).long()
        mean = torch.from_numpy(each.mean(1))
        errors.append(float(multiclass_calibration_error(mean, target, len(outputs.classes), n_bins=15)))
        scores.append((disagreement(each), entr(each.mean(1)).sum(1)))
    positive = np.repeat([0, 1], [len(each[0]) for each in scores])
    detected = [float(roc_auc_score(positive, np.concatenate(both))) for both in zip(*scores, strict=True)]
    return dict(zip(METRICS, (*errors, *detected), strict=True))


def disagreement(outputs: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence of members in nats: entropy of their mean minus mean of their entropies.

    Args:
        outputs: (N, K, C) probabilities.

    Returns:
        (N,) from 0, where all members answer alike, to log K.

    Example:
        >>> disagreement(np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]])).round(3).tolist()
        [0.693, 0.0]
    """
    between: np.ndarray = entr(outputs.mean(1)).sum(1) - entr(outputs).sum(2).mean(1)
    return between
