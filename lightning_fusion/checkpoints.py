"""Reading of checkpoints, weights-only, and of modules from them."""

import inspect
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from lightning_fusion.described import MemoryLimit, build_arguments, imported_class
from lightning_fusion.errors import InputError, NotImportedError, nearest_path, shorten
from lightning_fusion.hyperparameters import constructor_arguments, keep_plain

_SPARE = 1 << 31  # bytes that a module may need beyond its weights
_LARGE = 1_000_000  # values of a tensor
_HOW = "map_location", "hparams_file", "strict", "weights_only"


def load_weights_only(path: Any, map_location: Any = "cpu", **how: Any) -> Any:
    """Return the content of a file of ``torch.save``, weights-only, after a comparison with its checksums.

    ``torch.load`` does not compare them: a flipped bit would be another weight.

    Args:
        path: Path of a file, or an open binary file, which is rewound.
        map_location: Device of the weights, as in :func:`torch.load`.
        **how: Further arguments of :func:`torch.load`.

    Raises:
        ValueError: If the file is damaged, is compressed (``torch.save`` compresses nothing), or has tensors that
            would take far more memory than the file.
        Exception: What ``torch.load`` raises for other files.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its entries are compressed")
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} has another checksum")
    if hasattr(path, "seek"):
        path.seek(0)
    content = torch.load(path, map_location=map_location, weights_only=True, **how)
    if hasattr(path, "seek"):
        path.seek(0)
    for value in _tensors(content):
        if value.layout != torch.strided or value.is_meta:
            raise ValueError("it has a tensor without values of its own")
        if value.numel() > _LARGE and value.numel() * value.itemsize > 2 * value.untyped_storage().nbytes():
            raise ValueError(f"a tensor of {tuple(value.shape)} repeats few values, and would take gigabytes")
    return content


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of nested content, which may contain itself."""
    stack, seen = [content], set()
    while stack:
        found = stack.pop()
        if isinstance(found, torch.Tensor):
            yield found
        elif isinstance(found, (Mapping, list, tuple)) and id(found) not in seen:
            seen.add(id(found))
            stack += found.values() if isinstance(found, Mapping) else found


def reason(error: Exception) -> str:
    """Return the reason why a file cannot be read, in one line: that of :func:`load_weights_only`, or a type."""
    return str(error) if type(error) is ValueError else type(error).__name__


def read_checkpoint(path: Any, what: str = "checkpoint", map_location: Any = "cpu") -> dict[str, Any]:
    """Read a Lightning checkpoint, weights-only.

    Args:
        path: Path of a file, or an open binary file, which is rewound.
        what: Argument that names it, for the message.
        map_location: Device of the weights, as in :func:`torch.load`.

    Raises:
        InputError: If the file is missing, cannot be read weights-only, is no Lightning checkpoint, or names files to
            be removed.
    """
    if isinstance(path, (str, os.PathLike)) and not os.path.isfile(path):
        raise InputError(f"{what}: found no file {path}{nearest_path(path)}")
    try:
        content = load_weights_only(path, map_location)
    except Exception as error:  # torch raises various types for truncated or other files
        raise InputError(f"{what}: {path} cannot be read as a checkpoint ({reason(error)})") from error
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise InputError(f"{what}: {path} is no Lightning checkpoint; 'fit' writes one")
    for key in ("state_dict", *_RECORDED.values()):
        if not isinstance(content.get(key, {}), Mapping):
            raise InputError(f"{what}: {path} is damaged ({key} is a {type(content[key]).__name__})")
    for key in ("hparams", "module_arguments"):  # arguments under their names of 2019, which Lightning would use
        if content.get(key):
            raise InputError(f"{what}: {path} has arguments as {key!r}; expected hyper_parameters")
    check_files_of_callbacks(content, f"{what}: {path}")
    return content


_RECORDED = {LightningModule: "hyper_parameters", LightningDataModule: "datamodule_hyper_parameters"}


def check_files_of_callbacks(checkpoint: Mapping[str, Any], where: str) -> None:
    """Raise InputError for checkpoints that name files outside their folder as those that a callback replaces.

    ``ModelCheckpoint`` removes the files of its state when better ones are written. It looks at the folder alone, and
    ``..`` or another file system in a path leave it.

    Args:
        checkpoint: Content of a checkpoint.
        where: Name of the checkpoint, for the message.
    """
    states = checkpoint.get("callbacks") or {}
    for state in states.values() if isinstance(states, Mapping) else ():
        if not isinstance(state, Mapping):
            continue
        texts = [state.get(key) for key in ("best_model_path", "kth_best_model_path", "last_model_path")]
        for text in [*texts, *(state.get("best_k_models") or ())]:
            if isinstance(text, str) and (".." in Path(text).parts or "://" in text or "::" in text):
                raise InputError(f"{where} names {text[:80]!r} as a file of its training; expected a local path")


def _check_complete(kind: type, hparams: Mapping[str, Any], given: Mapping[str, Any], path: Any) -> None:
    """Check that all constructor arguments missing in the checkpoint are passed."""
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


