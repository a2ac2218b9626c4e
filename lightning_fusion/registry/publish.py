"""What a published expert consists of: its network in two parts, and the means of its classes."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lightning_fusion.data.base import Batch, FusionDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.registry.summaries import class_sums, labelled_batches


def _network_of(expert: Expert) -> nn.Module:
    """The network that can be published, without the wrapper that ``torch.compile`` may have put round it."""
    if not isinstance(expert.network, nn.Module):
        raise InputError("expert: a plain callable has no weights to publish; give a torch module")
    if expert.preprocess is not None:
        raise InputError("expert: its preprocess is no part of a card; move it into the network")
    if expert.features is None:
        raise InputError("features: the expert names no layer; set it to the submodule that gives the representation")
    return getattr(expert.network, "_orig_mod", expert.network)


def _class_means(expert: Expert, data: FusionDataModule, name: str) -> tuple[Tensor, Tensor, Any]:
    """(C_i, D_i) means and (C_i,) counts of an expert's classes, and one batch of input."""
    device = next(iter(expert.state_dict().values()), torch.empty(0)).device
    batches = labelled_batches(data, device)
    first = next(batches, None)
    if first is None:
        raise InputError(f"data: the train split has no labelled sample, so {name} has no centroids")
    place = [expert.classes.index(label) if label in expert.classes else -1 for label in data.classes]

    def every() -> Iterator[Batch]:
        yield first
        yield from batches

    try:
        sums, counts, _ = class_sums(expert, every(), place, len(expert.classes))
    except (InputError, RuntimeError) as error:
        raise InputError(f"expert: {name} does not run on this data: {error}") from error
    if not counts.sum():
        raise InputError(
            f"data: no labelled sample is of a class that {name} knows ({shorten(expert.classes)}); the data's classes "
            f"are {shorten(data.classes)}"
        )
    return sums / counts.clamp(min=1)[:, None], counts, _moved(first.input)


def _moved(input: Any) -> Any:
    return {key: value.cpu() for key, value in input.items()} if isinstance(input, Mapping) else input.cpu()


@torch.no_grad()
def _after_features(expert: Expert, input: Any) -> set[str]:
    """Names of the weights that only work on the representation; none where the network does not split there.

    What is called after the layer ``features`` and not before is tried: with NaN in its place the representation must
    stay the same, bit for bit.
    """
    network = expert.network
    assert isinstance(network, nn.Module) and expert.features is not None
    before: set[str] = set()
    after: set[str] = set()

    def reached(*_: Any) -> None:
        before.update(after)
        after.clear()

    handles = [network.get_submodule(expert.features).register_forward_hook(reached)]
    for path, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: after.add(path)))
    try:
        _, expected = expert.forward_with_features(copy.deepcopy(input))
    finally:
        for handle in handles:
            handle.remove()
    late = after - before
    state = {key: value for key, value in network.state_dict().items() if key.rpartition(".")[0] in late}
    kept = {key: value.clone() for key, value in state.items()}
    for value in state.values():
        if value.is_floating_point():
            value.fill_(torch.nan)
    try:
        _, found = expert.forward_with_features(copy.deepcopy(input))
        same = torch.equal(found, expected)
    except Exception:  # a network may refuse NaN in any way
        same = False
    network.load_state_dict(kept, strict=False)
    return set(state) if same else set()


def _as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()})
