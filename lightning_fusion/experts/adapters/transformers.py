"""Classifiers of transformers as experts: of texts, images and recordings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from lightning_fusion.data.samples.images import ImageSamples
from lightning_fusion.data.samples.texts import TextTokens
from lightning_fusion.data.samples.waveforms import WaveformSamples
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.adapters.folders import load_pretrained, reject_code, weight_files
from lightning_fusion.experts.adapters.tokens import check_tokens, gathered, load_tokenizer, longest_text, masked_mean
from lightning_fusion.experts.estimators import class_order
from lightning_fusion.experts.expert import Expert
from lightning_fusion.experts.layers import as_vectors
from lightning_fusion.extras import require

_LONGEST_TEXT = 512
_MAPPINGS = {"texts": "SEQUENCE", "images": "IMAGE", "recordings": "AUDIO"}


class TransformersExpert(Expert):
    """Classifier of texts, images or recordings of transformers, with its own tokenizer or processor.

    The configuration of the model says which of the three it is. Texts, images in their original size, or waveforms are
    prepared by the tokenizer or processor in the model's folder. The weights are read from safetensors, and code that a
    model brings is never run.

    Args:
        path: A folder written by ``save_pretrained``, or a name on the hub.
        classes: Names of the classes. ``None`` (default) uses the labels of the model (``id2label``). For a model with
            default labels (LABEL_0 ...), the names of its outputs, in order.
        features: Layer whose output is the representation: ``pool``, the mean of the last layer's states, or any layer
            of the model, such as ``model.bert.pooler``; ``None`` means no representation.
        preprocess: Module that prepares raw samples in place of the tokenizer or processor of the model.
        download: Download missing files from the hub.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.

    Raises:
        InputError: If transformers is missing, the model cannot be read, or is no classifier.
    """

    def __init__(
        self,
        path: str,
        classes: list[str] | None = None,
        features: str | None = "pool",
        preprocess: nn.Module | None = None,
        download: bool = False,
        **shared: Any,
    ) -> None:
        kind = classifier_kind(path, download)
        network = _NETWORKS[kind](path, download)
        names = network.classes
        order: list[int] | None = None
        if classes is not None and names == [f"LABEL_{number}" for number in range(len(names))]:
            names = classes
        elif classes is not None:
            names, order = class_order(names, classes, f"the model {path}")
        if preprocess is None:
            preprocess = _prepares(kind, path, download, network)
        super().__init__(
            network=network, checkpoint=None, classes=names, features=features, preprocess=preprocess, **shared
        )
        self._columns = order
        if isinstance(preprocess, TextTokens):
            self.preprocessing = {"tokenizer": preprocess.fingerprint}


def classifier_kind(path: str, download: bool = False) -> str:
    """Return what a classifier of transformers reads: ``texts``, ``images`` or ``recordings``.

    Args:
        path: Folder of the model, or its name on the hub.
        download: Download missing files from the hub.

    Raises:
        InputError: If its configuration cannot be read, or is that of another model.
    """
    transformers = require("transformers", "text")
    weight_files(path)
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=not download, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if not download and not Path(path).is_dir():
            raise InputError(
                f"path: found no folder {path}, and no model of this name on this machine; a name on the hub needs "
                "download: true"
            ) from error
        what = " ".join(str(error).split())[:200]
        raise InputError(f"path: transformers cannot read the config.json of {path} ({what})") from error
    found = [str(name) for name in config.architectures or ()]
    if config.problem_type not in (None, "single_label_classification") or config.num_labels < 2:
        task = config.problem_type or f"a model with {config.num_labels} output"
        raise InputError(
            f"path: {path} is made for another task ({task}); expected a classifier of one class per sample, with two "
            "labels at least"
        )
    known = require("transformers.models.auto.modeling_auto", "text")
    for kind, mapping in _MAPPINGS.items():
        names = getattr(known, f"MODEL_FOR_{mapping}_CLASSIFICATION_MAPPING_NAMES").get(config.model_type, ())
        if set(found) & set([names] if isinstance(names, str) else names):
            return kind
    raise InputError(
        f"path: {path} is {shorten(found) or f'a {config.model_type} without a head'} of transformers; expected a "
        "classifier of texts, images or recordings, such as BertForSequenceClassification or ViTForImageClassification"
    )


class _Classifier(nn.Module):
    """Base class of classifiers: a model of transformers and its labels."""

    head = ""

    def __init__(self, path: str, download: bool = False) -> None:
        super().__init__()
        self.path = path
        self.model = load_pretrained(self.head, path, download)
        config = self.model.config
        self.classes = [str(config.id2label[number]) for number in range(config.num_labels)]
        if len(set(self.classes)) < len(self.classes):
            raise InputError(f"path: two labels of the model {path} have one name: {shorten(self.classes, 20)}")
        self.pool = nn.Identity()


class TransformersClassifier(_Classifier):
    """Sequence classifier of transformers, read from safetensors only.

    The output of the layer ``pool`` is its representation (B, D): the masked mean of the last layer's states. Any layer
    of the model can be named instead, such as ``model.bert.pooler``.

    Args:
        path: A folder written by ``save_pretrained``, or a name on the hub.
        download: Download missing files from the hub.

    Raises:
        InputError: If transformers is missing, or the model cannot be read.
    """

    head = "AutoModelForSequenceClassification"

    def __init__(self, path: str, download: bool = False) -> None:
        super().__init__(path, download)
        config = self.model.config
        self.vocab_size, self.longest = self.model.get_input_embeddings().num_embeddings, longest_text(self.model)
        if config.pad_token_id is None:  # classifiers of decoders look for the last token before padding
            end = config.eos_token_id
            if end is None:
                raise InputError(f"path: the config.json of {path} names no pad_token_id; set it to the tokenizer's")
            config.pad_token_id = end[0] if isinstance(end, list) else end
        self.pad_id: int = config.pad_token_id

    def forward(self, input: Mapping[str, Tensor]) -> Tensor:
        """Map input_ids and attention_mask (B, L) to (B, C) logits."""
        ids, mask = check_tokens(input, self.vocab_size, self.path, self.longest)
        ids, mask = gathered(ids, mask, mask == 0)  # padding on the right: positions count from the left
        ids = ids.masked_fill(mask == 0, self.pad_id)  # some models look for padding by its token
        output = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, return_dict=True)
        states = getattr(output, "hidden_states", None)
        last = states[-1] if states is not None else output.encoder_last_hidden_state
        self.pool(masked_mean(last, mask))
        logits: Tensor = output.logits
        return logits


class TransformersImageClassifier(_Classifier):
    """Image classifier of transformers, read from safetensors only; its layer ``pool`` is the mean of the last states.

    Args:
        path: A folder written by ``save_pretrained``, or a name on the hub.
        download: Download missing files from the hub.

    Raises:
        InputError: If transformers is missing, or the model cannot be read.
    """

    head = "AutoModelForImageClassification"

    def forward(self, pixels: Tensor) -> Tensor:
        """Map images (B, C, H, W), as the model's processor prepares them, to (B, C) logits."""
        output = self.model(pixel_values=pixels, output_hidden_states=True, return_dict=True)
        self.pool(as_vectors(output.hidden_states[-1]))
        logits: Tensor = output.logits
        return logits


