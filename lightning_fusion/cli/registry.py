"""Commands of a registry of experts, as typed functions with the options as arguments."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import rich
from torch import nn

from lightning_fusion.cli.imports import import_modules
from lightning_fusion.data.base import FusionDataModule, labeled_attribute
from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import Expert
from lightning_fusion.hat.ranking import Selection
from lightning_fusion.hat.selection import select_sources
from lightning_fusion.hat.stored import DATA, POOL, check_free, save_selection
from lightning_fusion.registry.card import Card
from lightning_fusion.registry.registry import ExpertRegistry


def publish(
    registry: str,
    checkpoint: str,
    data: FusionDataModule,
    name: str | None = None,
    network: Callable[[int], nn.Module] | None = None,
    features: str | None = None,
    classes: list[str] | None = None,
    output: Literal["logits", "probabilities"] | None = None,
    cost: float = 1.0,
    imports: list[str] | None = None,
    overwrite: bool = False,
    weights: Literal["float32", "int8"] = "float32",
) -> Card:
    """Publish an expert in a registry: its weights, class means, and light statistics of its data.

    Args:
        registry: Address of the registry: a folder, or an address of fsspec such as s3://bucket/experts.
        checkpoint: Checkpoint of the expert.
        data: Data module that it was trained on; of a configuration of 'fit' its data are read.
        name: Name of the source; that of the file of the checkpoint where null.
        network: Class of the network, where the checkpoint does not record it.
        features: Submodule whose output is the representation, where the checkpoint does not record it.
        classes: Names of the classes in the order of the outputs, where the checkpoint does not record them.
        output: What the network returns; logits where null.
        cost: Cost of a query.
        imports: Modules to import, which define the network of the checkpoint; those of the model of a configuration
            of 'fit' where null.
        overwrite: Replace a source of this name.
        weights: Type in which matrices and kernels are stored; int8 takes a quarter of the bytes.

    Returns:
        The card of the source.
    """
    import_modules(imports)
    where, name = ExpertRegistry(registry), name or _name_of(checkpoint, data)
    expert = Expert(network, checkpoint, classes, output, features, cost=cost)
    card = where.publish(expert, data, name, overwrite=overwrite, network=network, weights=weights)
    sent = sum(each.num_bytes for each in where.ledger if each.direction == "up")
    print(f"published {card.name} in {where.address}: {len(card.classes)} classes, {sent:,} bytes written")
    if card.agreement is not None:
        print(f"weights: int8; the answer of the exact weights on {card.agreement:.2%} of {sum(card.counts):,} samples")
    return card


def select(
    registry: str,
    data: FusionDataModule,
    output: str,
    num_sources: int = 5,
    keep_fraction: float = 0.5,
    encoder_first: bool = False,
    similarity: Literal["cosine", "euclid", "jaccard"] = "cosine",
    rank_by: Literal["product", "evidence", "centroid", "accuracy", "statistics", "random"] = "product",
    exclude: list[str] | None = None,
    rename: dict[str, str] | None = None,
    seed: int = 0,
    max_source_gb: float = 4.0,
    imports: list[str] | None = None,
    overwrite: bool = False,
) -> Selection:
    """Select the sources of a registry for a target domain, and write them with a pool.yaml that 'fit' reads.

    Args:
        registry: Address of the registry: a folder, http(s)://, or an address of fsspec such as s3://bucket/experts.
        data: Data module of the target, with labeled samples; of a configuration of 'fit' its data are read.
        output: Folder for pool.yaml, checkpoints of the sources, the table of all sources and the ledger of bytes.
        num_sources: Number of sources to select.
        keep_fraction: Fraction of the eligible sources whose models are read and evaluated.
        encoder_first: Read encoders and class means first, and heads of the selected sources only.
        similarity: Similarity of the statistics.
        rank_by: Criterion of the rank; product is that of all parts, evidence weights them by the target's labels.
        exclude: Names of sources to exclude.
        rename: Classes of the sources and their names in the target, such as {walking: WALK}.
        seed: Seed of rank_by random.
        max_source_gb: Maximum size of the weights of a source.
        imports: Modules to import, which define networks of sources; those of the model of a configuration of 'fit'
            where null.
        overwrite: Replace an earlier selection.

    Returns:
        The selection.
    """
    import_modules(imports)
    folder = Path(output)
    check_free(folder, overwrite)
    found = select_sources(
        ExpertRegistry(registry, max_source_gb=max_source_gb),
        data,
        keep_fraction,
        num_sources,
        encoder_first,
        similarity,
        rank_by,
        exclude or (),
        seed=seed,
        rename=rename,
    )
    files = save_selection(found, data, folder)
    rich.print(found)
    print(f"wrote {', '.join(files)} and {len(found.experts)} checkpoint(s) to {folder}")
    print(f"train a student with them: lightning-fusion fit -c FILE -c {folder / POOL} -c {folder / DATA}")
    return found


def _name_of(checkpoint: str, data: FusionDataModule) -> str:
    """Return the name of a checkpoint's file; raise InputError for one by Lightning, which all sources would have."""
    stem = Path(checkpoint).stem
    if re.fullmatch(r"(epoch=\d+.*|last)(-v\d+)?", stem):
        example = (labeled_attribute(data, "own_domains") or ["site"])[0]
        raise InputError(f"name is not set, and {stem!r} says nothing of the source: set it, such as --name={example}")
    return stem
