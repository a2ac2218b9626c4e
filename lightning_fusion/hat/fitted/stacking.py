"""Stacking: a regression on the sources' outputs or representations."""

import math
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_fusion.hat.fitted.base import FLOOR, FOLDS, Evidence, FittedTeacher, folds_of

_PENALTIES = (0.3, 3.0, 30.0)


class Stacking(FittedTeacher):
    """Multinomial regression that corrects the average of the sources (stacking: Wolpert, 1992).

        log q = log p_avg + W v + b + const,     v = standardized log-probabilities or representations, / sqrt(D)

    The offset, log p_avg, is the average of the sources' probabilities (our choice): the L2 penalty of W and b draws
    the result to that average where labels are few, not to a constant. The penalty is chosen by cross-validated
    likelihood.

    Args:
        num_inputs: D, S C for log-probabilities, or the sum of the representations' widths.
        num_classes: C.
        representations: Read representations instead of log-probabilities.
    """

    weight: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, num_inputs: int, num_classes: int, representations: bool = False) -> None:
        super().__init__()
        self.of_representations = representations
        self.register_buffer("weight", torch.zeros(num_inputs + 1, num_classes))
        self.register_buffer("mean", torch.zeros(num_inputs))
        self.register_buffer("scale", torch.ones(num_inputs))

    def fit(self, evidence: Evidence, target: Tensor, seed: int) -> Self:
        """Fit W and b on labeled samples."""
        raw, offset = self._raw(evidence), self._offset(evidence)
        self.mean.copy_(raw.mean(0))
        self.scale.copy_(raw.std(0, correction=0).clamp_min(1e-3) * math.sqrt(raw.shape[1]))
        values = self._standardized(raw).double()
        penalty = _PENALTIES[-1]
        if len(target) >= 2 * FOLDS:
            fold = folds_of(target, seed)
            losses = []
            for candidate in _PENALTIES:
                loss = 0.0
                for number in range(FOLDS):
                    held = fold == number
                    weight = _regress(values[~held], offset[~held], target[~held], candidate)
                    loss += float(F.cross_entropy(offset[held] + values[held] @ weight, target[held], reduction="sum"))
                losses.append(loss)
            penalty = _PENALTIES[losses.index(min(losses))]
        self.weight.copy_(_regress(values, offset, target, penalty))
        return self

    def forward(self, evidence: Evidence) -> Tensor:
        """Return (N, C) probabilities."""
        logits = self._offset(evidence) + self._standardized(self._raw(evidence)).double() @ self.weight.double()
        return logits.softmax(1).float()

    def _raw(self, evidence: Evidence) -> Tensor:
        if self.of_representations:
            return evidence.representations.float()
        return evidence.log_probabilities.clamp_min(math.log(FLOOR)).flatten(1)

    def _offset(self, evidence: Evidence) -> Tensor:
        return evidence.log_probabilities.exp().mean(1).clamp_min(FLOOR).log().double()

    def _standardized(self, raw: Tensor) -> Tensor:
        return torch.cat([(raw - self.mean) / self.scale, raw.new_ones(len(raw), 1)], 1)


def _regress(values: Tensor, offset: Tensor, target: Tensor, penalty: float) -> Tensor:
    """Return the (D, C) weights that minimize cross entropy plus ``penalty / 2`` times their squared norm.

    They lie in the span of the N samples: Newton's method with conjugate gradients solves for at most N coordinates,
    each scaled by a bound of its curvature.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    left, singular, basis = np.linalg.svd(values.cpu().numpy(), full_matrices=False)
    scale = 1 / np.sqrt(singular**2 / 4 + penalty)
    inputs, known, truth = left * (singular * scale), offset.cpu().numpy(), target.cpu().numpy()
    rows, pull = np.arange(len(inputs)), (penalty * scale**2)[:, None]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(len(scale), -1)
        logs = log_softmax(known + inputs @ weight, axis=1)
        error = np.exp(logs)
        error[rows, truth] -= 1
        slope = inputs.T @ error + pull * weight
        return (pull * weight**2).sum() / 2 - logs[rows, truth].sum(), slope.ravel()

    def curvature(flat: np.ndarray, direction: np.ndarray) -> np.ndarray:
        weight, step = flat.reshape(len(scale), -1), direction.reshape(len(scale), -1)
        found = softmax(known + inputs @ weight, axis=1)
        change = found * (inputs @ step)
        bent: np.ndarray = inputs.T @ (change - found * change.sum(1, keepdims=True)) + pull * step
        return bent.ravel()

    start = np.zeros(len(scale) * known.shape[1])
    found = minimize(objective, start, jac=True, hessp=curvature, method="Newton-CG", options={"xtol": 1e-9})
    return torch.from_numpy(basis.T @ (scale[:, None] * found.x.reshape(len(scale), -1))).to(values.device)
