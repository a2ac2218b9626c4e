"""Generative experts, which are loaded on demand."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_fusion.checkpoints import load_weights_only, reason
from lightning_fusion.costs import as_cost
from lightning_fusion.errors import InputError, nearest_path
from lightning_fusion.experts.adapters.folders import model_files, weight_files
from lightning_fusion.experts.adapters.generators import TransformersGenerator
from lightning_fusion.experts.adapters.tokens import tokenizer_fingerprint
from lightning_fusion.experts.weights import CARD_KEY, build_network, digest_array, read_card
from lightning_fusion.files import digest, hash_files


class Writer(Protocol):
    """Protocol of a text-generating network.

    Inputs are dicts of ``input_ids`` and ``attention_mask``, (B, L) int64, padded on the right; texts are (B, T) int64
    without start and end, padded on the right with ``pad_id``. A network may also have ``answer(input,
    max_new_tokens)``, which returns a text and its embedding in one pass.
    """

    pad_id: int

    def __call__(self, input: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Return log-probabilities (B, T + 1, V) of the next token after the start and each token of the target."""

    def labels(self, target: Tensor) -> Tensor:
        """Return the labels (B, T + 1) of a call for a target; -100 after the end."""

    def generate(self, input: Mapping[str, Tensor], max_new_tokens: int) -> Tensor:
        """Generate texts (B, T), T <= max_new_tokens."""

    def embed(self, input: Mapping[str, Tensor], generated: Tensor | None = None) -> Tensor:
        """Return the masked mean (B, D) of last-layer states over input and text."""


def write(network: Any, input: Mapping[str, Tensor], max_new_tokens: int) -> tuple[Tensor, Tensor]:
    """Generate texts (B, T) with their embeddings (B, D), in one pass where the network supports it."""
    if hasattr(network, "answer"):
        result: tuple[Tensor, Tensor] = network.answer(input, max_new_tokens)
        return result
    text = network.generate(input, max_new_tokens)
    return text, network.embed(input, text)


@torch.no_grad()
def score_options(network: Any, input: Mapping[str, Tensor], options: Tensor, per_token: bool = False) -> Tensor:
    """Compute the log-likelihood of each option of a multiple choice, including its end.

    Args:
        network: A :class:`Writer`.
        input: B questions.
        options: (B, O, T) int64, options of each question.
        per_token: Divide by the number of tokens, so that short options have no advantage.

    Returns:
        (B, O) float32.
    """
    rows, number, _ = options.shape
    repeated = {name: input[name].repeat_interleave(number, 0) for name in ("input_ids", "attention_mask")}
    texts = options.flatten(0, 1)
    labels = network.labels(texts)
    found = network(repeated, texts).gather(2, labels.clamp_min(0)[:, :, None])[:, :, 0]
    total = torch.where(labels >= 0, found, 0).sum(1)
    return (total / (labels >= 0).sum(1) if per_token else total).reshape(rows, number)


