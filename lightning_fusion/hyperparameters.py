"""What a checkpoint may hold of a module's constructor arguments: plain data only."""

import contextlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from importlib import import_module
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.schedules import Schedule


def is_plain(value: Any) -> bool:
    """Whether a value is made of None, bool, int, float, str, lists, tuples and dicts alone.

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
    """The ``class_path`` and ``init_args`` of a class, a ``functools.partial`` of one, or a schedule; None elsewhere.

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

    What the command line built holds its parsed configuration, which is plain: nothing changes. What Python built may
    hold factories of networks and optimizers: those that are classes, or partials of classes, are kept as
    ``class_path`` and ``init_args``, and the checkpoint is marked to be rebuilt from them as the command line's are.
    Anything else (a module instance, a function) is dropped, and it alone is to be given to ``load_from_checkpoint``;
    experts that were built in Python are never kept, and given again.
    Arguments of a parent class that the module's own constructor does not take are its own affair, and not kept.
    """
    hparams = module.hparams
    if "_instantiator" in hparams:
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
    """Record those arguments of the constructor that is running, and of those that call it, that are plain data.

    For a base class whose subclasses pass on what is no plain data (an augmentation) through their ``**kwargs``. What
    the command line parsed is recorded as it is.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attribute '.*' is an instance of `nn.Module`")  # it is dropped below
        module.save_hyperparameters(logger=False)
    keep_plain(module)


def constructor_arguments(kind: type) -> dict[str, inspect.Parameter]:
    """A constructor's arguments by name, and those that its ``**kwargs`` pass on to the next base class.

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
    """Check arguments whose annotation is a ``Literal``: what the command line does, for calls from Python.

    Args:
        function: With the annotations.
        arguments: By name; others beside them are not looked at. ``locals()`` as a function begins will do.

    Raises:
        InputError: With what is expected.

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


_FACTORIES = {
    *("experts", "loss", "metric", "network", "optimizer", "preprocess", "scheduler"),
    *("dissimilarity", "projection", "schedule", "mixer_optimizer", "mixer_scheduler"),
}
_CHOICES = {("loss", "zero_one"), ("loss", "log")}  # of FrugalFoE: words, not names of anything to call


def check_trusted(hparams: Any, where: str) -> None:
    """Refuse hyperparameters of a checkpoint that name anything but classes which are imported already.

    Lightning builds what a checkpoint's hyperparameters name. It checks the module's own class; the arguments may name
    any function at any depth. Here every ``class_path`` must be a torch module, optimizer or schedule that this
    process has imported, or one of this library: loading imports nothing and calls no function.

    Args:
        hparams: The ``hyper_parameters`` of a checkpoint.
        where: The checkpoint, for the message.

    Raises:
        InputError: Naming what was found.
    """
    if isinstance(hparams, dict):
        for key, value in hparams.items():
            if key in ("class_path", "_class_path"):
                _check_class(value, where)
            elif key in _FACTORIES and isinstance(value, str) and (key, value) not in _CHOICES:
                raise InputError(f"{where} names {value!r} as {key}; expected a class_path with init_args")
            else:
                check_trusted(value, where)
    elif isinstance(hparams, (list, tuple)):
        for value in hparams:
            check_trusted(value, where)


def imported_class(path: Any, *families: type) -> type | None:
    """The class that a file names, without importing anything but this library; None where there is none.

    Args:
        path: Its import path.
        families: What it must be a subclass of, one of them.

    Example:
        >>> imported_class("torch.nn.Linear", nn.Module).__name__, imported_class("os.system", nn.Module)
        ('Linear', None)
    """
    module, _, name = str(path).rpartition(".")
    if module.partition(".")[0] == __package__:
        with contextlib.suppress(ImportError):
            import_module(module)
    kind = getattr(sys.modules.get(module), name, None)
    return kind if isinstance(kind, type) and issubclass(kind, families) else None


def _check_class(path: Any, where: str) -> None:
    families = nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, Schedule
    if imported_class(path, *families) is None:
        raise InputError(
            f"{where} names {path}, which is no imported torch module, optimizer or schedule; import it first if you "
            "trust the file (a checkpoint must not import or call code by itself)"
        )


def read_checkpoint(path: Any, what: str = "checkpoint") -> dict[str, Any]:
    """The content of a Lightning checkpoint, weights-only, after :func:`check_trusted`.

    Args:
        path: A file's path, or an open binary file, which is rewound.
        what: The argument that named it, for the message.

    Raises:
        InputError: If the file is missing, cannot be read weights-only, is no Lightning checkpoint, or is not trusted.
    """
    if isinstance(path, (str, os.PathLike)) and not os.path.isfile(path):
        raise InputError(f"{what}: found no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a truncated or foreign file
        raise InputError(f"{what}: {path} cannot be read as a checkpoint ({type(error).__name__})") from error
    if hasattr(path, "seek"):
        path.seek(0)
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise InputError(f"{what}: {path} is no Lightning checkpoint; 'fit' writes one")
    check_trusted(content.get("hyper_parameters", {}), f"{what}: {path}")
    return content


def _check_complete(cls: type, hparams: Mapping[str, Any], given: Mapping[str, Any], path: Any) -> None:
    """See that every argument of the constructor that the checkpoint does not hold is given."""
    kind = imported_class(hparams.get("_class_path"), cls) or cls
    takes = constructor_arguments(kind).values()
    lacking = [one for one in takes if one.name not in hparams and one.name not in given]
    if needed := [one.name for one in lacking if one.default is one.empty]:
        raise InputError(
            f"{', '.join(needed)}: {path} cannot hold what was given in training (no class, or partial of one); give "
            f"it: {kind.__name__}.load_from_checkpoint(path, {needed[0]}=...)"
        )
    if lacking and hparams:
        rank_zero_warn(
            f"{path} cannot hold the {shorten([one.name for one in lacking])} of the training (no class, or partial of "
            "one); the default stands in, unless load_from_checkpoint is given it"
        )


class CheckedLoading:
    """For a LightningModule, before it among the bases: checkpoints are checked before anything of them is used."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **arguments: Any) -> Self:
        """Lightning's, after a check that the file names no code but imported classes.

        Only arguments that a checkpoint cannot hold are to be given: experts, and objects that are no class or partial
        of one, as a network that a function makes. A default stands in for one that is left out, with a warning.

        Raises:
            InputError: If it is no such checkpoint, or an argument without a default is to be given.
        """
        content = read_checkpoint(checkpoint_path)
        _check_complete(cls, content.get("hyper_parameters", {}), arguments, checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **arguments)  # type: ignore[misc]
