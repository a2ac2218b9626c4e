"""Comparison of the preprocessing that a model was trained with and that of its input."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.data.audio.features import LogMel
from lightning_fusion.data.image.files import ORIGINAL
from lightning_fusion.data.normalization import Normalization, preprocessor
from lightning_fusion.data.samples.images import ImagePreprocessing
from lightning_fusion.data.samples.waveforms import WaveformPreprocessing
from lightning_fusion.errors import InputError, shorten

_LARGEST_DIGITS = 60  # of a value in a message
_CLEAR, _LIKELY = 2.0, 0.5  # nats per channel
_MOST_CHANNELS = 64
_KINDS = ("frontend", "image_size", "sample_rate_hz")  # of raw samples, which are converted
_NORMALIZED = ("mean", "std", "scale")


def equal_values(one: Any, other: Any) -> bool:
    """Return whether two settings have the same value: numbers of any type, lists and tuples by their elements.

    Example:
        >>> equal_values({"rate": 200.0, "mean": (1, 2)}, {"rate": 200, "mean": [1.0, 2.0]})
        True
        >>> equal_values(200, "200"), equal_values(True, 1), equal_values([1, 2], [1])
        (False, False, False)
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(equal_values(one[key], other[key]) for key in one)
    if _is_sequence(one) and _is_sequence(other):
        return len(one) == len(other) and all(equal_values(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, Real) and isinstance(other, Real) and not isinstance(one, bool) and not isinstance(other, bool):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and bool(one == other)


def differences(
    known: Mapping[str, Any] | None, found: Mapping[str, Any] | None, converted: bool = True
) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two preprocessings differ by value, with both values.

    Args:
        known: Preprocessing of a model's training, if known; only its settings are compared.
        found: Preprocessing of its input, if known.
        converted: Include the normalization if :func:`conversion` converts it.

    Example:
        >>> differences({"sample_rate_hz": 200.0, "samples": 100}, {"sample_rate_hz": 200, "samples": 50})
        {'samples': (100, 50)}
    """
    if not known or not found:
        return {}
    both = {name: (value, found.get(name)) for name, value in known.items()}
    left_out: tuple[str, ...] = ()
    if known.get("normalization_scope") == found.get("normalization_scope") == "own":
        left_out = (*_NORMALIZED, "missing")  # each domain has statistics of its own
    elif not converted and conversion(known, found) is not None:
        left_out = _NORMALIZED
    return {name: pair for name, pair in both.items() if name not in left_out and not equal_values(*pair)}


def warn_preprocessing_mismatch(
    whose: str, known: Mapping[str, Any] | None, found: Mapping[str, Any] | None, converted: bool = False
) -> None:
    """Warn if the preprocessing of the data differs from that of a model's training.

    Args:
        whose: Name of the model, for the message.
        known: Preprocessing in training, if known.
        found: Preprocessing of the data.
        converted: Include the normalization if it is converted for experts (:func:`conversion`).
    """
    other = differences(known, found, converted)
    if listed := [f"{name} {_short(a)} against {_short(b)}" for name, (a, b) in other.items()]:
        rank_zero_warn(
            f"preprocessing: {whose} was trained with a preprocessing that differs from the data's ({shorten(listed)})"
        )


def check_tokenizer(whose: str, known: Mapping[str, Any], found: Mapping[str, Any] | None) -> None:
    """Raise InputError if the tokens of the data are of another tokenizer, whose token ids mean other words.

    Args:
        whose: Name of the model, for the message.
        known: Preprocessing in training.
        found: Preprocessing of the data.
    """
    ours, theirs = (found or {}).get("tokenizer"), known.get("tokenizer")
    if None not in (ours, theirs) and ours != theirs:
        raise InputError(
            f"tokenizer: {whose} was trained with the tokenizer of fingerprint {theirs}, and the data have that of "
            f"{ours}: set tokenizer of the data to its folder (select writes it, with a data.yaml that names it), or "
            "root and splits to those of its training"
        )


def data_preprocessing(trainer: Any) -> dict[str, Any] | None:
    """Return the preprocessing of a Trainer's data module; ``None`` if it has none."""
    return getattr(getattr(trainer, "datamodule", None), "preprocessing", None)


def carry_preprocessing(module: Any, fits: bool) -> None:
    """Keep the preprocessing of a model's training: data modules that measure statistics take those of the model.

    Args:
        module: LightningModule with a ``network`` and its ``preprocessing``, beside a Trainer. A new training records
            the preprocessing of the data.
        fits: Whether the model is trained.
    """
    data: Any = getattr(module.trainer, "datamodule", None)
    check_trainable(data_preprocessing(module.trainer))
    if fits:
        module.new_sample_facts = dict(getattr(data, "new_sample_facts", {}))
    if module.preprocessing is None:
        found = data_preprocessing(module.trainer)
        warn_double_normalization("the model", module.network, found)
        if fits and found is not None:
            module.preprocessing = dict(found)
            if "preprocessing" in module.hparams:  # a subclass may have no such argument
                module.hparams["preprocessing"] = module.preprocessing
        return
    if hasattr(data, "use_preprocessing") and (
        not fits or differences(module.preprocessing, data_preprocessing(module.trainer))
    ):
        data.use_preprocessing(training_facts(module))
    warn_preprocessing_mismatch("the model", module.preprocessing, data_preprocessing(module.trainer), converted=True)


def training_facts(model: Any) -> dict[str, Any]:
    """Return the preprocessing of the training of a module or an expert, with what new samples need beside it.

    Args:
        model: Module or expert; its ``preprocessing`` may be ``None``.
    """
    return {**(model.preprocessing or {}), **getattr(model, "new_sample_facts", {})}


def carry_from_experts(experts: Iterable[Any], trainer: Any) -> None:
    """Let new samples (``predict_root``) be read as in the training of experts, whose data may not exist.

    The statistics of the normalization and the tokenizer are those of the first expert that records any; the others
    convert their input (:func:`conversion`). Data modules of labeled samples measure their own.

    Args:
        experts: Experts.
        trainer: Trainer.
    """
    data: Any = getattr(trainer, "datamodule", None)
    known = next((expert for expert in experts if expert.preprocessing), None)
    if known is not None and getattr(data, "predict_root", None) is not None:
        data.use_preprocessing(training_facts(known))


def release_new_samples(trainer: Any) -> None:
    """Undo :func:`carry_from_experts`."""
    data: Any = getattr(trainer, "datamodule", None)
    if getattr(data, "predict_root", None) is not None:
        data.use_preprocessing(None)


def release_preprocessing(module: Any) -> None:
    """Let the Trainer's data module measure its own statistics again."""
    data: Any = getattr(module.trainer, "datamodule", None)
    if hasattr(data, "use_preprocessing"):
        data.use_preprocessing(None)


class Conversion(NamedTuple):
    """Conversion of normalized input to another normalization: ``factor * input + offset`` by channel.

    Attributes:
        factor: (C,) float32.
        offset: (C,) float32.
    """

    factor: Tensor
    offset: Tensor

    def __call__(self, input: Tensor) -> Tensor:
        """Convert (B, C, ...) input."""
        shape = (-1, *[1] * (input.ndim - 2))
        factor, offset = (value.to(input.device, input.dtype).reshape(shape) for value in self)
        return input * factor + offset


def conversion(known: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> Conversion | None:
    """Return the conversion from the normalization of the data to that of a model's training; ``None`` if equal.

    Example:
        >>> import torch
        >>> change = conversion({"mean": [1.0], "std": [2.0]}, {"mean": [3.0], "std": [4.0]})
        >>> change(torch.tensor([[0.0]]))  # the value 3
        tensor([[1.]])
    """
    if not differences(known, found).keys() & set(_NORMALIZED):
        return None
    to, of = preprocessor(known), preprocessor(found)
    if not isinstance(to, Normalization) or not isinstance(of, Normalization) or len(to.mean) != len(of.mean):
        return None
    scale = to.scale / of.scale
    return Conversion(scale * of.std / to.std, (scale * of.mean - to.mean) / to.std)


def conversion_to_raw(found: Mapping[str, Any] | None) -> Conversion | None:
    """Return the conversion from the input of a data module to raw values; ``None`` if the input is raw.

    Values that were missing in the recording stay replaced.

    Raises:
        InputError: If the raw values cannot be computed from the input: log-mel features, token ids.

    Example:
        >>> import torch
        >>> change = conversion_to_raw({"mean": [1.0], "std": [2.0], "scale": 0.5})
        >>> change(torch.tensor([[3.0]]))
        tensor([[14.]])
    """
    way = preprocessor(found)
    if isinstance(way, LogMel):
        raise InputError(
            "raw_input is set, and the data module gives log-mel features; set frontend: waveform of the data module"
        )
    if found and "tokenizer" in found:
        raise InputError("raw_input is set, and the data module gives token ids; remove raw_input of the expert")
    if not isinstance(way, Normalization):
        return None
    return Conversion(way.std / way.scale, way.mean / way.scale)


def sample_conversion(
    known: Mapping[str, Any] | None, found: Mapping[str, Any] | None
) -> Callable[[Any], Tensor] | None:
    """Return the function that prepares the raw samples of a data module as in a model's training.

    Args:
        known: Preprocessing of the training, if known.
        found: Preprocessing of the samples. ``None`` is returned unless they are raw.

    Raises:
        InputError: If they are raw, and the training does not record how to prepare them.

    Example:
        >>> import torch
        >>> trained = {"mean": [0.5], "std": [0.5], "scale": 1 / 255, "channels": 1, "image_size": 4}
        >>> prepare = sample_conversion(trained, {"image_size": "original", "channels": 1})
        >>> prepare([torch.zeros(1, 9, 7, dtype=torch.uint8)]).shape
        torch.Size([1, 1, 4, 4])
    """
    known, found = known or {}, found or {}
    if found.get("image_size") == ORIGINAL:
        size = known.get("image_size")
        if not isinstance(size, int) or not isinstance(preprocessor(known), Normalization):
            raise InputError(
                "the data module gives images in their original size, and the expert records no size of its training: "
                "set preprocess of the expert, such as ImagePreprocessing, or image_size of the data module"
            )
        way = ImagePreprocessing(
            size, mean=known["mean"], std=known["std"], scale=known["scale"], channels=known["channels"]
        )
        return lambda images: way(images)  # no part of the expert's weights
    if found.get("frontend") == "waveform" and known.get("frontend") == "log_mel":
        mel = preprocessor(known)
        assert mel is not None
        resample = WaveformPreprocessing(known["sample_rate_hz"])
        resample.check(found)
        return lambda waveforms: mel.to(waveforms.device)(resample(waveforms))
    return None


def shared_settings(known: Mapping[str, Any], found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings of a training that raw samples have as well, such as what happens to short recordings.

    Args:
        known: Preprocessing of the training.
        found: Preprocessing of the raw samples.

    Example:
        >>> trained = {"frontend": "log_mel", "num_mels": 40, "short": "pad"}
        >>> shared_settings(trained, {"frontend": "waveform", "short": "repeat"})
        {'short': 'pad'}
    """
    return {name: value for name, value in known.items() if name in (found or {}) and name not in _KINDS}


def check_trainable(found: Mapping[str, Any] | None) -> None:
    """Check that a network can be trained on the samples of a data module.

    Args:
        found: Preprocessing of the data module.

    Raises:
        InputError: If they are images of any size.
    """
    if (found or {}).get("image_size") == ORIGINAL:
        raise InputError(
            f"image_size is {ORIGINAL}, for experts that prepare images themselves; set image_size of the data module "
            "to a number to train a network"
        )


def check_preprocessed(input: Any, preprocessing: Mapping[str, Any] | None) -> None:
    """Check, by the values of a batch, that the input of a network was preprocessed as in its training.

    Raises:
        InputError: If the input is clearly raw; input that seems to be raw is a warning.
    """
    way = preprocessor(preprocessing)
    if not isinstance(input, Tensor) or not input.numel():
        return
    found, sure = _raw_values(input, way) if isinstance(way, Normalization) else (None, False)
    if isinstance(way, LogMel) and input.ndim == 2:
        found, sure = f"waveforms {tuple(input.shape)} in place of log-mel features", True
    if found is None:
        return
    message = (
        f"input: {found}, and the expert was trained on preprocessed values; apply preprocess of the data module, or "
        "set raw_input of the expert"
    )
    if sure:
        raise InputError(message)
    rank_zero_warn(message)


def _raw_values(input: Tensor, way: Normalization) -> tuple[str | None, bool]:
    """Describe input that is not normalized, and return whether this is certain."""
    if not input.is_floating_point():
        return f"found {input.dtype}", True
    if input.ndim < 2 or input.shape[1] != len(way.mean):
        return None, False
    values = input.detach().double().movedim(1, -1).flatten(0, -2)
    if way.missing is not None and bool(values.isnan().any()):
        return "found missing values (NaN)", True
    low, high = float(values.min()), float(values.max())
    mean, std = way.mean.double().to(values.device), way.std.double().to(values.device)
    if way.scale != 1:  # raw values are between 0 and 1 / scale
        largest = float(((1 - mean) / std).max())
        if low >= 0 and high > 2 * max(largest, 1.0):
            return f"found values from {low:g} to {high:g}", True
        dark = float((-mean / std).min()) < 0 <= low and len(input) > 1  # no pixel below the mean in several images
        return (f"all values are from {low:g} to {high:g}" if dark else None), False
    if len(values) < 16:
        return None, False
    own_mean, own_var = values.mean(0), values.var(0, correction=0)
    normalized = (own_var + own_mean.square()) / 2
    raw = (own_var + (own_mean - mean).square()) / (2 * std.square()) + std.log()
    gain = float((normalized - raw).mean())  # difference of the divergences from both normal distributions
    if gain < _LIKELY:
        return None, False
    fits = float((raw - 0.5 - own_var.clamp_min(1e-12).log() / 2).mean()) < 1
    return "the values have mean and deviation of the raw training data", gain > _CLEAR and fits


def own_normalization(network: Any) -> str | None:
    """Return the part of a network, or of transforms, that normalizes its input itself; ``None`` if there is none.

    It has a mean and a standard deviation for each of a few channels, as ``Normalize`` of torchvision has; running
    statistics do not count.

    Example:
        >>> from torchvision.transforms.v2 import Normalize
        >>> own_normalization(nn.Sequential(Normalize([0.5], [0.5]), nn.BatchNorm2d(1)))
        '0 (Normalize)'
    """
    for name, part in _parts(network):
        values = dict(vars(part)) if hasattr(part, "__dict__") else {}
        if isinstance(part, nn.Module):
            values |= {**part._buffers, **part._parameters}
        for key in values:
            pair = [values[key], values.get(f"{key[:-4]}std")] if key.endswith("mean") else []
            if pair and not key.startswith("running") and all(_is_of_channels(value) for value in pair):
                return f"{name} ({type(part).__name__})" if name else type(part).__name__
    return None


def warn_double_normalization(whose: str, network: Any, found: Mapping[str, Any] | None) -> None:
    """Warn if a network normalizes its input, and the data are normalized as well.

    Args:
        whose: Name of the model, for the message.
        network: Network, or transforms.
        found: Preprocessing of the data.
    """
    way = preprocessor(found)
    if isinstance(way, Normalization) and way.changes and (part := own_normalization(network)) is not None:
        count = len(way.mean)
        rank_zero_warn(
            f"preprocessing: {whose} normalizes its input in {part}, and the data module normalizes it before: set "
            f"mean: {[0] * count} and std: {[1] * count} of the data module, or remove {part}"
        )


def warn_unknown_preprocessing(names: Sequence[str], found: Mapping[str, Any] | None) -> None:
    """Warn about experts of unknown preprocessing behind a data module that normalizes.

    Args:
        names: Names of the experts; of none there is no warning.
        found: Preprocessing of the data.
    """
    if names:
        mean, std = (_short([float(f"{value:.4g}") for value in (found or {})[key]]) for key in ("mean", "std"))
        rank_zero_warn(
            f"preprocessing: {len(names)} expert(s) ({shorten(names)}) record no preprocessing, and the data module "
            f"normalizes their input with mean {mean} and std {std}; set raw_input of those that were trained on raw "
            "values, and the attribute preprocessing of those that were trained on the input of a data module"
        )


def published_normalization(network: Any) -> dict[str, Any] | None:
    """Return the mean and standard deviation that a model of timm was pre-trained with; ``None`` if it has none.

    Example:
        >>> network = nn.Linear(3, 2)
        >>> network.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "input_size": (3, 8, 8)}
        >>> published_normalization(network)
        {'mean': [0.5, 0.5, 0.5], 'std': [0.25, 0.25, 0.25]}
    """
    for name in ("pretrained_cfg", "default_cfg"):
        card = getattr(network, name, None)
        card = card if isinstance(card, Mapping) else getattr(card, "__dict__", {})
        mean, std = card.get("mean"), card.get("std")
        if _is_sequence(mean) and _is_sequence(std) and _is_of_channels(mean) and _is_of_channels(std):
            return {"mean": [float(value) for value in mean or ()], "std": [float(value) for value in std or ()]}
    return None


def _parts(network: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all modules and transforms by name."""
    yield name, network
    children = dict(network.named_children()) if isinstance(network, nn.Module) else {}
    children |= {str(number): part for number, part in enumerate(getattr(network, "transforms", ()))}  # of a Compose
    for key, part in children.items():
        yield from _parts(part, f"{name}.{key}" if name else key)


def _is_of_channels(value: Any) -> bool:
    if isinstance(value, Tensor):
        return 0 < value.numel() <= _MOST_CHANNELS and value.numel() == max(value.shape, default=1)
    if isinstance(value, float):
        return value != 0  # noise has the mean 0
    return _is_sequence(value) and 0 < len(value) <= _MOST_CHANNELS and all(isinstance(each, Real) for each in value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LARGEST_DIGITS else text[: _LARGEST_DIGITS - 4] + " ..."
