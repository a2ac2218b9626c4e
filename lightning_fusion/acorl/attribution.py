"""Integrated gradients, and the similarity of the attribution maps of two models."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.data.batch import Batch, as_batch
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import require

Pair = tuple[nn.Module, nn.Module]
"""Two networks that map (B, ...) inputs to (B, C) logits."""


class Overlap(NamedTuple):
    """Similarity of two maps of each sample.

    Attributes:
        spearman: (B,) rank correlation of all positions; NaN where a map is constant.
        top: (B,) fraction of the strongest positions that both maps have.
    """

    spearman: Tensor
    top: Tensor


class Difference(NamedTuple):
    """A mean over samples with its 95 % bootstrap interval, and the number of samples."""

    mean: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class PairComparison:
    """Result of :func:`compare_pairs`; less overlap means that the attributions of the members differ more.

    Attributes:
        pair: Overlap of the members of the pair, per sample.
        plain_pair: Overlap of the members of the plain pair, per sample.
        spearman: The pair's rank correlation minus the plain pair's.
        top: The pair's fraction of common strongest positions minus the plain pair's.
    """

    pair: Overlap
    plain_pair: Overlap
    spearman: Difference
    top: Difference


def integrated_gradients(
    network: nn.Module,
    input: Tensor,
    target: Tensor,
    steps: int = 32,
    baseline: Tensor | float | None = None,
    internal_batch_size: int = 256,
) -> Tensor:
    """Compute integrated gradients of a class logit, from a baseline to the input.

    The attributions of a sample sum to the difference of its logit between input and baseline ("completeness"), up to
    the error of the sum over ``steps`` points (Gauss-Legendre, through captum). Source: Sundararajan, Taly and Yan,
    Axiomatic Attribution for Deep Networks, ICML 2017, eq. 1. Weights may be frozen. Of an
    :class:`~lightning_fusion.Expert` the probability of the class is explained, and its logit with ``expert.network``.

    Args:
        network: Maps (B, ...) to (B, C) logits, in eval mode.
        input: (B, ...) floating-point input.
        target: (B,) int64 class whose logit is explained.
        steps: Number of points of the sum.
        baseline: Reference input: a number, or a tensor that broadcasts to the input. ``None`` (default) means zeros,
            the mean of standardized input (our choice).
        internal_batch_size: Number of samples per forward pass.

    Returns:
        (B, ...) signed attributions, of the input's shape.

    Raises:
        InputError: If the input is not a floating-point tensor, the network is in training mode or does not return (B,
            C), or an argument is out of range.

    Example:
        >>> network = nn.Linear(2, 2, bias=False).eval()
        >>> _ = network.weight.data.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        >>> integrated_gradients(network, torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
        tensor([[3., 2.]])
    """
    if steps < 1 or internal_batch_size < 1:
        raise InputError(f"steps is {steps}, internal_batch_size {internal_batch_size}; expected 1 or more")
    if not isinstance(input, Tensor):
        found = f"a dict with {shorten(sorted(input))}" if isinstance(input, Mapping) else f"a {type(input).__name__}"
        raise InputError(
            f"input is {found}; expected a tensor of (batch, ...) floats, since tokens cannot be interpolated: for a "
            "text, attribute its embeddings (B, L, D), through a network that maps those to logits"
        )
    if not input.is_floating_point() or input.ndim < 2:
        raise InputError(f"input has shape {tuple(input.shape)} and type {input.dtype}; expected (batch, ...) floats")
    if tuple(target.shape) != (len(input),) or target.is_floating_point():
        raise InputError(f"target has shape {tuple(target.shape)}; expected ({len(input)},) class numbers")
    if busy := [name or "the network" for name, module in network.named_modules() if module.training]:
        raise InputError(f"{shorten(busy)} in training mode: batch norm would mix the samples; call network.eval()")
    if not len(input):
        return torch.zeros_like(input)
    # Lightning's test loop runs in inference mode, whose tensors have no gradients: leave it and copy
    with torch.inference_mode(False), torch.enable_grad():
        input, target = input.detach().clone(), target.detach().clone()
        start = torch.zeros(()) if baseline is None else torch.as_tensor(baseline).detach().clone()
        try:
            start = start.to(input).expand_as(input)
        except RuntimeError as error:
            raise InputError(
                f"baseline has shape {tuple(start.shape)}; expected a number or what broadcasts to {tuple(input.shape)}"
            ) from error
        _check_logits(network, input[:1].clone(), target)
        copied = lambda given: network(given.clone())  # noqa: E731  # its first layer may work in place
        method = require("captum.attr", "explain").IntegratedGradients(copied)
        parts = [
            method.attribute(some, begin, label, n_steps=steps, internal_batch_size=max(internal_batch_size, len(some)))
            for some, begin, label in zip(
                *(whole.split(internal_batch_size) for whole in (input, start, target)), strict=True
            )
        ]
    return torch.cat(parts).detach().to(input.dtype)


def attribute(
    network: nn.Module,
    input: Tensor,
    target: Tensor,
    steps: int = 32,
    baseline: Tensor | float | None = None,
    internal_batch_size: int = 256,
) -> Tensor:
    """Compute an attribution map: absolute :func:`integrated_gradients`, summed over the channels of images.

    Args:
        network: Maps (B, ...) to (B, C) logits, in eval mode; for an expert, ``expert.network``.
        input: (B, channels, H, W) images, or (B, ...) of fewer dimensions: (B, mel, T) spectrograms, (B, D) values.
        target: (B,) int64 class whose logit is explained.
        steps: Points of the sum.
        baseline: Reference input: a number, or a tensor that broadcasts to the input. ``None`` (default) means zeros.
        internal_batch_size: Number of samples per forward pass.

    Returns:
        (B, H, W) for images, else the input's shape; values >= 0.

    Raises:
        InputError: As :func:`integrated_gradients`.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
        >>> attribute(network, torch.ones(5, 3, 2, 2), torch.zeros(5, dtype=torch.int64)).shape
        torch.Size([5, 2, 2])
    """
    values = integrated_gradients(network, input, target, steps, baseline, internal_batch_size).abs()
    return values.sum(1) if values.ndim == 4 else values


def attribution_overlap(a: Tensor, b: Tensor, top_fraction: float = 0.1) -> Overlap:
    """Compare two maps of each sample by their ranks and by their strongest positions.

    Values that tie at the boundary of the strongest positions count by their probability to be among them (our choice;
    a fixed order of positions would make sparse maps look alike).

    Args:
        a: (B, ...) maps.
        b: (B, ...) other maps of the same samples.
        top_fraction: Fraction of the positions that count as strongest, rounded up to whole positions.

    Returns:
        Rank correlation and common fraction of the strongest, float64; the fraction is ``top_fraction`` for unrelated
        maps.

    Raises:
        InputError: If shapes differ, values are not finite, or ``top_fraction`` is out of range.

    Example:
        >>> a = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
        >>> attribution_overlap(a, torch.tensor([[4.0, 2.0, 3.0, 1.0]]), top_fraction=0.5)
        Overlap(spearman=tensor([0.8000], dtype=torch.float64), top=tensor([0.5000], dtype=torch.float64))
    """
    from scipy.stats import rankdata

    if a.shape != b.shape or a.ndim < 2 or not a[:1].numel():
        raise InputError(f"maps have shapes {tuple(a.shape)} and {tuple(b.shape)}; expected two of (batch, ...)")
    if not 0 < top_fraction <= 1:
        raise InputError(f"top_fraction is {top_fraction}; expected a number above 0 and up to 1")
    maps = [part.detach().flatten(1).cpu().to(torch.float64) for part in (a, b)]
    for name, part in zip("ab", maps, strict=True):
        if not part.isfinite().all():
            raise InputError(f"{name}: found maps with NaN or infinite values; expected none")
    count = math.ceil(top_fraction * maps[0].shape[1] - 1e-9)
    first, second = (torch.from_numpy(rankdata(part.numpy(), axis=1)) for part in maps)
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    spearman = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
    chances = [_among_strongest(part, count) for part in maps]
    return Overlap(spearman, (chances[0] * chances[1]).sum(1) / count)


def compare_pairs(
    pair: Pair,
    plain_pair: Pair,
    batches: Batch | Iterable[Any],
    steps: int = 32,
    baseline: Tensor | float | None = None,
    top_fraction: float = 0.1,
    internal_batch_size: int = 256,
    repeats: int = 2000,
    seed: int = 0,
) -> PairComparison:
    """Compare the map similarity of the members of a pair with that of a plain pair, sample by sample.

    The logit of the true class is attributed. The interval is over samples, for one training of each network; a
    conclusion needs several training seeds.

    Args:
        pair: Two networks in eval mode, for example of a chain trained by ACoRL.
        plain_pair: Two networks of the control arm.
        batches: One :class:`~lightning_fusion.Batch`, or a loader of them.
        steps: Points of the sum of integrated gradients.
        baseline: Reference input: a number, or a tensor that broadcasts to the input. ``None`` (default) means zeros.
        top_fraction: Fraction of the positions that count as strongest.
        internal_batch_size: Number of samples per forward pass.
        repeats: Number of bootstrap draws of the samples.
        seed: Random seed of the draws.

    Raises:
        InputError: If there is no sample, or as :func:`integrated_gradients` and :func:`attribution_overlap`.

    Example:
        >>> members = [nn.Linear(4, 3).eval() for _ in range(3)]
        >>> batch = Batch(torch.randn(6, 4), torch.arange(6) % 3, torch.ones(6, 1, dtype=torch.bool), torch.arange(6))
        >>> found = compare_pairs((members[0], members[1]), (members[0], members[0]), batch, top_fraction=0.25)
        >>> found.plain_pair.top.tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        >>> found.top.samples
        6
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}; expected 1 or more")
    networks = list({id(network): network for network in (*pair, *plain_pair)}.values())  # a shared member runs once
    found: dict[str, list[Overlap]] = {"pair": [], "plain": []}
    for item in [batches] if isinstance(batches, Batch) else batches:
        batch = as_batch(item, "the loader")
        maps = {
            id(network): attribute(network, batch.input, batch.target, steps, baseline, internal_batch_size)
            for network in networks
        }
        for name, members in (("pair", pair), ("plain", plain_pair)):
            one, other = (maps[id(member)] for member in members)
            found[name].append(attribution_overlap(one, other, top_fraction))
    if not found["pair"]:
        raise InputError("batches: found no sample; expected one batch or more")
    ours, plain = (Overlap(*(torch.cat(parts) for parts in zip(*found[name], strict=True))) for name in found)
    return PairComparison(
        ours,
        plain,
        spearman=paired_difference(ours.spearman, plain.spearman, repeats, seed),
        top=paired_difference(ours.top, plain.top, repeats, seed),
    )


