"""Probing of data and networks before training: sizes of representations, indices and labels of training samples.

Functions for a LightningModule that trains a network with frozen experts. They have no side effects on random states,
weights, buffers and modes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor, nn

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.batch import Batch, as_batch
from lightning_fusion.data.indexed import numbered_by
from lightning_fusion.data.rows import sample_metadata
from lightning_fusion.data.samplers import SliceSampler
from lightning_fusion.errors import InputError
from lightning_fusion.experts.answers import take_rows
from lightning_fusion.experts.layers import check_layer, floats_to
from lightning_fusion.experts.pool import ExpertPool

PROBE_ROWS = 64
"""Maximum number of training samples that are probed."""


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """Context in which all submodules are in eval mode; restores their modes.

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
    """Context that restores random states, buffers and modes.

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


def check_representations(network: nn.Module, features: str | None, pool: ExpertPool) -> None:
    """Check that a network and frozen experts have the representations required for training.

    Args:
        network: Network to be trained.
        features: Name of its submodule whose output is the representation.
        pool: Pool of experts.

    Raises:
        InputError: If the network or an expert has no such layer, or the network shares the experts' weights.
    """
    for name, expert in pool.members.items():
        check_layer(expert.network, expert.features, f"expert {name}")
    frozen = {id(weight) for weight in pool.parameters()}
    if {id(weight) for weight in network.parameters()} <= frozen:
        raise InputError("network: all of its weights are those of frozen experts; give it a copy.deepcopy")
    check_layer(network, features, "the network")


def first_rows(module: LightningModule) -> Batch:
    """Return the first training samples, at most :data:`PROBE_ROWS`, as in a training step, on the CPU.

    Args:
        module: Module in a run. Inputs have the data type of its weights, which the Trainer converts only later.

    Raises:
        InputError: If there are none.
    """
    trainer, dtype = module.trainer, cast(torch.dtype, module.dtype)
    data: Any = getattr(trainer, "datamodule", None)
    batch: Any = None
    with torch.random.fork_rng():
        if isinstance(data, FusionDataModule):  # without starting workers
            rows: Any = data.rows("train")
            if len(rows):
                batch = data.on_after_batch_transfer(rows[torch.arange(min(PROBE_ROWS, len(rows)))], 0)
        else:
            batch = _first_of(_train_loader(trainer), data)
        if batch is None:
            raise InputError("data: the training split has no samples")
    first = Batch(*(_head(part) for part in as_batch(batch, "the train loader")))
    return first._replace(input=floats_to(first.input, dtype))


def training_labels(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """Return indices and labels of all training samples, (N,) each; -100 for unlabeled samples.

    All batches of the loader are read for data modules of other libraries.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if isinstance(data, FusionDataModule):
        target, _, index = sample_metadata(data.rows("train"))
        return index, target
    with torch.random.fork_rng():
        loader = _train_loader(trainer)
        parts = [numbered_by(as_batch(part, "the train loader"), loader, place) for place, part in enumerate(loader)]
    index, target = (torch.cat([part[place] for part in parts]) for place in (3, 1))
    return index, target


@torch.no_grad()
def probe_experts(pool: ExpertPool, input: Any) -> dict[str, Tensor]:
    """Return the representation (B, D_k) of each expert, by name.

    Args:
        pool: Pool of experts.
        input: Batch of the training data of the new network.

    Raises:
        InputError: If an expert does not run on the input, or a representation is not finite.
    """
    found: dict[str, Tensor] = {}
    for name, expert in pool.members.items():
        try:
            found |= ExpertPool({name: expert}).representations(input)
        except InputError as error:
            if not isinstance(error.__cause__, RuntimeError):
                raise
            raise InputError(
                f"experts: {name} does not run on the training input ({error.__cause__}); leave it out, or change the "
                "preprocessing of the data"
            ) from error.__cause__
    return found


def in_a_step(trainer: Trainer, batch: Any, device: torch.device) -> Batch:
    """Transfer a batch of the trainer's data module to the device, with its hooks."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
    batch = data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
    converted: Batch = trainer.precision_plugin.convert_input(as_batch(batch, "the data module"))
    return converted


def all_rows(trainer: Trainer, split: str, device: torch.device) -> Iterator[Batch]:
    """Yield all samples of a split as in a step, in parts of the data module's batch size."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by a connector
    rows = data.rows(split)
    for part in torch.arange(len(rows)).split(data.batch_size):  # at most the memory of a training step
        yield in_a_step(trainer, rows[part], device)


