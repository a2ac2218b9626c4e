"""Answers that contradict what is declared about an expert, found on its first batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_fusion.data.names import canonical_label
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.estimators import called_method, class_order, known_classes

COMPARED_ROWS = 256
"""Number of samples, at least, on which an estimator's predictions are compared with its probabilities."""
_LEAST_VALUES = 32  # between 0 and 1, which are no coincidence


def check_logits(raw: Tensor, classes: Sequence[str], trained: bool = False) -> None:
    """Reject probabilities that are declared as logits, and warn about outputs that are like other scores.

    The softmax of one class is 1 for every sample, which is a warning too.

    Args:
        raw: (B, C) outputs, B > 1.
        classes: Names of the C classes.
        trained: Whether the softmax of these outputs was trained, so that values between 0 and 1 are no sigmoid's.

    Raises:
        InputError: If all rows are not negative and sum to 1.

    Example:
        >>> check_logits(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), ["a", "b"])
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: output is 'logits'; all 2 outputs of the expert of a, b are >= 0 and sum ...
    """
    if raw.shape[1] == 1:
        rank_zero_warn(
            f"output is 'logits'; the expert of {classes[0]} has one class, and answers it with probability 1 for "
            "every sample: for a network with one sigmoid output name both classes, and return (1 - p, p) with output "
            "'probabilities'"
        )
    if raw.shape[1] == 1 or not bool((raw >= 0).all()):
        return
    sums, whose = raw.sum(1), f"outputs of the expert of {shorten(classes)}"
    if torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise InputError(
            f"output is 'logits'; all {len(raw)} {whose} are >= 0 and sum to 1: set output to 'probabilities'"
        )
    count = int(((sums - 1).abs() <= 0.02).sum())
    if 2 * count > len(raw):
        rank_zero_warn(
            f"output is 'logits'; {count} of {len(raw)} {whose} are >= 0 and sum to 1 within 0.02, like probabilities, "
            "which softmax flattens: divide each row by its sum and set output to 'probabilities'"
        )
        return
    varied = bool((raw != raw[0]).any())  # rows that are all equal prove nothing
    graded = bool(((raw > 0).sum(1) > 1).any())  # other than one-hot rows times a factor
    if varied and graded and torch.allclose(sums, sums[0].expand_as(sums), rtol=1e-3, atol=0):
        rank_zero_warn(
            f"output is 'logits'; all {len(raw)} {whose} are >= 0 and sum to {sums[0].item():.6g}, like percentages or "
            "votes, which softmax distorts: divide each row by its sum and set output to 'probabilities'"
        )
        return
    within = raw.numel() >= _LEAST_VALUES and bool((raw <= 1).all()) and bool((raw > 0.5).any())
    if varied and graded and within and not trained:
        rank_zero_warn(
            f"output is 'logits'; all {len(raw)} {whose} lie between 0 and 1, like those of a sigmoid, which softmax "
            "flattens: return the values before the sigmoid, or divide each row by its sum and set output to "
            "'probabilities'"
        )


class FirstBatches:
    """Comparison of an expert's first answers with what is declared: logits, and the predictions of an estimator.

    Args:
        logits: Whether the outputs are declared as logits.
        trained: Whether this library trained the softmax of the outputs.

    Attributes:
        over: Whether there was a batch.
    """

    def __init__(self, logits: bool, trained: bool = False) -> None:
        self.over, self._trained = False, trained
        self._logits_to_check, self._compared = logits, 0

    def compares(self, network: Any) -> bool:
        """Return whether the predictions of an estimator are to be compared on the next batch, which needs its input.

        Args:
            network: Network of the expert.
        """
        return self._compared < COMPARED_ROWS and predicts(network)

    def check(self, network: Any, input: Any, raw: Tensor, classes: Sequence[str], names: Sequence[str]) -> None:
        """Check the answers to a batch.

        Args:
            network: Network of the expert.
            input: Its input where it :meth:`compares`, else ``None``.
            raw: (B, C) outputs.
            classes: Names of the classes, for messages.
            names: Names of the classes in the network.

        Raises:
            InputError: If probabilities are declared as logits.
        """
        self.over = True
        if self._logits_to_check and len(raw) > 1:
            self._logits_to_check = False
            check_logits(raw, classes, self._trained)
        if input is not None:
            self._compared += len(raw)
            if message := other_predictions(network, input, raw, names):
                self._compared = COMPARED_ROWS
                rank_zero_warn(message)


