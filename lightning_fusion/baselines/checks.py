"""Validation of the arrays passed to baselines."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lightning_fusion.baselines.base import Baseline
from lightning_fusion.baselines.cost_points import Costs
from lightning_fusion.costs import read_costs
from lightning_fusion.data.arrays import as_numbers
from lightning_fusion.data.targets import as_targets
from lightning_fusion.errors import InputError, shorten


def as_costs(costs: Costs) -> np.ndarray:
    """Convert costs of the experts to (K,) float64.

    Raises:
        InputError: If they are not (K,) finite numbers >= 0.
    """
    found = read_costs(costs)
    if isinstance(found, dict):
        raise InputError(f"costs: found names ({shorten(found)}); expected (K,) numbers in the order of the experts")
    if not found:
        raise InputError("costs: found none; expected (K,), one per expert")
    return np.array(found, np.float64)


def as_outputs(outputs: np.ndarray, where: str = "outputs", missing: bool = False) -> np.ndarray:
    """Convert outputs to an (N, K, C) array.

    Args:
        outputs: (N, K, C) finite probabilities, no dimension of size 0; a missing answer is NaN in all classes.
        where: Name of the argument, for messages.
        missing: Whether answers may be missing; at least one of each sample must be there.

    Raises:
        InputError: If the shape is another, a value is not finite, or an answer is missing that must not be.
    """
    values = _as_array(outputs, where)
    if values.ndim != 3 or not values.size:
        raise InputError(f"{where}: found shape {values.shape}; expected (N, K, C), none of them 0")
    bad = ~np.isfinite(values).all(2)
    if missing and bad.any():
        absent = np.isnan(values).all(2)
        if absent.all(1).any():
            raise InputError(
                f"{where}: no expert answered for row(s) {shorten(np.flatnonzero(absent.all(1)))}; leave them out"
            )
        bad &= ~absent
    if bad.any():
        raise InputError(f"{where}: found NaN or infinite values in row(s) {shorten(np.flatnonzero(bad.any(1)))}")
    return values


def _as_array(outputs: Any, where: str) -> np.ndarray:
    """Convert outputs to an array of numbers; tables have names that an array would lose."""
    if isinstance(outputs, list | tuple) and any(hasattr(each, "columns") for each in outputs):
        raise InputError(f"{where}: found a list of tables; expected an array (N, K, C)")
    try:
        return as_numbers(outputs)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def is_missing(outputs: np.ndarray) -> np.ndarray:
    """Return (N, K) bool, missing answers of (N, K, C) outputs: NaN in all classes.

    Example:
        >>> is_missing(np.array([[[0.5, 0.5], [np.nan, np.nan]]]))
        array([[False,  True]])
    """
    result: np.ndarray = np.isnan(outputs).all(2)
    return result


def reject_missing(outputs: np.ndarray, rule: str) -> None:
    """Raise InputError for missing answers, in a rule that cannot take them.

    Args:
        outputs: (N, K, C) outputs.
        rule: Name of the rule.
    """
    values = _as_array(outputs, "outputs")
    count = int(is_missing(values).sum()) if values.ndim == 3 else 0
    if count:
        raise InputError(
            f"{rule} cannot take missing answers; found {count} of {values.shape[0] * values.shape[1]} missing: leave "
            "these samples or experts out, or leave the rule out"
        )


def answered(outputs: np.ndarray) -> np.ndarray:
    """Return outputs to predict, (N, K, C), after a check that some expert answered for each sample.

    Raises:
        InputError: If a sample has no answer of any expert, or a value is not finite.
    """
    values = _as_array(outputs, "outputs")
    return as_outputs(values, missing=True) if np.isnan(values).any() else values


def as_labeled(
    outputs: np.ndarray,
    targets: np.ndarray,
    names: tuple[str, str] = ("outputs", "targets"),
    missing: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Convert outputs and targets of labeled samples.

    Args:
        outputs: (N, K, C) finite probabilities.
        targets: (N,) classes below C.
        names: Names of both arguments, for messages.
        missing: Whether answers may be missing.

    Raises:
        InputError: If a shape or a class does not fit, or a value is not finite.
    """
    known = as_outputs(outputs, names[0], missing)
    classes = as_targets(targets, known.shape[2], names[1])
    if len(classes) != len(known):
        raise InputError(f"{names[1]}: found {len(classes)} for {len(known)} samples of {names[0]}")
    return known, classes


def check_costs(costs: np.ndarray, outputs: np.ndarray) -> None:
    """Check that there are as many costs as experts.

    Args:
        costs: (K,) costs.
        outputs: (N, K, C).

    Raises:
        InputError: If there are not.
    """
    if len(costs) != outputs.shape[1]:
        raise InputError(f"costs: found {len(costs)} for {outputs.shape[1]} experts")


def as_problem(
    outputs: np.ndarray,
    validation_outputs: np.ndarray,
    validation_targets: np.ndarray,
    costs: Costs,
    missing: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Validate the arguments of a rule with costs.

    Args:
        outputs: (N, K, C) probabilities of the samples to predict.
        validation_outputs: (V, K, C) probabilities of the calibration set.
        validation_targets: (V,) classes of the calibration set.
        costs: (K,) cost of a query to each expert.
        missing: Whether answers may be missing.

    Returns:
        The same as arrays.

    Raises:
        InputError: If shapes, labels or costs are inconsistent, or values are not finite.
    """
    given = as_outputs(outputs, missing=missing)
    names = "validation_outputs", "validation_targets"
    known, targets = as_labeled(validation_outputs, validation_targets, names, missing)
    if given.shape[1:] != known.shape[1:]:
        raise InputError(
            f"outputs: found (K, C) = {given.shape[1:]}, validation_outputs: {known.shape[1:]}; expected the same"
        )
    prices = as_costs(costs)
    check_costs(prices, known)
    return given, known, targets, prices


def check_baselines(baselines: Mapping[str, Callable[[], Baseline]], num_experts: int, num_classes: int) -> None:
    """Run baselines on random outputs, so that a fault in one shows before experts are trained.

    Args:
        baselines: Constructor of each by its name.
        num_experts: K.
        num_classes: C.

    Raises:
        InputError: If the predictions are not (N,) classes. Exceptions of a baseline get a note with its name.
    """
    targets = np.arange(max(64, 2 * num_classes)) % num_classes
    outputs = np.random.default_rng(0).dirichlet(np.ones(num_classes), (len(targets), num_experts)).astype(np.float32)
    for name, make in baselines.items():
        try:
            predicted = np.asarray(make().fit(outputs, targets).predict(outputs))
        except Exception as error:
            error.add_note(f"This is the baseline {name!r} on random outputs {outputs.shape} (N, K, C).")
            raise
        where = f"baselines: {name}: predictions"
        if predicted.shape != targets.shape:
            raise InputError(f"{where} have shape {predicted.shape}; expected {targets.shape}, a class per sample")
        as_targets(predicted, num_classes, where)
