"""Callbacks of several methods."""

from lightning_fusion.callbacks.checkpoints import AtomicCheckpoints
from lightning_fusion.callbacks.evaluation import EvaluationReport
from lightning_fusion.callbacks.prediction import PredictionWriter
from lightning_fusion.callbacks.reproducible import EpochSeed
from lightning_fusion.callbacks.scheduled import ScheduledAttribute

__all__ = ["AtomicCheckpoints", "EpochSeed", "EvaluationReport", "PredictionWriter", "ScheduledAttribute"]
