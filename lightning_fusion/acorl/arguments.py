"""Arguments of ACoRL's module for the method as the paper is summarized."""

from typing import Any

from lightning_fusion.acorl.dissimilarity import CenteredCosine

PAPER: dict[str, Any] = {"adversary_steps": 0, "layer_norm": False, "dissimilarity": CenteredCosine}
"""Arguments of :class:`~lightning_fusion.ACoRLModule` with which projections are trained jointly with the network."""
