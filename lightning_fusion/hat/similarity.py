"""Similarities of statistics and of class centroids."""

import torch
from torch import Tensor


def statistics_similarity(target: Tensor, sources: Tensor, similarity: str = "cosine") -> Tensor:
    """Compute the similarity of the target's statistics to those of each source.

    Args:
        target: (S,) statistics.
        sources: (N, S) statistics, z-scored over the sources; ``target`` is scaled by the same mean and deviation.
            Constant statistics become 0.
        similarity: ``cosine``, ``euclid`` or ``jaccard``, see :func:`~lightning_fusion.select_sources`.

    Returns:
        (N,) float64. Undefined values are 0 for ``cosine`` (a zero vector) and 1 for ``jaccard`` (two empty sets).

    Example:
        >>> statistics_similarity(torch.tensor([3.0, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor([ 0.9487, -0.9487], dtype=torch.float64)
    """
    target, sources = target.double(), sources.double()
    mean, deviation = sources.mean(0), sources.std(0, correction=0)
    constant = deviation <= 1e-12 * mean.abs()
    scale = deviation.where(~constant, torch.inf)
    ours, theirs = (target - mean) / scale, (sources - mean) / scale
    if similarity == "euclid":
        return 1 / (1 + (theirs - ours).square().sum(1).sqrt())
    if similarity == "jaccard":
        one, others = ours > 0, theirs > 0
        union = (one | others).sum(1)
        return ((one & others).sum(1).double() / union).where(union > 0, 1.0)
    return cosine(theirs, ours)


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Compute the cosine of vectors (..., D) along the last dimension; 0 if one is zero.

    Example:
        >>> cosine(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([1.0, 0.0]))
        tensor([1., 0.])
    """
    lengths = one.norm(dim=-1) * other.norm(dim=-1)
    similarity: Tensor = ((one * other).sum(-1) / lengths).where(lengths > 0, 0.0)
    return similarity
