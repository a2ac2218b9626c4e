"""Fusion of frozen members by their probabilities, representations, or trial scores.

The paper names late fusion, output fusion, score fusion and the concatenation of embeddings; the definitions are ours.
"""

import warnings
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_fusion.data.base import SPLITS
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.store import ExpertOutputs


def average_outputs(outputs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Output fusion: the mean of the members' probabilities, weighted where weights are given.

    Args:
        outputs: (B, K, C) probabilities; NaN where an answer is missing, which does not count.
        weights: (K,) at least 0, with sum 1.

    Example:
        >>> average_outputs(torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]), torch.tensor([0.2, 0.8]))
        tensor([[0.6000, 0.4000]])
    """
    missing = outputs.isnan().any(2)
    present = outputs.masked_fill(missing[:, :, None], 0)
    if weights is None:
        return present.sum(1) / (~missing).sum(1, keepdim=True)
    total = weights.to(outputs).expand_as(missing).masked_fill(missing, 0).sum(1, keepdim=True)
    fused = torch.einsum("bkc,k->bc", present, weights.to(outputs))
    return torch.where(missing.any(1, keepdim=True), fused / total, fused)


def fit_output_weights(outputs: Tensor, target: Tensor) -> Tensor:
    """Fit the weights of the members that maximize the likelihood of held-out samples.

    The mean log-likelihood is concave in the weights; expectation maximization starts from equal weights. If members
    are poorly calibrated, equal weights may have a higher accuracy.

    Args:
        outputs: (N, K, C) probabilities on samples that no member was trained on.
        target: (N,) classes.

    Returns:
        (K,) float64 weights, at least 0, with sum 1.

    Raises:
        InputError: If there is no sample, or an answer is missing.

    Example:
        >>> outputs = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.5, 0.5]]])
        >>> fit_output_weights(outputs, torch.tensor([0, 1])).round(decimals=3)
        tensor([1., 0.], dtype=torch.float64)
    """
    if not len(outputs):
        raise InputError("fit_output_weights: found no sample; give validation samples")
    if count := int(outputs.isnan().any(2).sum()):
        raise InputError(f"fit_output_weights cannot take missing answers; found {count}: leave these samples out")
    right = outputs.to(torch.float64)[torch.arange(len(outputs)), :, target].clamp_min(1e-12)  # (N, K)
    weights = torch.full((outputs.shape[1],), 1 / outputs.shape[1], dtype=torch.float64, device=outputs.device)
    for _ in range(1000):
        shares = right * weights
        new = (shares / shares.sum(1, keepdim=True)).mean(0)
        done = float((new - weights).abs().max()) < 1e-9
        weights = new
        if done:
            break
    return weights


class LinearHead(nn.Module):
    """The head of late fusion: a linear layer on standardized representations.

    Args:
        num_classes: C, number of classes.
        mean: (D,) mean of the representations on the training split.
        std: (D,) standard deviation of the representations on the training split; features that do not vary are
            dropped.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, num_classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", torch.where(std > 1e-8, 1 / std.clamp_min(1e-8), 0.0))
        self.linear = nn.Linear(len(mean), num_classes)

    def forward(self, representations: Tensor) -> Tensor:
        """Map (B, D) representations to (B, C) logits."""
        logits: Tensor = self.linear((representations - self.mean) * self.scale)
        return logits


def late_fusion(
    outputs: ExpertOutputs, members: Sequence[str], batch_size: int = 128, seed: int = 0
) -> tuple[LinearHead, TensorDataModule]:
    """Late fusion: an untrained head on the members' concatenated representations, and the data to train it on.

    Train the head with :class:`~lightning_fusion.ExpertModule`.

    Args:
        outputs: A store with representations.
        members: Names of the members whose representations are concatenated.
        batch_size: Batch size of the training.
        seed: Random seed of the order of samples.

    Raises:
        InputError: If the store has no representations of a member.
    """
    tensors = {}
    for split in [split for split in SPLITS if split in outputs.splits]:
        part = outputs[split]
        missing = [name for name in members if name not in part.representations]
        if missing:
            raise InputError(
                f"the store has no representations of {shorten(missing)}; collect with keep_representations=True"
            )
        representations = np.concatenate([part.representations[name] for name in members], axis=1)
        tensors[split] = (torch.from_numpy(representations), [outputs.classes[number] for number in part.target])
    known = tensors["train"][0]
    head = LinearHead(len(outputs.classes), known.mean(0), known.std(0))
    return head, TensorDataModule(tensors, outputs.classes, batch_size=batch_size, seed=seed)


