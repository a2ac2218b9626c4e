"""Small and standard networks per modality, named in YAML by ``class_path``."""

from lightning_fusion.encoders.image import BatchAffine, SmallConvNet, TorchvisionClassifier
from lightning_fusion.encoders.sensor import SensorCNN, SensorGRU, SensorMLP
from lightning_fusion.encoders.speaker import ECAPA, CosineHead, SmallSpeakerNet, SpeakerResNet, StatisticsPooling

__all__ = [
    "ECAPA",
    "BatchAffine",
    "CosineHead",
    "SensorCNN",
    "SensorGRU",
    "SensorMLP",
    "SmallConvNet",
    "SmallSpeakerNet",
    "SpeakerResNet",
    "StatisticsPooling",
    "TorchvisionClassifier",
]
