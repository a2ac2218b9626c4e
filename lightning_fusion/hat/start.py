"""Weights with which the student starts: those of a source of the same architecture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.probing import in_eval
from lightning_fusion.hat.fitted import FLOOR, Evidence
from lightning_fusion.hat.heads import head_name
from lightning_fusion.hat.mixer import aligned
from lightning_fusion.hat.mixup import Pairs


@torch.no_grad()
def source_weights(network: nn.Module, expert: Expert, columns: Sequence[int], input: Any) -> dict[str, Tensor]:
    """Return the weights of a source as weights of the student; outputs of classes that it lacks stay the student's.

    Args:
        network: The student's network.
        expert: The source.
        columns: (C,) the source's output of each class of the target; -1 if it lacks the class.
        input: A batch of preprocessed input, on which both must agree.

    Raises:
        InputError: If the source has another architecture, or another preprocessing; the message says which.

    Example:
        >>> source = Expert(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), classes=["a", "b"], features="0")
        >>> student = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
        >>> weights = source_weights(student, source, [1, -1, 0], torch.rand(5, 4))
        >>> weights["1.bias"][[0, 2]].equal(source.network[1].bias[[1, 0]])
        True
    """
    source = expert.network
    if type(source) is not type(network) or not isinstance(source, nn.Module):
        raise InputError(f"it is a {type(source).__name__}, the student a {type(network).__name__}")
    own, theirs = network.state_dict(), source.state_dict()
    if own.keys() != theirs.keys():
        raise InputError(f"it has other layers: {shorten(own.keys() ^ theirs.keys())}")
    places = torch.tensor(list(columns))
    known = places >= 0
    same = list(columns) == list(range(len(expert.classes)))
    head = None if same else head_name(expert, input)
    found: dict[str, Tensor] = {}
    for name, value in theirs.items():
        in_head = head is not None and name.startswith(f"{head}.") and value.shape[:1] == (len(expert.classes),)
        if in_head and value.shape[1:] == own[name].shape[1:] and own[name].shape[:1] == places.shape:
            found[name] = own[name].clone()
            found[name][known] = value[places[known].to(value.device)].to(own[name])
        elif value.shape == own[name].shape:
            found[name] = value.to(own[name].device)
        else:
            raise InputError(f"{name} has shape {tuple(value.shape)}, the student's {tuple(own[name].shape)}")
    _check_equal(network, found, expert, places, input)
    return found


def _check_equal(network: nn.Module, weights: Mapping[str, Tensor], expert: Expert, places: Tensor, input: Any) -> None:
    """Check that the student answers as the source does, with its weights and without its preprocessing."""
    with in_eval(network):
        raw: Any = torch.func.functional_call(network, dict(weights), (input,))
    ours = getattr(raw, "logits", raw).float()
    theirs = aligned(expert(input).clamp_min(1e-12).log(), places.to(ours.device)).exp()
    known = (places >= 0).nonzero().flatten().to(ours.device)
    difference = float((ours[:, known].softmax(1) - theirs[:, known]).abs().amax())
    if not difference < 1e-3:
        raise InputError(
            f"with its weights the student's probabilities differ by {difference:.2g}: it has another preprocessing, "
            "or layers that behave otherwise"
        )


def compatible_weights(
    network: nn.Module, pool: ExpertPool, columns: Mapping[str, Sequence[int]], input: Any
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Return the weights of every source with which the student can start, and why others cannot be used, by name.

    Args:
        network: The student's network.
        pool: The sources.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        input: A batch of preprocessed input.
    """
    found, reasons = {}, {}
    for name, expert in pool.members.items():
        try:
            found[name] = source_weights(network, expert, columns[name], input)
        except InputError as error:
            reasons[name] = str(error)
    return found, reasons


def mean_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several states of a network; integer entries, such as counters, of the first.

    Example:
        >>> mean_weights([{"a": torch.tensor([1.0])}, {"a": torch.tensor([3.0])}])
        {'a': tensor([2.])}
    """
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def first_weights(
    init: str,
    network: nn.Module,
    pool: ExpertPool,
    columns: Mapping[str, Sequence[int]],
    evidence: Evidence,
    target: Tensor,
    threshold: float,
) -> tuple[dict[str, Tensor] | None, str]:
    """Return the weights with which the student starts, ``None`` for its own, and a sentence that says why.

    With ``auto`` a student of tokens or of other inputs than real numbers starts with its own: a source's weights cost
    it accuracy on reviews (docs/methods/hat.md).

    Args:
        init: ``best_source``, ``average`` or ``auto`` of :class:`~lightning_fusion.HaTJointModule`.
        network: The student's network.
        pool: The sources.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        evidence: Outputs of the sources on N labeled samples.
        target: (N,) classes.
        threshold: Minimum accuracy of the best source on the labeled samples, for ``auto``.

    Raises:
        InputError: If no source has the student's architecture, unless ``init`` is ``auto``.
    """
    if init == "auto" and not Pairs.mixable(evidence.input):
        return None, "init: scratch, as inputs are no tensor of real numbers"
    found, reasons = compatible_weights(network, pool, columns, evidence.input)
    if not found:
        why = shorten(f"{name}: {reason}" for name, reason in reasons.items())
        if init != "auto":
            raise InputError(f"init: {init}, but no source has the student's architecture ({why})")
        return None, f"init: scratch, as no source has the student's architecture ({why})"
    if init == "average":
        return mean_weights(list(found.values())), f"init: average of {shorten(found)}"
    own = evidence.log_probabilities[torch.arange(len(target)), :, target].clamp_min(math.log(FLOOR)).mean(0)
    best = max(found, key=lambda name: float(own[pool.names.index(name)]))
    answers = evidence.log_probabilities[:, pool.names.index(best)].argmax(1)
    accuracy = float((answers == target).double().mean())
    about = f"source {best}, whose accuracy is {accuracy:.3f} on {len(target)} labeled samples"
    if init == "auto" and accuracy < threshold:
        return None, f"init: scratch, not {about}: below the threshold {threshold:.3f}"
    return found[best], f"init: {about}"
