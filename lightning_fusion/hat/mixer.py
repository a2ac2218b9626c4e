"""Mixer: sample-wise weights of the sources, and their mixed predictions."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.names import NamedModules
from lightning_fusion.hyperparameters import check_choices

_ABSENT = -1e30  # log-probability of a class that a source lacks: finite, as -inf has NaN gradients


def shared_columns(
    source_classes: Mapping[str, Sequence[str]], classes: Sequence[str]
) -> tuple[dict[str, list[int]], list[str]]:
    """Return the index of each target class among each source's outputs.

    Args:
        source_classes: Classes of each source, in the order of its outputs.
        classes: Classes of the target.

    Returns:
        For each source and each of the C target classes the source's column, -1 if it lacks the class; and the target's
        classes that no source has.

    Raises:
        InputError: If a source shares no class with the target; the message names it.

    Example:
        >>> shared_columns({"a": ["dog", "cow"], "b": ["cat"]}, ["cat", "dog", "owl"])
        ({'a': [-1, 0, -1], 'b': [0, -1, -1]}, ['owl'])
    """
    columns = {}
    for source, known in source_classes.items():
        place = {name: position for position, name in enumerate(known)}
        columns[source] = [place.get(name, -1) for name in classes]
        if max(columns[source]) < 0:
            raise InputError(
                f"experts: {source} has the classes {shorten(known)}, none of the target's ({shorten(classes)}): it "
                "is not eligible as a source; leave it out"
            )
    uncovered = [name for number, name in enumerate(classes) if all(own[number] < 0 for own in columns.values())]
    return columns, uncovered


def known_targets(target: Tensor, covered: Tensor) -> Tensor:
    """Return the (N,) targets, -100 for unlabeled samples and for classes that no source has.

    Args:
        target: (N,) classes, -100 for unlabeled samples.
        covered: (C,) bool, classes that a source has.

    Example:
        >>> known_targets(torch.tensor([0, 1, -100]), torch.tensor([False, True]))
        tensor([-100,    1, -100])
    """
    return target.where((target >= 0) & covered[target.clamp_min(0)], -100)


def aligned(scores: Tensor, places: Tensor) -> Tensor:
    """Return (B, C) log-probabilities over the target's classes; about -1e30 for classes that the source lacks.

    Args:
        scores: (B, C_i) logits or log-probabilities of a source.
        places: (C,) the source's output of each class of the target; -1 if it lacks the class.

    Example:
        >>> aligned(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([2, 0, -1])).exp()
        tensor([[0.1250, 0.8750, 0.0000]])
    """
    return scores.float()[:, places.clamp_min(0)].masked_fill(places < 0, _ABSENT).log_softmax(1)


class Mixer(nn.Module):
    """Sample-wise fusion of sources of any width (HaT, Dai et al., arXiv 2412.04060; shapes are our choice).

        Q = W_q z_t      K_i = W_k A_i z_i      w_i(x) = softmax_i(Q . K_i / (temperature sqrt(dim)))
        p_i = softmax of h_i(z_i) over the classes shared with the target, 0 elsewhere
        p_mix(x) = sum over i of w_i(x) p_i(x)

    Args:
        num_target_dims: Size of z_t.
        source_dims: Size of z_i by source.
        heads: h_i by source, which are trained with the mixer. ``None`` if :meth:`forward` takes the sources' scores.
        columns: For each source and each target class, the source's output of that class; -1 if it lacks the class.
        num_classes: C, number of classes of the target.
        dim: Size of Q and K_i.
        temperature: Temperature of the softmax over sources.
        mixing: ``attention`` as above, or ``static``, one learned weight for each source.

    Raises:
        InputError: If sizes do not fit one another.

    Example:
        >>> heads = {"a": nn.Linear(4, 2), "b": nn.Linear(3, 1)}
        >>> mixer = Mixer(6, {"a": 4, "b": 3}, heads, {"a": [0, 1], "b": [-1, 0]}, num_classes=2)
        >>> log_weights, log_mix = mixer(torch.rand(5, 6), {"a": torch.rand(5, 4), "b": torch.rand(5, 3)})
        >>> log_weights.exp().sum(1).allclose(torch.ones(5)), log_mix.exp().sum(1).allclose(torch.ones(5))
        (True, True)
    """

    places: Tensor
    covered: Tensor

    def __init__(
        self,
        num_target_dims: int,
        source_dims: Mapping[str, int],
        heads: Mapping[str, nn.Module] | None,
        columns: Mapping[str, Sequence[int]],
        num_classes: int,
        dim: int = 32,
        temperature: float = 1.0,
        mixing: Literal["attention", "static"] = "attention",
    ) -> None:
        super().__init__()
        check_choices(Mixer.__init__, locals())
        if not temperature > 0 or dim < 1:
            raise InputError(f"temperature is {temperature}, dim {dim}; expected numbers above 0")
        if not source_dims:
            raise InputError("experts: the mixer has no source")
        self.names, self.mixing = list(source_dims), mixing
        self.scale = 1 / (temperature * math.sqrt(dim))
        if mixing == "attention":
            self.query = nn.Linear(num_target_dims, dim)
            self.key = nn.Linear(dim, dim, bias=False)
            self.maps = NamedModules({name: nn.Linear(width, dim) for name, width in source_dims.items()})
        else:
            self.static = nn.Parameter(torch.zeros(len(self.names)))
        self.heads = None if heads is None else NamedModules({name: heads[name] for name in self.names})
        own = torch.tensor([list(columns[name]) for name in self.names])
        if own.shape != (len(self.names), num_classes):
            raise InputError(f"columns have shape {tuple(own.shape)}; expected ({len(self.names)}, {num_classes})")
        self.register_buffer("places", own, persistent=False)
        self.register_buffer("covered", (own >= 0).any(0), persistent=False)

    def forward(
        self, z_t: Tensor, representations: Mapping[str, Tensor], scores: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return log-weights (B, S) and the logarithm of p_mix (B, C), both float32 in any precision.

        Args:
            z_t: (B, D_t) representation of the student; detach it, otherwise the mixer's loss also trains the student.
            representations: (B, D_i) representations by source.
            scores: (B, C_i) logits or log-probabilities by source, if there are no heads.
        """
        dtype = next(self.parameters()).dtype  # true half precision: the inputs were computed in float32
        z_t, representations = z_t.to(dtype), {name: value.to(dtype) for name, value in representations.items()}
        if self.heads is not None:
            scores = {name: head(representations[name]) for name, head in self.heads.items()}
        assert scores is not None
        answers = torch.stack([aligned(scores[name], own) for name, own in zip(self.names, self.places)], 1)  # noqa: B905
        log_weights = self._log_weights(z_t, representations)
        log_mix = (log_weights[:, :, None] + answers).logsumexp(1)
        return log_weights, log_mix.masked_fill(~self.covered, -math.inf)

    def _log_weights(self, z_t: Tensor, representations: Mapping[str, Tensor]) -> Tensor:
        if self.mixing == "static":
            return self.static.float().log_softmax(0).expand(len(z_t), -1)
        keys = self.key(torch.stack([self.maps[name](representations[name]) for name in self.names], 1))
        similarity = (self.query(z_t).float()[:, None] * keys.float()).sum(2)
        log_weights: Tensor = (self.scale * similarity).log_softmax(1)
        return log_weights

    def known(self, target: Tensor) -> Tensor:
        """Return the (B,) targets, -100 for unlabeled samples and for classes that no source has."""
        return known_targets(target, self.covered)

    def loss(self, log_mix: Tensor, target: Tensor) -> Tensor:
        """Sum -log p_mix[y] over the labeled samples whose class a source has; part of the graph also without any.

        Args:
            log_mix: (B, C) from :meth:`forward`.
            target: (B,) classes, -100 for unlabeled samples.
        """
        return F.nll_loss(log_mix, self.known(target), ignore_index=-100, reduction="sum")


