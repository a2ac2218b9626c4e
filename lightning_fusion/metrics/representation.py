"""Similarity of two representations of the same samples."""

import math

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_fusion.errors import InputError

RIDGE_STRENGTHS = tuple(10.0**power for power in range(-2, 6))
"""Penalties that :func:`heldout_linear_r2` chooses from, for standardized columns."""
_CONSTANT = 1e-13
"""Ratio of variance to mean square below which a column is constant within the precision of float32."""


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment, 0 (unrelated) to 1 (equal up to rotation, scale and offset).

    With centred columns, CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F). Source: Kornblith et al., Similarity of
    Neural Network Representations Revisited, ICML 2019, section 3, "linear CKA". It is biased upwards where there are
    few samples for the number of features: compare values of equal N and D only.

    Args:
        x: (N, D_x) representation of N samples.
        y: (N, D_y) another representation of the same samples in the same order.

    Returns:
        A scalar, float64; NaN where a representation is constant.

    Raises:
        InputError: If the numbers of samples differ, there are fewer than 2, or values are not finite.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
        >>> linear_cka(x, 3 * x.flip(1) + 1)
        tensor(1., dtype=torch.float64)
        >>> linear_cka(x, torch.tensor([[1.0], [0.0], [0.0]]))
        tensor(0.4743, dtype=torch.float64)
    """
    x, y = _pair(x, y)
    raw = [part.square().sum() for part in (x, y)]
    x, y = x - x.mean(0), y - y.mean(0)
    if len(x) < max(x.shape[1], y.shape[1]):  # the same three norms from the smaller (N, N) matrices
        first, second = x @ x.T, y @ y.T
        cross = (first * second).sum()
    else:
        first, second = x.T @ x, y.T @ y
        cross = (y.T @ x).square().sum()
    return _alignment(cross, first, second, *raw)


def _alignment(cross: Tensor, first: Tensor, second: Tensor, raw_first: Tensor, raw_second: Tensor) -> Tensor:
    """CKA from ||Y^T X||_F^2 and the centered second moments of both sides; the raw ones detect constant columns."""
    varies = (first.trace() > _CONSTANT * raw_first) & (second.trace() > _CONSTANT * raw_second)
    return torch.where(varies, cross / (first.norm() * second.norm()), torch.nan)


class LinearCKA(Metric):
    """:func:`linear_cka` from batches: sums in float64, no stored samples, exact over processes.

    A sample that a distributed sampler repeats counts twice, as in any metric of sums.

    Args:
        num_features_x: D_x.
        num_features_y: D_y.

    Example:
        >>> metric = LinearCKA(2, 1)
        >>> metric.update(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0], [0.0]]))
        >>> metric.update(torch.tensor([[2.0, 2.0]]), torch.tensor([[0.0]]))
        >>> metric.compute()
        tensor(0.4743)
    """

    full_state_update = False
    rows: Tensor
    sum_x: Tensor
    sum_y: Tensor
    xx: Tensor
    yy: Tensor
    yx: Tensor

    def __init__(self, num_features_x: int, num_features_y: int) -> None:
        super().__init__()
        self.widths = num_features_x, num_features_y
        shapes = {
            "rows": (),
            "sum_x": (num_features_x,),
            "sum_y": (num_features_y,),
            "xx": (num_features_x, num_features_x),
            "yy": (num_features_y, num_features_y),
            "yx": (num_features_y, num_features_x),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Update the state with a batch.

        Args:
            x: (B, D_x) representation.
            y: (B, D_y) the other representation of the same samples.

        Raises:
            InputError: If a shape differs from that of the metric.
        """
        found, expected = (tuple(x.shape), tuple(y.shape)), tuple((len(x), width) for width in self.widths)
        if found != expected:
            raise InputError(
                f"x and y have shapes {found[0]} and {found[1]}; expected {expected[0]} and {expected[1]}: change "
                "num_features_x and num_features_y"
            )
        x, y = x.detach().to(torch.float64), y.detach().to(torch.float64)
        self.rows = self.rows + len(x)
        self.sum_x = self.sum_x + x.sum(0)
        self.sum_y = self.sum_y + y.sum(0)
        self.xx = self.xx + x.T @ x
        self.yy = self.yy + y.T @ y
        self.yx = self.yx + y.T @ x

    def compute(self) -> Tensor:
        """Return the alignment, a float32 scalar; NaN where a representation is constant.

        Raises:
            InputError: If fewer than 2 samples were seen, or values are not finite.
        """
        if self.rows < 2:
            raise InputError(f"LinearCKA found {int(self.rows)} rows; expected 2 or more")
        if not (self.xx.isfinite().all() and self.yy.isfinite().all()):
            raise InputError("LinearCKA found values that are NaN or infinite; correct the batch that contains them")
        mean_x, mean_y = self.sum_x / self.rows, self.sum_y / self.rows
        first, second = self.xx - torch.outer(self.sum_x, mean_x), self.yy - torch.outer(self.sum_y, mean_y)
        cross = (self.yx - torch.outer(self.sum_y, mean_x)).square().sum()
        return _alignment(cross, first, second, self.xx.trace(), self.yy.trace()).to(torch.float32)


