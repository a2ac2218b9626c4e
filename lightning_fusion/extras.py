"""Optional packages, which extras install."""

import re
from importlib import import_module
from importlib.util import find_spec
from traceback import walk_tb
from typing import Any

from lightning_fusion.errors import InputError, chain


def installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it.

    Args:
        package: Name of a top-level package.

    Example:
        >>> installed("torch"), installed("no_such_package")
        (True, False)
    """
    return find_spec(package) is not None


def require(module: str, extra: str) -> Any:
    """Import a module that belongs to an extra.

    Args:
        module: Its import path.
        extra: The extra that installs it.

    Raises:
        InputError: If it, or a package that it imports, is not installed.

    Example:
        >>> require("no_such_package.part", "audio")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: found no package no_such_package: pip install 'lightning-fusion[audio]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise InputError(f"found no package {package}: pip install 'lightning-fusion[{extra}]'") from error


_TRACKERS = {"wandb": "wandb", "mlflow": "mlflow", "comet": "comet", "tensorboard": "tensorboard"}
"""Extras of the packages of loggers, by the beginning of their names."""


def missing_package(error: BaseException) -> InputError | None:
    """Return the error of a class of Lightning whose package is not installed, such as a logger's; None for others."""
    for each in chain(error):
        if not isinstance(each, ImportError):
            continue
        names = re.findall(r"Requirement '([\w.-]+)[^']*' not met", str(each))
        if not names and each.name and each.name.startswith(tuple(_TRACKERS)):
            names = [each.name.partition(".")[0]]
        if names:
            owners = [frame.f_locals.get("self") for frame, _ in walk_tb(each.__traceback__)]
            kind = next((type(owner).__name__ for owner in reversed(owners) if owner is not None), "it")
            name = min(names, key=len)  # of alternatives, the plain one
            extra = next((extra for start, extra in _TRACKERS.items() if name.startswith(start)), None)
            way = f"'lightning-fusion[{extra}]'" if extra else name
            return InputError(f"{kind} needs the package {name}, which is not installed: pip install {way}")
    return None


def tracker_error(error: BaseException) -> InputError | None:
    """Return the error of a tracker that has no account or no server, with what helps; None for other errors."""
    for each in chain(error):
        text = str(each).strip()
        if type(each).__name__ == "UsageError" and type(each).__module__.startswith("wandb"):
            return InputError(f"trainer.logger: {text} Without an account, set WANDB_MODE=offline")
        if isinstance(each, ValueError) and text.startswith("Comet.ml requires an API key"):
            return InputError("trainer.logger: found no API key of Comet; set COMET_API_KEY, or COMET_START_ONLINE=0")
        if type(each).__name__ == "MlflowException":
            return InputError(f"trainer.logger: MLflow: {text}")
    return None
