"""Files that name experts: paths relative to the file, and their place in a training command."""

import atexit
import copy
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lightning_fusion.errors import InputError

_PATHS = ("checkpoint", "path", "model", "tokenizer")  # arguments of experts that name files
_COLLECT = {"data", "output", "splits"}
_OWN = {"lightning_fusion", "lightning", "torch"}  # packages that every command imports
_FIT = {"seed_everything", "trainer", "model", "data"}
DATA_COMMANDS = ("publish", "select")
"""Commands that take the data of a configuration of ``fit``."""


def adapted(path: str, content: dict[str, Any], training: bool, command: str = "") -> str:
    """Return the path of a configuration file, or of a copy with what it means for a command.

    A relative path of an expert, or of a tokenizer in a file with data alone, names a file beside the configuration
    file, if there is one, else one in the working folder. A training command takes the experts of a file with experts
    alone for those of its model, and the data of a file for ``collect`` for its data. A command with data alone takes
    those of a file for ``fit``, and imports the modules of the user's own classes in its model.

    Args:
        path: Path of the file.
        content: Its content.
        training: Whether the file is given to a training command, beside another one with the model.
        command: Name of the command.
    """
    changed = copy.deepcopy(content)
    _check_experts(path, content)
    for experts in _experts(changed):
        _resolve(experts, Path(path).parent)
    if set(changed) == {"data"}:  # data.yaml of 'select'
        _resolve(changed, Path(path).parent)
    if training and set(changed) == {"experts"}:
        changed = {"model": {"init_args": changed}}
    elif _has_data_for(command, training, set(changed)):
        imports = [] if training else sorted(_modules(changed["model"]))
        changed = {"data": changed["data"]} | ({"imports": imports} if imports else {})
    if changed == content:
        return path
    copied = Path(tempfile.mkdtemp(dir=_folder()), Path(path).name)
    copied.write_text(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return str(copied)


def _has_data_for(command: str, training: bool, keys: set[str]) -> bool:
    """Whether a file of another command has the data of this one."""
    if training:
        return {"data", "output"} <= keys <= _COLLECT
    return command in DATA_COMMANDS and {"data", "model"} <= keys <= _FIT


def _modules(model: Any) -> set[str]:
    """Return the modules of the user's own classes that the model of a configuration names."""
    inside = model.values() if isinstance(model, dict) else model if isinstance(model, list) else ()
    found = {module for part in inside for module in _modules(part)}
    path = model.get("class_path") if isinstance(model, dict) else None
    module = path.rpartition(".")[0] if isinstance(path, str) else ""
    return found | ({module} if module and module.partition(".")[0] not in _OWN else set())


@cache
def _folder() -> str:
    """Return a folder for the copies of this process."""
    folder = tempfile.mkdtemp(prefix="lightning-fusion-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _experts(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the mappings of experts by name of a configuration."""
    model = content.get("model")
    arguments = model.get("init_args") if isinstance(model, dict) else None
    for part in (content, arguments):
        found = part.get("experts") if isinstance(part, dict) else None
        if isinstance(found, dict):
            yield found


def _check_experts(path: str, content: dict[str, Any]) -> None:
    """Raise InputError for a pool whose entries are no experts, such as that of a file that is not complete."""
    if set(content) == {"experts"} and not isinstance(content["experts"], dict):
        _reject(path, "experts", content["experts"], "experts by name")
    for experts in _experts(content):
        for name, entry in experts.items():
            if not isinstance(entry, dict | str):
                _reject(path, f"experts.{name}", entry, "class_path and init_args")
            if isinstance(entry, dict) and not isinstance(given := entry.get("init_args", {}), dict):
                _reject(path, f"experts.{name}.init_args", given, "arguments by name")


def _reject(path: str, key: str, found: Any, expected: str) -> None:
    shown = "nothing" if found is None else f"{found!r:.80}"
    raise InputError(f"config: {path}: {key} is {shown}; expected {expected}: is the file complete?")


def _resolve(value: Any, folder: Path) -> None:
    """Replace relative paths of files that lie in a folder, in place."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        if key in _PATHS and isinstance(part, str) and part and not Path(part).is_absolute():
            beside = folder / part
            if beside.exists() and "${" not in part:
                value[key] = str(beside)
        else:
            _resolve(part, folder)
