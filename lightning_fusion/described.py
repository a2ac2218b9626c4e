"""Construction of what files describe: nothing is imported, nothing is called by its name.

A file that others wrote (a checkpoint, a card of a registry, a policy) contains strings. A parser that expects a class
imports the module that such a string names, so that these strings never reach one. Classes are looked up among the
imported modules, and their arguments are read by the types of the constructor.
"""

import contextlib
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from importlib import import_module
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from lightning import LightningDataModule
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_fusion.errors import InputError, NotImportedError, shorten
from lightning_fusion.hyperparameters import constructor_arguments
from lightning_fusion.schedules import Schedule

_LONGEST_VALUE = 1000
"""Characters of a text that YAML reads as a number, say."""
_FAMILIES = nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, Schedule, LightningDataModule
_SPEC = {"class_path", "init_args", "dict_kwargs"}
_FILES = {"checkpoint", "path", "transformers"}  # arguments whose files a constructor opens
_TRUST = ("sha256", "trusted")  # arguments by which a user trusts the code in a file
_MAX_DEPTH = 30


def imported_class(path: Any, *families: type) -> type | None:
    """Return the class that a file names, importing nothing but this library; ``None`` if there is none.

    Args:
        path: Import path of the class.
        families: Permitted base classes.

    Example:
        >>> imported_class("torch.nn.Linear", nn.Module).__name__, imported_class("os.system", nn.Module)
        ('Linear', None)
    """
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if module.partition(".")[0] == __package__ and not module.endswith("__main__"):
        with contextlib.suppress(ImportError):
            import_module(module)
    kind = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if kind is None and module == __package__:
        kind = getattr(sys.modules[module], name, None)  # public names are resolved lazily
    return kind if isinstance(kind, type) and issubclass(kind, families) else None


def build_described(spec: Mapping[str, Any], hint: Any, where: str, name: str, files: bool = True) -> Any:
    """Build the object that a file describes by ``class_path`` and ``init_args``.

    Args:
        spec: The description.
        hint: Type of the argument: a class gives an instance, a callable that returns a class gives a factory.
        where: Name of the file, for messages.
        name: Name of the argument, for messages.
        files: Whether arguments may name local files.

    Raises:
        InputError: If a class is not imported or of another type, or an argument is not of the type of the constructor.

    Example:
        >>> spec = {"class_path": "torch.nn.Linear", "init_args": {"out_features": 2}}
        >>> build_described(spec, Callable[[int], nn.Module], "a.ckpt", "network")(3)
        Linear(in_features=3, out_features=2, bias=True)
    """
    return _Reader(where, True, files).read(dict(spec), hint, name)


