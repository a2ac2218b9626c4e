"""Distinguishing content of a callable: weights of estimators, closures, arguments, files that they name."""

import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.errors import is_code_of_user
from lightning_fusion.files import digest, hash_files

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_LARGEST_NAME = 4096  # longer texts name no file
_LIBRARIES = frozenset(("torch", "torchvision", "torchaudio", "transformers"))  # their functions are known by name

VERSION_HINT = (
    "a function whose variables change needs version= (Expert(function, ..., version='v1')), which replaces the digest "
    "of its state, before its outputs are collected"
)
"""Remedy for callables that count as other experts."""


class UnknownStateError(TypeError):
    """An object's state cannot be read: a connection, a session of another runtime, a lock."""


def state_digest(value: Any) -> str:
    """A digest of an object's state: equal for equal states, in any process.

    Arrays, tensors, weights of modules, attributes, variables that functions close over or use by a global name,
    arguments of partial functions, and the content of files that a text or path names are part of the state. So are the
    functions of the user's other modules, and what a function reads from such a module (``settings.THRESHOLD``) as far
    as it can be read; installed packages are not.

    Raises:
        UnknownStateError: If a part of it cannot be read.

    Example:
        >>> state_digest(partial(pow, 2)) == state_digest(partial(pow, 2)) != state_digest(partial(pow, 3))
        True
    """
    try:
        return _digest(value, (), {})
    except RecursionError as error:
        raise UnknownStateError(f"the state of a {type(value).__qualname__} is nested too deeply") from error


def _digest(value: Any, above: tuple[int, ...], known: dict[int, str]) -> str:
    """The digest of one object; ``above`` are those that contain it, ``known`` the digests of functions."""
    if id(value) in above:
        return digest("above", len(above) - above.index(id(value)))
    inner = (*above, id(value))

    def parts(values: Iterable[Any]) -> list[str]:
        return [_digest(part, inner, known) for part in values]

    def named(values: Mapping[Any, Any]) -> list[str]:
        return [part for key in sorted(values, key=repr) for part in (repr(key), _digest(values[key], inner, known))]

    def readable(values: Mapping[str, Any]) -> list[str]:
        found = []
        for key in sorted(values):
            with suppress(UnknownStateError):
                found += [key, _digest(values[key], inner, known)]
        return found

    kind = type(value).__qualname__
    if isinstance(value, str | os.PathLike):
        return digest(kind, str(value), *_content(value))
    if isinstance(value, _PLAIN):
        return digest(kind, repr(value))
    if isinstance(value, Tensor):
        return digest(kind, value)
    if isinstance(value, np.generic | np.ndarray):
        array = np.asarray(value)
        return (
            digest(kind, str(array.dtype), *parts(array.ravel().tolist())) if array.dtype.hasobject else digest(array)
        )
    if isinstance(value, nn.Module):
        return digest(kind, *weight_parts(value), *wrapped_parts(value))
    if isinstance(value, Mapping):
        return digest(kind, *named(value))
    if isinstance(value, list | tuple):
        return digest(kind, *parts(value))
    if isinstance(value, set | frozenset):
        return digest(kind, *sorted(parts(value)))
    if isinstance(value, partial):
        return digest(kind, *parts((value.func, value.args, value.keywords)))
    if isinstance(value, types.MethodType):
        return digest(kind, value.__func__.__qualname__, *parts((value.__func__, value.__self__)))
    if isinstance(value, types.FunctionType):
        if id(value) not in known:
            held = *parts(_function_parts(value)), *readable(_read_from_modules(value))
            known[id(value)] = digest(kind, value.__module__, value.__qualname__, *held)
        return known[id(value)]
    if hasattr(value, "__wrapped__"):
        return digest(kind, *parts([value.__wrapped__]))
    if isinstance(value, type | types.ModuleType | torch.dtype | torch.device | np.dtype) or _is_named(value):
        return digest(kind, getattr(value, "__module__", ""), getattr(value, "__name__", str(value)))
    return digest(type(value).__module__, kind, *_object_parts(value, named))


def weight_parts(module: nn.Module) -> list[Any]:
    """Structure, weights and buffers of a torch module, as parts of a digest."""
    tensors = module.state_dict() | dict(module.named_buffers())  # buffers that are not saved count as well
    return [repr(module), *(part for item in tensors.items() for part in item)]


def transform_parts(transform: Any) -> list[Any]:
    """Return transforms in order, as parts of a digest: a ``Compose`` and a ``Sequential`` of the same ones are equal.

    Example:
        >>> from torchvision.transforms.v2 import Compose, Grayscale
        >>> transform_parts(Compose([Grayscale()])) == transform_parts(nn.Sequential(Grayscale()))
        True
    """
    if isinstance(transform, nn.Sequential) or type(transform).__name__ == "Compose":
        inner = transform if isinstance(transform, nn.Sequential) else transform.transforms
        return [part for one in inner for part in transform_parts(one)]
    if isinstance(transform, nn.Module):
        return [*weight_parts(transform), *wrapped_parts(transform)]
    return [] if transform is None else [repr(transform)]


