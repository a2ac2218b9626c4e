"""Diagnostics of complementary models from validation metrics."""

import math
from collections.abc import Mapping


def accuracy_warnings(metrics: Mapping[str, float]) -> list[str]:
    """Return warnings about known failures of a complementary classifier.

    Args:
        metrics: ``val_accuracy``, ``val_pool_accuracy`` and ``val_fused_accuracy``.

    Example:
        >>> print(*accuracy_warnings({"val_accuracy": 0.2, "val_pool_accuracy": 0.7, "val_fused_accuracy": 0.71}))
        the new model (validation accuracy 0.200) is far below the experts (0.700 together): ...
    """
    if math.isnan(metrics.get("val_loss", 0.0)):
        return ["the training diverged: val_loss is NaN; lower the learning rate or the strength of the reversal"]
    if not {"val_accuracy", "val_pool_accuracy", "val_fused_accuracy"} <= set(metrics):
        return []
    own, pool, fused = (metrics[f"val_{who}accuracy"] for who in ("", "pool_", "fused_"))
    found = []
    if own < 0.7 * pool:
        found.append(
            f"the new model (validation accuracy {own:.3f}) is far below the experts ({pool:.3f} together): the "
            "reversal is too strong for this dissimilarity, or the training is too short; lower the maximum of schedule"
        )
    if fused <= pool:
        found.append(
            f"fusing gains nothing: experts {pool:.3f}, with the new model {fused:.3f} (validation accuracy); compare "
            "with a control arm of strength 0"
        )
    elif fused < own:
        found.append(
            f"the new model alone ({own:.3f}) is better than the fusion ({fused:.3f} validation accuracy): the experts "
            "are weak or cover few of the classes; weight them (acorl.fusion.fit_output_weights), or train a fuser"
        )
    return found


def trial_warnings(metrics: Mapping[str, float]) -> list[str]:
    """Return warnings about a complementary speaker model, by error rates of verification trials.

    Args:
        metrics: ``val_fused_eer``, and ``val_expert_NAME_eer`` of each expert.

    Example:
        >>> print(*trial_warnings({"val_fused_eer": 0.12, "val_expert_a_eer": 0.1, "val_expert_b_eer": 0.15}))
        fusing gains nothing: EER of the best expert 0.100, fused with the new model 0.120 (validation); ...
    """
    singles = [value for name, value in metrics.items() if name.startswith("val_expert_") and name.endswith("_eer")]
    fused = metrics.get("val_fused_eer")
    if not singles or fused is None or fused < min(singles):
        return []
    return [
        f"fusing gains nothing: EER of the best expert {min(singles):.3f}, fused with the new model {fused:.3f} "
        "(validation); compare with a control arm of strength 0"
    ]
