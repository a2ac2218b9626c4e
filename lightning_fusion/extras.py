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


def missing_package(error: BaseException) -> InputError | None:
    """Return the error of a class of Lightning whose package is not installed, such as a logger's; None for others."""
    for each in chain(error):
        names = re.findall(r"Requirement '([\w.-]+)[^']*' not met", str(each)) if isinstance(each, ImportError) else []
        if names:
            frames = [frame for frame, _ in walk_tb(each.__traceback__)]
            kind = type(frames[-1].f_locals.get("self")).__name__ if frames else "it"
            name = min(names, key=len)  # of alternatives, the plain one
            return InputError(f"{kind} needs the package {name}, which is not installed: pip install {name}")
    return None
