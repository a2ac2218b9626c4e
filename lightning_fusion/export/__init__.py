"""Export of models of every method as programs that run without this library."""

from lightning_fusion.export.checkpoints import export_checkpoint
from lightning_fusion.export.programs import export

__all__ = ["export", "export_checkpoint"]
