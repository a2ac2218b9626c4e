"""Content of a published expert: its card, its network in two parts, and its class means."""

import copy
import uuid
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.batch import Batch
from lightning_fusion.data.names import as_labels, near_message
from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.layers import state_tensors
from lightning_fusion.experts.stored import network_classes
from lightning_fusion.experts.weights import build_network, check_tensors
from lightning_fusion.files import digest
from lightning_fusion.hyperparameters import describe_factory, is_plain
from lightning_fusion.registry.card import TOKENIZER, Card, as_json, file_of
from lightning_fusion.registry.quantization import SCALE, dequantize, quantize
from lightning_fusion.registry.summaries import class_sums, labeled_batches, statistics_of

EXPERT_METADATA = ("classes", "output", "features", "domains", "cost")
"""Fields that a card and an expert have in common."""


def describe_source(
    expert: Expert,
    data: FusionDataModule,
    name: str,
    statistics: Any = None,
    network: Any = None,
    weights: Literal["float32", "int8"] = "float32",
) -> tuple[Card, dict[str, bytes]]:
    """Return the card of an expert and the content of its files, by name.

    Args:
        expert: Expert to publish, with a layer ``features``.
        data: Data module that it was trained on.
        name: Name of the source.
        statistics: (S,) light statistics of the data, or a function of ``data``. ``None`` uses ``data.statistics()``.
        network: Class whose first argument is the number of classes, a ``functools.partial`` of one, or a dict of
            ``class_path`` and ``init_args``; ``None`` if the expert records it.
        weights: Type in which the weights are stored; the source that is described has the rounded weights.

    Raises:
        InputError: If the expert cannot be described or does not match the data, or there are no statistics.
    """
    given = _network_of(expert)
    spec = network if isinstance(network, Mapping) else describe_factory(network) if network else expert.spec
    if not spec or not is_plain(dict(spec)):
        if network is not None:
            what = f"an instance of {type(network).__name__}" if isinstance(network, nn.Module) else f"{network!a:.60}"
            raise InputError(
                f"network: {name} is built by {what}, and a card describes a class with plain arguments, as no file "
                "may name a function to call; put it into a class of your module whose first argument is num_classes"
            )
        raise InputError(
            f"network: the network of {name} is not recorded; set network to the class, a functools.partial of it, "
            "or a dict of class_path and init_args"
        )
    if expert.raw_input and not expert.preprocessing:
        raise InputError(
            f"expert: {name} takes raw input and records no preprocessing, so that its card cannot describe its input; "
            "publish an expert whose checkpoint records the preprocessing of its training"
        )
    spec, way = as_json(spec) or {}, as_json(expert.preprocessing or getattr(data, "preprocessing", None))
    vector = statistics_of(data, statistics)
    metadata = {key: getattr(expert, key) for key in EXPERT_METADATA}
    metadata["classes"] = network_classes(expert)
    described = getattr(data, "own_domains", None) or data.domains or None
    metadata["domains"] = metadata["domains"] or described
    if described and not set(described) & set(metadata["domains"]):
        warnings.warn(
            f"{name} was trained on {shorten(metadata['domains'])}, and its statistics and class means are those of "
            f"{shorten(described)}: publish it with the data of its training",
            stacklevel=4,
        )
    where = f"the description of {name}"
    exact, state = None, given.state_dict()
    check_tensors(state, f"expert: the network of {name}")
    if weights == "int8":
        state = quantize(state)
        exact, expert = expert, copy.deepcopy(expert)
        given = _network_of(expert)
        given.load_state_dict(dequantize(state))
    rebuilt = restore_expert(spec, given.state_dict(), where, **metadata)
    original = Expert(given, **metadata)
    if rebuilt.fingerprint != original.fingerprint:
        raise InputError(
            f"network: {spec} builds another network than that of {name} (fingerprints {rebuilt.fingerprint} and "
            f"{original.fingerprint})"
        )
    means, counts, agreement, first = _class_means(expert, data, name, exact)
    order = [expert.classes.index(label) for label in metadata["classes"]]
    means, counts = means[order], counts[order]
    late = _after_features(rebuilt, first)
    late |= {f"{key}{SCALE}" for key in late}
    parts = {
        "centroids": {"means": means[counts > 0].to(torch.float32), "counts": counts},
        "encoder": {key: value for key, value in state.items() if key not in late},
        "head": {key: value for key, value in state.items() if key in late},
    }
    contents = {part: _as_safetensors(tensors) for part, tensors in parts.items() if tensors or part == "encoder"}
    if (tokenizer := _tokenizer_of(expert, data, way)) is not None:
        contents[TOKENIZER] = tokenizer.encode()
    card = Card(
        name=name,
        version=uuid.uuid4().hex[:12],
        counts=counts.tolist(),
        statistics=[float(str(value)) for value in vector.numpy()],  # shortest text of a float32
        width=means.shape[1],
        preprocessing=way,
        network=spec,
        fingerprint=original.fingerprint,
        agreement=agreement,
        files={
            part: {"bytes": len(content), "fingerprint": digest(np.frombuffer(content, np.uint8))}
            for part, content in contents.items()
        },
        **metadata,
    )
    Card.parse(card.dump(), name, f"the card of {name}")
    return card, {file_of(part): content for part, content in contents.items()}


