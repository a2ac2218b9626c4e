"""What a module must know before its training: sizes of representations, numbers and labels of the training rows.

Plain functions for a LightningModule that trains a network beside frozen experts. They leave no trace: no random number
of the run is drawn, and no weight, buffer or mode changes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from lightning_fusion.data.base import Batch, FusionDataModule, as_batch, sample_metadata
from lightning_fusion.data.samplers import SliceSampler
from lightning_fusion.errors import InputError
from lightning_fusion.experts.expert import check_layer
from lightning_fusion.experts.pool import ExpertPool

PROBE_ROWS = 64
"""Training rows that are looked at, at most."""


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """Every part is in eval mode, and afterwards in the mode it was in.

    Example:
        >>> network = nn.Dropout()
        >>> with in_eval(network):
        ...     print(network.training)
        False
        >>> network.training
        True
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Random states, buffers and modes are afterwards what they were.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with undisturbed(norm):
        ...     _ = norm(torch.ones(4, 2))
        >>> norm.running_mean
        tensor([0., 0.])
    """
    kept = [
        (
            {name: value.clone() for name, value in module.named_buffers()},
            {part: part.training for part in module.modules()},
        )
        for module in modules
    ]
    devices = {value.device for module in modules for value in module.parameters() if value.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            for module, (buffers, modes) in zip(modules, kept, strict=True):
                for name, value in module.named_buffers():
                    value.copy_(buffers[name])
                for part, mode in modes.items():
                    part.training = mode


def check_beside(network: nn.Module, features: str | None, pool: ExpertPool) -> None:
    """Check that a network can be trained beside frozen experts, by their representations and its own.

    Args:
        network: To be trained.
        features: Submodule of it that gives its representation.
        pool: The experts.

    Raises:
        InputError: If the network or an expert has no such layer, or the network is made of the experts' own weights.
    """
    for name, expert in pool.members.items():
        check_layer(expert.network, expert.features, f"expert {name}")
    frozen = {id(weight) for weight in pool.parameters()}
    if {id(weight) for weight in network.parameters()} <= frozen:
        raise InputError("network: all of its weights are those of frozen experts; give it a copy.deepcopy")
    check_layer(network, features, "the network")


def first_rows(trainer: Trainer) -> Batch:
    """The first training samples, :data:`PROBE_ROWS` at most, as a training step sees them, on the CPU.

    Raises:
        InputError: If there are none.
    """
    data: Any = getattr(trainer, "datamodule", None)
    batch: Any = None
    with torch.random.fork_rng():
        if isinstance(data, FusionDataModule):  # no worker is started for it
            rows: Any = data.rows("train")
            batch = rows[torch.arange(min(PROBE_ROWS, len(rows)))] if len(rows) else None
        else:
            batch = next(iter(_train_loader(trainer)), None)
        if batch is None:
            raise InputError("data: the training split has no samples")
        if data is not None:
            batch = data.on_after_batch_transfer(batch, 0)
    return Batch(*(_head(part) for part in as_batch(batch, "the train loader")))


def training_labels(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Numbers and labels of all training rows, (N,) each, in the same order; -100 where a row has no label.

    Where the data module is not one of this library, all batches of its loader are read.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if isinstance(data, FusionDataModule):
        target, _, index = sample_metadata(data.rows("train"))
        return index, target
    with torch.random.fork_rng():
        parts = [as_batch(part, "the train loader") for part in _train_loader(trainer)]
    index, target = (torch.cat([part[place] for part in parts]) for place in (3, 1))
    return index, target


@torch.no_grad()
def probe_experts(pool: ExpertPool, input: Any) -> dict[str, Tensor]:
    """The representation (B, D_k) of each expert, by name.

    Args:
        pool: The experts.
        input: A batch of the data that the new network is trained on.

    Raises:
        InputError: If an expert does not run on the input, or a representation is not finite.
    """
    found: dict[str, Tensor] = {}
    for name, expert in pool.members.items():
        try:
            found |= ExpertPool({name: expert}).representations(input)
        except RuntimeError as error:
            raise InputError(
                f"experts: {name} does not run on the training input ({error}); leave it out, or prepare the data as "
                "it wants them"
            ) from error
    return found


def in_a_step(trainer: Trainer, batch: Any, device: torch.device) -> Batch:
    """A batch of the trainer's data module as a step sees it."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batch = data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
    converted: Batch = trainer.precision_plugin.convert_input(as_batch(batch, "the data module"))
    return converted


def all_rows(trainer: Trainer, split: str, device: torch.device) -> Iterator[Batch]:
    """All samples of a split, as steps see them, in parts of the data module's batch size."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    rows = data.rows(split)
    for part in torch.arange(len(rows)).split(data.batch_size):  # no more memory than a training step takes
        yield in_a_step(trainer, rows[part], device)


def batches_repeat(trainer: Trainer, device: torch.device) -> bool:
    """Whether a training batch is always the same, and what the data module's ``rows`` gives.

    Then what frozen experts answer can be computed once. Augmentation without a name is found by one batch's values.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not isinstance(data, FusionDataModule) or getattr(data, "augmentation", None) is not None:
        return False
    loader: Any = data.train_dataloader()
    rows: Any = data.rows("train")
    if not isinstance(loader.sampler, SliceSampler):
        return False
    with torch.random.fork_rng():
        item = next(iter(loader.sampler))
        first, again = (in_a_step(trainer, loader.dataset[item], device) for _ in range(2))
        index = sample_metadata(rows)[2]
        place = index.argsort()[torch.searchsorted(index.sort().values, first.index.cpu())]
        plain = in_a_step(trainer, rows[place], device)
    return all(_same_input(first.input, other.input) for other in (again, plain))


def _train_loader(trainer: Trainer) -> Any:
    return trainer.fit_loop._data_source.dataloader()


def _head(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _head(part) for key, part in value.items()}
    return value[:PROBE_ROWS]


def _same_input(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same_input(value, other[key]) for key, value in one.items())
    return torch.equal(one, other)
