"""Checks of the arguments of HaT's module that depend on the teacher."""

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.hyperparameters import check_types

MIXERS = ("attention", "static")
PAPER: dict[str, Any] = {"teacher": "attention", "init": "scratch", "mixup": 0.0, "alpha": "adaptive"}
"""Arguments of :class:`~lightning_fusion.HaTJointModule` for the method as the paper describes it."""
_OF_MIXERS = [
    *("dim", "temperature", "heads", "training", "dictionary", "update_rule", "accuracy_source"),
    *("mixer_optimizer", "mixer_scheduler"),
]


def check_arguments(constructor: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Check the values of arguments, and that the teacher reads those that are set.

    Args:
        constructor: ``__init__`` of the module, which has the defaults.
        given: Its arguments by name, such as ``locals()``.

    Raises:
        InputError: If an argument has another type, a number is out of range, or an argument has no effect with the
            teacher.
    """
    check_types(constructor, given)
    alpha_0, threshold, clip_norm, sharpness = (
        given[name] for name in ("alpha_0", "threshold", "clip_norm", "sharpness")
    )
    if not 0 <= alpha_0 < math.inf or (threshold is not None and not 0 <= threshold <= 1):
        raise InputError(f"alpha_0 is {alpha_0}, threshold {threshold}; expected at least 0, and 0 to 1")
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm is {clip_norm}; expected a number above 0, or null")
    for name in ("mixup", "representation_weight"):
        if given[name] is not None and not 0 <= given[name] < math.inf:
            raise InputError(f"{name} is {given[name]}; expected a number of 0 or more")
    for name, least, limit in (("seed", 0, 2**32), ("dim", 1, 2**31)):
        if not least <= given[name] < limit:
            raise InputError(f"{name} is {given[name]}; expected a whole number from {least} to {limit - 1}")
    if not 0 < given["temperature"] < math.inf:
        raise InputError(f"temperature is {given['temperature']}; expected a number above 0")
    teacher = given["teacher"]
    if sharpness is not None and (teacher in MIXERS or not 0 < sharpness < math.inf):
        raise InputError(f"sharpness is {sharpness}; expected a number above 0, and a fitted teacher, not {teacher}")
    if teacher not in MIXERS:
        _reject_options_of_mixers(constructor, given)


def _reject_options_of_mixers(constructor: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise InputError for arguments that a fitted teacher does not read; hints read the sources' outputs as well."""
    unused = _OF_MIXERS if given["representation_weight"] else [*_OF_MIXERS, "cache"]
    defaults = signature(constructor).parameters
    if other := [name for name in unused if given[name] != defaults[name].default]:
        remedy = f"remove {'it' if len(other) == 1 else 'them'}, or set teacher: attention or static"
        if other == ["cache"]:
            remedy += ", or a representation_weight above 0"
        raise InputError(
            f"teacher: {given['teacher']} is fitted before the training and does not use {shorten(other)}; {remedy}"
        )
