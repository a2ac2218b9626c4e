"""A fitted policy as files: what is written, and what is believed of what is read."""

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError
from lightning_fusion.files import digest
from lightning_fusion.frugal.inputs import is_number
from lightning_fusion.hyperparameters import imported_class
from lightning_fusion.store import ArrayStore, StoreWriter

FORMAT = 1
_POLICY = "policy"


def write_policy(folder: str | Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a policy as a store, whole or not at all.

    Args:
        folder: Made where it is missing; a policy in it is replaced.
        facts: Plain data.
        tensors: By name.

    Raises:
        InputError: If ``folder`` is a file, or contains other files.
    """
    with StoreWriter(folder, _POLICY, overwrite=True) as writer:
        for name, value in tensors.items():
            writer[name] = value.detach().cpu().numpy()
        writer.commit(facts)


def read_policy(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and tensors that :func:`write_policy` wrote; nothing in the files is executed.

    Raises:
        InputError: If there are none, or they are not what was written.
    """
    stored = ArrayStore(folder, _POLICY)
    return stored.metadata, {name: torch.from_numpy(np.array(values)) for name, values in stored.items()}


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A digest of tensors and their names."""
    return digest(*(part for name in sorted(tensors) for part in (name, tensors[name].cpu())))


def check_facts(facts: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> tuple[int, int, int]:
    """(K, N, C) of a policy whose facts and tensors belong together.

    Args:
        facts: Plain data.
        tensors: By name.
        where: They come from, for messages.

    Raises:
        InputError: If they are of another format, out of range, or do not belong together.
    """
    if facts["format"] != FORMAT:
        raise InputError(f"policy: {where} has format {facts['format']}; this version reads {FORMAT}")
    names, trade_off, neighbors = facts["names"], facts["trade_off_"], facts["neighbors_"]
    if (
        not (is_number(trade_off) and 0 <= trade_off < math.inf)
        or not (is_number(neighbors, True) and 1 <= neighbors <= facts["rows"])
        or len(set(names)) < len(names)
    ):
        raise InputError(f"policy: the facts of {where} are out of range")
    shape = len(names), facts["rows"], facts["num_classes"]
    if tuple(tensors["outputs"].shape) != shape or digest_of(tensors) != facts["digest"]:
        raise InputError(f"policy: the arrays of {where} are not those that its facts were written with")
    return shape


def describe_part(part: nn.Module) -> dict[str, Any]:
    """The class of a fuser or risk estimator, with its arguments: attributes of the same names.

    Raises:
        InputError: If it keeps an argument under another name.
    """
    names = [name for name in inspect.signature(type(part).__init__).parameters if name != "self"]
    lost = [name for name in names if not hasattr(part, name) and name not in ("args", "kwargs")]
    if lost:
        raise InputError(
            f"{type(part).__name__}: its argument {lost[0]} cannot be saved; keep it as an attribute of the same name"
        )
    values = {name: getattr(part, name) for name in names if hasattr(part, name)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {"class_path": f"{type(part).__module__}.{type(part).__qualname__}", "init_args": plain}


def build_part(spec: Mapping[str, Any], family: type, where: str) -> Any:
    """The fuser or risk estimator that a file names.

    Args:
        spec: From :func:`describe_part`.
        family: Which its class must belong to.
        where: It comes from, for messages.

    Raises:
        InputError: If its class is neither this library's nor imported already.
    """
    kind = imported_class(spec["class_path"], family)
    if kind is None:
        raise InputError(
            f"policy: {where} names {spec['class_path']}, which is no imported fuser or risk estimator; import it "
            "first if you trust the file (a policy must not import code by itself)"
        )
    return kind(**spec["init_args"])