def restore_expert(
    spec: Mapping[str, Any], weights: Mapping[str, Tensor], where: str, whole: bool = True, **metadata: Any
) -> Expert:
    """Build an expert from the specification of its network and its weights.

    Args:
        spec: ``class_path`` and ``init_args``.
        weights: Weights by name.
        where: Origin of the specification, for messages.
        whole: Whether all weights must be given.
        **metadata: Further arguments of the expert.

    Raises:
        InputError: If the network cannot be built, or the weights do not match it.
    """
    num_bytes = sum(value.nbytes for value in weights.values())
    with torch.random.fork_rng(devices=[]):  # initial weights are replaced, and use no random numbers of the run
        network = build_network(spec, len(metadata["classes"]), where, num_bytes, files=False)
    try:
        missing, unknown = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise InputError(f"network: the weights do not match {where}: {error}") from error
    if unknown or (whole and missing):
        raise InputError(
            f"network: {where} and the weights differ: missing {shorten(sorted(missing)) or 'none'}; unknown "
            f"{shorten(sorted(unknown)) or 'none'}"
        )
    expert = Expert(network, **metadata)
    expert.spec = dict(spec)
    return expert


def _network_of(expert: Expert) -> nn.Module:
    """Return the network without the wrapper of ``torch.compile``."""
    if not isinstance(expert.network, nn.Module):
        raise InputError("expert: a plain callable has no weights to publish; expected a torch module")
    if expert.preprocess is not None:
        raise InputError("expert: preprocess cannot be stored in a card; move it into the network")
    if expert.features is None:
        raise InputError("features is not set; set it to the submodule whose output is the representation")
    return getattr(expert.network, "_orig_mod", expert.network)


def _tokenizer_of(expert: Expert, data: FusionDataModule, way: Mapping[str, Any] | None) -> str | None:
    """Return the text of the tokenizer that was trained with an expert of texts; ``None`` if none was."""
    wanted = (way or {}).get("tokenizer")
    if wanted is None:
        return None
    for facts in (expert.new_sample_facts, getattr(data, "new_sample_facts", {})):
        text: str | None = facts.get("trained_tokenizer")
        if text and TextTokenizer.parse(text).fingerprint == wanted:
            return text
    return None


def _class_means(
    expert: Expert, data: FusionDataModule, name: str, exact: Expert | None
) -> tuple[Tensor, Tensor, float | None, Any]:
    """Return (C_i, D_i) means and (C_i,) counts of an expert's classes, its agreement, and a batch of input.

    The agreement is the fraction of the samples to which it gives the answer of ``exact``; ``None`` without it.
    """
    device = next(iter(state_tensors(expert).values()), torch.empty(0)).device
    batches = labeled_batches(data, device)
    first = next(batches, None)
    if first is None:
        raise InputError(f"data: the train split has no labeled sample, so {name} has no centroids")
    labels = as_labels(data.classes, "classes")
    place = [expert.classes.index(label) if label in expert.classes else -1 for label in labels]
    if message := near_message(expert.classes, labels, name, "the data"):
        rank_zero_warn(message)

    answers: list[Tensor] = []

    def every() -> Iterator[Batch]:
        for batch in chain([first], batches):
            if exact is not None:
                answers.append(exact(copy.deepcopy(batch.input)).argmax(1).cpu())
            yield batch

    found = getattr(data, "preprocessing", None)
    expert.convert_from(found, f"expert {name}")
    if exact is not None:
        exact.convert_from(found, None)  # it would repeat the messages
    try:
        sums, counts, outputs = class_sums(expert, every(), place, len(expert.classes))
    except (InputError, RuntimeError) as error:
        raise InputError(f"expert: {name} does not run on this data: {error}") from error
    finally:
        expert.convert_from(None)
        if exact is not None:
            exact.convert_from(None)
    if not counts.sum():
        raise InputError(
            f"data: no labeled sample is of a class of {name} ({shorten(expert.classes)}); the data's classes "
            f"are {shorten(data.classes)}"
        )
    agreement = float((outputs.argmax(1) == torch.cat(answers)).double().mean()) if answers else None
    return sums / counts.clamp(min=1)[:, None], counts, agreement, _moved(first.input)


def _moved(input: Any) -> Any:
    return {key: value.cpu() for key, value in input.items()} if isinstance(input, Mapping) else input.cpu()


@torch.no_grad()
def _after_features(expert: Expert, input: Any) -> set[str]:
    """Return the names of weights that are used after the representation only; none where the network cannot be split.

    Candidates are modules called after the layer ``features`` and not before; with NaN weights in these modules the
    representation must remain the same, bit for bit.
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
        _, expected = expert.forward_with_representations(copy.deepcopy(input))
    finally:
        for handle in handles:
            handle.remove()
    late = after - before
    state = {key: value for key, value in state_tensors(network).items() if key.rpartition(".")[0] in late}
    kept = {key: value.clone() for key, value in state.items()}
    for value in state.values():
        if value.is_floating_point():
            value.fill_(torch.nan)
    try:
        _, found = expert.forward_with_representations(copy.deepcopy(input))
        same = torch.equal(found, expected)
    except Exception:  # a network may raise any error for NaN
        same = False
    network.load_state_dict(kept, strict=False)
    return set(state) if same else set()


def _as_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()})
