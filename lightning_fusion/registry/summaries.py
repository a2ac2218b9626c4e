"""Summaries of a domain's data: light statistics, and sums of representations by class."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_fusion.data.base import FusionDataModule
from lightning_fusion.data.batch import Batch
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert


def _none() -> Tensor:
    raise NotImplementedError


def statistics_of(data: FusionDataModule, given: Any = None) -> Tensor:
    """Return light statistics of a data module's training split.

    Args:
        data: Data module; ``data.statistics()`` is called where ``given`` is None.
        given: (S,) statistics, or a function of ``data`` that returns them.

    Returns:
        (S,) float32.

    Raises:
        InputError: If there are no statistics, or some are not finite.

    Example:
        >>> statistics_of(None, [0.5, 0.25])
        tensor([0.5000, 0.2500])
    """
    if given is None:
        try:
            given = getattr(data, "statistics", _none)()
        except NotImplementedError as error:
            raise InputError(
                f"statistics: {type(data).__name__} computes none; pass the values, or a function of the data module"
            ) from error
    elif callable(given):
        given = given(data)
    vector = torch.as_tensor(given).detach().to("cpu", torch.float32)
    if vector.ndim != 1 or not len(vector):
        raise InputError(f"statistics: found shape {tuple(vector.shape)}; expected (S,), at least one number")
    if not vector.isfinite().all():
        wrong = (~vector.isfinite()).nonzero().flatten().tolist()
        raise InputError(
            f"statistics: number(s) {shorten(wrong)} of {len(vector)} are NaN or infinite; correct the data"
        )
    return vector


def labeled_batches(data: FusionDataModule, device: torch.device | str = "cpu") -> Iterator[Batch]:
    """Yield the labeled samples of the training split in order, as network input without augmentation.

    Args:
        data: Data module; samples with a negative target are unlabeled. ``data.labeled()`` is used where it exists.
        device: Device of the batches.
    """
    data = copy.copy(data)
    data.trainer = None  # training mode would augment
    data.prepare_data()
    data.setup("fit")
    dataset: Any = data.labeled() if hasattr(data, "labeled") else data.rows("train")
    for rows in torch.arange(len(dataset)).split(data.batch_size):
        batch = dataset[rows]
        kept = batch.target >= 0
        if not kept.all():
            inputs = batch.input
            picked = (
                {key: value[kept] for key, value in inputs.items()} if isinstance(inputs, Mapping) else inputs[kept]
            )
            batch = Batch(picked, batch.target[kept], batch.domain[kept], batch.index[kept])
        if len(batch.target):
            batch = data.on_before_batch_transfer(batch, 0)
            batch = data.transfer_batch_to_device(batch, torch.device(device), 0)
            yield data.on_after_batch_transfer(batch, 0)


def class_sums(
    expert: Expert, batches: Iterable[Batch], place: Sequence[int], num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the representations of an expert by class.

    Args:
        expert: Expert with a layer ``features``.
        batches: Batches of labeled samples.
        place: Index in the result for each class of the targets; -1 leaves the class out.
        num_classes: C, number of classes of the result.

    Returns:
        (C, D) float64 sums, (C,) int64 counts, and (N, C_k) probabilities of all N samples, all on the CPU.

    Raises:
        InputError: If a representation or probability is not finite.
    """
    places, sums, counts, outputs = torch.tensor(place), None, torch.zeros(num_classes, dtype=torch.int64), []
    for batch in batches:
        probabilities, representations = (
            value.cpu() for value in expert.forward_with_representations(copy.deepcopy(batch.input))
        )
        sound = representations.isfinite().all(1) & probabilities.isfinite().all(1)
        if not sound.all():
            listed = shorten(batch.index.cpu()[~sound].tolist())
            raise InputError(f"its representation or output is NaN or infinite for sample(s) {listed}")
        own = places[batch.target.cpu()]
        known = own >= 0
        if sums is None:
            sums = torch.zeros(num_classes, representations.shape[1], dtype=torch.float64)
        sums.index_add_(0, own[known], representations[known].double())
        counts += own[known].bincount(minlength=num_classes)
        outputs.append(probabilities)
    assert sums is not None
    return sums, counts, torch.cat(outputs)
