"""Image classifiers of timm as experts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lightning_fusion.data.samples.images import ImageTransform
from lightning_fusion.errors import InputError, shorten, suggestion
from lightning_fusion.experts.adapters.folders import reject_code, reject_pickles
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.formats import check_format
from lightning_fusion.extras import require


class TimmExpert(Expert):
    """Image classifier of timm: a folder, a model of the hub, or a checkpoint of one's own.

    Images reach it in their original size, prepared by timm's evaluation transform for the model's data configuration
    (``pretrained_cfg``), or by ``preprocess``.

    Args:
        model: Name of the model, such as ``resnet18.a1_in1k`` or ``hf-hub:timm/resnet18.a1_in1k``, or a folder that
            ``timm.models.save_for_hf`` wrote with ``safe_serialization=True``.
        checkpoint: Weights of one's own for a named model: a state dict, a Lightning checkpoint, or safetensors, read
            weights-only.
        classes: Names of the classes, in the order of the outputs. ``None`` (default) uses the label names of the
            configuration, or for a model of ImageNet its descriptions.
        preprocess: Module that prepares raw images in place of timm's transform.
        download: Permit the download of the weights of a named model.
        model_args: Arguments that ``timm.create_model`` got in the training, such as ``{in_chans: 1}`` or
            ``{img_size: 64}``.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.

    Raises:
        InputError: If the model is unknown, its weights are not on this machine, are pickled or do not match, or its
            classes have no names.
    """

    def __init__(
        self,
        model: str,
        checkpoint: str | None = None,
        classes: list[str] | None = None,
        preprocess: nn.Module | None = None,
        download: bool = False,
        model_args: dict[str, Any] | None = None,
        **shared: Any,
    ) -> None:
        how = model_args or {}
        timm = require("timm", "timm")
        folder = model.removeprefix("local-dir:")
        is_folder = Path(folder).is_dir()
        if is_folder:
            check_format(folder, ("a folder of timm",), "model")
            reject_code(folder, "model")
            reject_pickles(folder, "model", "timm.models.save_for_hf(model, FOLDER, safe_serialization=True)")
        else:
            _check_name(timm, model)
        if checkpoint is None and not is_folder and not download:
            raise InputError(
                f"model: the weights of {model} are not given; set checkpoint to a local file, model to a folder that "
                "timm.models.save_for_hf wrote, or download: true"
            )
        if checkpoint is None:
            made = _created(timm, f"local-dir:{folder}" if is_folder else model, pretrained=True, **how)
            network: Any = made
        else:
            if classes is None:
                raise InputError("classes is not set; set it to the names of the classes of the checkpoint, in order")
            network = made = _created(timm, model, pretrained=False, num_classes=len(classes), **how)
        if preprocess is None:
            settings = timm.data.resolve_model_data_config(made)
            preprocess = ImageTransform(
                timm.data.create_transform(**settings, is_training=False),
                f"timm {json.dumps(settings, default=str)}",
                settings["input_size"][0],
            )
        super().__init__(
            network=network,
            checkpoint=checkpoint,
            classes=classes or _label_names(timm, made, model),
            preprocess=preprocess,
            **shared,
        )


def _check_name(timm: Any, model: str) -> None:
    """Check that timm knows a name, or can find it on the hub."""
    if model.startswith(("hf-hub:", "hf_hub:")):
        return
    if Path(model).exists() or model.startswith((".", "/", "~", "local-dir:")):
        raise InputError(f"model: found no folder {model}; expected one that timm.models.save_for_hf wrote, or a name")
    name, _, tag = model.partition(".")
    if not timm.is_model(name):
        raise InputError(f"model: timm has no {model}{suggestion(name, timm.list_models())}")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise InputError(f"model: timm has no weights {tag!r} of {name}, only {shorten(tags)}")


def _created(timm: Any, model: str, **how: Any) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(model, **how)
    except Exception as error:  # of timm, of readers of its files and of the hub
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"model: timm cannot create {model} ({what})") from error
    return network


def _label_names(timm: Any, network: Any, model: str) -> list[str]:
    """Return the names of the classes of a model with published weights."""
    card = network.pretrained_cfg
    if names := card.get("label_names"):
        listed = [names[key] for key in sorted(names, key=int)] if isinstance(names, Mapping) else list(names)
        described = card.get("label_descriptions")
        return [described.get(name, name) for name in listed] if isinstance(described, Mapping) else listed
    subset = timm.data.infer_imagenet_subset(network)
    if subset is None:
        raise InputError(
            f"classes is not set, and {model} does not name its {network.num_classes} classes; set classes"
        )
    known = timm.data.ImageNetInfo(subset)
    return [known.index_to_description(number) for number in range(network.num_classes)]
