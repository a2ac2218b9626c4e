"""Folders of models of other libraries: which kind they are, and what must not be read from them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.formats import check_format, model_format, unknown_folder
from lightning_fusion.extras import require

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib")


def reject_code(folder: str, argument: str) -> None:
    """Reject a folder of a model that brings code of its own, which only ``trust_remote_code`` would run.

    Args:
        folder: Folder of the model.
        argument: Argument that names it, for the message.

    Raises:
        InputError: If it contains Python files, or its configuration names code.
    """
    code = sorted(file.name for file in Path(folder).glob("*.py"))
    named = sorted(
        name
        for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json")
        if read_json(Path(folder, name)).get("auto_map")
    )
    if code or named:
        found = f"Python files ({shorten(code, 3)})" if code else f"an auto_map in {named[0]}, which names code"
        raise InputError(
            f"{argument}: {folder} contains {found}; a model must not bring code: export it as ONNX, or wrap it as "
            "lightning_fusion.Expert with a network class that you have installed"
        )


def reject_pickles(folder: str, argument: str, writer: str) -> None:
    """Reject a folder whose weights are pickled only.

    Args:
        folder: Folder of the model.
        argument: Argument that names it, for the message.
        writer: Call that writes safetensors, for the message.

    Raises:
        InputError: If it contains no safetensors file.
    """
    if any(Path(folder).glob("*.safetensors")):
        return
    pickled = sorted(file.name for kind in _PICKLES for file in Path(folder).glob(kind))
    if pickled:
        raise InputError(
            f"{argument}: {folder} contains pickled weights only ({shorten(pickled)}), which could run code when they "
            f"are read; where you trust them, convert once: load the model and save it by {writer}"
        )
    raise InputError(f"{argument}: {folder} contains no weights; expected model.safetensors")


def weight_files(path: str) -> list[Path]:
    """Return the weight files of a local model, safetensors only; none for a model on the hub.

    Raises:
        InputError: If a folder has no configuration, brings code, or its weights are pickled.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.is_file():
            check_format(path, ("a folder of transformers",))
        if folder.is_absolute() or path.startswith(".") or path.count("/") > 1:
            raise InputError(f"path: found no folder {path}; give a model's folder, or its name on the hub")
        return []
    found = model_format(folder)
    if found is None:
        raise unknown_folder(path)
    if found[0] != "a folder of transformers":
        raise InputError(f"path: {path} is {found[0]}; {found[1]}")
    reject_code(path, "path")
    reject_pickles(path, "path", "save_pretrained(FOLDER)")
    return sorted(folder.glob("*.safetensors"))


def model_files(path: str) -> list[Path]:
    """Return all files of a local model that affect its outputs: weights, configurations, tokenizer."""
    more = [file for kind in ("*.json", "*.txt", "*.model") for file in Path(path).glob(kind)]
    return [*weight_files(path), *sorted(more)]


def load_pretrained(kind: str, path: str, download: bool) -> Any:
    """Load a model of transformers, from safetensors only and without code of its own.

    Args:
        kind: Class of transformers, such as ``AutoModelForSequenceClassification``.
        path: Folder of the model, or its name on the hub.
        download: Download missing files from the hub.

    Raises:
        InputError: If it cannot be read, or is of another kind.
    """
    transformers = require("transformers", "text")
    weight_files(path)
    how: dict[str, Any] = {"use_safetensors": True, "local_files_only": not download, "dtype": torch.float32}
    how["trust_remote_code"] = False
    try:
        model, found = getattr(transformers, kind).from_pretrained(path, output_loading_info=True, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # a missing file, or another kind of model
        if not download and not Path(path).is_dir():
            raise InputError(
                f"path: found no folder {path}, and no model of this name on this machine; a name on the hub needs "
                "download: true"
            ) from error
        raise InputError(
            f"path: transformers cannot load {path} as {kind} from safetensors files: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if lacking := sorted(found["missing_keys"]):
        raise InputError(
            f"path: {path} contains no weights for {shorten(lacking)} of {kind}, which would be drawn at random: it is "
            "another kind of model, or its config.json is that of another"
        )
    return model.eval()


def read_json(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file; empty if there is none, or it is no mapping."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
