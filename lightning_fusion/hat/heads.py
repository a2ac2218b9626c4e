"""Heads: the part of an expert that turns its representation into its outputs."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert, as_vectors


def find_head(expert: Expert, input: Any) -> nn.Module:
    """The submodule h of an expert's network with h(z) = the network's output, z its representation.

    Args:
        expert: Names the layer of its representation as ``features``.
        input: A real batch: the values tell what is a head.

    Raises:
        InputError: If there is none; names the layers that were tried.

    Example:
        >>> from collections import OrderedDict
        >>> network = nn.Sequential(OrderedDict(body=nn.Linear(4, 3), head=nn.Linear(3, 2)))
        >>> find_head(Expert(network, classes=["cat", "dog"], features="body"), torch.rand(5, 4))
        Linear(in_features=3, out_features=2, bias=True)
    """
    name = head_name(expert, input)
    assert isinstance(expert.network, nn.Module)
    return expert.network.get_submodule(name)


@torch.no_grad()
def head_name(expert: Expert, input: Any) -> str:
    """The name of the submodule that :func:`find_head` gives; the outermost one where several do.

    Raises:
        InputError: If there is none; names the layers that were tried.
    """
    network, features = expert.network, expert.features
    if features is None or not isinstance(network, nn.Module):
        raise InputError("features: the expert names no layer, after which its head would begin; set features")
    z: list[Tensor] = []
    raw: list[Tensor] = []
    after: dict[str, Any] = {}  # what is called once the representation is made, with its arguments

    def note(name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        if not name:
            raw.append(getattr(output, "logits", output))
        elif name == features:
            z.append(as_vectors(output))
        elif z and not features.startswith(f"{name}."):
            after[name] = arguments

    parts = dict(network.named_modules())  # a part comes before its own parts
    hooks = [part.register_forward_hook(partial(note, name)) for name, part in parts.items()]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code does not see hooks
            expert(input)
    finally:
        for hook in hooks:
            hook.remove()
    for name in [name for name in parts if name in after]:
        argument = after[name][0] if len(after[name]) == 1 else None
        if isinstance(argument, Tensor) and argument.shape == z[-1].shape:
            output = parts[name](z[-1])
            if output.shape == raw[-1].shape and torch.allclose(output, raw[-1], rtol=1e-4, atol=1e-5):
                return name
    raise InputError(
        f"no layer of the expert's network turns its representation ({features!r}, {z[-1].shape[1]} numbers) "
        f"into its outputs; those after it: {shorten(after, 20) or 'none'}. Name the layer right before the head as "
        "features, or set heads: frozen"
    )
