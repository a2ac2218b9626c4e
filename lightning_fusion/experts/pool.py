"""Pools of named experts of one task."""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Self

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.data.base import labeled_attribute
from lightning_fusion.data.batch import Batch, NamedSamples
from lightning_fusion.data.names import as_labels, canonical_label, similar_message, similar_names
from lightning_fusion.errors import InputError, shorten, suggestion
from lightning_fusion.experts.answers import describe_invalid, valid_rows
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.identity import VERSION_HINT
from lightning_fusion.experts.names import NamedModules, check_expert_names, spelled_classes
from lightning_fusion.experts.preprocessing import published_normalization, warn_unknown_preprocessing
from lightning_fusion.files import digest


def task_classes(expert_classes: Mapping[str, Sequence[str]], classes: Sequence[str] | None = None) -> list[str]:
    """Return the classes of the task: the given ones, or the union of the experts' classes in order of appearance.

    Raises:
        InputError: If an expert has a class that is not among the given ones.

    Example:
        >>> task_classes({"a": ["cat", "dog"], "b": ["dog", "owl"]})
        ['cat', 'dog', 'owl']
    """
    of_expert = {name: as_labels(names, f"classes of expert {name}") for name, names in expert_classes.items()}
    if classes is None:
        found = list(dict.fromkeys(name for names in of_expert.values() for name in names))
        if message := similar_message(found, "classes of the experts", "rename one, or give classes"):
            rank_zero_warn(message)
        return found
    known = as_labels(classes, "classes")
    for expert, names in of_expert.items():
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(
                f"expert {expert} has {shorten(unknown)}, which the task's classes ({shorten(known)}) lack"
                f"{suggestion(unknown[0], known)}; change the task's classes, or name the expert's by one of them "
                f"each, as in rename: {{{unknown[0]}: {known[0]}}}{_folded(names, known)}"
            )
    return known


def _folded(names: Sequence[str], known: Sequence[str]) -> str:
    """Return a hint if all classes of an expert are the task's but for their case."""
    same = {name.casefold() for name in names} <= {name.casefold() for name in known}
    return ", or set fold_case: true" if same else ""