@contextmanager
def _as_in_validation(trainer: Trainer) -> Iterator[None]:
    """Context in which data modules prepare samples without augmentation."""
    stage = trainer.state.stage
    trainer.state.stage = RunningStage.VALIDATING
    try:
        yield
    finally:
        trainer.state.stage = stage


def plain_batches(module: LightningModule, device: torch.device) -> Iterator[Batch]:
    """Yield all training samples on a device, prepared as in validation: without augmentation, in float32.

    Batches of other libraries' data modules are those of their train loader.

    Args:
        module: Module at the start of a fit.
        device: Device of the batches.
    """
    trainer = module.trainer
    data: Any = getattr(trainer, "datamodule", None)
    with _as_in_validation(trainer), torch.random.fork_rng():
        if isinstance(data, FusionDataModule):
            for batch in all_rows(trainer, "train", device):
                yield batch._replace(input=floats_to(batch.input, torch.float32))
        else:
            loader = _train_loader(trainer)
            for place, part in enumerate(loader):
                batch = move_data_to_device(part, device)
                batch = batch if data is None else data.on_after_batch_transfer(batch, 0)
                yield numbered_by(as_batch(batch, "the train loader"), loader, place)


def samples_of(module: LightningModule, index: Tensor, device: torch.device) -> Batch:
    """Return some training samples in one batch, by ascending number, prepared as those of :func:`plain_batches`.

    Args:
        module: Module at the start of a fit.
        index: (M,) sample numbers.
        device: Device of the batch.

    Raises:
        InputError: If batches of another library's data module have inputs of different sizes.
    """
    data: Any = getattr(module.trainer, "datamodule", None)
    if isinstance(data, FusionDataModule):
        rows: Any = data.rows("train")
        numbers = sample_metadata(rows)[2]
        places = torch.isin(numbers, index).nonzero().flatten()
        places = places[numbers[places].argsort()]
        with _as_in_validation(module.trainer):
            batch = in_a_step(module.trainer, rows[places], device)
        return batch._replace(input=floats_to(batch.input, torch.float32))
    parts = []
    for batch in plain_batches(module, device):
        chosen = torch.isin(batch.index.cpu(), index).nonzero().flatten()
        parts.append([take_rows(part, chosen) for part in batch])
    if len({_shape(part[0]) for part in parts}) > 1:
        raise InputError("data: inputs differ in size between batches; pad them to one length")
    joined = Batch(*(_joined(values) for values in zip(*parts, strict=True)))
    order = joined.index.argsort()
    return Batch(*(take_rows(part, order) for part in joined))


def batches_repeat(trainer: Trainer, device: torch.device) -> bool:
    """Return whether training samples are never augmented, and equal those of the data module's ``rows``.

    Outputs of frozen experts can then be computed once. Unnamed augmentation is detected from the values of one batch.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not isinstance(data, FusionDataModule) or getattr(data, "augmentation", None) is not None:
        return False
    loader: Any = data.train_dataloader()
    rows: Any = data.rows("train")
    if not isinstance(getattr(loader, "sampler", None), SliceSampler):
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


def _first_of(loader: Any, data: Any) -> Batch | None:
    """Return the samples of the first batches of a loader, :data:`PROBE_ROWS` if there are as many; None of none."""
    parts: list[Batch] = []
    for part in loader:
        part = part if data is None else data.on_after_batch_transfer(part, 0)
        parts.append(as_batch(part, "the train loader"))
        if sum(len(each.target) for each in parts) >= PROBE_ROWS:
            break
    if len({_shape(part.input) for part in parts}) > 1:  # padded batches
        parts = parts[:1]
    return type(parts[0])(*(_joined(values) for values in zip(*parts, strict=True))) if parts else None


def _shape(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple(_shape(part) for part in value.values())
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else None


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return {key: _joined([value[key] for value in values]) for key in values[0]}
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else [each for value in values for each in value]


def _head(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _head(part) for key, part in value.items()}
    return value[:PROBE_ROWS]


def _same_input(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same_input(value, other[key]) for key, value in one.items())
    return torch.equal(one, other)
