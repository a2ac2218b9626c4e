"""Weights with which the student starts: those of a source of the same architecture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_fusion.data.batch import num_samples
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import take_rows
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.layers import like_weights, state_tensors
from lightning_fusion.experts.pool import ExpertPool
from lightning_fusion.experts.probing import PROBE_ROWS, in_eval
from lightning_fusion.hat.fitted.base import FLOOR, Evidence
from lightning_fusion.hat.heads import head_name
from lightning_fusion.hat.mixer import aligned
from lightning_fusion.hat.mixup import Pairs
from lightning_fusion.hat.sources import TINY

_TOLERANCE, _HALF_TOLERANCE = 1e-3, 5e-2  # of probabilities, in float32 and in 16-bit precision


class Mapped(NamedTuple):
    """State of a source as state of the student.

    Attributes:
        state: Entries of the student's ``state_dict``.
        rows: For entries of the head, (C,) bool, rows of the source's classes; the others are the student's own.
    """

    state: dict[str, Any]
    rows: dict[str, Tensor]


class Start(NamedTuple):
    """Weights with which the student starts.

    Attributes:
        state: Entries of its ``state_dict``; ``None`` for its own.
        what: Whose weights they are.
        why: Further words of the sentence that begins with ``what``.
    """

    state: dict[str, Any] | None
    what: str
    why: str = ""


def source_weights(network: nn.Module, expert: Expert, columns: Sequence[int], input: Any) -> dict[str, Any]:
    """Return the weights of a source as weights of the student; outputs of classes that it lacks stay the student's.

    Args:
        network: The student's network.
        expert: The source.
        columns: (C,) the source's output of each class of the target; -1 if it lacks the class.
        input: Preprocessed input, on whose first 64 samples both must agree.

    Raises:
        InputError: If the source has another architecture, or another preprocessing; the message says which.

    Example:
        >>> source = Expert(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), classes=["a", "b"], features="0")
        >>> student = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
        >>> weights = source_weights(student, source, [1, -1, 0], torch.rand(5, 4))
        >>> weights["1.bias"][[0, 2]].equal(source.network[1].bias[[1, 0]])
        True
    """
    return _mapped(network, expert, columns, input).state


@torch.no_grad()
def _mapped(network: nn.Module, expert: Expert, columns: Sequence[int], input: Any) -> Mapped:
    source = expert.network
    if type(source) is not type(network) or not isinstance(source, nn.Module):
        raise InputError(f"it is a {type(source).__name__}, the student a {type(network).__name__}")
    own, theirs = network.state_dict(), source.state_dict()
    if own.keys() != theirs.keys():
        raise InputError(f"it has other layers: {shorten(own.keys() ^ theirs.keys())}")
    input = take_rows(input, torch.arange(min(PROBE_ROWS, num_samples(input) or 0)))
    places = torch.tensor(expert.network_columns(columns))
    known = places >= 0
    head = None if places.tolist() == list(range(len(expert.classes))) else head_name(expert, input)
    found, rows = dict(own), {}
    for name, value in state_tensors(source).items():
        in_head = head is not None and name.startswith(f"{head}.") and value.shape[:1] == (len(expert.classes),)
        if in_head and value.shape[1:] == own[name].shape[1:] and own[name].shape[:1] == places.shape:
            found[name] = own[name].clone()
            found[name][known] = value[places[known].to(value.device)].to(own[name])
            rows[name] = known
        elif value.shape == own[name].shape:
            found[name] = value.to(own[name])
        else:
            raise InputError(f"{name} has shape {tuple(value.shape)}, the student's {tuple(own[name].shape)}")
    _check_equal(network, found, expert, torch.tensor(list(columns)), input)
    return Mapped(found, rows)


def _check_equal(network: nn.Module, state: Mapping[str, Any], expert: Expert, places: Tensor, input: Any) -> None:
    """Check that the student answers as the source does, with its weights and without its preprocessing."""
    own = {name: value.clone() if isinstance(value, Tensor) else value for name, value in network.state_dict().items()}
    try:
        network.load_state_dict(state)  # a functional call does not support shared weights
        with in_eval(network):
            raw: Any = network(like_weights(input, network))
    finally:
        network.load_state_dict(own)
    ours = getattr(raw, "logits", raw).float()
    ours = ours.clamp_min(TINY).log() if expert.output == "probabilities" else ours
    theirs = aligned(expert(input).clamp_min(TINY).log(), places.to(ours.device)).exp()
    known = (places >= 0).nonzero().flatten().to(ours.device)
    difference = float((ours[:, known].softmax(1) - theirs[:, known]).abs().amax())
    half = any(weight.element_size() < 4 for part in (network, expert) for weight in part.parameters())
    if not difference < (_HALF_TOLERANCE if half else _TOLERANCE):
        raise InputError(
            f"with its weights the student's probabilities differ by {difference:.2g}: it has another preprocessing, "
            "or layers that behave otherwise"
        )


def compatible_weights(
    network: nn.Module, pool: ExpertPool, columns: Mapping[str, Sequence[int]], input: Any
) -> tuple[dict[str, Mapped], dict[str, str]]:
    """Return the weights of every source with which the student can start, and why others cannot be used, by name.

    Args:
        network: The student's network.
        pool: The sources.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        input: Preprocessed input.
    """
    found, reasons = {}, {}
    for name, expert in pool.members.items():
        try:
            found[name] = _mapped(network, expert, columns[name], input)
        except InputError as error:
            reasons[name] = str(error)
    return found, reasons


def mean_weights(states: Sequence[Mapped]) -> dict[str, Any]:
    """Return the mean of several states of a network, for each class over the sources that have it.

    Other entries than real numbers, such as counters, are those of the first.

    Example:
        >>> one, other = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 9.0])
        >>> mean_weights([Mapped({"a": one}, {}), Mapped({"a": other}, {"a": torch.tensor([True, False])})])
        {'a': tensor([2., 2.])}
    """
    result: dict[str, Any] = {}
    for name, first in states[0].state.items():
        result[name] = first
        if not isinstance(first, Tensor) or not first.is_floating_point():
            continue
        stacked = torch.stack([each.state[name] for each in states])
        if not any(name in each.rows for each in states):
            result[name] = stacked.mean(0)
            continue
        everything = torch.ones(len(first), dtype=torch.bool)
        known = torch.stack([each.rows.get(name, everything) for each in states]).to(first.device)
        weight = (known / known.sum(0).clamp_min(1)).to(first).view(*known.shape, *[1] * (first.ndim - 1))
        covered = known.any(0).view(-1, *[1] * (first.ndim - 1))
        result[name] = (stacked * weight).sum(0).where(covered, first)
    return result


def first_weights(
    init: str,
    network: nn.Module,
    pool: ExpertPool,
    columns: Mapping[str, Sequence[int]],
    evidence: Evidence,
    target: Tensor,
    threshold: float,
) -> Start:
    """Return the weights with which the student starts.

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
        return Start(None, "scratch", ", as inputs are no tensor of real numbers")
    found, reasons = compatible_weights(network, pool, columns, evidence.input)
    why = shorten(f"{name}: {reason}" for name, reason in reasons.items())
    if not found:
        if init != "auto":
            raise InputError(f"init: {init}, but no source has the student's architecture ({why})")
        return Start(None, "scratch", f", as no source has the student's architecture ({why})")
    others = f"; other sources cannot be used ({why})" if reasons else ""
    if init == "average":
        return Start(mean_weights(list(found.values())), f"average of {shorten(found)}", others)
    own = evidence.log_probabilities[torch.arange(len(target)), :, target].clamp_min(math.log(FLOOR)).mean(0)
    best = max(found, key=lambda name: float(own[pool.names.index(name)]))
    answers = evidence.log_probabilities[:, pool.names.index(best)].argmax(1)
    right = int((answers == target).sum())
    about = f", whose accuracy is {right / len(target):.3f} on {len(target)} labeled samples"
    if init == "auto" and right / len(target) < threshold:
        return Start(None, "scratch", f", not source {best}{about}: below the threshold {threshold:.3f}{others}")
    return Start(found[best].state, f"source {best}", f"{about}{others}")
