"""Checks of the stored outputs on which a fuser is trained."""

from collections.abc import Mapping, Sequence

import numpy as np

from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.outputs.datamodule import OutputsDataModule
from lightning_fusion.experts.outputs.store import ExpertOutputs


def check_stored(
    data: OutputsDataModule,
    expert_classes: Mapping[str, list[str]],
    classes: Sequence[str],
    representation_dims: Mapping[str, int],
) -> None:
    """Check that a fuser was built for stored outputs.

    Args:
        data: Data module with the outputs.
        expert_classes: Classes of each expert of the fuser, in order.
        classes: Classes of the fuser.
        representation_dims: Widths of the representations that it reads, by expert; empty if it reads none.

    Raises:
        InputError: If it was built for other experts, classes or representations.
    """
    outputs = data.outputs
    for name, own in expert_classes.items():
        if (found := outputs.expert_classes.get(name, own)) != own:
            raise InputError(
                f"the store {outputs.path or 'in memory'} has the classes {shorten(found, 20)} of expert {name}; "
                f"the fuser was built for {shorten(own, 20)}, in this order"
            )
    outputs.check_experts("the fuser", expert_classes, classes)
    if data.representation_dims != representation_dims:
        raise InputError(
            f"the data give representations of widths {data.representation_dims or 'none'}, the fuser reads "
            f"{representation_dims or 'none'}; set representations of OutputsDataModule, or representation_dims of "
            "the fuser"
        )


def unanswered(outputs: ExpertOutputs) -> list[str]:
    """Return a warning for each split with samples that no expert has answered."""
    found = []
    for split, part in outputs.splits.items():
        if count := int(np.asarray(part.missing).all(1).sum()):
            found.append(
                f"{count} of {len(part)} samples of {split} have no answer of any expert: their predictions do not "
                "depend on the sample"
            )
    return found
