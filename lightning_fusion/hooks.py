"""Hooks of modules that subclasses override, and modules that were compiled as a whole."""

import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.errors import InputError, shorten


class CheckedHooks:
    """Mixin of a LightningModule, before it among the bases, whose own hooks check and prepare a run.

    A subclass that overrides such a hook (``setup``, ``teardown``, ``configure_callbacks``, ``on_...``) without a call
    of ``super()`` is reported when it is defined. A module that was compiled as a whole raises in a run.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Warn about hooks that replace those of the library."""
        super().__init_subclass__(**arguments)
        if found := [name for name in dir(cls) if _is_hook(name) and _replaces(cls, name)]:
            rank_zero_warn(
                f"{cls.__name__}: {shorten(f'{name}()' for name in found)} does not call super(): the checks and "
                f"preparations of {_library(cls).__name__} in the same method are left out; add super().{found[0]}(...)"
            )

    def _reject_compiled(self, value: Any) -> None:
        if value is not None:
            raise InputError(
                f"torch.compile: found a compiled {type(self).__name__}; compile its network instead: module.network = "
                "torch.compile(module.network)"
            )

    # Lightning's record of the compiled module that a run was given
    _compiler_ctx: Any = property(lambda self: None, _reject_compiled)


def _is_hook(name: str) -> bool:
    return name in ("setup", "teardown", "configure_callbacks") or name.startswith("on_")


def _is_of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __package__


def _library(cls: type) -> type:
    """Return the nearest class of the library."""
    return next(base for base in cls.__mro__ if _is_of_library(base))


def _replaces(cls: type, name: str) -> bool:
    """Whether a method that this class adds hides one of the library without a call of it."""
    known = {
        each for base in cls.__bases__ if issubclass(base, CheckedHooks) for each in base.__mro__
    }  # reported there
    for base in cls.__mro__:
        if name not in vars(base):
            continue
        if _is_of_library(base):
            return False
        if base not in known and not _calls(vars(base)[name], name):
            return any(name in vars(other) and _is_of_library(other) for other in cls.__mro__)
    return False


def _calls(method: Any, name: str) -> bool:
    """Whether the code of a method reads an attribute of its name, as super() does; true for other objects."""
    code = getattr(inspect.unwrap(method) if callable(method) else method, "__code__", None)
    return code is None or any(name in part.co_names for part in _codes(code))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)