class TransformersAudioClassifier(_Classifier):
    """Classifier of recordings of transformers, read from safetensors only; ``pool`` is the mean of the last states.

    Args:
        path: A folder written by ``save_pretrained``, or a name on the hub.
        download: Download missing files from the hub.

    Raises:
        InputError: If transformers is missing, or the model cannot be read.
    """

    head = "AutoModelForAudioClassification"

    def forward(self, input: Mapping[str, Tensor]) -> Tensor:
        """Map a dict of ``input_values`` (B, T) or ``input_features``, from the processor, to (B, C) logits."""
        output = self.model(**input, output_hidden_states=True, return_dict=True)
        states = output.hidden_states
        self.pool(as_vectors(states[-1]) if states is not None else output.logits)
        logits: Tensor = output.logits
        return logits


_NETWORKS: dict[str, type[_Classifier]] = {
    "texts": TransformersClassifier,
    "images": TransformersImageClassifier,
    "recordings": TransformersAudioClassifier,
}


class ImageProcessor(ImageSamples):
    """Image processor of a model of transformers, applied to images in their original size.

    Args:
        path: Folder of the model, or its name on the hub.
        download: Download missing files from the hub.

    Raises:
        InputError: If it has no processor.
    """

    def __init__(self, path: str, download: bool = False) -> None:
        super().__init__()
        self.processor = _processor("AutoImageProcessor", path, download)

    def extra_repr(self) -> str:
        """Describe the settings of the processor."""
        return " ".join(self.processor.to_json_string().split())

    def prepare(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Map B images to (B, C, H, W)."""
        pixels: Tensor = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return pixels


class AudioProcessor(WaveformSamples):
    """Feature extractor of a model of transformers, applied to waveforms.

    Args:
        path: Folder of the model, or its name on the hub.
        download: Download missing files from the hub.

    Raises:
        InputError: If it has no feature extractor.
    """

    def __init__(self, path: str, download: bool = False) -> None:
        processor = _processor("AutoFeatureExtractor", path, download)
        super().__init__(processor.sampling_rate)
        self.processor = processor

    def extra_repr(self) -> str:
        """Describe the settings of the feature extractor."""
        return " ".join(self.processor.to_json_string().split())

    def prepare(self, waveforms: Tensor) -> dict[str, Tensor]:
        """Map (B, T) waveforms to the input of the model."""
        rows: list[np.ndarray] = list(waveforms.cpu().numpy())
        found = self.processor(rows, sampling_rate=self.sample_rate_hz, return_tensors="pt")
        return {name: value.to(waveforms.device) for name, value in found.items()}


def _prepares(kind: str, path: str, download: bool, network: Any) -> nn.Module | None:
    """Return the preprocessing that a model brings; ``None`` for a text classifier without a tokenizer."""
    if kind == "images":
        return ImageProcessor(path, download)
    if kind == "recordings":
        return AudioProcessor(path, download)
    tokenizer = load_tokenizer(path, download)
    return None if tokenizer is None else TextTokens(tokenizer, network.longest or _LONGEST_TEXT)


def _processor(kind: str, path: str, download: bool) -> Any:
    transformers = require("transformers", "text")
    if Path(path).is_dir():
        reject_code(path, "path")
        if not Path(path, "preprocessor_config.json").is_file() and not Path(path, "processor_config.json").is_file():
            raise InputError(
                f"path: {path} has no preprocessor_config.json, which says how its samples are prepared; save the "
                "processor of the model there with save_pretrained, or set preprocess"
            )
    try:
        return getattr(transformers, kind).from_pretrained(path, local_files_only=not download, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        what = " ".join(str(error).split())[:200]
        raise InputError(f"path: transformers cannot read the processor of {path} as {kind} ({what})") from error
