"""Estimators of scikit-learn's kind as experts: which output belongs to which class."""

import functools
import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.data.names import as_labels, canonical_label
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import UnusableInputError

_CACHED = type(functools.lru_cache(len))
_MOST_PARTS = 100  # of a list or module that are searched for estimators
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
METHODS = {"predict_proba": "probabilities", "predict_log_proba": "logits", "decision_function": "logits"}
"""Methods of an estimator whose outputs have a column per class, and what these are."""


def probability_method(network: Any) -> Any:
    """Return the method ``predict_proba`` of an estimator, and anything else as it is.

    Raises:
        InputError: If the estimator has no probabilities, such as a regressor.
    """
    if type(network).__module__.startswith("transformers.pipelines"):
        raise InputError(
            f"network: found a {type(network).__name__} of transformers, which returns labels; save its model and its "
            "tokenizer or processor to one folder with save_pretrained, and give that to TransformersExpert"
        )
    if callable(network) or not (hasattr(network, "predict") or hasattr(network, "predict_proba")):
        return network
    if not hasattr(network, "predict_proba"):
        raise InputError(
            f"network: the {type(network).__name__} has no predict_proba; expected a classifier that gives "
            "probabilities, or a function that returns (batch, classes) outputs"
        )
    return network.predict_proba


def check_factory(network: Any, checkpoint: str) -> None:
    """Check that weights are loaded into a network of torch: an estimator has none, and is no function.

    Args:
        network: Anything else than a torch module.
        checkpoint: Path of the weights, for the message.

    Raises:
        InputError: If it cannot be called with the number of classes.
    """
    if callable(network):
        return
    how = "give its method predict_proba as network, without checkpoint, or its skops file to SklearnExpert"
    raise InputError(
        f"network: found a {type(network).__name__} for the weights in {checkpoint}; expected a torch module, or a "
        f"function of the number of classes that returns one"
        + (f": {how}" if hasattr(network, "predict") or hasattr(network, "fit") else "")
    )


def known_classes(network: Any) -> list[Any] | None:
    """The attribute ``classes_`` of the estimator whose method this is; ``None`` if it is no such method.

    Raises:
        InputError: If the estimator is not fitted, or has several outputs.
    """
    estimator, method = getattr(network, "__self__", None), getattr(network, "__name__", "")
    if estimator is None or isinstance(estimator, nn.Module) or method not in METHODS:
        return None
    kind = type(estimator).__name__
    try:
        found = getattr(estimator, "classes_", None)
    except Exception as error:  # a pipeline or a search that is not fitted raises what its last step raises
        raise InputError(f"network: the {kind} is not fitted ({error})") from error
    if found is None:
        if hasattr(estimator, "get_params"):
            raise InputError(f"network: the {kind} has no classes_; fit it first")
        return None
    if isinstance(found, list) or np.asarray(found).ndim != 1:
        raise InputError(f"network: the {kind} has several outputs; expected one class per sample")
    if method == "decision_function" and (len(found) == 2 or _votes_of_pairs(estimator)):
        columns = "one column for its two classes" if len(found) == 2 else "a column per pair of classes"
        raise InputError(
            f"network: the decision_function of the {kind} has {columns}; expected a column per class: use "
            "predict_proba" + ("" if len(found) == 2 else ", or set decision_function_shape to 'ovr'")
        )
    result: list[Any] | None = np.asarray(found).tolist()
    return result


def _votes_of_pairs(estimator: Any) -> bool:
    """Whether a support vector machine, also inside a pipeline, has an output per pair of classes."""
    parameters = estimator.get_params() if hasattr(estimator, "get_params") else {}
    return any(name.endswith("decision_function_shape") and value == "ovo" for name, value in parameters.items())


def check_takes(network: Any, input: Any) -> None:
    """Check that the input of an estimator is no dict, of which it would read the keys as samples.

    Args:
        network: Function or module.
        input: A batch.

    Raises:
        UnusableInputError: If an estimator's method gets a dict, such as the tokens of texts.
    """
    if not isinstance(input, Mapping) or isinstance(network, nn.Module):
        return
    method = called_method(network)
    estimator = getattr(method, "__self__", None)
    if hasattr(estimator, "get_params") and getattr(method, "__name__", "") in METHODS:
        raise UnusableInputError(
            f"network: {method.__name__} of a {type(estimator).__name__} takes texts or arrays, and the input is a dict"
            f" of {shorten(input)}; give it a loader of texts, as docs/how-to/extend.md shows, or convert the input"
        )


def called_method(network: Any) -> Any:
    """Return the method behind partial functions and ``lru_cache``; anything else as it is.

    Example:
        >>> called_method(partial(partial("a".split), sep=","))("b c")
        ['a']
    """
    while isinstance(network, partial | _CACHED):
        network = network.func if isinstance(network, partial) else network.__wrapped__
    return network


