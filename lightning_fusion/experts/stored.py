"""An expert as a checkpoint of its own: weights, and the metadata that :class:`~lightning_fusion.Expert` reads."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.weights import CARD_KEY
from lightning_fusion.files import atomic_write


class ExpertParts(NamedTuple):
    """Parts from which an expert can be built again.

    Attributes:
        card: Metadata that a checkpoint of it contains.
        arguments: Constructor arguments that a checkpoint does not contain.
        tensors: Weights by name.
    """

    card: dict[str, Any]
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]


def describe_expert(expert: Expert, name: str) -> ExpertParts:
    """Return the parts of an expert whose network is a torch module.

    Args:
        expert: The expert.
        name: Its name, for messages.

    Raises:
        InputError: If it is of a subclass, a plain callable, or has a ``preprocess``, which are no plain data.
    """
    if type(expert) is not Expert or not isinstance(expert.network, nn.Module):
        what = "a plain callable" if not isinstance(expert.network, nn.Module) else f"a {type(expert).__name__}"
        raise InputError(
            f"experts: {name} is {what}, which is not described here; share it with its own library, and the rest "
            "of the model with with_experts=False"
        )
    if expert.preprocess is not None:
        raise InputError(
            f"experts: preprocess of {name} is no plain data; move it into the network, or set with_experts=False"
        )
    card = {
        "classes": network_classes(expert),
        "features": expert.features,
        "domains": expert.domains,
        "preprocessing": expert.preprocessing,
        "new_samples": expert.new_sample_facts,
        "network": expert.spec,
    }
    arguments = {name: getattr(expert, name) for name in ("classes", "output", "cost", "raw_input", "version")}
    network = getattr(expert.network, "_orig_mod", expert.network)
    return ExpertParts(card, arguments, {f"network.{key}": value for key, value in network.state_dict().items()})


def network_classes(expert: Expert) -> list[str]:
    """Return the classes of an expert in the order of the outputs of its network, which may be another than its own.

    Example:
        >>> network_classes(Expert(nn.Linear(4, 2), classes=["cat", "dog"]))
        ['cat', 'dog']
    """
    order = expert._columns or list(range(len(expert.classes)))
    names = [""] * len(order)
    for label, column in zip(expert.classes, order, strict=True):
        names[column] = label
    return names


def write_expert(expert: Expert, path: Path, name: str) -> None:
    """Write a checkpoint that ``Expert(checkpoint=PATH)`` reads, whole or not at all.

    Args:
        expert: The expert.
        path: Path of the checkpoint, in an existing folder.
        name: Name of the expert, for messages.
    """
    parts = describe_expert(expert, name)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in parts.tensors.items()}
    with atomic_write(path) as draft:
        torch.save({"state_dict": tensors, CARD_KEY: parts.card}, draft)
