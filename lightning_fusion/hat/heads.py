"""Heads: the part of an expert that turns its representation into its outputs."""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.layers import as_vectors
from lightning_fusion.hat.sources import TINY


@torch.no_grad()
def head_name(expert: Expert, input: Any) -> str:
    """Return the name of the submodule h of an expert's network with h(z) = the output; the outermost of several.

    Args:
        expert: Expert whose ``features`` names the layer of its representation z.
        input: A batch of real samples; heads are identified by their outputs.

    Raises:
        InputError: If there is none; the message lists the layers that were tried.

    Example:
        >>> from collections import OrderedDict
        >>> network = nn.Sequential(OrderedDict(body=nn.Linear(4, 3), head=nn.Linear(3, 2)))
        >>> head_name(Expert(network, classes=["cat", "dog"], features="body"), torch.rand(5, 4))
        'head'
    """
    network, features = expert.network, expert.features
    if features is None or not isinstance(network, nn.Module):
        raise InputError("features: the expert has none; set the name of the layer before its head")
    z: list[Tensor] = []
    raw: list[Tensor] = []
    after: dict[str, Any] = {}  # modules called after the representation was computed, with their arguments

    def note(name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        if not name:
            raw.append(getattr(output, "logits", output))
        elif name == features:
            z.append(as_vectors(output))
        elif z and not features.startswith(f"{name}."):
            after[name] = arguments

    parts: dict[str, nn.Module] = dict(network.named_modules())  # a module precedes its submodules
    hooks = [part.register_forward_hook(partial(note, name)) for name, part in parts.items()]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code ignores hooks
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
        f"no layer of the expert's network maps its representation ({features!r}, {z[-1].shape[1]} features) "
        f"to its outputs; layers after it: {shorten(after, 20) or 'none'}. Name the layer right before the head as "
        "features, or set heads: frozen"
    )


def head_names(experts: Mapping[str, Expert], input: Any) -> dict[str, str]:
    """Return :func:`head_name` of each expert, by expert.

    Raises:
        InputError: If an expert has none; the message names it.
    """
    names = {}
    for expert, made in experts.items():
        try:
            names[expert] = head_name(made, input)
        except InputError as error:
            raise InputError(f"expert {expert}: {error}") from error
    return names


class LogHead(nn.Module):
    """A head with log-probabilities or logits of the expert's classes, where its own outputs are otherwise.

    Args:
        head: Maps a representation to the outputs of the expert's network.
        order: (C_i,) the output of each class.
        output: What the head returns: ``logits`` or ``probabilities``.

    Example:
        >>> LogHead(nn.Softmax(1), [1, 0], "probabilities")(torch.tensor([[0.75, 0.25]]).log()).exp()
        tensor([[0.2500, 0.7500]])
    """

    def __init__(self, head: nn.Module, order: Sequence[int], output: str) -> None:
        super().__init__()
        self.head, self.order, self.output = head, list(order), output

    def forward(self, z: Tensor) -> Tensor:
        """Map representations (B, D_i) to (B, C_i) scores."""
        outputs: Tensor = self.head(z)[:, self.order]
        return outputs.clamp_min(TINY).log() if self.output == "probabilities" else outputs


def copy_heads(experts: Mapping[str, Expert], names: Mapping[str, str]) -> dict[str, nn.Module]:
    """Return trainable copies of the experts' heads in float32, by expert, with scores of its classes in their order.

    Args:
        experts: Experts by name.
        names: Name of the submodule that is the head, by expert, from :func:`head_names`.
    """
    heads: dict[str, nn.Module] = {}
    for name, head in names.items():
        expert: Any = experts[name]
        copied = copy.deepcopy(expert.network.get_submodule(head)).float().requires_grad_(True)
        places = list(range(len(expert.classes)))
        order = expert.network_columns(places)
        plain = order == places and expert.output == "logits"
        heads[name] = copied if plain else LogHead(copied, order, expert.output)
    return heads
