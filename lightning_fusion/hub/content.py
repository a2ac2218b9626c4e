"""Content of a repository: a checkpoint in two parts, plain data as JSON and tensors as safetensors."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor

from lightning_fusion.described import imported_class
from lightning_fusion.errors import InputError, NotImportedError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.module import ExpertModule
from lightning_fusion.experts.pool import POOL, ExpertPool
from lightning_fusion.experts.stored import describe_expert
from lightning_fusion.experts.weights import CARD_KEY, check_tensors
from lightning_fusion.files import digest, sealed
from lightning_fusion.foe.module import FoEFuserModule
from lightning_fusion.frugal.module import FrugalFoEModule
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.frugal.state import digest_of
from lightning_fusion.hyperparameters import is_plain

KINDS: dict[str, tuple[type, str]] = {
    "expert": (Expert, "Expert"),
    "fuser": (FoEFuserModule, "FoEFuserModule"),
    "policy module": (FrugalFoEModule, "FrugalFoEModule"),
    "policy": (FrugalFoE, "FrugalFoE"),
}
"""Kinds of content, with the class that loads them."""
FORMAT = 1
_LOCAL = ("experts", "folder")  # arguments that name files of this machine


class Content(NamedTuple):
    """Content of a repository.

    Attributes:
        config: Plain data.
        tensors: Tensors by name.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def content_of(model: Any, with_experts: bool = True) -> Content:
    """Return the content for a model.

    Args:
        model: An expert, an ExpertModule, a fuser, a policy, or the module of one.
        with_experts: Whether a fuser or policy brings its experts, if it has any.

    Raises:
        InputError: If it is no such model, or a part of it cannot be described.
    """
    if isinstance(model, Expert):
        return _of_expert(model, "expert")
    if isinstance(model, ExpertModule):
        return _of_module(model)
    if isinstance(model, FrugalFoE):
        return _content("policy", {"policy": _policy(model)}, model.state_dict())
    if not isinstance(model, (FoEFuserModule, FrugalFoEModule)):
        raise InputError(f"model: a {type(model).__name__} cannot be shared; expected an expert, a fuser or a policy")
    arguments = {name: value for name, value in dict(model.hparams).items() if name not in _LOCAL}
    checkpoint: dict[str, Any] = {"state_dict": dict(model.state_dict())}
    model.on_save_checkpoint(checkpoint)
    tensors = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith(POOL)}
    parts: dict[str, Any] = {"arguments": arguments}
    if isinstance(model, FoEFuserModule):
        kind, parts["metadata"] = "fuser", _without_paths(checkpoint.get("experts"))
    else:
        if not model.policy.names:
            raise InputError("policy: it is not fitted; fit it before it is shared")
        kind, parts["policy"] = "policy module", _policy(model.policy)
        tensors |= {f"policy/{name}": value for name, value in checkpoint["policy"]["tensors"].items()}
    if with_experts and model.pool is not None:
        parts["experts"] = {}
        for number, (name, expert) in enumerate(model.pool.members.items()):
            if (own := _of_expert(expert, name)).config["card"]["network"] is None:
                raise InputError(
                    f"experts: the class of the network of {name} is not recorded (checkpoints of ExpertModule record "
                    "it); share the model with with_experts=False, and give the experts to from_pretrained"
                )
            parts["experts"][name] = own.config
            tensors |= {f"experts/{number}/{key}": value for key, value in own.tensors.items()}
    return _content(kind, parts, tensors)


def model_of(content: Content, kind: type, where: str, **arguments: Any) -> Any:
    """Build the model of a repository.

    Args:
        content: Content of the repository.
        kind: Class that the user loads it by.
        where: Name of the repository, for messages.
        **arguments: Constructor arguments in place of those that are saved.

    Raises:
        InputError: If it is of another class, a class that it names is not imported, or weights do not match.
    """
    config = content.config
    found = str(config.get("kind"))
    if config.get("library") != "lightning_fusion" or config.get("format") != FORMAT or found not in KINDS:
        raise InputError(
            f"name: the config.json of {where} is none of a model of lightning_fusion (format {FORMAT}); found "
            f"{str(config.get('architectures') or config.get('kind') or 'no kind')[:80]}"
        )
    if not issubclass(kind, KINDS[found][0]):
        raise InputError(
            f"name: {where} is a repository of the kind {found!r}; load it with {KINDS[found][1]}.from_pretrained, not "
            f"{kind.__name__}"
        )
    if config.get("digest") != content_digest(config, content.tensors):
        raise InputError(
            f"name: config.json and weights of {where} are not those that were saved together (another digest); "
            "save or download it again"
        )
    try:
        if found == "expert":
            return _expert(content, where, **arguments)
        if found == "policy":
            return FrugalFoE.from_state(config["policy"], content.tensors, where)
        return _module(content, kind, where, **arguments)
    except (KeyError, TypeError, AttributeError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"name: {where} is damaged, or an argument is wrong ({what})") from error