def random_state(network: Any) -> list[Tensor]:
    """Return the states of torch's random numbers on the CPU and on the devices of a network.

    Args:
        network: A torch module; anything else has no states.
    """
    if not isinstance(network, nn.Module):
        return []
    devices = {weights.device for weights in network.parameters() if weights.device.type == "cuda"}
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def unsteady_message(network: Any, before: Sequence[Tensor], classes: Sequence[str]) -> str | None:
    """Return a warning if a network has drawn random numbers, or normalizes by its batch; ``None`` if not.

    Args:
        network: A torch module in eval mode, after its first batch.
        before: :func:`random_state` before that batch.
        classes: Names of the classes of its expert.

    Example:
        >>> class Noisy(nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(nn.functional.dropout(x))  # training=True is its default
        >>> network = Noisy(3, 2)
        >>> before = random_state(network)
        >>> _ = network(torch.ones(1, 3))
        >>> unsteady_message(network, before, ["a", "b"]).partition(":")[0]
        'the outputs of the expert of a, b are random'
    """
    whose = f"the outputs of the expert of {shorten(classes)}"
    if not all(map(torch.equal, before, random_state(network))):
        return (
            f"{whose} are random: its network draws random numbers in eval mode, so that each run has other outputs; "
            "functional dropout needs training=self.training"
        )
    parts = network.named_modules() if isinstance(network, nn.Module) else ()
    if own := [name for name, part in parts if isinstance(part, _BatchNorm) and part.running_mean is None]:
        return (
            f"{whose} depend on the other samples of a batch: its batch normalization has no running statistics "
            f"({shorten(own)}), so that its accuracy depends on the batch size"
        )
    return None


def predicts(network: Any) -> bool:
    """Return whether this is the method ``predict_proba`` of an estimator that also has ``predict``."""
    method = called_method(network)
    return getattr(method, "__name__", "") == "predict_proba" and hasattr(getattr(method, "__self__", None), "predict")


def other_predictions(network: Any, input: Any, probabilities: Tensor, classes: Sequence[str]) -> str | None:
    """Return a warning if an estimator predicts other classes than its most probable ones; ``None`` if not.

    Args:
        network: Method ``predict_proba`` of an estimator; anything else is not compared.
        input: A batch of B samples, which the estimator may change.
        probabilities: (B, C) its outputs.
        classes: Names of the C classes.

    Example:
        >>> class Cautious:
        ...     classes_ = np.array(["cat", "dog"])
        ...     def predict_proba(self, x):
        ...         return [[0.6, 0.4]] * len(x)
        ...     def predict(self, x):
        ...         return ["dog"] * len(x)
        >>> model = Cautious()
        >>> message = other_predictions(model.predict_proba, [0], torch.tensor([[0.6, 0.4]]), ["cat", "dog"])
        >>> message.partition(":")[0]
        'predict of the Cautious gives another class than the most probable one of predict_proba on 1 of 1 samples'
    """
    method = called_method(network)
    estimator, known = getattr(method, "__self__", None), known_classes(method)
    if known is None or not predicts(network):
        return None
    try:
        found = np.asarray(estimator.predict(input))  # type: ignore[union-attr]  # it has one
    except Exception:  # of any estimator: its probabilities are what counts
        return None
    columns = class_order(known, classes)[1] or range(len(known))
    place = {canonical_label(known[column]): number for number, column in enumerate(columns)}
    if found.ndim != 1 or len(found) != len(probabilities) or not {*map(canonical_label, found.tolist())} <= set(place):
        return None
    labels = [place[canonical_label(label)] for label in found.tolist()]
    values = probabilities.detach().cpu().numpy()
    other = values.argmax(1) != np.array(labels)
    if not other.any():
        return None
    ties = int((other & ((values == values.max(1, keepdims=True)).sum(1) > 1)).sum())
    tied = f" ({ties} with several most probable classes, of which the first in classes counts)" if ties else ""
    return (
        f"predict of the {type(estimator).__name__} gives another class than the most probable one of predict_proba on "
        f"{other.sum()} of {len(other)} samples{tied}: experts are fused by their probabilities, so that the expert's "
        "accuracy differs from that of the estimator"
    )
