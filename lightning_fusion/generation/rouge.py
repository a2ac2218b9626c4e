"""ROUGE scores of generated texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_fusion.errors import InputError
from lightning_fusion.extras import require

ROUGE_KEYS = ("rouge1", "rouge2", "rougeL")
"""Without rougeLsum, which requires a download."""


def read_tokenizer(path: str | Path) -> Any:
    """Read a tokenizer of the ``tokenizers`` package from a ``tokenizer.json`` or a folder that contains one.

    Raises:
        InputError: If the file or the package is missing.
    """
    tokenizers = require("tokenizers", "text")
    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputError(f"tokenizer: found no {file}; give a tokenizer.json, or the folder that contains it")
    return tokenizers.Tokenizer.from_file(str(file))


class Rouge(Metric):
    """ROUGE-1, ROUGE-2 and ROUGE-L (Lin, 2004) of generated token sequences: F-measures in [0, 1], by torchmetrics.

    Args:
        decode: Function that maps a list of tokens to a text, such as a tokenizer's ``decode``. ``None`` (default)
            counts each token as a word.
        pad_id: Padding token, which is ignored.

    Example:
        >>> metric = Rouge()
        >>> metric.update(torch.tensor([[5, 6, 0]]), torch.tensor([[5, 6, 7]]))
        >>> {name: round(float(value), 2) for name, value in metric.compute().items()}
        {'rouge1': 0.8, 'rouge2': 0.67, 'rougeL': 0.8}
    """

    full_state_update = False

    def __init__(self, decode: Callable[[list[int]], str] | None = None, pad_id: int = 0) -> None:
        super().__init__()
        for name in ("nltk", "rouge_score"):  # torchmetrics needs both
            require(name, "text")
        self.decode, self.pad_id = decode, pad_id
        self.add_state("total", torch.zeros(len(ROUGE_KEYS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.total: Tensor
        self.count: Tensor

    def texts(self, tokens: Tensor) -> list[str]:
        """Return the text of each row of (B, T) tokens."""
        rows = [[token for token in row if token != self.pad_id] for row in tokens.tolist()]
        return [self.decode(row) if self.decode is not None else " ".join(map(str, row)) for row in rows]

    def scores(self, written: Tensor, wanted: Tensor) -> Tensor:
        """Return (B, 3) float64 F-measures of each row, in the order of :data:`ROUGE_KEYS`."""
        from torchmetrics.functional.text import rouge_score

        pairs = zip(self.texts(written), self.texts(wanted), strict=True)
        found = [rouge_score(one, other, rouge_keys=ROUGE_KEYS) for one, other in pairs]
        return torch.tensor(
            [[float(row[f"{key}_fmeasure"]) for key in ROUGE_KEYS] for row in found], dtype=torch.float64
        ).reshape(-1, len(ROUGE_KEYS))

    def update(self, written: Tensor, wanted: Tensor) -> None:
        """Update the state with generated texts (B, T) and target texts (B, T')."""
        scores = self.scores(written, wanted)
        self.total += scores.sum(0).to(self.total.device)
        self.count += len(scores)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean F-measure of each kind."""
        mean = (self.total / self.count.clamp_min(1)).float()
        return dict(zip(ROUGE_KEYS, mean, strict=True))