def wrapped_parts(module: nn.Module) -> list[str]:
    """Estimators, arrays and tensors among the attributes of a torch module, as parts of a digest.

    Containers of these, numbers with decimals, and functions of the user's own count as well. Other attributes, such as
    counters, do not.

    Raises:
        UnknownStateError: If the state of an estimator cannot be read.
    """
    return [
        part
        for name, owner in module.named_modules()
        for key, value in sorted(vars(owner).items())
        if key not in _OF_EVERY_MODULE and _is_state(value)
        for part in (f"{name}.{key}", state_digest(value))
    ]


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def _is_state(value: Any) -> bool:
    """Whether an attribute of a torch module is a part of its state."""
    if isinstance(value, nn.Module | type):
        return False
    if isinstance(value, list | tuple):
        return any(map(_is_state, value))
    if isinstance(value, Mapping):
        return any(map(_is_state, value.values()))
    if isinstance(value, types.MethodType):
        return not isinstance(value.__self__, nn.Module)
    if isinstance(value, types.FunctionType):
        return (value.__module__ or "").partition(".")[0] not in _LIBRARIES
    return isinstance(value, np.ndarray | Tensor | float | partial) or hasattr(value, "predict")


def _function_parts(function: types.FunctionType) -> list[Any]:
    """Code, defaults, what is closed over, and the global objects that the code names."""
    closed = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
    codes = list(_codes(function.__code__))
    names = dict.fromkeys(name for code in codes for name in code.co_names)
    used = [function.__globals__[name] for name in names if name in function.__globals__]
    states = [value for value in used if not isinstance(value, types.ModuleType | type) and _is_near(value, function)]
    written = [part for code in codes for part in (code.co_code, " ".join(code.co_names).encode(), _constants(code))]
    return [*written, function.__defaults__, function.__kwdefaults__, closed, states]


def _read_from_modules(function: types.FunctionType) -> dict[str, Any]:
    """Values that the code reads from modules of the user, by their names."""
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    waiting = [function.__globals__[name] for name in sorted(names & function.__globals__.keys())]
    waiting, found, seen = [each for each in waiting if _is_module_of_user(each)], {}, set()
    while waiting:
        module = waiting.pop()
        if module.__name__ in seen:
            continue
        seen.add(module.__name__)
        for name in sorted(names & vars(module).keys()):
            value = vars(module)[name]
            if _is_module_of_user(value):
                waiting.append(value)
            elif not isinstance(value, types.ModuleType | type) and _is_near(value, function):
                found[f"{module.__name__}.{name}"] = value
    return found


def _is_module_of_user(value: Any) -> bool:
    return isinstance(value, types.ModuleType) and is_code_of_user(getattr(value, "__file__", None) or "<built in>")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code of a function, and of the functions and comprehensions inside it."""
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _codes(value)


def _constants(code: types.CodeType) -> list[Any]:
    return [value for value in code.co_consts if not isinstance(value, types.CodeType)]


def _is_near(value: Any, function: types.FunctionType) -> bool:
    """Whether a value is no function of a library."""
    if getattr(value, "__module__", None) == function.__module__ or not isinstance(value, types.FunctionType):
        return True
    return is_code_of_user(value.__code__.co_filename)


def _is_named(value: Any) -> bool:
    """Functions that are not written in Python are known by their names."""
    return callable(value) and isinstance(getattr(value, "__name__", None), str)


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # raises where the cell is empty
    except ValueError:
        return True
    return False


def _object_parts(value: Any, named: Callable[[Mapping[Any, Any]], list[str]]) -> list[str]:
    """The state of an object: its attributes if they are all it has, else what it would pickle."""
    defined = {name for base in type(value).__mro__[:-1] for name in vars(base)}
    if not defined & {"__reduce_ex__", "__reduce__"} and hasattr(value, "__dict__") and "__slots__" not in defined:
        return named(vars(value))
    try:
        return [joblib.hash(value)]
    except Exception as error:  # what a pickler raises for connections, locks and sessions, of any type
        raise UnknownStateError(f"the state of a {type(value).__qualname__} cannot be read ({error})") from error


def _content(name: str | os.PathLike[str]) -> list[str]:
    """The digest of a file's content, if a text names one."""
    if len(str(name)) > _LARGEST_NAME or "\0" in str(name) or "\n" in str(name):
        return []
    try:
        path = Path(name)
        return [hash_files([path])] if path.is_file() else []
    except OSError:
        return []
