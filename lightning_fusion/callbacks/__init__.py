"""Callbacks that more than one method uses."""

from lightning_fusion.callbacks.prediction import PredictionWriter
from lightning_fusion.callbacks.reproducible import EpochSeed

__all__ = ["EpochSeed", "PredictionWriter"]
