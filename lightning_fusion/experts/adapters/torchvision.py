"""Image classifiers of torchvision as experts."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from lightning_fusion.data.samples.images import ImageTransform
from lightning_fusion.errors import InputError, shorten, suggestion
from lightning_fusion.experts.expert import Expert


class TorchvisionExpert(Expert):
    """Image classifier of torchvision: published weights, or a checkpoint of one's own.

    Images reach it in their original size, prepared by the transforms of the published weights, or by ``preprocess``.

    Args:
        model: Name of the model, such as ``resnet18``.
        weights: Name of published weights, such as ``IMAGENET1K_V1`` or ``DEFAULT``. With a ``checkpoint``, those that
            it was fine-tuned from: their transforms prepare the images.
        checkpoint: Weights of one's own: a state dict, a Lightning checkpoint, or safetensors, read weights-only.
        classes: Names of the classes, in the order of the outputs. ``None`` (default) uses the categories of the
            published weights.
        preprocess: Module that prepares raw images in place of the transforms of the published weights.
        download: Permit the download of the published weights.
        model_args: Arguments that the function of the model got in the training of the checkpoint, such as
            ``{image_size: 64}`` of a vision transformer.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.

    Raises:
        InputError: If the model or the weights are unknown, are not on this machine, or do not match.
    """

    def __init__(
        self,
        model: str,
        weights: str | None = None,
        checkpoint: str | None = None,
        classes: list[str] | None = None,
        preprocess: nn.Module | None = None,
        download: bool = False,
        model_args: dict[str, Any] | None = None,
        **shared: Any,
    ) -> None:
        known = models.list_models(module=models)
        if model not in known:
            raise InputError(f"model: found {model!r}; expected a classifier of torchvision{suggestion(model, known)}")
        if model_args and checkpoint is None:
            raise InputError(f"model_args: {model} has published weights; set checkpoint to weights of your own")
        published = None if weights is None else _published(model, weights)
        if checkpoint is None and published is None:
            raise InputError(
                f"weights, checkpoint: both are missing, so that the weights of {model} would be drawn at random; set "
                "checkpoint, or weights, such as DEFAULT"
            )
        if preprocess is None:
            if published is None:
                raise InputError(
                    f"preprocess: the checkpoint {checkpoint} does not record how its images were prepared; set "
                    f"preprocess, such as ImagePreprocessing, or set weights to those of torchvision that {model} was "
                    "fine-tuned from, whose transforms are then used"
                )
            preprocess = ImageTransform(published.transforms(), f"torchvision {published} {published.transforms()}")
        if checkpoint is None:
            assert published is not None
            _check_present(published, download)
            classes = classes if classes is not None else published.meta["categories"]
        how = ({} if published is None else _arguments(model)) | (model_args or {})
        network: Any = _network_of(model, published) if checkpoint is None else partial(_untrained, model, how)
        super().__init__(network=network, checkpoint=checkpoint, classes=classes, preprocess=preprocess, **shared)


def _published(model: str, weights: str) -> Any:
    """Return published weights by their name."""
    known = models.get_model_weights(model)
    if weights not in known.__members__:
        names = [name for name, _ in known.__members__.items()]
        raise InputError(f"weights: {model} has {shorten(names)}; found {weights!r}{suggestion(weights, names)}")
    return known[weights]


def _check_present(published: Any, download: bool) -> None:
    """Check that weights lie in torch's folder of downloads, and can be read weights-only."""
    file = Path(torch.hub.get_dir(), "checkpoints", published.url.rpartition("/")[2])
    if not file.is_file() and not download:
        raise InputError(
            f"weights: {published} are not on this machine ({file}); set download: true, or checkpoint to a local file"
        )
    published.get_state_dict(progress=True, check_hash=True, weights_only=True)  # get_model reads them as a pickle


def _arguments(model: str) -> dict[str, Any]:
    """Return what published weights change in the forward pass of a model."""
    return {"transform_input": True} if model in ("googlenet", "inception_v3") else {}


def _network_of(model: str, published: Any) -> nn.Module:
    network: nn.Module = models.get_model(model, weights=published)
    return network


def _untrained(model: str, how: dict[str, Any], num_classes: int) -> nn.Module:
    """Build a model without weights; those of a checkpoint replace them."""
    build: Callable[..., nn.Module] = partial(models.get_model, model, weights=None, num_classes=num_classes, **how)
    try:
        return build()
    except (TypeError, ValueError, RuntimeError) as error:  # of the function of the model
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"model_args: torchvision cannot create {model} with {how} ({what})") from error
