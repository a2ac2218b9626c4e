"""Optional packages, which extras install."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lightning_fusion.errors import InputError


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