def heldout_linear_r2(x: Tensor, y: Tensor, train_fraction: float = 0.5, seed: int = 0) -> float:
    """Compute the held-out R^2 of a linear map from representation x to representation y.

    Ridge regression on the standardized columns of x; the penalty is chosen from :data:`RIDGE_STRENGTHS` by
    leave-one-out error on the fitted samples (scikit-learn's ``RidgeCV``). The outputs are weighted by their variance:
    R^2 = 1 - sum of squared residuals / sum of squares around the held-out means, both over all outputs, so that
    constant columns have no weight. (Our choices.) Related samples (windows of one recording) fall on both sides of
    the split and bias R^2 upwards; subsample them first.

    Args:
        x: (N, D_x) predicting representation.
        y: (N, D_y) predicted representation.
        train_fraction: Fraction of the samples on which the map is fitted.
        seed: Seed of the split.

    Returns:
        At most 1; 0 or less where x does not predict y; NaN where y is constant on the held-out samples.

    Raises:
        InputError: If shapes do not fit, values are not finite, or a side of the split has fewer than 2 samples.

    Example:
        >>> x = torch.arange(40.0).reshape(20, 2).sin()
        >>> round(heldout_linear_r2(x, x @ torch.tensor([[1.0, 0.0, 2.0], [0.5, 0.0, -1.0]])), 3)
        1.0
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    if not 0 < train_fraction < 1:
        raise InputError(f"train_fraction is {train_fraction}; expected a number between 0 and 1")
    inputs, outputs = (part.cpu().numpy() for part in _pair(x, y))
    count = round(train_fraction * len(inputs))
    if min(count, len(inputs) - count) < 2:
        raise InputError(
            f"train_fraction {train_fraction} of {len(inputs)} rows leaves {count} to fit and {len(inputs) - count} to "
            "test; expected 2 or more on either side"
        )
    order = np.random.default_rng(seed).permutation(len(inputs))
    fitted, held = order[:count], order[count:]
    scaler = StandardScaler().fit(inputs[fitted])
    model = RidgeCV(RIDGE_STRENGTHS).fit(scaler.transform(inputs[fitted]), outputs[fitted])
    residual = outputs[held] - model.predict(scaler.transform(inputs[held])).reshape(outputs[held].shape)
    total = np.square(outputs[held] - outputs[held].mean(0)).sum()
    if total <= _CONSTANT * np.square(outputs[held]).sum():
        return math.nan
    return float(1 - np.square(residual).sum() / total)


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Convert both to finite float64 matrices with the same number of rows."""
    for name, part in (("x", x), ("y", y)):
        if part.ndim != 2:
            raise InputError(f"{name} has shape {tuple(part.shape)}; expected (rows, features): flatten it first")
    if len(x) != len(y):
        raise InputError(f"x has {len(x)} rows, y has {len(y)}; expected the same samples in the same order")
    if len(x) < 2:
        raise InputError(f"found {len(x)} rows; expected 2 or more")
    for name, part in (("x", x), ("y", y)):
        if bad := int((~part.isfinite()).any(1).sum()):
            raise InputError(f"{name}: found {bad} rows with NaN or infinite values; expected none")
    return x.detach().to(torch.float64), y.detach().to(torch.float64)
