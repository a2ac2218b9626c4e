"""Constructor arguments of modules in checkpoints, as plain data."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lightning import LightningDataModule, LightningModule

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.schedules import Schedule


def is_plain(value: Any) -> bool:
    """Return whether a value consists of None, bool, int, float, str, lists, tuples and dicts only.

    Example:
        >>> is_plain({"a": [1, None]}), is_plain(object())
        (True, False)
    """
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def describe_factory(factory: Any) -> dict[str, Any] | None:
    """Return ``class_path`` and ``init_args`` of a class, a ``functools.partial`` of one, or a schedule; else None.

    Example:
        >>> from torch import nn
        >>> describe_factory(partial(nn.Dropout, p=0.3))
        {'class_path': 'torch.nn.modules.dropout.Dropout', 'init_args': {'p': 0.3}}
    """
    keywords: dict[str, Any] = {}
    if isinstance(factory, Schedule) and is_dataclass(factory):
        keywords, factory = asdict(factory), type(factory)
    if isinstance(factory, partial):
        keywords = dict(factory.keywords)
        factory = next((part for part in (factory.func, *factory.args) if isinstance(part, type)), None)
    if not isinstance(factory, type) or "<locals>" in factory.__qualname__ or not is_plain(keywords):
        return None
    return {"class_path": f"{factory.__module__}.{factory.__qualname__}", "init_args": keywords}


def keep_plain(module: LightningModule | LightningDataModule) -> None:
    """Keep only plain data among the recorded hyperparameters, so that weights-only loading accepts the checkpoint.

    Modules built by the command line have a parsed configuration, which is plain and not changed. Modules built in
    Python may have factories of networks and optimizers: classes, or partials of classes, are stored as ``class_path``
    and ``init_args``, and the checkpoint is marked to be rebuilt from them. Other objects (a module instance, a
    function) and experts built in Python are dropped and must be passed to ``load_from_checkpoint``. Arguments of a
    parent class that the module's constructor does not take are not stored.
    """
    hparams = module.hparams
    if "_instantiator" in hparams and is_plain(dict(hparams)):
        return
    takes = inspect.signature(type(module)).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        for name in set(hparams) - set(takes):
            del hparams[name]
    if not is_plain(hparams.get("experts")):  # as a subclass hands them on: their weights are none of its arguments
        hparams["experts"] = None
    described = {name: describe_factory(value) for name, value in hparams.items() if not is_plain(value)}
    for name, value in described.items():
        if value is not None:
            hparams[name] = value
        else:
            del hparams[name]
    kind = type(module)
    if isinstance(module, LightningModule):
        hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"
        if "<locals>" not in kind.__qualname__:
            hparams["_class_path"] = f"{kind.__module__}.{kind.__qualname__}"
    module._hparams_initial = dict(hparams)  # type: ignore[union-attr]


def record_arguments(module: LightningModule | LightningDataModule) -> None:
    """Record the plain-data arguments of the running constructor and of the constructors that call it.

    For base classes with subclasses that pass other objects (an augmentation) through ``**kwargs``. Configurations
    parsed by the command line are recorded unchanged.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute '.*' is an instance of `nn.Module`")  # it is dropped below
        module.save_hyperparameters(logger=False)
    keep_plain(module)


def constructor_arguments(kind: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a constructor by name, with those that its ``**kwargs`` pass on to base classes.

    Example:
        >>> class Base:
        ...     def __init__(self, seed=0): ...
        >>> class Source(Base):
        ...     def __init__(self, root, **shared): ...
        >>> sorted(constructor_arguments(Source))
        ['root', 'seed']
    """
    arguments: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__:
        if "__init__" in vars(each):
            _, *found = inspect.signature(each.__init__).parameters.values()  # type: ignore[misc]
            named = {one.name: one for one in found if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
            arguments = named | arguments
            if all(one.kind is not one.VAR_KEYWORD for one in found):
                break
    return arguments


def check_choices(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check arguments annotated with a ``Literal``, as the command line does, for calls from Python.

    Args:
        function: Function with the annotations.
        arguments: Arguments by name, such as ``locals()`` at the start of the function; others are ignored.

    Raises:
        InputError: If an argument is not one of the literals.

    Example:
        >>> def mean(over: Literal["rows", "columns"] = "rows"):
        ...     check_choices(mean, locals())
        >>> mean("cells")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: over is 'cells'; expected rows, columns
    """
    for name, hint in get_type_hints(function).items():
        if get_origin(hint) is Literal and arguments[name] not in get_args(hint):
            raise InputError(f"{name} is {arguments[name]!r}; expected {shorten(get_args(hint))}")


def check_types(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check arguments annotated as numbers or bool, as the command line does, for calls from Python.

    Args:
        function: Function with the annotations.
        arguments: Arguments by name, such as ``locals()`` at the start of the function; others are ignored.

    Raises:
        InputError: If an argument has another type.

    Example:
        >>> def scale(by: float | None = None):
        ...     check_types(scale, locals())
        >>> scale("2")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: by is '2', a str; expected a number, or null
    """
    for name, hint in get_type_hints(function).items():
        kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
        if kinds not in ([float], [int], [bool]) or (arguments[name] is None and len(get_args(hint)) > 1):
            continue
        wanted, expected = _KINDS[kinds[0]]
        value = arguments[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and kinds != [bool]):
            null = ", or null" if len(get_args(hint)) > 1 else ""
            raise InputError(f"{name} is {value!r}, a {type(value).__name__}; expected {expected}{null}")


_KINDS: dict[Any, tuple[type, str]] = {
    float: (Real, "a number"),
    int: (Integral, "a whole number"),
    bool: (bool, "true or false"),
}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Join nested keys by dots, as in a sweep.

    Example:
        >>> flat({"model": {"init_args": {"lr": 0.1}}})
        {'model.init_args.lr': 0.1}
    """
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    result: dict[str, Any] = {}
    for key, value in config.items():
        result |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return result