# ---------------------------------------------------------------- verification


def concatenate_embeddings(embeddings: Sequence[Tensor]) -> Tensor:
    """Concatenate the members' unit-norm embeddings: their cosine is the mean of the members' cosines.

    Args:
        embeddings: Embeddings (B, D_k) of each member.

    Example:
        >>> concatenate_embeddings([torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]])])
        tensor([[0.6000, 0.8000, 1.0000]])
    """
    return torch.cat([F.normalize(values.float(), dim=1) for values in embeddings], dim=1)


def average_scores(scores: Sequence[Tensor]) -> Tensor:
    """Score fusion: the mean of the members' cosine scores, (T,) each."""
    return torch.stack(list(scores)).mean(0)


class CalibratedFusion:
    """Logistic regression on the members' scores: fused log-odds that a trial is of one speaker (scikit-learn).

    Both kinds of trials have equal weight, so the prior of the fitted trials has no effect. Source: Brümmer et al.,
    Fusion of Heterogeneous Speaker Recognition Systems, 2007.

    Example:
        >>> scores = torch.tensor([[0.9, 0.7, 0.1, 0.2], [0.8, 0.6, 0.3, 0.1]])
        >>> fusion = CalibratedFusion().fit(scores, torch.tensor([True, True, False, False]))
        >>> (fusion(scores) > 0).tolist()
        [True, True, False, False]
    """

    def __init__(self) -> None:
        from sklearn.linear_model import LogisticRegression

        self.model = LogisticRegression(C=1e4, class_weight="balanced", max_iter=1000)

    def fit(self, scores: Tensor, same: Tensor) -> Self:
        """Fit the regression on labeled trials.

        Args:
            scores: (K, T) scores of each member.
            same: (T,) bool, True for trials of one speaker.

        Raises:
            InputError: If all trials are of one kind, or a score is not finite.
        """
        if not scores.isfinite().all():
            raise InputError("CalibratedFusion: found scores that are NaN or infinite")
        if bool(same.all()) or not bool(same.any()):
            raise InputError("CalibratedFusion: found trials of one kind only; give same and different speakers")
        self.model.fit(scores.T.cpu().numpy(), same.cpu().numpy())
        turned = np.flatnonzero(self.model.coef_[0] < 0).tolist()
        if turned:
            warnings.warn(
                f"CalibratedFusion: higher scores of member(s) {shorten(turned)} mean different speakers on the "
                f"{int(same.sum())} trials of one speaker that it was fitted on; give more trials, or remove them",
                stacklevel=2,
            )
        return self

    @property
    def parameters(self) -> list[float]:
        """The weight of each member's score, and the intercept."""
        return [*self.model.coef_[0].tolist(), float(self.model.intercept_[0])]

    def __call__(self, scores: Tensor) -> Tensor:
        """(T,) float64 log-odds of (K, T) scores."""
        return torch.from_numpy(self.model.decision_function(scores.T.cpu().numpy()))


def right_answers(
    outputs: ExpertOutputs, split: str, names: Sequence[str], weights: np.ndarray | None = None
) -> np.ndarray:
    """Return whether the mean probabilities of members are right.

    Args:
        outputs: Outputs of members.
        split: Name of a split.
        names: Names of K of them.
        weights: (K,) weights of the mean; equal ones by default.

    Returns:
        (N,) bool.
    """
    places = [outputs.names.index(name) for name in names]
    mean = np.average(outputs.scattered(split)[:, places], axis=1, weights=weights)
    right: np.ndarray = mean.argmax(1) == np.asarray(outputs[split].target)
    return right