def injection_loss(log_student: Tensor, knowledge: Tensor, rows: Tensor) -> Tensor:
    """Sum KL(knowledge || student) over selected samples, the injection loss of the student.

    Args:
        log_student: (B, C) log-probabilities of the student.
        knowledge: (B, C) probabilities; a row of zeros adds 0.
        rows: (B,) bool, the selected samples.

    Example:
        >>> uniform = torch.full((1, 2), 0.5)
        >>> round(float(injection_loss(uniform.log(), torch.tensor([[1.0, 0.0]]), torch.tensor([True]))), 3)
        0.693
    """
    return F.kl_div(log_student, knowledge * rows[:, None], reduction="sum")


def global_means(sums: Sequence[Tensor], counts: Sequence[Tensor]) -> Tensor:
    """Return the means over the samples of all processes, times the number of processes, since DDP averages gradients.

    Args:
        sums: K sums over the samples of this process.
        counts: Number of samples of each sum; 0 gives a mean of 0.

    Returns:
        (K,) means, with the gradient of the sums.

    Example:
        >>> global_means([torch.tensor(6.0), torch.tensor(0.0)], [torch.tensor(3), torch.tensor(0)])
        tensor([2., 0.])
    """
    total, rows = torch.stack(list(sums)), torch.stack(list(counts)).to(torch.float32)
    world = 1
    if dist.is_available() and dist.is_initialized():
        world = dist.get_world_size()
        dist.all_reduce(rows)
    return world * total / rows.clamp_min(1)
