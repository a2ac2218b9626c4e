"""Networks from factories: classes and functions that map a number of classes to a network."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from lightning_fusion.errors import InputError

_NUMBER = "num_classes"
_TRAINED = ("pretrained", "weights")  # first arguments of the models of timm and torchvision


def network_for(factory: Callable[..., nn.Module], num_classes: int) -> nn.Module:
    """Build a network for a number of classes.

    The number is the first argument of most classes. Where a factory has an argument ``num_classes`` in another place,
    it is given by this name, as to the models of timm and torchvision, whose first argument names published weights: a
    number there would start a download.

    Args:
        factory: Class, function or ``functools.partial`` of one.
        num_classes: C.

    Raises:
        InputError: If the first argument names published weights, and no argument the number of classes.

    Example:
        >>> from torchvision.models import mobilenet_v3_small
        >>> network_for(mobilenet_v3_small, 3).classifier[-1].out_features
        3
        >>> network_for(partial(nn.Linear, 4), 2).out_features
        2
    """
    made: nn.Module = factory(num_classes=num_classes) if _by_name(factory) else factory(num_classes)
    return made


def _by_name(factory: Callable[..., Any]) -> bool:
    inside: Any = factory
    given = 0
    while isinstance(inside, partial):
        kinds = [part for part in (inside.func, *inside.args) if isinstance(part, type)]
        if kinds and not isinstance(inside.func, type):  # a parser's function that calls a class
            inside, given = kinds[0], 0
        else:
            inside, given = inside.func, given + len(inside.args)
    try:
        parameters = list(inspect.signature(inside).parameters.values())
    except (TypeError, ValueError):  # of a builtin
        return False
    places = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    first = next(iter(places[given:]), None)
    if any(each.kind is each.VAR_POSITIONAL for each in parameters) and first is None:
        return False
    if _NUMBER in [each.name for each in parameters]:
        return first != _NUMBER
    if first not in (None, *_TRAINED):
        return False
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return True
    if first is None:
        return False
    raise InputError(
        f"network: the first argument of {getattr(inside, '__name__', inside)} is {first}, and none is {_NUMBER}; "
        "expected a class or function whose first argument is the number of classes"
    )