def check_arguments(
    kind: type, recorded: Mapping[str, Any], where: str, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments of a class that a checkpoint records, for a parser: plain, without a name to import.

    Args:
        kind: Class of the module.
        recorded: The recorded arguments.
        where: Name of the checkpoint, for messages.
        given: Arguments that the user wrote; a value that is equal to them may name anything.

    Raises:
        InputError: If a string is recorded where a parser would import or open what it names.
    """
    reader, hints = _Reader(where, build=False), _hints(kind)
    given = given or {}
    return {
        name: reader.read(value, hints.get(name, Any), name, given.get(name))
        for name, value in _named(kind, recorded, where).items()
    }


def build_arguments(kind: type, recorded: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of a class that a checkpoint records, as objects.

    Args:
        kind: Class of the module.
        recorded: The recorded arguments.
        where: Name of the checkpoint, for messages.

    Raises:
        InputError: If a class is not imported, or an argument is not of the type of the constructor.
    """
    reader, hints = _Reader(where, build=True), _hints(kind)
    return {
        name: reader.read(value, hints.get(name, Any), name) for name, value in _named(kind, recorded, where).items()
    }


def _named(kind: type, recorded: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the recorded arguments that the class takes; names of another form are errors (``experts.a``)."""
    takes = constructor_arguments(kind)
    names = [name for name in recorded if name not in ("_class_path", "_instantiator")]
    if unknown := [name for name in names if name not in takes and not str(name).isidentifier()]:
        raise InputError(f"{where} records the arguments {shorten(unknown)}, which {kind.__name__} does not take")
    return {name: recorded[name] for name in names if name in takes}


class _Reader:
    """Reader of values of a file by the types of the arguments that they are for.

    Args:
        where: Name of the file, for messages.
        build: Build the described objects; else the values are checked for a parser and remain plain.
        files: Whether arguments may name local files.
    """

    def __init__(self, where: str, build: bool, files: bool = True) -> None:
        self.where, self.build, self.files = where, build, files

    def read(self, value: Any, hint: Any, name: str, given: Any = None, depth: int = 0) -> Any:
        """Return a value of the type ``hint``, as an object or as checked plain data."""
        if depth > _MAX_DEPTH:
            raise InputError(f"{self.where}: {name[:80]} is nested more than {_MAX_DEPTH} times")
        if not self.build and given is not None and given == value:
            return value
        options = list(_options(hint))
        if isinstance(value, Mapping):
            return self._mapping(dict(value), options, name, given, depth + 1)
        if isinstance(value, (list, tuple)):
            return self._sequence(value, options, name, given, depth + 1)
        if isinstance(value, str):
            return self._text(value, options, name, given)
        if value is None or type(value) in (bool, int, float):
            return value
        raise InputError(f"{self.where}: {name} is a {type(value).__name__}; expected plain data")

    def _mapping(self, value: dict[str, Any], options: list[Any], name: str, given: Any, depth: int) -> Any:
        if not all(isinstance(key, str) for key in value) and "class_path" in value:
            raise InputError(f"{self.where}: {name} has keys that are no texts")
        if "class_path" in value:
            return self._described(value, options, name, given, depth)
        for option in options:
            if self.build and isinstance(option, type) and is_dataclass(option):
                return self._call(option, self._items(value, _hints(option), name, given, depth), name)
        inner = next((get_args(each)[1] for each in options if _is_a(each, Mapping) and len(get_args(each)) == 2), None)
        if inner is None and not any(each is Any or _is_a(each, Mapping) or is_dataclass(each) for each in options):
            raise InputError(f"{self.where}: {name} is a mapping; expected {_expected(options)}")
        return self._items(value, dict.fromkeys(value, Any if inner is None else inner), name, given, depth)

    def _items(self, value: dict[Any, Any], hints: Mapping[Any, Any], name: str, given: Any, depth: int) -> Any:
        own = given if isinstance(given, Mapping) else {}
        return {
            key: self.read(item, hints.get(key, Any), f"{name}.{key}", own.get(key), depth)
            for key, item in value.items()
        }

    def _sequence(self, value: Sequence[Any], options: list[Any], name: str, given: Any, depth: int) -> Any:
        kinds = [each for each in options if _is_a(each, Iterable) and not _is_a(each, Mapping) and each is not str]
        if not kinds and Any not in options:
            raise InputError(f"{self.where}: {name} is a list; expected {_expected(options)}")
        inner = [each for each in get_args(kinds[0]) if each is not Ellipsis] if kinds else []
        own = given if isinstance(given, Sequence) and not isinstance(given, str) else ()
        items = [
            self.read(
                item,
                inner[min(place, len(inner) - 1)] if inner else Any,
                f"{name}.{place}",
                own[place] if place < len(own) else None,
                depth,
            )
            for place, item in enumerate(value)
        ]
        made = get_origin(kinds[0]) or kinds[0] if kinds else type(value)
        made = made if made in (list, tuple, set, frozenset) else type(value)
        return made(items) if self.build else items  # type: ignore[call-arg]  # one of the four

    def _text(self, value: str, options: list[Any], name: str, given: Any) -> Any:
        argument = name.rpartition(".")[2]
        if argument in _FILES or (not argument.isdigit() and value.startswith(("\\\\", "//"))):
            self._check_path(value, name)
        for option in options if self.build else ():
            if isinstance(option, type) and issubclass(option, Enum) and value in option.__members__:
                return option[value]
            if isinstance(option, type) and issubclass(option, Path):
                return Path(value)
        takes_text = any(each in (str, Any) or get_origin(each) is Literal or _is_text(each) for each in options)
        if not takes_text:
            raise InputError(
                f"{self.where} names {shorten([repr(value)[:80]])} as {name}; expected {_expected(options)}"
                + (", as class_path with init_args" if any(map(_names_code, options)) else "")
            )
        if self.build:
            return value
        importing = any(each is Any or _names_code(each) for each in options)
        if "${" in value or (importing and not _is_inert(value)):
            raise InputError(
                f"{self.where} names {value[:80]!r} as {name}, which the configuration does not; write it there if you "
                "trust the file"
            )
        return value

    def _check_path(self, value: str, name: str) -> None:
        """Reject files of other hosts; a local file is read weights-only by its reader."""
        if "://" in value or "::" in value or PureWindowsPath(value).drive.startswith("\\\\"):
            raise InputError(f"{self.where} names the file {value[:80]!r} as {name}; expected a local file")
        given = Path(value)
        local = given.is_absolute() or value.startswith("~") or ".." in given.parts or os.path.lexists(given)
        if local and not self.files:
            raise InputError(f"{self.where} names the file {value[:80]!r} as {name}; a card must not name local files")

    def _described(self, value: dict[str, Any], options: list[Any], name: str, given: Any, depth: int) -> Any:
        path, kind = value["class_path"], imported_class(value["class_path"], *_FAMILIES)
        if kind is None:
            raise NotImportedError(
                f"{self.where} names {' '.join(str(path).split())[:80]} as {name}, which is no imported torch module, "
                "optimizer or schedule; import it first if you trust the file (a checkpoint must not import or call "
                "code by itself)"
            )
        parts = [value.get("init_args") or {}, value.get("dict_kwargs") or {}]
        if set(value) - _SPEC or not all(isinstance(part, Mapping) for part in parts):
            raise InputError(
                f"{self.where}: {name} has {shorten(value)}; expected a class_path, and init_args as a mapping"
            )
        recorded = {**parts[0], **parts[1]}
        named = _named(kind, recorded, self.where) | {
            key: item for key, item in recorded.items() if key not in constructor_arguments(kind)
        }
        if named.get("download"):
            raise InputError(
                f"{self.where} describes {name} with download: true; download the model first, and pass it: a file "
                "must not start a download"
            )
        if trusted := [key for key in _TRUST if named.get(key)]:
            raise InputError(
                f"{self.where} describes {name} with {trusted[0]}, by which code in another file would run; write it "
                "in the configuration if you trust that file"
            )
        own = given if isinstance(given, Mapping) and given.get("class_path") == path else {}
        own = {**(own.get("init_args") or {}), **(own.get("dict_kwargs") or {})}
        arguments = self._items(named, _hints(kind), name, own, depth)
        classes = [each for each in options if isinstance(each, type)]
        returned = [each for option in options if _is_a(option, Callable) for each in _returned(option)]
        is_instance = Any in options or any(issubclass(kind, get_origin(each) or each) for each in classes)
        is_factory = any(each is Any or (isinstance(each, type) and issubclass(kind, each)) for each in returned)
        if not (is_instance or is_factory):
            raise InputError(f"{self.where} names {path} as {name}; expected {_expected(options)}")
        if not self.build:
            extra = {key: arguments.pop(key) for key in parts[1] if key in arguments}
            return {"class_path": path, "init_args": arguments} | ({"dict_kwargs": extra} if extra else {})
        return self._call(kind, arguments, name) if is_instance else partial(kind, **arguments)

    def _call(self, kind: type, arguments: dict[str, Any], name: str) -> Any:
        try:
            return kind(**arguments)
        except InputError:
            raise
        except Exception as error:  # of any constructor
            what = " ".join(str(error).split())
            raise InputError(
                f"{self.where}: {name} cannot be built from {kind.__name__} ({type(error).__name__}: {what})"
            ) from error


class MemoryLimit(TorchDispatchMode):
    """Context that ends the construction of a network as soon as its tensors have more bytes than permitted.

    Args:
        num_bytes: Permitted number of bytes.
        what: What is built, for the message.

    Raises:
        InputError: If a tensor is created beyond it, before the memory is used.

    Example:
        >>> with MemoryLimit(100, "network"):
        ...     nn.Linear(10, 10)
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: network needs more than 100 bytes, its weights have fewer
    """

    def __init__(self, num_bytes: int, what: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.num_bytes, self.left, self.what = num_bytes, num_bytes, what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not any(isinstance(given, torch.Tensor) for given in args):
            self.left -= result.nbytes
            if self.left < 0:
                raise InputError(f"{self.what} needs more than {self.num_bytes:,} bytes, its weights have fewer")
        return result


def _hints(kind: type) -> dict[str, Any]:
    """Return the types of constructor arguments, of base classes as well; Any where they cannot be resolved."""
    hints: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        if "__init__" in vars(each):
            try:
                hints |= get_type_hints(each.__init__, include_extras=False)  # type: ignore[misc]
            except Exception:  # names that exist for type checkers only
                hints |= dict.fromkeys(inspect.signature(each.__init__).parameters, Any)  # type: ignore[misc]
    return hints


def _options(hint: Any) -> Iterator[Any]:
    """Yield the members of a union; Any for everything that is no type."""
    hint = getattr(hint, "__value__", hint)  # of a type alias
    hint = getattr(hint, "__supertype__", hint)  # of a NewType
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        for each in get_args(hint):
            yield from _options(each)
    elif hint is None or hint is type(None):
        return
    else:
        known = isinstance(hint, type) or get_origin(hint) is not None or hint is Callable
        yield Any if hint is object or not known else hint


def _returned(hint: Any) -> Iterator[Any]:
    """Yield what a callable returns; Any if it has no type."""
    arguments = get_args(hint)
    yield from _options(arguments[1]) if len(arguments) == 2 else (Any,)


def _is_a(hint: Any, kind: Any) -> bool:
    """Whether a type is that of ``kind``, such as ``list[int]`` of Iterable."""
    found = get_origin(hint) or hint
    if kind is Callable:
        return found is Callable or get_origin(hint) is get_origin(Callable[[], Any])
    return isinstance(found, type) and issubclass(found, kind)


def _is_text(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, (str, Path, Enum))


def _names_code(hint: Any) -> bool:
    """Whether a parser imports what a string of this type names."""
    plain = str, int, float, bool, bytes, complex
    if get_origin(hint) is Literal or hint in plain or _is_text(hint):
        return False
    return not _is_a(hint, (Mapping, Iterable)) or not get_args(hint)


def _is_inert(text: str) -> bool:
    """Whether a parser of any value reads a scalar from a text: no import path, no list or mapping in YAML, no file."""
    if "." in text and all(part.isidentifier() for part in text.split(".")):
        return False
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)  # to load it could take hours: aliases, and 1:1:1:...
        if node is not None and not (isinstance(node, yaml.ScalarNode) and _is_short(node)):
            return False
        yaml.safe_load(text)
        return not os.path.lexists(text)
    except (yaml.YAMLError, ArithmeticError, ValueError, OSError, RecursionError):
        return False


def _is_short(node: yaml.ScalarNode) -> bool:
    return node.tag == "tag:yaml.org,2002:str" or len(node.value) <= _LONGEST_VALUE


def _expected(options: list[Any]) -> str:
    return shorten([getattr(each, "__name__", str(each)) for each in options]) or "nothing"