def other_order(network: Any, classes: Sequence[str]) -> str | None:
    """Return a warning about an estimator inside a function or module that has the classes in another order.

    Whether the function reorders its outputs is not known.

    Args:
        network: Function, object or module.
        classes: Classes of the expert, in the order of its outputs.
    """
    for estimator in _estimators_in(network, 2, set()):
        try:
            labels = [canonical_label(label) for label in np.asarray(estimator.classes_).ravel().tolist()]
        except Exception:  # not fitted, or of several outputs
            continue
        if labels != list(classes) and sorted(labels) == sorted(classes):
            kind = type(estimator).__name__
            return (
                f"classes: the network calls a {kind} whose classes are {shorten(labels, 20)}, in this order; its "
                f"outputs are read as {shorten(classes, 20)}. Unless the network reorders them, give classes in the "
                f"order of the {kind}, or its predict_proba as the network"
            )
    return None


def _estimators_in(value: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    """Yield fitted classifiers in the attributes, variables and arguments of an object."""
    if id(value) in seen or depth < 0 or isinstance(value, type | types.ModuleType | np.ndarray | Tensor | str):
        return
    seen.add(id(value))
    if hasattr(value, "predict") and hasattr(value, "classes_"):
        yield value
        return
    for part in _parts(value):
        yield from _estimators_in(part, depth - 1, seen)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, types.FunctionType):
        used = inspect.getclosurevars(value)
        return [*used.nonlocals.values(), *used.globals.values()]
    if isinstance(value, _CACHED):
        return [value.__wrapped__]
    if isinstance(value, list | tuple):
        return list(value[:_MOST_PARTS])
    if isinstance(value, Mapping):
        return list(islice(value.values(), _MOST_PARTS))
    if isinstance(value, nn.Module):
        modules = islice(value.modules(), _MOST_PARTS)
        return [part for each in modules for name, part in vars(each).items() if name not in _OF_EVERY_MODULE]
    return list(vars(value).values()) if hasattr(value, "__dict__") else []


class Declared(NamedTuple):
    """What a network's outputs are.

    Attributes:
        classes: Names of the classes; ``None`` if nothing names them.
        columns: For each class the column of the network's output; ``None`` if they are in its order.
        output: ``logits`` or ``probabilities``.
    """

    classes: list[str] | None
    columns: list[int] | None
    output: str


def declared(
    network: Any, classes: list[str] | None, output: str | None, recorded: list[str] | None, checkpoint: str | None
) -> Declared:
    """Compare what is declared about a network's outputs with what an estimator or a checkpoint knows of them.

    Args:
        network: A torch module or a function, such as ``predict_proba`` of an estimator.
        classes: Names of the classes, as declared.
        output: Kind of the outputs, as declared; by default that of an estimator's method, else logits.
        recorded: Names of the classes in the checkpoint, in the order of its outputs.
        checkpoint: Path of the checkpoint, for messages.

    Raises:
        InputError: If they contradict each other.
    """
    columns: list[int] | None = None
    method = called_method(network)
    known = known_classes(method)
    if known is not None:
        classes, columns = class_order(known, classes)
    elif recorded and classes and set(classes) & set(recorded):
        classes, columns = class_order(recorded, classes, f"the checkpoint {checkpoint}")
    elif recorded and classes and len(classes) != len(recorded):
        raise InputError(
            f"classes: found {len(classes)} ({shorten(classes, 20)}); the checkpoint {checkpoint} has {len(recorded)} "
            f"({shorten(recorded, 20)})"
        )
    elif classes and (message := other_order(network, classes)):
        rank_zero_warn(message)
    made = METHODS.get(getattr(method, "__name__", ""), "logits") if known is not None else None
    output = output or made or "logits"
    if made == "probabilities" and output != made:
        raise InputError("output is 'logits'; predict_proba gives probabilities: set output to 'probabilities'")
    return Declared(classes, columns, output)


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
        InputError: If there are more or less names than columns, or the estimator's labels are texts or truth values
            with other names.

    Example:
        >>> class_order(["1", "10", "2"], ["1", "2", "10"])
        (['1', '2', '10'], [0, 2, 1])
        >>> class_order([0, 1], ["cat", "dog"]), class_order([1, 0], ["cat", "dog"])
        ((['cat', 'dog'], None), (['cat', 'dog'], [1, 0]))
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
    if any(isinstance(label, bool) for label in known):
        spelled = [label.casefold() for label in labels]
        if {name.casefold() for name in names} == set(spelled):
            columns = [spelled.index(name.casefold()) for name in names]
            return names, None if columns == list(range(len(labels))) else columns
        raise InputError(
            f"classes: found {shorten(names)}; {source} was fitted on truth values, and which of them is which class "
            "is not known: fit it on the names of the classes, or set classes to True and False in quotes"
        )
    if any(isinstance(label, str) for label in known) or set(names) & set(labels):
        unknown = [name for name in names if name not in labels]
        raise InputError(
            f"classes: found {shorten(unknown, 20)}, which {source} does not know; its classes are "
            f"{shorten(labels, 20)}, and their names decide which output is whose"
        )
    columns = sorted(range(len(known)), key=lambda column: known[column])
    return names, None if columns == list(range(len(known))) else columns
