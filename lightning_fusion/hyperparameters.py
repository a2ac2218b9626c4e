"""Constructor arguments of modules in checkpoints, as plain data."""

import contextlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_fusion.errors import InputError, nearest_path, shorten
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


_FACTORIES = {
    *("experts", "loss", "metric", "network", "optimizer", "preprocess", "scheduler"),
    *("dissimilarity", "projection", "schedule", "mixer_optimizer", "mixer_scheduler"),
}
_CHOICES = {("loss", "zero_one"), ("loss", "log")}  # of FrugalFoE: words, not names of anything to call


def check_trusted(hparams: Any, where: str) -> None:
    """Raise InputError for hyperparameters of a checkpoint that name anything but imported classes.

    Lightning instantiates the objects that the hyperparameters of a checkpoint name. It checks the class of the module
    only; arguments may name any function at any depth. Here every ``class_path`` must be a torch module, optimizer or
    schedule that is already imported, or a class of this library: loading imports nothing and calls no function.

    Args:
        hparams: The ``hyper_parameters`` of a checkpoint.
        where: Name of the checkpoint, for the message.

    Raises:
        InputError: If another object is named.
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
    """Return the class that a file names, importing nothing but this library; ``None`` if there is none.

    Args:
        path: Import path of the class.
        families: Permitted base classes.

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
    """Read a Lightning checkpoint, weights-only, after :func:`check_trusted`.

    Args:
        path: Path of a file, or an open binary file, which is rewound.
        what: Argument that names it, for the message.

    Raises:
        InputError: If the file is missing, cannot be read weights-only, is no Lightning checkpoint, or is not trusted.
    """
    if isinstance(path, (str, os.PathLike)) and not os.path.isfile(path):
        raise InputError(f"{what}: found no file {path}{nearest_path(path)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises various types for truncated or other files
        raise InputError(f"{what}: {path} cannot be read as a checkpoint ({type(error).__name__})") from error
    if hasattr(path, "seek"):
        path.seek(0)
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise InputError(f"{what}: {path} is no Lightning checkpoint; 'fit' writes one")
    check_trusted(content.get("hyper_parameters", {}), f"{what}: {path}")
    return content


def _check_complete(cls: type, hparams: Mapping[str, Any], given: Mapping[str, Any], path: Any) -> None:
    """Check that all constructor arguments missing in the checkpoint are passed."""
    kind = imported_class(hparams.get("_class_path"), cls) or cls
    takes = constructor_arguments(kind).values()
    lacking = [one for one in takes if one.name not in hparams and one.name not in given]
    if needed := [one.name for one in lacking if one.default is one.empty]:
        raise InputError(
            f"{', '.join(needed)}: {path} does not contain it (checkpoints contain no class, or partial of one); pass "
            f"it: {kind.__name__}.load_from_checkpoint(path, {needed[0]}=...)"
        )
    if lacking and hparams:
        rank_zero_warn(
            f"{path} does not contain {shorten([one.name for one in lacking])} of the training (checkpoints contain no "
            "class, or partial of one); the default is used unless it is passed to load_from_checkpoint"
        )


class CheckedLoading:
    """Mixin of a LightningModule, before it among the bases, that checks checkpoints before they are used."""

    def save_hyperparameters(self, *args: Any, frame: FrameType | None = None, **how: Any) -> None:
        """Record constructor arguments as Lightning does, as plain data (:func:`keep_plain`); subclasses may call it.

        Args:
            *args: Names of arguments, as in Lightning.
            frame: Frame of the constructor. ``None`` (default) is that of the caller.
            **how: Further arguments of Lightning's method.
        """
        caller = frame or inspect.currentframe().f_back  # type: ignore[union-attr]  # CPython has frames
        super().save_hyperparameters(*args, frame=caller, **how)  # type: ignore[misc]  # of LightningModule
        keep_plain(self)  # type: ignore[arg-type]  # beside a LightningModule

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **arguments: Any) -> Self:
        """Load a checkpoint as Lightning does, after a check that the file names imported classes only.

        Only arguments that a checkpoint cannot store must be passed: experts, and objects that are not a class or a
        partial of one, such as a network made by a function. Missing ones take their defaults, with a warning.

        Raises:
            InputError: If it is no such checkpoint, or an argument without a default is missing.
        """
        content = read_checkpoint(checkpoint_path)
        _check_complete(cls, content.get("hyper_parameters", {}), arguments, checkpoint_path)
        result: Self = super().load_from_checkpoint(checkpoint_path, *args, **arguments)  # type: ignore[misc]
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights, whether networks were compiled where they were saved, are compiled here, both or neither.

        ``torch.compile(network)`` returns a module whose weights have another prefix.
        """
        own = {_uncompiled(name): name for name in self.state_dict()}  # type: ignore[attr-defined]  # of LightningModule
        renamed = {own.get(_uncompiled(name), name): value for name, value in state_dict.items()}
        same = renamed.keys() == state_dict.keys()  # then with its metadata: versions of parts such as batch norm
        return super().load_state_dict(state_dict if same else renamed, strict, assign)  # type: ignore[misc]  # likewise


def _uncompiled(name: str) -> str:
    return name.replace("_orig_mod.", "")