def reordered(classes: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two lists have the same names in different orders.

    Example:
        >>> reordered(["cat", "dog"], ["dog", "cat"]), reordered(["cat"], ["cat"])
        (True, False)
    """
    return list(classes) != list(other) and sorted(classes) == sorted(other)


def check_classes(whose: str, classes: Sequence[str], data: Any, stage: str) -> None:
    """Check that a data module has the classes of a model, whose targets count them.

    Args:
        whose: Name of the model, for the message.
        classes: Classes of the model.
        data: Data module; one without ``classes`` is accepted.
        stage: Stage of the Trainer; ``predict`` needs no targets.

    Raises:
        InputError: If they differ.
    """
    found = labeled_attribute(data, "classes")
    if stage != "predict" and found is not None and list(found) != list(classes):
        raise InputError(
            f"classes: {whose} has {shorten(classes, 20)}, the data {shorten(found, 20)}; give the experts, as an "
            "ExpertPool, the classes of the data"
        )


def check_domains(expert_domains: Mapping[str, Sequence[str] | None], domains: Sequence[str]) -> list[str]:
    """Check that no domain of an expert is a misspelt one of the data.

    An expert may be trained on domains that the data do not have.

    Args:
        expert_domains: Domains that each expert was trained on.
        domains: Domains of the data.

    Returns:
        Names of the experts that have domains, none of them among those of the data.

    Raises:
        InputError: If an unknown domain differs from a known one in case, separators or some letters, not in digits.

    Example:
        >>> check_domains({"a": ["plain"], "b": ["sketch"]}, ["plain", "photo"])
        ['b']
        >>> check_domains({"a": ["Plain"]}, ["plain", "photo"])
        Traceback (most recent call last):
        ...
        lightning_fusion.errors.InputError: domains: expert a has Plain, the data plain, photo; did you mean plain?
    """
    if not domains:
        return []
    foreign = []
    for name, own in expert_domains.items():
        unknown = [domain for domain in own or () if domain not in domains]
        for domain in unknown:
            alike = [known for known in domains if re.findall(r"\d+", known) == re.findall(r"\d+", domain)]
            close = [known for known in alike if similar_names([domain, known])]
            close += get_close_matches(domain.casefold(), alike, n=1, cutoff=0.8)
            if close:
                raise InputError(
                    f"domains: expert {name} has {domain}, the data {shorten(domains)}; did you mean {close[0]}?"
                )
        if own and len(unknown) == len(own):
            foreign.append(name)
    return foreign


def scatter_columns(expert_classes: Mapping[str, Sequence[str]], classes: Sequence[str]) -> list[list[int]]:
    """Return, for each expert, the index of each of its classes among the classes of the task.

    Example:
        >>> scatter_columns({"a": ["dog"], "b": ["owl", "cat"]}, ["cat", "dog", "owl"])
        [[1], [2, 0]]
    """
    place = {canonical_label(name): position for position, name in enumerate(classes)}
    return [[place[canonical_label(name)] for name in names] for names in expert_classes.values()]


def scatter(outputs: Tensor, columns: Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """Scatter the outputs of the experts to the classes of the task.

    Args:
        outputs: (B, sum of C_k) outputs, concatenated in the order of experts.
        columns: For each expert, the class of each of its columns.
        num_classes: C, number of classes.

    Returns:
        (B, K, C), zero for classes that an expert does not have.

    Example:
        >>> scatter(torch.tensor([[0.9, 0.1, 1.0]]), [[0, 2], [1]], 3)
        tensor([[[0.9000, 0.0000, 0.1000],
                 [0.0000, 1.0000, 0.0000]]])
    """
    flat = [expert * num_classes + column for expert, own in enumerate(columns) for column in own]
    result = outputs.new_zeros(len(outputs), len(columns) * num_classes)
    result[:, torch.tensor(flat, device=outputs.device)] = outputs
    return result.reshape(len(outputs), len(columns), num_classes)


class ExpertPool(nn.Module):
    """Pool of experts by name, frozen and always in eval mode.

    Args:
        experts: The experts by name, free text, such as ``org/model`` or ``gpt-3.5-turbo``.
        classes: Names of the classes of the task. ``None`` (default) uses the union of the experts' classes.

    Raises:
        InputError: If the pool is empty or no mapping, a name is invalid, or an expert has a class outside
            ``classes``.

    Example:
        >>> pool = ExpertPool({"a": Expert(nn.Linear(4, 2), classes=["cat", "dog"])})
        >>> pool.classes, pool(torch.zeros(3, 4))["a"].shape
        (['cat', 'dog'], torch.Size([3, 2]))
    """

    def __init__(self, experts: Mapping[str, Expert], classes: Sequence[str] | None = None) -> None:
        super().__init__()
        self._origin: dict[str, dict[str, Any]] | None = None
        if not isinstance(experts, Mapping):
            raise InputError(f"experts: found a {type(experts).__name__}; name each one, as in {{'first': expert}}")
        if not experts:
            raise InputError("experts: the pool is empty; name at least one expert")
        check_expert_names(experts)
        for name, expert in experts.items():
            if not isinstance(expert, Expert):
                raise InputError(
                    f"experts: {name} is a {type(expert).__name__}; wrap it as lightning_fusion.Expert(network, ...)"
                )
        if len({id(expert) for expert in experts.values()}) != len(experts):
            raise InputError("experts: one expert has two names; use a separate one for each name")
        for name, expert in experts.items():
            expert.whose = f"expert {name}"
        self.experts = NamedModules(dict(experts))
        folded = [name for name, expert in experts.items() if expert.fold_case]
        for name, names in spelled_classes(self.expert_classes, folded, classes).items():
            experts[name].classes = names
        self.classes = task_classes(self.expert_classes, classes)
        self.train(False)

    @property
    def members(self) -> dict[str, Expert]:
        """The experts by name, in order."""
        return dict(self.experts.items())

    @property
    def names(self) -> list[str]:
        """Names of the experts, in order."""
        return list(self.experts)

    def for_task(self, classes: Sequence[str] | None) -> "ExpertPool":
        """Return a pool of the same experts with other classes; this pool if they are the same or None."""
        return self if classes is None or list(classes) == self.classes else ExpertPool(self.members, classes)

    @property
    def expert_classes(self) -> dict[str, list[str]]:
        """Classes of each expert, in the order of its outputs."""
        return {name: expert.classes for name, expert in self.members.items()}

    def convert_from(self, found: Mapping[str, Any] | None) -> None:
        """Convert the input of each expert from another normalization to its own (:meth:`Expert.convert_from`).

        Args:
            found: Preprocessing of the input; ``None`` ends the conversion.
        """
        for name, expert in self.members.items():
            expert.convert_from(found, f"expert {name}")
        unknown = {name: each.network for name, each in self.members.items() if each.lacks_preprocessing(found)}
        silent = [name for name, network in unknown.items() if published_normalization(network) is None]
        warn_unknown_preprocessing(silent, found)

    def input_of(self, batch: Batch, data: Any) -> Any:
        """Return the input of a batch, with the names of its samples where an expert answers by them.

        Args:
            batch: The batch.
            data: Data module that it comes from; ``None`` if it is not known.
        """
        if not any(expert.answers_by_name for expert in self.members.values()):
            return batch.input
        source = getattr(data, "new_samples", None) or data
        origins = source.origins(batch.index.cpu()) if hasattr(source, "origins") else None
        if origins is None:
            return batch.input  # which these experts reject
        columns = origins.columns()
        places = columns.get(origins.unit, [""] * len(batch.index))
        return NamedSamples(samples=batch.input, names=list(zip(columns["file"], places, strict=True)))

    def train(self, mode: bool = True) -> "ExpertPool":
        """Stay in eval mode."""
        return super().train(False)

    def metadata(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of every expert by name, as plain data.

        The name is a part of the fingerprint of a callable with a version: functions of one factory may share code and
        version.
        """
        found = {name: expert.metadata() for name, expert in self.members.items()}
        for name, expert in self.members.items():
            if expert.identified_by_version:
                found[name]["fingerprint"] = named_fingerprint(expert, name)
        return found

    def origin(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of the experts as they were given, before a run converted them to its precision."""
        return self.metadata() if self._origin is None else self._origin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kinds = {weight.dtype for weight in self.parameters()}
        if self._origin is None and any(fn(torch.empty(0, dtype=kind)).dtype != kind for kind in kinds):
            self._origin = self.metadata()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        return self

    def forward(self, input: Any) -> dict[str, Tensor]:
        """Run every expert: (B, C_k) probabilities by name, checked.

        Raises:
            InputError: If an output is not finite or no distribution; the message names expert and rows.
        """
        outputs = {name: call_expert(name, expert, input) for name, expert in self.members.items()}
        check_outputs(outputs)
        return outputs

    def forward_with_representations(self, input: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return probabilities (B, C_k) and representations (B, D_k) of every expert, by name.

        Raises:
            InputError: If an expert has no ``features``, an output is no distribution, or a feature is not finite;
                names expert and rows.
        """
        if lacking := [name for name, expert in self.members.items() if expert.features is None]:
            raise InputError(
                f"features: the experts {shorten(lacking)} have no layer set; set features to a submodule's name"
            )
        both = {
            name: call_expert(name, each.forward_with_representations, input) for name, each in self.members.items()
        }
        outputs, representations = ({name: pair[part] for name, pair in both.items()} for part in (0, 1))
        check_outputs(outputs)
        check_representations(representations)
        return outputs, representations

    def representations(self, input: Any) -> dict[str, Tensor]:
        """Return the representations (B, D_k) of every expert, by name.

        Raises:
            InputError: If one has NaN or infinite entries; the message names expert and rows.
        """
        found = {
            name: call_expert(name, each.forward_with_representations, input)[1] for name, each in self.members.items()
        }
        check_representations(found)
        return found

    @classmethod
    def of(cls, experts: "Mapping[str, Expert] | ExpertPool", classes: Sequence[str] | None = None) -> "ExpertPool":
        """Return a pool of the given experts; a pool is returned with these classes."""
        return experts.for_task(classes) if isinstance(experts, ExpertPool) else cls(experts, classes)


POOL = "pool."
"""Prefix of the experts' weights in the checkpoint of a module whose pool is the attribute ``pool``."""


def store_experts(checkpoint: dict[str, Any], metadata: Mapping[str, Any] | None, weights: bool) -> None:
    """Store the experts' metadata in a module's checkpoint, and optionally their weights.

    Args:
        checkpoint: Checkpoint, modified in place.
        metadata: Metadata of the experts that the module was trained with.
        weights: Whether to keep the weights.
    """
    checkpoint["experts"] = metadata
    if not weights:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith(POOL)}


def restore_experts(checkpoint: dict[str, Any], pool: ExpertPool) -> None:
    """Complete a module's checkpoint with the weights of its experts, after checking that they are the same.

    Args:
        checkpoint: Checkpoint, modified in place.
        pool: Pool of the module.

    Raises:
        InputError: If the module was trained with other experts.
    """
    state = checkpoint["state_dict"]
    stored = {name for name in state if name.startswith(POOL)}
    if not stored:
        check_same_experts(checkpoint.get("experts") or {}, pool.origin())
    own = {f"{POOL}{name}": value for name, value in pool.state_dict().items()}
    state.update({name: value for name, value in own.items() if name not in stored})


def call_expert(name: str, call: Callable[[Any], Any], input: Any) -> Any:
    """Run an expert on a copy of the input; an error in its network names the expert and the input.

    Args:
        name: Name of the expert.
        call: The expert, or one of its methods.
        input: Batch of inputs.

    Raises:
        InputError: If the network raises.
    """
    if torch.compiler.is_compiling():
        return call(_copy(input))
    try:
        return call(_copy(input))
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of any network
        found = f"a {type(input).__name__}"
        if isinstance(input, Tensor):
            found = f"{str(input.dtype).removeprefix('torch.')} of shape {tuple(input.shape)}"
        elif isinstance(input, Mapping):
            found = f"a dict of {shorten(input)}"
        raise InputError(
            f"expert {name} failed on a batch ({found}) with {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _copy(input: Any) -> Any:
    """Copy the input for an expert that may modify it in place."""
    if isinstance(input, Mapping):
        copied = {key: _copy(value) for key, value in input.items()}
        return NamedSamples(copied) if isinstance(input, NamedSamples) else copied
    return input.clone() if isinstance(input, Tensor) else input


def check_same_experts(known: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that experts are those that a fuser was trained with.

    Args:
        known: Metadata of the fuser's experts by name.
        found: Metadata of the present experts. Experts without a fingerprint (external predictions) are accepted.

    Raises:
        InputError: If they differ; the message has both fingerprints.
    """
    for name, entry in known.items():
        if name not in found:
            raise InputError(f"experts: the model was trained with an expert {name}; found {shorten(found)}")
        other = found[name]["fingerprint"]
        if entry["fingerprint"] != other and None not in (entry["fingerprint"], other):
            raise InputError(
                f"experts: the model was trained with expert {name} of fingerprint {entry['fingerprint']} (checkpoint "
                f"{entry['checkpoint']}); the one given has {other}"
                + (f"; {VERSION_HINT}" if not entry["checkpoint"] else "")
            )


def named_fingerprint(expert: Expert, name: str) -> str:
    """Return the fingerprint of a callable with a version under a name."""
    return digest(expert.fingerprint, name)


def check_representations(representations: Mapping[str, Tensor]) -> None:
    """Check that representations are finite, with one synchronization for all experts.

    Args:
        representations: (B, D_k) by expert.

    Raises:
        InputError: If one has NaN or infinite entries; the message names expert and rows.
    """
    if not representations:
        return
    sound = {name: value.isfinite().flatten(1).all(1) for name, value in representations.items()}
    if torch.stack([rows.all() for rows in sound.values()]).all():
        return
    name, rows = next((name, rows) for name, rows in sound.items() if not rows.all())
    listed = shorten((~rows).nonzero().flatten().tolist())
    raise InputError(f"the representation of expert {name} is NaN or infinite in row(s) {listed} of the batch")


def check_outputs(outputs: Mapping[str, Tensor]) -> None:
    """Check that outputs are distributions, with one synchronization for all experts.

    Args:
        outputs: (B, C_k) probabilities by expert.

    Raises:
        InputError: If some output has NaN, infinite or negative entries, or a row does not sum to 1 within 0.001.
    """
    wrong = {name: ~valid_rows(values) for name, values in outputs.items()}
    if not torch.stack([rows.any() for rows in wrong.values()]).any():
        return
    name, rows = next((name, rows) for name, rows in wrong.items() if rows.any())
    described = describe_invalid(outputs[name][rows], rows.nonzero().flatten().tolist(), " of the batch")
    raise InputError(f"expert {name} {described}")
