"""Lightning modules that fuse models with complementary expertise.

The names below are resolved on first use, so that importing the package costs little more than importing Lightning.
Other objects are named by their import path.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

PUBLIC = {
    "ACoRLModule": "acorl.module",
    "Batch": "data.batch",
    "Expert": "experts.expert",
    "ExpertModule": "experts.module",
    "ExpertOutputs": "experts.outputs.store",
    "ExpertPool": "experts.pool",
    "ExpertRegistry": "registry.registry",
    "FoEFuserModule": "foe.module",
    "FrugalFoE": "frugal.policy",
    "FrugalFoEModule": "frugal.module",
    "GenerativeFoE": "generation.fuser",
    "HaTJointModule": "hat.module",
    "ImageDataModule": "data.image.folders",
    "IndexedDataset": "data.indexed",
    "KnowledgeDictionary": "hat.knowledge",
    "OutputsDataModule": "experts.outputs.datamodule",
    "SensorDataModule": "data.sensor.recordings",
    "SpeakerDataModule": "data.audio.speaker",
    "TargetDataModule": "data.views.target",
    "TextDataModule": "data.text.delimited",
    "collect": "experts.outputs.collect",
    "diagnose": "experts.diagnosis",
    "reverse_gradient": "acorl.reversal",
    "select_sources": "hat.selection",
}
"""Public names, and the modules that define them."""

if TYPE_CHECKING:
    from lightning_fusion.acorl.module import ACoRLModule
    from lightning_fusion.acorl.reversal import reverse_gradient
    from lightning_fusion.data.audio.speaker import SpeakerDataModule
    from lightning_fusion.data.batch import Batch
    from lightning_fusion.data.image.folders import ImageDataModule
    from lightning_fusion.data.indexed import IndexedDataset
    from lightning_fusion.data.sensor.recordings import SensorDataModule
    from lightning_fusion.data.text.delimited import TextDataModule
    from lightning_fusion.data.views.target import TargetDataModule
    from lightning_fusion.experts.diagnosis import diagnose
    from lightning_fusion.experts.expert import Expert
    from lightning_fusion.experts.module import ExpertModule
    from lightning_fusion.experts.outputs.collect import collect
    from lightning_fusion.experts.outputs.datamodule import OutputsDataModule
    from lightning_fusion.experts.outputs.store import ExpertOutputs
    from lightning_fusion.experts.pool import ExpertPool
    from lightning_fusion.foe.module import FoEFuserModule
    from lightning_fusion.frugal.module import FrugalFoEModule
    from lightning_fusion.frugal.policy import FrugalFoE
    from lightning_fusion.generation.fuser import GenerativeFoE
    from lightning_fusion.hat.knowledge import KnowledgeDictionary
    from lightning_fusion.hat.module import HaTJointModule
    from lightning_fusion.hat.selection import select_sources
    from lightning_fusion.registry.registry import ExpertRegistry

__all__ = [
    "ACoRLModule",
    "Batch",
    "Expert",
    "ExpertModule",
    "ExpertOutputs",
    "ExpertPool",
    "ExpertRegistry",
    "FoEFuserModule",
    "FrugalFoE",
    "FrugalFoEModule",
    "GenerativeFoE",
    "HaTJointModule",
    "ImageDataModule",
    "IndexedDataset",
    "KnowledgeDictionary",
    "OutputsDataModule",
    "SensorDataModule",
    "SpeakerDataModule",
    "TargetDataModule",
    "TextDataModule",
    "collect",
    "diagnose",
    "reverse_gradient",
    "select_sources",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first access (PEP 562)."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({"__version__", *__all__})
