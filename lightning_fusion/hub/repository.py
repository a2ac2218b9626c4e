"""Folders and hub repositories of models, through the mixin of huggingface_hub."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from safetensors import SafetensorError

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import require
from lightning_fusion.files import disk_errors, write_text
from lightning_fusion.hub.card import model_card
from lightning_fusion.hub.content import Content, content_of, model_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelCard, ModelHubMixin
else:
    ModelHubMixin = require("huggingface_hub", "hub").ModelHubMixin
    HfApi = require("huggingface_hub", "hub").HfApi

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_OF_HUB = ("revision", "token", "cache_dir", "force_download", "local_files_only")
_CARD = ("run", "method", "license")


class Repository(
    ModelHubMixin,
    library_name="lightning_fusion",
    tags=["lightning_fusion"],
):
    """A repository that is about to be written, or was read.

    Args:
        content: Its content.
        run: Folder of the run that the model card reports.
        method: Row of its report.
        license: Identifier of the license.
    """

    def __init__(
        self, content: Content, run: str | None = None, method: str | None = None, license: str | None = None
    ) -> None:
        self.content, self.repo_id = content, "FOLDER"
        self.card = model_card(content.config, run, method, license)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_text(save_directory / CONFIG, json.dumps(self.content.config, indent=1))
        try:
            safetensors.torch.save_file(self.content.tensors, save_directory / WEIGHTS, {"format": "pt"})
        except SafetensorError as error:
            raise InputError(
                f"folder: {WEIGHTS} cannot be written ({error}); make space, or name another one"
            ) from error

    def generate_model_card(self, *args: Any, **kwargs: Any) -> "ModelCard":
        """Return the model card."""
        return self.card(self.repo_id)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, force_download: bool = False, local_files_only: bool = False, **how: Any
    ) -> "Repository":
        how = {name: how[name] for name in ("revision", "token", "cache_dir") if name in how}
        folder = Path(model_id)
        if folder.is_dir():
            reject_code(model_id, [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()])
            paths = [folder / name for name in (CONFIG, WEIGHTS)]
        else:
            hub = require("huggingface_hub", "hub")
            local_files_only = local_files_only or hub.constants.HF_HUB_OFFLINE
            if not local_files_only:
                listed = HfApi(token=how.get("token")).list_repo_files(model_id, revision=how.get("revision"))
                reject_code(model_id, listed)
            options = {"force_download": force_download, "local_files_only": local_files_only, **how}
            paths = [Path(hub.hf_hub_download(model_id, name, **options)) for name in (CONFIG, WEIGHTS)]
        return cls(Content(_read_config(paths[0], model_id), _read_weights(paths[1], model_id)))


def save(model: Any, folder: str | os.PathLike[str], with_experts: bool = True, **card: Any) -> None:
    """Write a model to a new folder (:meth:`~lightning_fusion.sharing.SharedModel.save_pretrained`)."""
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"folder: {path} exists and is not empty; name a new folder")
    _check_options(card, _CARD, "save_pretrained")
    repository = Repository(content_of(model, with_experts), **card)
    repository.repo_id = path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as draft, disk_errors(path):
            repository.save_pretrained(Path(draft, path.name))
            os.replace(Path(draft, path.name), path)  # whole, or not at all
    except OSError as error:
        raise InputError(f"folder: {path} cannot be written ({error.strerror}); name another folder") from error


def push(model: Any, repo_id: str, with_experts: bool = True, **how: Any) -> str:
    """Upload a model (:meth:`~lightning_fusion.sharing.SharedModel.push_to_hub`)."""
    own = {name: how.pop(name) for name in _CARD if name in how}
    _check_options(how, ("private", "token", "branch", "create_pr", "commit_message"), "push_to_hub")
    repository = Repository(content_of(model, with_experts), **own)
    repository.repo_id = repo_id
    with _answers(repo_id, "repo_id"):
        return str(repository.push_to_hub(repo_id, **how))


def load(kind: type, name: str | os.PathLike[str], **arguments: Any) -> Any:
    """Load a model (:meth:`~lightning_fusion.sharing.SharedModel.from_pretrained`)."""
    where = str(name)
    if not Path(where).is_dir() and (Path(where).is_absolute() or where.startswith(".") or where.count("/") != 1):
        raise InputError(f"name: found no folder {where}; give a folder, or owner/name of a repository on the hub")
    how = {key: arguments.pop(key) for key in _OF_HUB if key in arguments}
    if Path(where).is_dir():
        if how.get("revision") is not None:
            raise InputError(f"revision: found {how['revision']!r}, and {where} is a folder, which has none; remove it")
        _read_config(Path(where, CONFIG), where)  # said in one line before the mixin reads it
    with _answers(where, "name"):
        repository: Repository = Repository.from_pretrained(where, **how)
    return model_of(repository.content, kind, where, **arguments)


def reject_code(where: str, files: Sequence[str]) -> None:
    """Reject a repository that brings code, or pickled weights alone.

    Args:
        where: Its name, for the message.
        files: Its files.

    Raises:
        InputError: If there are Python files, or no ``model.safetensors``.
    """
    if code := sorted(name for name in files if name.lower().endswith((".py", ".pyc", ".so"))):
        raise InputError(
            f"name: {where} contains code ({shorten(code, 3)}); a model of lightning_fusion has none, and nothing in a "
            "repository is run: remove it, or load the model with the library that it belongs to"
        )
    if WEIGHTS not in files:
        others = sorted(name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")))
        found = (
            f"pickled weights ({shorten(others, 3)}), which are not read"
            if others
            else shorten(sorted(files)) or "nothing"
        )
        raise InputError(f"name: {where} has no {WEIGHTS}; found {found}")


def _read_config(path: Path, where: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"name: {where} has no readable {CONFIG} ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise InputError(f"name: {CONFIG} of {where} is a {type(config).__name__}; expected a mapping")
    if config.get("auto_map"):
        raise InputError(f"name: {CONFIG} of {where} has an auto_map, which names code; a model must not bring code")
    return config


def _read_weights(path: Path, where: str) -> dict[str, Any]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        what = " ".join(str(error).split())[:200]
        raise InputError(f"name: {WEIGHTS} of {where} cannot be read ({what}); download or save it again") from error


def _check_options(given: dict[str, Any], known: Sequence[str], method: str) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise InputError(
            f"{method}: found the arguments {shorten(unknown)}; expected {shorten([*known, 'with_experts'], 9)}"
        )


@contextmanager
def _answers(name: str, argument: str) -> Iterator[None]:
    """Context of requests to the hub; what they raise becomes an error of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of huggingface_hub and of its HTTP library, which have many types
        what = str(error).strip().partition("\n")[0][:200]
        raise InputError(f"{argument}: the hub does not give {name} ({type(error).__name__}: {what})") from error
