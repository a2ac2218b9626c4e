"""Diagnostics of a trained fuser."""

import math
from collections.abc import Mapping


def fuser_warnings(metrics: Mapping[str, float], target: str) -> list[str]:
    """Return warnings about a fuser from validation metrics.

    Args:
        metrics: ``val_loss``, ``val_accuracy``, ``val_best_expert_accuracy`` and, if the target is the expert,
            ``val_choice_accuracy``.
        target: ``label`` or ``expert``.

    Example:
        >>> print(*fuser_warnings({"val_accuracy": 0.5, "val_best_expert_accuracy": 0.6}, "label"))
        the fuser (validation accuracy 0.500) is below the best single expert (0.600): too few samples, ...
    """
    found = []
    if not math.isfinite(loss := metrics.get("val_loss", 0.0)):
        found.append(
            f"the training diverged (validation loss {loss}): lower the learning rate, or check the scale of the inputs"
        )
    accuracy, best = metrics.get("val_accuracy"), metrics.get("val_best_expert_accuracy")
    if accuracy is not None and best is not None and accuracy < best:
        found.append(
            f"the fuser (validation accuracy {accuracy:.3f}) is below the best single expert ({best:.3f}): too few "
            "samples, too short a training, or experts that are not complementary; see 'lightning-fusion diagnose'"
        )
    choice = metrics.get("val_choice_accuracy")
    if target == "expert" and choice is not None and choice < 0.5:
        found.append(
            f"the selected expert was trained on the sample's domain in only {choice:.1%} of the validation samples: "
            "the outputs do not separate the domains; target: label may be more accurate"
        )
    return found
