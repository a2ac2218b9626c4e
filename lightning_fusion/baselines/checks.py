"""Validation of the arrays passed to baselines."""

import numpy as np

from lightning_fusion.baselines.cost_points import Costs
from lightning_fusion.errors import InputError, shorten


def as_costs(costs: Costs) -> np.ndarray:
    """Convert costs of the experts to (K,) float64.

    Raises:
        InputError: If they are not (K,) finite numbers >= 0.
    """
    values = np.asarray(costs, np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"costs: found shape {values.shape}; expected (K,), one per expert")
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        raise InputError(f"costs: found {shorten(values[bad])}; expected finite numbers >= 0")
    return values


def as_targets(targets: np.ndarray, where: str = "targets") -> np.ndarray:
    """Convert classes to (N,) int64.

    Args:
        targets: (N,) integers >= 0, at least one.
        where: Name of the argument, for messages.

    Raises:
        InputError: If they are anything else.
    """
    values = np.asarray(targets)
    if values.ndim != 1 or not len(values):
        raise InputError(f"{where}: found shape {values.shape}; expected (N,) classes of at least one sample")
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"{where}: found {values.dtype}; expected integer classes")
    if values.min() < 0:
        raise InputError(f"{where}: found class {values.min()}; expected 0 or more")
    return values.astype(np.int64)


def as_outputs(outputs: np.ndarray, where: str = "outputs") -> np.ndarray:
    """Convert outputs to an (N, K, C) array.

    Args:
        outputs: (N, K, C) finite probabilities, no dimension of size 0.
        where: Name of the argument, for messages.

    Raises:
        InputError: If the shape is another, or a value is not finite.
    """
    values = np.asarray(outputs)
    if values.ndim != 3 or not values.size:
        raise InputError(f"{where}: found shape {values.shape}; expected (N, K, C), none of them 0")
    bad = ~np.isfinite(values).all((1, 2))
    if bad.any():
        raise InputError(f"{where}: found NaN or infinite values in row(s) {shorten(np.flatnonzero(bad))}")
    return values


def check_sizes(outputs: np.ndarray, targets: np.ndarray, costs: np.ndarray) -> None:
    """Check that outputs, targets and costs agree in the number of samples, experts and classes.

    Args:
        outputs: (N, K, C).
        targets: (N,), each below C.
        costs: (K,) costs.

    Raises:
        InputError: If they are not.
    """
    rows, experts, classes = outputs.shape
    if len(targets) != rows:
        raise InputError(f"targets: found {len(targets)} for {rows} rows of outputs")
    if targets.max() >= classes:
        raise InputError(f"targets: found class {targets.max()}; the outputs have the classes 0 to {classes - 1}")
    if len(costs) != experts:
        raise InputError(f"costs: found {len(costs)} for {experts} experts")


def as_problem(
    outputs: np.ndarray, validation_outputs: np.ndarray, validation_targets: np.ndarray, costs: Costs
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Validate the arguments of a rule with costs.

    Args:
        outputs: (N, K, C) probabilities of the samples to predict.
        validation_outputs: (V, K, C) probabilities of the calibration set.
        validation_targets: (V,) classes of the calibration set.
        costs: (K,) cost of a query to each expert.

    Returns:
        The same as arrays.

    Raises:
        InputError: If shapes, labels or costs are inconsistent, or values are not finite.
    """
    given, known = as_outputs(outputs), as_outputs(validation_outputs, "validation_outputs")
    if given.shape[1:] != known.shape[1:]:
        raise InputError(
            f"outputs: found (K, C) = {given.shape[1:]}, validation_outputs: {known.shape[1:]}; expected the same"
        )
    targets, prices = as_targets(validation_targets, "validation_targets"), as_costs(costs)
    check_sizes(known, targets, prices)
    return given, known, targets, prices
