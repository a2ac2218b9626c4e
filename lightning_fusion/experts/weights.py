"""Weights and networks of experts, read from files without executing anything in them."""

import pickle
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.checkpoints import load_weights_only, uncompiled
from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.described import MemoryLimit, build_described, imported_class
from lightning_fusion.errors import InputError, NotImportedError, nearest_path, shorten
from lightning_fusion.experts.formats import check_format
from lightning_fusion.experts.layers import state_tensors

_SPARE = 1 << 28  # bytes that the construction of a network may need beyond its weights
_CURRENT = "current_model_state"  # of Lightning's WeightAveraging, whose state_dict has the averages
CARD_KEY = "expert"
"""Checkpoint key of the metadata that :class:`~lightning_fusion.ExpertModule` stores for its expert."""
_CARD: dict[str, tuple[type, str]] = {
    "classes": (list, "a list of names"),
    "domains": (list, "a list of names"),
    "features": (str, "a name"),
    "network": (Mapping, "a mapping"),
    "new_samples": (Mapping, "a mapping"),
    "preprocessing": (Mapping, "a mapping"),
    "samples": (Tensor, "a tensor"),
    "vocab_size": (int, "a whole number"),
}


def read_weights(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the weights in a file, and the expert's card if an ExpertModule wrote one; nothing in it is executed.

    Extra states of modules (``get_extra_state``) are among the weights.

    Args:
        path: Path of a Lightning checkpoint, a plain state dict, or safetensors.

    Raises:
        InputError: If the file is missing, cannot be read weights-only, or has no weights.
    """
    if not Path(path).is_dir() and not Path(path).is_file():
        raise InputError(f"checkpoint: found no file {path}{nearest_path(path)}")
    check_format(path, ("a checkpoint", "a file of weights"), "checkpoint")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path), {}
        content = load_weights_only(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise InputError(
            f"checkpoint: {path} contains objects{what} that weights-only loading rejects; where you trust it, save "
            "its weights alone: content = torch.load(FILE, weights_only=False), then torch.save(content['state_dict'], "
            "NEW) of a Lightning checkpoint, torch.save(content.state_dict(), NEW) of a model"
        ) from error
    except Exception as error:  # torch and safetensors raise various types for truncated or other files
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"checkpoint: {path} cannot be read ({what})") from error
    if not isinstance(content, Mapping):
        raise InputError(f"checkpoint: {path} contains a {type(content).__name__}; expected a state dict")
    card = read_card(content, f"checkpoint: {path}")
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            if others := _other_weights(content, key):
                rank_zero_warn(
                    f"checkpoint: {path} has weights of the same names in {shorten([key, *others])}; those of {key} "
                    "are loaded: to use others, save them alone"
                )
            content = content[key]
            break
    state = {key: value for key, value in content.items() if isinstance(value, Tensor) or is_extra(key)}
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"checkpoint: {path} contains no weights; its keys: {shorten(content, 5)}")
    return state, card


def is_extra(name: Any) -> bool:
    """Return whether an entry of a ``state_dict`` is an extra state, which may be anything, by its name."""
    return isinstance(name, str) and name.rpartition(".")[2] == "_extra_state"


def check_tensors(state: Mapping[str, Any], whose: str) -> None:
    """Check that a state can be stored in a file of tensors alone.

    Args:
        state: Entries of a ``state_dict``.
        whose: Name of the model, for the message.

    Raises:
        InputError: If an entry is no tensor: an extra state.
    """
    if extra := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise InputError(
            f"{whose} has an extra state ({shorten(extra)}), which a file of tensors cannot contain; let "
            "get_extra_state return a tensor, or use buffers"
        )


def _other_weights(content: Mapping[str, Any], chosen: str) -> list[str]:
    """Return the keys of further state dicts with the names of the chosen one, such as moving averages."""
    names = {name for name, value in content[chosen].items() if isinstance(value, Tensor)}
    return [
        key
        for key, part in content.items()
        if key not in (chosen, _CURRENT) and isinstance(part, Mapping) and names and names <= set(part)
    ]


def read_card(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the metadata of an expert in a checkpoint; empty if there are none.

    Args:
        content: Content of the checkpoint.
        where: Name of the checkpoint, for the message.

    Raises:
        InputError: If they are damaged.

    Example:
        >>> read_card({"expert": {"classes": 3}}, "a.ckpt")
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: a.ckpt is damaged: classes of its expert is 3; expected a list of names
    """
    card = content.get(CARD_KEY)
    if card is None or isinstance(card, Tensor):  # a weight of this name
        return {}
    if not isinstance(card, Mapping):
        raise InputError(f"{where} is damaged: its expert is {_brief(card)}; expected a mapping")
    for name, (kind, expected) in _CARD.items():
        value = card.get(name)
        names = value if kind is list and isinstance(value, list) else []
        if value is not None and (not isinstance(value, kind) or not all(isinstance(each, str) for each in names)):
            raise InputError(f"{where} is damaged: {name} of its expert is {_brief(value)}; expected {expected}")
    return dict(card)


def _brief(value: Any) -> str:
    """Return a text of one line for a value of any kind."""
    return " ".join(repr(value).split())[:80]


def build_network(
    spec: Mapping[str, Any] | None, num_classes: int, where: str, num_bytes: int | None = None, files: bool = True
) -> nn.Module:
    """Build the network that a file describes; its class must be imported already.

    Args:
        spec: ``class_path`` and ``init_args``.
        num_classes: First argument of the class.
        where: Name of the file, for the message.
        num_bytes: Size of the weights for the network. ``None`` (default): not known.
        files: Whether the description may name local files.

    Raises:
        InputError: If there is no description, or the class is not an imported module.

    Example:
        >>> build_network({"class_path": "torch.nn.LazyLinear"}, 2, "checkpoint a.ckpt").out_features
        2
    """
    if not spec:
        raise InputError(f"network: {where} does not record its network; set network")
    if not isinstance(spec, Mapping) or imported_class(spec.get("class_path"), nn.Module) is None:
        named = spec.get("class_path") if isinstance(spec, Mapping) else spec
        named = named if isinstance(named, str) else _brief(named)
        given = spec.get("init_args") if isinstance(spec, Mapping) else None
        raise NotImportedError(
            f"network: {where} names {named}, which is not an imported module; import it first "
            "(imports of publish, select and predict), or set "
            f"network to that class of {num_classes} classes with {given or 'no other arguments'} "
            "(a checkpoint must not import code by itself)"
        )
    factory = build_described(spec, Callable[[int], nn.Module], f"network: {where}", "network", files)
    limit = MemoryLimit(_SPARE + 4 * num_bytes, f"network: {where}") if num_bytes is not None else nullcontext()
    try:
        with limit:
            network: nn.Module = factory(num_classes)
    except InputError:
        raise
    except Exception as error:  # of any constructor
        what = " ".join(str(error).split())
        raise InputError(
            f"network: {where} names {spec['class_path']}, which does not accept these arguments "
            f"({type(error).__name__}: {what})"
        ) from error
    return network


def load_weights(network: nn.Module, state: dict[str, Any], path: str, classes: list[str]) -> None:
    """Load weights with any prefix of a wrapper (Lightning, DDP, torch.compile), or into a wrapper of their network.

    Args:
        network: Network that receives the weights.
        state: Weights by name.
        path: Path of their file, for messages.
        classes: Classes of the network, for messages.

    Raises:
        InputError: If weights are missing, have other shapes, or are quantized.
    """
    state = {uncompiled(key): value for key, value in state.items()}
    wanted = network.state_dict()
    if not wanted:
        return
    values = state_tensors(network)
    first = next(iter(values or wanted))
    inner = first.partition(".")[0] + "."
    if all(key.startswith(inner) and key not in state and key.removeprefix(inner) in state for key in wanted):
        state = {inner + key: value for key, value in state.items()}  # of the one network that this one wraps
    prefixes = [key[: -len(first)] for key in state if key == first or key.endswith("." + first)]
    whole = [p for p in sorted(prefixes, key=len) if all(p + key in state for key in wanted)]
    if not whole and prefixes:
        nearest = min(prefixes, key=lambda p: sum(p + key not in state for key in wanted))
        state = _with_single_layers(network, state, nearest, path)
        whole = [nearest] if all(nearest + key in state for key in wanted) else []
    prefix = next(iter(whole), None)
    if prefix is None:
        raise InputError(_differing_names(network, state, path))
    found = {key: state[prefix + key] for key in wanted}
    differ = [key for key in values if found[key].shape != wanted[key].shape]
    if differ:
        last = differ[-1]
        raise InputError(
            f"checkpoint: {path} has {tuple(found[last].shape)} for {last}, the network {tuple(wanted[last].shape)}; "
            f"it names {len(classes)} classes ({shorten(classes)}): change classes, the network or its arguments"
        )
    quantized = [key for key in values if wanted[key].is_floating_point() and _is_quantized(found[key])]
    if quantized:
        raise InputError(
            f"checkpoint: {path} has {str(found[quantized[0]].dtype)[6:]} for {quantized[0]}, the network "
            f"{str(wanted[quantized[0]].dtype)[6:]}: quantized weights need their scales; save the weights as floats"
        )
    same_shapes = [p for p in whole[1:] if all(state[p + key].shape == found[key].shape for key in values)]
    others = [p for p in same_shapes if not all(torch.equal(state[p + key], found[key]) for key in values)]
    if prefix and others and prefix != "network.":  # that of the library's own modules
        rank_zero_warn(
            f"checkpoint: {path} has weights of {len(others) + 1} such networks ({shorten([prefix, *others])}); those "
            f"of {prefix} are loaded: to use others, save their state dict alone"
        )
    try:
        network.load_state_dict(found)
    except Exception as error:  # of networks with a loader of their own
        what = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise InputError(f"checkpoint: {path} does not match {type(network).__name__} ({what})") from error


def _with_single_layers(network: nn.Module, state: dict[str, Any], prefix: str, path: str) -> dict[str, Any]:
    """Return weights with the names of linear layers in place of those of sequences that contain one layer.

    ``model.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 4))`` is a usual head of a model that is trained further:
    ``fc.1.weight``, where the published model has ``fc.weight``.

    Args:
        network: Network that receives the weights.
        state: Weights by name.
        prefix: Prefix of the names in the file.
        path: Path of the file, for the warning.
    """
    state = dict(state)
    for name, module in network.named_modules():
        own = list(module.state_dict())
        if not isinstance(module, nn.Linear) or prefix + f"{name}.weight" in state:
            continue
        start = f"{prefix}{name}."
        given = [key for key in state if key.startswith(start)]
        numbers = {key[len(start) :].split(".")[0] for key in given}
        number = next(iter(numbers), "")
        if (
            len(numbers) == 1
            and number.isdecimal()
            and sorted(given) == sorted(f"{start}{number}.{key}" for key in own)
        ):
            for key in own:
                state[start + key] = state.pop(f"{start}{number}.{key}")
            rank_zero_warn(
                f"checkpoint: {path} has a sequence with one layer of weights, {name}.{number}, in place of {name}: it "
                "is loaded as that layer alone, without other layers of the sequence (dropout has no effect here); if "
                "it has an activation, save the whole model as an ONNX file or a program of torch.export"
            )
    return state


def _differing_names(network: nn.Module, state: dict[str, Any], path: str) -> str:
    """Return the message for weights whose names are not those of a network."""
    wanted = network.state_dict()
    ends: dict[str, int] = {}
    for key in state:
        for name in wanted:
            if key == name or key.endswith("." + name):
                ends[key[: len(key) - len(name)]] = ends.get(key[: len(key) - len(name)], 0) + 1
    start = f"checkpoint: {path} does not belong to {type(network).__name__}: the network has weights such as "
    if not ends or max(ends.values()) <= len(wanted) / 2:
        return f"{start}{shorten(wanted, 2)}, the file {shorten(state, 2)}"
    prefix = max(ends, key=lambda p: ends[p])
    lacking = [name for name in wanted if prefix + name not in state]
    more = [key for key in state if key.startswith(prefix) and key[len(prefix) :] not in wanted]
    return (
        f"{start}{shorten(lacking, 3)}, the file {shorten(more, 3) if more else 'none of these'}; {ends[prefix]} of "
        f"{len(wanted)} agree: give the network that was saved, or save the whole model as an ONNX file or a program "
        "of torch.export (OnnxExpert, ProgramExpert)"
    )


def _is_quantized(weights: Tensor) -> bool:
    """Return whether weights are whole numbers, or floating-point numbers of a byte."""
    return not weights.is_complex() and (not weights.is_floating_point() or weights.element_size() == 1)


def digest_tensor(digests: np.ndarray) -> Tensor:
    """Return digests as a sorted int64 tensor without duplicates, for a checkpoint.

    Example:
        >>> digest_array(digest_tensor(np.array([7, 2, 7], np.uint64))).tolist()
        [2, 7]
    """
    return torch.from_numpy(np.unique(digests).view(np.int64))


def digest_array(stored: Any) -> np.ndarray | None:
    """Return the (S,) uint64 digests that a checkpoint contains; None if it has none."""
    return stored.numpy().view(np.uint64) if isinstance(stored, Tensor) else None


class SampleRecord:
    """Digests of the samples that a module was trained on, in this fit and in earlier ones.

    Attributes:
        digests: (S,) uint64, sorted; None where the data of one training did not identify its samples.
    """

    def __init__(self) -> None:
        self.digests: np.ndarray | None = np.empty(0, np.uint64)
        self._is_current = False  # whether those of this fit are among them

    def start(self, stage: str) -> None:
        """Begin a run.

        Args:
            stage: Stage of the Trainer.
        """
        self._is_current &= stage != "fit"

    def read(self, card: Mapping[str, Any]) -> None:
        """Take the record of a checkpoint.

        Args:
            card: Card of the expert.
        """
        self.digests = digest_array(card.get("samples"))

    def of(self, trainer: Any) -> np.ndarray | None:
        """Return the digests, with those of the data of a fit.

        Args:
            trainer: Trainer of the module. ``None`` if it has none.
        """
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING and not self._is_current:
            self._is_current, found = True, None
            data = getattr(trainer, "datamodule", None)
            if isinstance(data, FusionDataModule):
                with suppress(InputError):  # a data set of another class, whose samples cannot be identified
                    found = data.sample_digests("train")
            self.digests = None if found is None or self.digests is None else np.union1d(self.digests, found)
        return self.digests

    def tensor(self, trainer: Any) -> Tensor | None:
        """Return the digests for a checkpoint; None where they are not known.

        Args:
            trainer: Trainer of the module. ``None`` if it has none.
        """
        found = self.of(trainer)
        return None if found is None else digest_tensor(found)


def keep_samples(network: nn.Module, digests: np.ndarray | None) -> None:
    """Record the digests of the samples that a network was trained on, as an attribute of it.

    Args:
        network: Trained network.
        digests: (S,) uint64; None if they are not known.
    """
    # bytes: an array would be part of the fingerprint of an expert
    network._training_samples = None if digests is None else np.unique(digests).tobytes()  # type: ignore[assignment]  # no part


def kept_samples(network: Any) -> np.ndarray | None:
    """Return the (S,) uint64 digests that :func:`keep_samples` recorded; None if there are none.

    Example:
        >>> network = nn.Linear(4, 2)
        >>> keep_samples(network, np.array([7, 2], np.uint64))
        >>> kept_samples(network).tolist(), kept_samples(nn.Linear(4, 2))
        ([2, 7], None)
    """
    stored = getattr(network, "_training_samples", None)
    return np.frombuffer(stored, np.uint64) if isinstance(stored, bytes) else None
