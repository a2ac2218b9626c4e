"""Networks for each modality, named in YAML by ``class_path``."""

from lightning_fusion.encoders.image import SmallConvNet, TorchvisionClassifier
from lightning_fusion.encoders.sensor import SensorCNN, SensorGRU, SensorMLP
from lightning_fusion.encoders.speaker import ECAPA, CosineHead, SmallSpeakerNet, SpeakerResNet, StatisticsPooling
from lightning_fusion.encoders.text import MaskedMean, TextBag, TextTransformer, masked_mean

__all__ = [
    "ECAPA",
    "CosineHead",
    "MaskedMean",
    "SensorCNN",
    "SensorGRU",
    "SensorMLP",
    "SmallConvNet",
    "SmallSpeakerNet",
    "SpeakerResNet",
    "StatisticsPooling",
    "TextBag",
    "TextTransformer",
    "TorchvisionClassifier",
    "masked_mean",
]