class CheckedReload:
    """Mixin of a LightningModule or data module, before it among the bases, that loads checkpoints without imports."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *how: Any, **arguments: Any) -> Self:
        """Load a checkpoint; classes that it names must be imported already, and nothing is called by name.

        Only arguments that a checkpoint cannot store must be passed: experts, and objects that are not a class or a
        partial of one, such as a network made by a function. Missing ones take their defaults, with a warning.

        Args:
            checkpoint_path: Path of a file, or an open binary file.
            *how: ``map_location``, ``hparams_file``, ``strict`` and ``weights_only`` of Lightning, which may be named:
                the device of the weights (default: that of the training where it exists, else the CPU), no file, and
                whether the weights must be exactly those of the module. Reading is always weights-only.
            **arguments: Constructor arguments in place of those of the checkpoint.

        Raises:
            InputError: If it is no such checkpoint, an argument without a default is missing, or the file names a class
                that is not imported.
        """
        given = dict(zip(_HOW, how, strict=False))
        given |= {name: arguments.pop(name) for name in _HOW if name in arguments}
        if given.get("weights_only") is False:
            raise InputError("weights_only is False; checkpoints are read weights-only: leave it out")
        if given.get("hparams_file") is not None:
            raise InputError("hparams_file: the arguments are those of the checkpoint; give others by name")
        content = read_checkpoint(checkpoint_path, map_location=given.get("map_location") or _available)
        family = next(each for each in _RECORDED if issubclass(cls, each))
        recorded, where = content.get(_RECORDED[family]) or {}, f"checkpoint: {checkpoint_path}"
        kind = cls
        if (path := recorded.get("_class_path")) is not None:
            found = imported_class(path, cls)
            if found is None:
                raise NotImportedError(
                    f"{where} contains a {str(path)[:80]}, which is no imported {cls.__name__}; import it first, or "
                    "load it by its own class"
                )
            kind = found
        _check_complete(kind, recorded, arguments, checkpoint_path)
        built = build_arguments(kind, {k: v for k, v in recorded.items() if k not in arguments}, where)
        num_bytes = sum(value.nbytes for value in _tensors(content.get("state_dict")))
        try:
            with MemoryLimit(_SPARE + 4 * num_bytes, where):
                result: Any = kind(**{**built, **arguments})
        except InputError:
            raise
        except Exception as error:  # of any constructor, from arguments of any kind
            what = " ".join(str(error).split())[:400]
            raise InputError(
                f"{where}: {kind.__name__} cannot be built from its arguments ({type(error).__name__}: {what})"
            ) from error
        if isinstance(result, LightningDataModule):
            if (held := content.get(kind.__qualname__)) is not None:
                result.load_state_dict(held)
            return result  # type: ignore[return-value]  # of the class that was called, or a subclass of it
        if "state_dict" not in content:
            raise InputError(f"{where} contains no weights")
        return _with_weights(result, content, given.get("strict"), where)  # type: ignore[no-any-return]  # the same


class CheckedLoading(CheckedReload):
    """Mixin of a LightningModule, before it among the bases, that records plain data and loads them with checks."""

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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the files that callbacks would replace."""
        check_files_of_callbacks(checkpoint, "ckpt_path: the checkpoint")
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights, whether networks were compiled where they were saved, are compiled here, both or neither.

        ``torch.compile(network)`` returns a module whose weights have another prefix.
        """
        own = {uncompiled(name): name for name in self.state_dict()}  # type: ignore[attr-defined]  # of LightningModule
        renamed = {own.get(uncompiled(name), name): value for name, value in state_dict.items()}
        same = renamed.keys() == state_dict.keys()  # then with its metadata: versions of parts such as batch norm
        return super().load_state_dict(state_dict if same else renamed, strict, assign)  # type: ignore[misc]  # likewise


def _with_weights(module: Any, content: dict[str, Any], strict: bool | None, where: str) -> Any:
    """Load the weights and further content of a checkpoint into a module, as Lightning does."""
    try:
        module.configure_model()
        module.on_load_checkpoint(content)
        state = content["state_dict"]
        keys = module.load_state_dict(state, strict=module.strict_loading if strict is None else strict)
    except InputError:
        raise
    except Exception as error:  # from content of any kind
        what = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise InputError(f"{where} does not match the module ({what})") from error
    for what, names in (("lacks", keys.missing_keys), ("has unknown", keys.unexpected_keys)):
        if names:
            rank_zero_warn(f"{where} {what} weights: {shorten(names)}")
    device = next((value.device for value in state.values() if isinstance(value, torch.Tensor)), torch.device("cpu"))
    return module.to(device)


def _available(storage: Any, location: str) -> Any:
    """Keep weights on the device of their training where it exists; else on the CPU."""
    kind = location.partition(":")[0]
    exists = kind == "cpu" or (hasattr(torch, kind) and getattr(torch, kind).is_available())
    return None if exists else storage.cpu()


def uncompiled(name: str) -> str:
    """Return the name of a weight without the prefix of a compiled network."""
    return name.replace("_orig_mod.", "")
