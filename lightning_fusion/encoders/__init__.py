"""Small and standard networks per modality, named in YAML by ``class_path``."""

from lightning_fusion.encoders.image import BatchAffine, SmallConvNet, TorchvisionClassifier

__all__ = ["BatchAffine", "SmallConvNet", "TorchvisionClassifier"]