class GenerativeExpert:
    """A frozen generative model that is loaded on demand: its weights are in memory only while it runs.

    Exactly one of ``checkpoint``, ``transformers`` and, in Python, ``network`` is required.

    Args:
        checkpoint: Checkpoint of a :class:`GenerativeExpertModule`, which records its network; loaded weights-only.
        transformers: Folder or hub name of a sequence-to-sequence or causal language model of transformers.
        network: Function without arguments that builds a :class:`Writer` with its weights, the same each time.
        domains: Names of the domains whose data the expert was trained on; recorded in a checkpoint.
        cost: Cost of a query, in any unit.

    Raises:
        InputError: If none or several are given, or the file does not exist.

    Example:
        >>> from functools import partial
        >>> from lightning_fusion.generation.networks import PointerGenerator
        >>> expert = GenerativeExpert(network=partial(PointerGenerator, 30, hidden=8), domains=["news"])
        >>> with expert.loaded() as network:
        ...     network.training, network.pad_id
        (False, 0)
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        transformers: str | None = None,
        network: Callable[[], nn.Module] | None = None,
        domains: list[str] | None = None,
        cost: float = 1.0,
    ) -> None:
        if sum(given is not None for given in (checkpoint, transformers, network)) != 1:
            raise InputError("a generative expert needs one of checkpoint, transformers and network")
        card: dict[str, Any] = {}
        if checkpoint is not None:
            card = _read_card(checkpoint)
        elif transformers is not None:
            weight_files(transformers)
            if (tokenizer := tokenizer_fingerprint(transformers)) is not None:
                card = {"preprocessing": {"tokenizer": tokenizer}}
        self.checkpoint, self.transformers, self.network = checkpoint, transformers, network
        self.domains = domains if domains is not None else card.get("domains")
        self.preprocessing: dict[str, Any] | None = card.get("preprocessing")
        self.training_samples = digest_array(card.get("samples"))  # (S,) uint64; None where they are not recorded
        self.cost = as_cost(cost)

    @contextmanager
    def loaded(self, device: torch.device | str = "cpu") -> Iterator[Any]:
        """Context of the loaded network, frozen, in eval mode and on a device.

        Raises:
            InputError: If the network is not a :class:`Writer`.
        """
        network = self._load().requires_grad_(False).train(False).to(device)
        if not all(hasattr(network, part) for part in ("pad_id", "generate", "embed")):
            raise InputError(
                f"network: {type(network).__name__} has no pad_id, generate and embed; expected a network as "
                "lightning_fusion.generation.expert.Writer"
            )
        try:
            yield network
        finally:
            del network
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _load(self) -> nn.Module:
        if self.network is not None:
            return self.network()
        if self.transformers is not None:
            return TransformersGenerator(self.transformers)
        content = load_weights_only(self.checkpoint, mmap=True)
        card = content[CARD_KEY]
        where, prefix = f"checkpoint {self.checkpoint}", "network."
        state = content.get("state_dict") or {}
        weights = {key[len(prefix) :]: state[key] for key in state if key.startswith(prefix)}
        size = sum(value.nbytes for value in weights.values() if isinstance(value, torch.Tensor))
        network = build_network(card["network"], card["vocab_size"], where, size)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"{where} does not match its network: {' '.join(str(error).split())[:400]}") from error
        return network

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the weights; experts with the same fingerprint generate the same texts."""
        if self.network is not None:
            with self.loaded() as network:
                return digest(repr(network), *[part for item in network.state_dict().items() for part in item])
        if self.transformers is not None:
            return hash_files(model_files(self.transformers)) if Path(self.transformers).is_dir() else self._hashed()
        return hash_files([Path(self.checkpoint)])  # type: ignore[arg-type]

    def _hashed(self) -> str:
        with self.loaded() as network:  # a name on the hub: the weights must be loaded
            return digest(*[part for item in network.state_dict().items() for part in item])

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the expert as plain data, for manifests and checkpoints."""
        return {
            "domains": self.domains,
            "cost": self.cost,
            "fingerprint": self.fingerprint,
            "checkpoint": self.checkpoint or self.transformers,
        }


def _read_card(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(f"checkpoint: found no file {path}{nearest_path(path)}")
    try:
        content = load_weights_only(path, mmap=True)
    except Exception as error:  # torch raises many exception types for a truncated or foreign file
        raise InputError(f"checkpoint: {path} cannot be read weights-only ({reason(error)})") from error
    card = read_card(content, f"checkpoint: {path}") if isinstance(content, Mapping) else {}
    if "vocab_size" not in card:
        raise InputError(f"checkpoint: {path} is none of a GenerativeExpertModule; give its network instead")
    if not card.get("network"):
        raise InputError(
            f"checkpoint: {path} does not record its network, as it was trained with a module instance; "
            "give GenerativeExpertModule a class or functools.partial, or the expert a network"
        )
    return card
