"""Preparation of raw samples inside a program, and the experts that cannot be part of one."""

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lightning_fusion.data.normalization import Normalization, preprocessor
from lightning_fusion.data.samples.base import SamplePreprocessing
from lightning_fusion.data.samples.images import ImagePreprocessing
from lightning_fusion.data.samples.texts import TextTokens
from lightning_fusion.data.samples.waveforms import WaveformPreprocessing
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.expert import Expert

_WAY_OUT = "predict with 'lightning-fusion predict', or export a student that was trained on them (HaT)"


class RoundedImages(nn.Module):
    """Images of the size that the network takes, prepared as by ``ImagePreprocessing``, which works on whole numbers.

    Args:
        normalization: Normalization of each channel.
    """

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.normalization = normalization

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) of values from 0 to 255 to network input."""
        values: Tensor = self.normalization(images.round().clamp(0, 255))
        return values


class Waveforms(nn.Module):
    """Waveforms of the rate that the network takes, prepared as by ``WaveformPreprocessing``.

    Args:
        preprocess: The preprocessing.
    """

    def __init__(self, preprocess: WaveformPreprocessing) -> None:
        super().__init__()
        self.preprocess = preprocess

    def forward(self, waveforms: Tensor) -> Tensor:
        """Map waveforms (B, T) to network input."""
        return self.preprocess.prepare(waveforms)


def check_module(name: str, expert: Expert) -> None:
    """Check that an expert is a torch module.

    Args:
        name: Name of the expert, for the message.
        expert: The expert.

    Raises:
        InputError: If it is a function, an estimator, a file of another framework, or recorded predictions.
    """
    if expert.answers_by_name:
        raise InputError(
            f"experts: {name} has recorded predictions, which a program cannot compute for new samples; replace it by "
            "the model that was recorded"
        )
    if not isinstance(expert.network, nn.Module):
        kind = "a plain callable" if type(expert) is Expert else f"of the class {type(expert).__name__}"
        raise InputError(
            f"experts: {name} is {kind}, no torch module, and only torch modules can be exported; {_WAY_OUT}"
        )


def preparation(name: str, expert: Expert, shape: Sequence[int] | None) -> nn.Module | None:
    """Return the module that prepares raw samples for an expert; ``None`` if its preprocessing is not known.

    Args:
        name: Name of the expert, for messages.
        expert: The expert.
        shape: Shape of one raw sample; ``None`` for texts.

    Raises:
        InputError: If the expert prepares raw samples with anything but tensors of one size.
    """
    given = expert.preprocess
    if isinstance(given, ImagePreprocessing) and given.resize in (None, *given.size[:1]):
        wanted = [given.channels, *given.size]
        if shape is not None and list(shape) != wanted:
            raise InputError(
                f"input_shape is {list(shape)}; {name} resizes images with PIL, which is no part of a program: give "
                f"the shape of resized images, {wanted}"
            )
        return RoundedImages(given.normalization)
    if isinstance(given, WaveformPreprocessing):
        return Waveforms(given)
    if isinstance(given, SamplePreprocessing) and not isinstance(given, TextTokens):
        raise InputError(
            f"experts: {name} prepares {given.takes} with {type(given).__name__}, which is no part of a program; set "
            "preprocess of the expert to an ImagePreprocessing (without resize) or a WaveformPreprocessing of the same "
            "settings, or export a pool whose experts take the input of a data module"
        )
    way = preprocessor(expert.preprocessing)
    return nn.Identity() if way is None and expert.raw_input and not expert.preprocessing else way


def prepared_expert(expert: Expert) -> Expert:
    """Return an expert with the same network that takes prepared input, without another preparation or checks of it."""
    other = copy.copy(expert)
    other._modules = dict(expert._modules)
    if isinstance(expert.preprocess, SamplePreprocessing):
        other.preprocess = None
    other.raw_input, other._is_preprocessed, other._input_checked, other._conversion = False, True, True, None
    return other


def check_rates(experts: Mapping[str, Expert]) -> None:
    """Check that all experts of waveforms take them at one sample rate.

    Raises:
        InputError: If they do not.
    """
    rates = {}
    for name, expert in experts.items():
        given = expert.preprocess
        known = given.sample_rate_hz if isinstance(given, WaveformPreprocessing) else None
        if known is None and (expert.preprocessing or {}).get("frontend") is not None:
            known = (expert.preprocessing or {})["sample_rate_hz"]
        if known is not None:
            rates[name] = known
    if len(set(rates.values())) > 1:
        found = shorten([f"{name} {rate} Hz" for name, rate in rates.items()])
        raise InputError(f"experts: they take waveforms of different rates ({found}); a program takes one sample rate")
