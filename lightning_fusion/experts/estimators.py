"""Estimators of scikit-learn's kind as experts: which output belongs to which class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from lightning_fusion.data.names import as_labels, canonical_label
from lightning_fusion.errors import InputError, shorten

METHODS = {"predict_proba": "probabilities", "predict_log_proba": "logits", "decision_function": "logits"}
"""Methods of an estimator whose outputs have a column per class, and what these are."""


def probability_method(network: Any) -> Any:
    """Return the method ``predict_proba`` of an estimator, and anything else as it is.

    Raises:
        InputError: If the estimator has no probabilities, such as a regressor.
    """
    if callable(network) or not hasattr(network, "predict"):
        return network
    if not hasattr(network, "predict_proba"):
        raise InputError(
            f"network: the {type(network).__name__} has no predict_proba; expected a classifier that gives "
            "probabilities, or a function that returns (batch, classes) outputs"
        )
    return network.predict_proba


def known_classes(network: Any) -> list[Any] | None:
    """The attribute ``classes_`` of the estimator whose method this is; ``None`` if it is no such method.

    Raises:
        InputError: If the estimator is not fitted, or has several outputs.
    """
    estimator, method = getattr(network, "__self__", None), getattr(network, "__name__", "")
    if estimator is None or isinstance(estimator, nn.Module) or method not in METHODS:
        return None
    try:
        found = getattr(estimator, "classes_", None)
    except Exception as error:  # a pipeline or a search that is not fitted raises what its last step raises
        raise InputError(f"network: the {type(estimator).__name__} is not fitted ({error})") from error
    if found is None:
        if hasattr(estimator, "get_params"):
            raise InputError(f"network: the {type(estimator).__name__} has no classes_; fit it first")
        return None
    if isinstance(found, list) or np.asarray(found).ndim != 1:
        raise InputError(f"network: the {type(estimator).__name__} has several outputs; expected one class per sample")
    result: list[Any] | None = np.asarray(found).tolist()
    return result


def class_order(
    known: Sequence[Any], classes: Sequence[str] | None, source: str = "the estimator"
) -> tuple[list[str], list[int] | None]:
    """Classes of an expert, and the columns of an estimator's outputs in their order.

    scikit-learn sorts labels, texts among them ("1", "10", "2"). Names that equal the labels determine the order. Other
    names are those of numbered labels, in the order of the numbers.

    Args:
        known: The estimator's ``classes_``, in the order of its columns.
        classes: Names of the classes as given. ``None`` uses those of the estimator.
        source: Owner of the known classes, for messages.

    Returns:
        The names, and the number of the column of each; ``None`` if the columns have that order.

    Raises:
        InputError: If there are more or less names than columns, or the estimator's labels are texts with other names.

    Example:
        >>> class_order(["1", "10", "2"], ["1", "2", "10"])
        (['1', '2', '10'], [0, 2, 1])
        >>> class_order([0, 1], ["cat", "dog"])
        (['cat', 'dog'], None)
    """
    labels = [canonical_label(label) for label in known]
    names = labels if classes is None else as_labels(classes, "classes")
    if len(names) != len(labels):
        raise InputError(
            f"classes: found {len(names)} ({shorten(names, 20)}); {source} has {len(labels)} ({shorten(labels, 20)})"
        )
    if set(names) == set(labels):
        columns = [labels.index(name) for name in names]
        return names, None if columns == list(range(len(labels))) else columns
    if any(isinstance(label, str) for label in known) or set(names) & set(labels):
        unknown = [name for name in names if name not in labels]
        raise InputError(
            f"classes: found {shorten(unknown, 20)}, which {source} does not know; its classes are "
            f"{shorten(labels, 20)}, and their names decide which output is whose"
        )
    return names, None
