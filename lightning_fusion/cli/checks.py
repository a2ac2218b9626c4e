"""Checks of a run before it starts: where it writes, whether it trains anything, and which weights it uses."""

import re
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_fusion.cli.config import read_config, shipped_configs
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.hyperparameters import flat
from lightning_fusion.store import MANIFEST

_WEIGHTS = ("weights", "pretrained", "path", "checkpoint", "checkpoint_path", "pretrained_model_name_or_path")


def check_folder(config: Mapping[str, Any], files: Sequence[str]) -> None:
    """Check that a shipped file with other data does not write into the folder of its own data.

    Args:
        config: Parsed configuration of a training command, nested.
        files: Paths of the configuration files.

    Raises:
        InputError: If the data of a shipped file were replaced, and its folder was not.
    """
    trainer = config.get("trainer") or {}
    given = config.get("data") or {}
    if trainer.get("fast_dev_run") or not given:
        return
    for path in files:
        if shipped_configs().resolve() not in Path(path).resolve().parents:
            continue
        content = read_config(path)
        own, folder = content.get("data") or {}, (content.get("trainer") or {}).get("default_root_dir")
        if folder is None or str(trainer.get("default_root_dir")) != folder:
            continue
        if "class_path" in own and resolve_name(own["class_path"]) is not resolve_name(given["class_path"]):
            found, expected = given["class_path"], own["class_path"]
        elif (store := (own.get("init_args") or {}).get("store")) not in (None, given["init_args"].get("store")):
            found, expected = given["init_args"].get("store"), store
        else:
            continue
        raise InputError(
            f"trainer.default_root_dir: {folder} is the folder of {expected} in {Path(path).name}; the data "
            f"are {found}: give their runs another one, as in --trainer.default_root_dir=runs/mine"
        )


def check_trains(trainer: Mapping[str, Any]) -> None:
    """Raise InputError for Trainer arguments by which ``fit`` trains no batch."""
    for key in ("limit_train_batches", "max_steps", "max_epochs"):
        value = trainer.get(key)
        if value == 0 and value is not False:
            raise InputError(f"trainer.{key}: found {value:g}, with which fit trains nothing; give a positive number")


def check_checkpoints(trainer: Trainer, model: LightningModule, resumed: str | None, overwrite: bool) -> None:
    """Check that ``fit`` replaces no checkpoint or policy of an earlier run.

    Args:
        trainer: Trainer.
        model: Module.
        resumed: Checkpoint that the run resumes; it goes on in the files of its run.
        overwrite: Checkpoints may be replaced.

    Raises:
        InputError: If a file exists that the run would write, and that is not the resumed one.
    """
    if overwrite or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
        return
    found = [
        path for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint) for path in _files(each)
    ]
    if resumed and (resumed in ("last", "best", "hpc") or Path(resumed).resolve() in map(Path.resolve, found)):
        return
    choices = ["give --overwrite=true", "or another --trainer.default_root_dir"]
    if found:
        choices.insert(1, f"--ckpt_path={_shown(found[0])} to resume that run")
    folder = getattr(model, "folder", None)  # of a query policy
    if isinstance(folder, str) and (Path(folder) / MANIFEST).is_file():
        found.append(Path(folder))
    if found:
        names = shorten(map(_shown, found), 3)
        raise InputError(f"fit would replace {names} of an earlier run; {', '.join(choices)}")


def check_trained(trainer: Trainer, model: LightningModule, path: str | None, command: str) -> None:
    """Check that ``validate``, ``test`` and ``predict`` use trained weights.

    Args:
        trainer: Trainer.
        model: Module.
        path: The argument ``ckpt_path``. None: a warning, except for a query policy, which is read from its folder.
        command: Name of the command.

    Raises:
        InputError: If ``path`` names a checkpoint of the same run, which these commands do not have.
    """
    if path in ("best", "last"):
        raise InputError(f"ckpt_path: {path} names a checkpoint of a fit in the same process; give {command} a file")
    from_folder = isinstance(getattr(model, "folder", None), str)
    if path is None and not from_folder and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
        rank_zero_warn(f"{command} has no --ckpt_path: the model is used with its initial weights")


def warn_untrained(experts: Mapping[str, Any], config: Any) -> None:
    """Warn about experts whose network has neither a checkpoint nor an argument that names weights.

    Args:
        experts: Instantiated experts by name; anything else than an Expert is left out, and so are its subclasses,
            whose constructors read weights.
        config: Their configuration by name, as plain data.
    """
    found = [
        name
        for name, expert in experts.items()
        if type(expert) is Expert and isinstance(expert.network, nn.Module) and not expert.checkpoint
        if expert.network.state_dict() and not _names_weights(config, name)
    ]
    if found:
        rank_zero_warn(
            f"experts: the networks of {len(found)} expert(s) ({shorten(found)}) have no checkpoint: their weights are "
            "those of the constructor; set checkpoint, unless the constructor loads trained weights"
        )


def _names_weights(config: Any, name: str) -> bool:
    """Whether an argument of an expert's network names weights, as those of torchvision, timm and transformers do."""
    own = config.get(name) if isinstance(config, Mapping) else None
    return isinstance(own, Mapping) and any(
        value and key.rpartition(".")[2] in _WEIGHTS for key, value in flat(dict(own)).items()
    )


def _files(callback: ModelCheckpoint) -> list[Path]:
    """Return existing files that a callback would replace: those without a version counter in a given folder."""
    if callback._enable_version_counter or not callback.dirpath:
        return []
    name = callback.filename or f"{{epoch}}{callback.CHECKPOINT_JOIN_CHAR}{{step}}"
    pattern = "*".join(escape(part) for part in re.split(r"\{[^}]*\}", name))
    folder = Path(callback.dirpath)
    names = [f"{pattern}{callback.FILE_EXTENSION}"]
    if callback.save_last:
        names.append(f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}")
    return [path for name in names for path in sorted(folder.glob(name))]


def _shown(path: Path) -> str:
    """Return a path as a user would write it, relative to the working folder where it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