# -------------------------------------------------------------------------- experts


def _of_expert(expert: Expert, name: str) -> Content:
    parts = describe_expert(expert, name)
    return _content("expert", {"card": parts.card, "arguments": parts.arguments}, parts.tensors)


def _of_module(module: ExpertModule) -> Content:
    spec = module.hparams.get("network")
    card = {
        "classes": module.classes,
        "features": module.features,
        "domains": module.trained_on,
        "preprocessing": module.preprocessing,
        "new_samples": module.new_sample_facts,
        "network": spec if isinstance(spec, dict) else None,
    }
    tensors = {f"network.{key}": value for key, value in module.network.state_dict().items()}
    arguments = {"classes": module.classes}
    return _content("expert", {"card": card, "arguments": arguments}, tensors)


def _expert(content: Content, where: str, **arguments: Any) -> Expert:
    """Build an expert by way of a checkpoint, which is read with all checks."""
    given = {**content.config["arguments"], **arguments}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "expert.ckpt")
        torch.save({"state_dict": content.tensors, CARD_KEY: content.config["card"]}, path)
        try:
            expert = Expert(checkpoint=str(path), **given)
        except InputError as error:
            raise type(error)(str(error).replace(f"checkpoint {path}", where).replace(str(path), where)) from error
    expert.checkpoint = None
    expert.spec = content.config["card"].get("network") if "network" not in arguments else None
    return expert


# ------------------------------------------------------------------ fusers and policies


def _module(content: Content, kind: type, where: str, **arguments: Any) -> Any:
    """Build a LightningModule by way of a checkpoint, which is read with all checks."""
    config, tensors = content
    recorded = config["arguments"]
    path = recorded.get("_class_path")
    if path is not None and (kind_of := imported_class(path, kind)) is None:
        raise NotImportedError(
            f"name: {where} contains {str(path)[:80]}, which is no imported {kind.__name__}; import it first if you "
            "trust it"
        )
    kind = kind if path is None else kind_of  # type: ignore[assignment]
    pool = arguments.pop("experts", None)
    if pool is None and "experts" in config:
        made = {
            name: _expert(Content(own, _part(tensors, f"experts/{number}/")), f"expert {name} of {where}")
            for number, (name, own) in enumerate(config["experts"].items())
        }
        pool = ExpertPool(made, recorded.get("classes"))
    state = {name: value for name, value in tensors.items() if not name.startswith(("experts/", "policy/"))}
    checkpoint: dict[str, Any] = {
        "pytorch-lightning_version": lightning.__version__,
        "hyper_parameters": recorded,
        "state_dict": state,
        "experts": config.get("metadata"),
    }
    if "policy" in config:
        checkpoint["policy"] = {"metadata": config["policy"], "tensors": _part(tensors, "policy/")}
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "model.ckpt")
        torch.save(checkpoint, saved)
        try:
            load: Any = kind
            return load.load_from_checkpoint(str(saved), map_location="cpu", experts=pool, **arguments).eval()
        except InputError as error:
            raise type(error)(str(error).replace(f"checkpoint: {saved}", where).replace(str(saved), where)) from error


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _content(kind: str, parts: dict[str, Any], tensors: Mapping[str, Tensor]) -> Content:
    if not is_plain(parts):
        raise InputError(f"model: this {kind} has arguments that are no plain data, and cannot be saved as JSON")
    check_tensors(tensors, f"model: this {kind}")
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    config = {"library": "lightning_fusion", "format": FORMAT, "kind": kind, **parts}
    return Content(config | {"digest": content_digest(json.loads(json.dumps(config)), own)}, own)


def content_digest(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of a configuration as it is read from JSON, and of the tensors."""
    described = sealed(config)["digest"]
    return digest(described, *(part for name in sorted(tensors) for part in (name, tensors[name])))


def _policy(policy: FrugalFoE) -> dict[str, Any]:
    """Return the metadata of a policy without the paths of its experts on this machine."""
    found = policy.metadata()
    found["experts"] = _without_paths(found["experts"])
    return found | {"digest": digest_of(policy.state_dict(), found)}


def _without_paths(metadata: Any) -> Any:
    """Return the metadata of experts without the paths of their checkpoints on this machine."""
    return metadata and {name: {**entry, "checkpoint": None} for name, entry in metadata.items()}
