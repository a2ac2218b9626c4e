"""Recipes on predictions alone: stored outputs, or recorded predictions, in place of data and a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from lightning_fusion.data.base import SPLITS
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.divided import complete_samples, with_fuser_splits
from lightning_fusion.experts.outputs.recorded import RecordedPredictions
from lightning_fusion.experts.outputs.store import ExpertOutputs
from lightning_fusion.files import digest

_SOURCES = ("data", "stores", "predictions")


def check_sources(recipe: Callable[..., Any], arguments: Mapping[str, Any], training: Sequence[str]) -> None:
    """Check that a recipe has one source of outputs, and no argument that this one does not use.

    Args:
        recipe: The recipe's function.
        arguments: Its arguments by name, as ``locals()`` has them.
        training: Names of its arguments that matter only where experts are trained.

    Raises:
        InputError: If there are several sources, none, or an argument that the source does not use.
    """
    given = [name for name in _SOURCES if arguments[name] is not None]
    if len(given) != 1:
        raise InputError(
            f"data, stores and predictions: found {shorten(given) or 'none'}; give one: data and network to train "
            "experts, folders of stored outputs, or recorded predictions"
        )
    if given == ["data"]:
        if arguments["network"] is None:
            raise InputError("network: found none; expected a network for the experts of data, or stores without data")
        return
    defaults = signature(recipe).parameters
    if unused := [name for name in ("network", *training) if arguments[name] != defaults[name].default]:
        raise InputError(
            f"{', '.join(unused)}: only the training of experts uses it, and {given[0]} train none; remove it"
        )


def seeds_of(seeds: list[int] | None, stores: Sequence[str] | None) -> list[int]:
    """Return the seeds of a recipe: [0] by default, or 0, 1, ... for stores."""
    if seeds is not None:
        return seeds
    return list(range(len(stores))) if stores else [0]


@dataclass(frozen=True)
class StoredOutputs:
    """Outputs of experts by seed, in place of data and a network.

    Attributes:
        source: Where they come from, for a report.
        outputs: Outputs with the splits of a fuser, by seed.
        notes: How the splits were drawn, by seed.
        records: What identifies the outputs, by seed, as plain data.
    """

    source: str
    outputs: dict[int, ExpertOutputs]
    notes: dict[int, list[str]]
    records: dict[int, dict[str, Any]]

    @classmethod
    def open(
        cls,
        stores: Sequence[str] | None,
        predictions: RecordedPredictions | None,
        seeds: Sequence[int],
        needed: Sequence[str] = SPLITS,
    ) -> "StoredOutputs":
        """Read the outputs of each seed.

        Args:
            stores: Folders of stored outputs, one for each seed.
            predictions: Recorded predictions, instead.
            seeds: Seeds.
            needed: Splits that the recipe cannot do without.

        Raises:
            InputError: If they cannot be read, their number differs, or a split is lacking.
        """
        if predictions is not None:
            opened = predictions.outputs(list(seeds))
        elif len(stores or ()) != len(seeds):
            raise InputError(f"stores: found {len(stores or ())} for {len(seeds)} seeds; expected one for each")
        else:
            opened = {seed: ExpertOutputs.open(store) for seed, store in zip(seeds, stores or (), strict=True)}
        _check_same_task(opened, stores or ())
        found: dict[int, ExpertOutputs] = {}
        notes: dict[int, list[str]] = {}
        for seed, outputs in opened.items():
            complete, left_out = complete_samples(outputs)
            found[seed], texts = with_fuser_splits(complete, seed, needed)
            notes[seed] = [f"Seed {seed}: {text}." for text in [*left_out, *texts]]
        records = {seed: _record(outputs) for seed, outputs in found.items()}
        for seed, first in _repeated(records).items():
            notes[seed].append(
                f"Seed {seed}: the outputs are those of seed {first}; only the training of fusers differs."
            )
        return cls(shorten(stores or (predictions.names if predictions else [])), found, notes, records)

    @property
    def has_representations(self) -> bool:
        """Whether the experts' representations are stored, for every seed."""
        return all(outputs["train"].representations for outputs in self.outputs.values())

    def record(self, seeds: Sequence[int]) -> dict[int, Any]:
        """Return what identifies the outputs of each seed, as plain data."""
        return dict.fromkeys(seeds) | self.records


def _record(outputs: ExpertOutputs) -> dict[str, Any]:
    """Return what identifies outputs."""
    parts = {
        split: digest(part.target, part.domain, part.index, *part.probabilities.values())
        for split, part in outputs.splits.items()
    }
    return {**parts, "experts": outputs.experts}


def _repeated(records: Mapping[int, dict[str, Any]]) -> dict[int, int]:
    """Return the first seed with the same outputs for each seed that repeats it."""
    first = {seed: next(other for other, known in records.items() if known == own) for seed, own in records.items()}
    return {seed: other for seed, other in first.items() if other != seed}


def _check_same_task(outputs: Mapping[int, ExpertOutputs], stores: Sequence[str]) -> None:
    """Check that the stores of all seeds have the same classes and the same names of experts, in any order.

    Raises:
        InputError: If they do not: a mean over seeds would be one over tasks.
    """
    first, *others = outputs.values()
    for store, each in zip(stores[1:], others, strict=False):
        for what, own, known in (("classes", each.classes, first.classes), ("experts", each.names, first.names)):
            if set(own) != set(known):
                raise InputError(
                    f"stores: {store} has the {what} {shorten(own, 10)}, and {stores[0]} {shorten(known, 10)}; the "
                    "stores of a table are seeds of one task and pool: run the recipe on each alone"
                )