def paired_difference(values: Tensor, plain: Tensor, repeats: int = 2000, seed: int = 0) -> Difference:
    """Mean of the differences of paired samples, with a 95 % percentile bootstrap interval over the samples.

    Args:
        values: (N,) measure of each sample.
        plain: (N,) the same measure of the control.
        repeats: Number of draws of N samples with replacement.
        seed: Random seed of the draws.

    Returns:
        The mean, its interval and the number of samples whose difference is defined. Without any, mean and interval are
        NaN.

    Example:
        >>> paired_difference(torch.tensor([0.25, 0.75]), torch.tensor([0.0, 0.5]))
        Difference(mean=0.25, low=0.25, high=0.25, samples=2)
    """
    from scipy.stats import bootstrap

    difference = (values - plain).detach().cpu().to(torch.float64).numpy()
    difference = difference[~np.isnan(difference)]
    mean = float(difference.mean()) if len(difference) else math.nan
    if len(difference) < 2:
        return Difference(mean, math.nan, math.nan, len(difference))
    interval = bootstrap(
        (difference,),
        np.mean,
        n_resamples=repeats,
        batch=max(1, 4_000_000 // len(difference)),
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(mean, float(interval.low), float(interval.high), len(difference))


def _check_logits(network: nn.Module, row: Tensor, target: Tensor) -> None:
    logits = network(row.requires_grad_().clone())
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the network returns {found} for one row; expected (1, classes) logits")
    if not logits.requires_grad:
        raise InputError(
            f"{type(network).__name__} passes no gradient to its input; give a network that does not detach it"
        )
    if not (target.min() >= 0 and target.max() < logits.shape[1]):
        raise InputError(
            f"target: found classes {int(target.min())} to {int(target.max())}; the network has {logits.shape[1]}"
        )


def _among_strongest(maps: Tensor, count: int) -> Tensor:
    """(B, P) probability of each position to be among the ``count`` strongest, with ties broken at random."""
    edge = maps.topk(count, dim=1).values[:, -1:]
    above, at = (maps > edge).to(maps.dtype), (maps == edge).to(maps.dtype)
    return above + at * (count - above.sum(1, keepdim=True)) / at.sum(1, keepdim=True)
