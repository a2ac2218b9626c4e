"""Outputs of a network's layers: representations."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError, shorten


def check_layer(network: Any, name: str | None, whose: str) -> None:
    """Check that a name is a submodule of a network.

    Args:
        network: Any module or callable.
        name: Name of the layer.
        whose: Name of the network, for the message.

    Raises:
        InputError: If it is not; the message lists the layers.
    """
    network = getattr(network, "_orig_mod", network)  # names of layers without the prefix of a compiled network
    known = dict(network.named_modules()) if isinstance(network, nn.Module) else {}
    if not name or name not in known:
        layers = shorten([layer for layer in known if layer], 20) or "none (a callable has outputs only)"
        raise InputError(f"features: {whose} has no layer {name!r}; its layers: {layers}")


@contextmanager
def catch_output(network: nn.Module, layer: str, change: Callable[[Any], Any] | None = None) -> Iterator[list[Any]]:
    """Collect the outputs of a submodule, in the order of its calls.

    Compiled networks run uncompiled, because compiled code ignores temporary hooks.

    Args:
        network: Network, which is not changed.
        layer: Name of the submodule.
        change: Function that replaces the output of the layer; ``None`` keeps it.

    Raises:
        InputError: If the layer returns no tensor (B, D, ...), or is not called.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        >>> with catch_output(network, "0") as caught:
        ...     _ = network(torch.zeros(5, 4))
        >>> caught[0].shape
        torch.Size([5, 3])
    """
    caught: list[Any] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.ndim < 2:
            found = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise InputError(
                f"features: the layer {layer!r} returns {found}; set it to one that returns a tensor (B, D, ...)"
            )
        caught.append(output)
        return None if change is None else change(output)

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        with torch.compiler.set_stance("force_eager") if _is_compiled(network) else nullcontext():
            yield caught
    finally:
        handle.remove()
    if not caught:
        raise InputError(f"features: the network does not call its layer {layer!r}; set it to one that is called")


def _is_compiled(network: nn.Module) -> bool:
    parts = network.modules()
    return any("_orig_mod" in part._modules or part._compiled_call_impl is not None for part in parts)


def as_vectors(value: Tensor) -> Tensor:
    """Pool to one vector per sample: (B, D, ...) is averaged over space, (B, T, D) over tokens or time.

    Example:
        >>> as_vectors(torch.zeros(2, 8, 4, 4)).shape, as_vectors(torch.zeros(2, 5, 8)).shape
        (torch.Size([2, 8]), torch.Size([2, 8]))
    """
    if value.ndim == 3:
        return value.mean(1)
    return value.flatten(2).mean(2) if value.ndim > 3 else value


def run_network(network: nn.Module, input: Any) -> Tensor:
    """Return the output of a network that may be in training.

    Args:
        network: The network.
        input: A batch.

    Raises:
        InputError: If batch norm meets a batch of one sample in training.
    """
    try:
        output: Tensor = network(input)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "batch norm cannot train on a batch of one sample; set batch_size to 2 or more, and drop_last of a loader "
            "whose last batch has one sample"
        ) from error
    return output


def floats_to(value: Any, dtype: torch.dtype) -> Any:
    """Convert the floating-point tensors of an input, a tensor or a dict of tensors, to a data type.

    Args:
        value: Input; anything else than tensors is returned as it is.
        dtype: Data type.
    """
    if isinstance(value, Mapping):
        return {key: floats_to(part, dtype) for key, part in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a ``state_dict``; extra states of modules (``get_extra_state``) may be anything.

    Example:
        >>> list(state_tensors(nn.Linear(2, 1)))
        ['weight', 'bias']
    """
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def movement(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a conversion of tensors, as ``nn.Module._apply`` takes it, that moves them and keeps their data type.

    Args:
        fn: Conversion that may change both.
    """
    return lambda value: value.to(fn(value.new_empty(0)).device)


def like_weights(input: Any, network: Any) -> Any:
    """Return the input in the data type of a network's weights, such as bfloat16 of a model that was loaded in it.

    Args:
        input: A batch.
        network: The network; input of a network without weights is not converted, and that of a callable only from
            bfloat16, which NumPy does not have, to float32.
    """
    if not isinstance(network, nn.Module):
        return _without_bfloat16(input)
    weights = network.parameters()
    dtype = next((weight.dtype for weight in weights if weight.is_floating_point()), None)
    return input if dtype is None else floats_to(input, dtype)


def _without_bfloat16(value: Any) -> Any:
    """Convert the bfloat16 tensors of an input to float32."""
    if isinstance(value, Mapping):
        return {key: _without_bfloat16(part) for key, part in value.items()}
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
