"""Samples of the splits of any data module."""

from typing import Any

import torch

from lightning_fusion.data.batch import Batch

SPLITS = ("train", "val", "test")


def everything(data: Any, split: str = "train") -> Batch:
    """All samples of a split, as one batch."""
    rows = data.rows(split)
    return rows[torch.arange(len(rows))]
