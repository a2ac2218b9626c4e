"""Small networks for texts; each takes ``{"input_ids", "attention_mask"}`` and ends in a linear ``head``.

The output of the layer before the head, ``pool``, is the representation (B, D): a mean over the tokens of a text,
independent of padding.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean over unmasked tokens; zeros where all are masked.

    Args:
        states: (B, L, D) states.
        mask: (B, L), 1 or True for tokens, 0 for padding.

    Returns:
        (B, D), of the type of ``states``; the sum is computed in at least float32, also under autocast.

    Example:
        >>> masked_mean(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[3.]])
    """
    wide = states if states.dtype == torch.float64 else states.float()
    weight = mask.to(wide.dtype)
    # a matrix product instead of a masked sum: padding may contain any finite value, and the states are not copied
    kind = states.device.type
    exact = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
    with exact:  # autocast would round both factors
        total = torch.bmm(weight[:, None], wide)[:, 0]
    return (total / weight.sum(1, keepdim=True).clamp(min=1)).to(states.dtype)


class MaskedMean(nn.Module):
    """:func:`masked_mean` as a layer, which can be the layer ``features`` of an expert."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map (B, L, D) and a mask (B, L) to (B, D)."""
        return masked_mean(states, mask)


class _TextNetwork(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        if vocab_size < 2:
            raise InputError(f"vocab_size is {vocab_size}; expected at least 2, the number of tokens of the tokenizer")
        self.vocab_size = vocab_size

    def _read(self, text: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if not isinstance(text, Mapping) or not {"input_ids", "attention_mask"} <= set(text):
            found = f"a dict with {sorted(text)}" if isinstance(text, Mapping) else type(text).__name__
            raise InputError(
                f"the text network got {found}; expected a dict of input_ids and attention_mask, as yielded "
                "by TextDataModule"
            )
        return text["input_ids"], text["attention_mask"]

    def _embed(self, table: nn.Embedding, ids: Tensor) -> Tensor:
        try:
            embedded: Tensor = table(ids)
            return embedded
        except IndexError as error:
            raise InputError(
                f"found token {int(ids.max())}, the network has tokens 0 to {self.vocab_size - 1}; set its "
                "vocab_size to that of the tokenizer (TextDataModule.vocab_size) or more"
            ) from error


class TextTransformer(_TextNetwork):
    """A small transformer encoder, for training from scratch.

    Pre-norm layers of attention and GELU (torch's own), a last layer norm, the mean over a text's tokens, a linear
    head. Padding is neither attended to nor averaged.

    Args:
        num_classes: C, number of classes.
        vocab_size: Number of tokens, at least that of the tokenizer.
        width: D, size of states and representation.
        layers: Number of layers; with 0 the embeddings are averaged.
        heads: Number of attention heads.
        dropout: Dropout probability of embeddings and layers.
        positions: ``learned``, or ``sinusoidal`` (Vaswani et al., 2017, section 3.5).
        max_length: Longest text, in tokens.

    Raises:
        InputError: If ``width`` is not a multiple of ``heads``, or odd with sinusoidal positions.

    Example:
        >>> text = {"input_ids": torch.ones(2, 7, dtype=torch.long), "attention_mask": torch.ones(2, 7)}
        >>> TextTransformer(num_classes=3, vocab_size=50, width=16)(text).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_classes: int,
        vocab_size: int = 8192,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        positions: Literal["learned", "sinusoidal"] = "learned",
        max_length: int = 512,
    ) -> None:
        super().__init__(vocab_size)
        if width < 1 or heads < 1 or width % heads or width % 2 or layers < 0:
            raise InputError(
                f"width is {width}, heads {heads}, layers {layers}; expected an even width that is a multiple of heads"
            )
        if positions not in ("learned", "sinusoidal"):
            raise InputError(f"positions is {positions!r}; expected learned, sinusoidal")
        self.max_length = max_length
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        place = torch.empty(max_length, width)
        if positions == "learned":
            self.places: Tensor = nn.Parameter(nn.init.normal_(place, std=0.1 * width**-0.5))
        else:
            self.register_buffer("places", _waves(max_length, width) * (2 / width) ** 0.5)
        self.dropout = nn.Dropout(dropout)
        # not nn.TransformerEncoder: its fast path differs numerically from training
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.pool = MaskedMean()
        self.head = nn.Linear(width, num_classes)

    def forward(self, text: Mapping[str, Tensor]) -> Tensor:
        """Map ``input_ids`` and ``attention_mask`` (B, L) to (B, C) logits."""
        ids, mask = self._read(text)
        if ids.shape[1] > self.max_length:
            raise InputError(
                f"the text network got {ids.shape[1]} tokens, its max_length is {self.max_length}; raise it, or lower "
                "max_length of the data"
            )
        places = ((mask != 0).cumsum(1) - 1).clamp_min(0)  # position of a token, independent of the side of the padding
        states = self.dropout(self._embed(self.embedding, ids) + self.places[places])
        padding = torch.zeros(mask.shape, dtype=states.dtype, device=states.device).masked_fill(
            mask == 0, torch.finfo(states.dtype).min
        )
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=padding)
        logits: Tensor = self.head(self.pool(self.norm(states), mask))
        return logits


class TextBag(_TextNetwork):
    """The mean of a text's token embeddings and a linear head: fastText (Joulin et al., 2016), without word pairs.

    Args:
        num_classes: C, number of classes.
        vocab_size: Number of tokens, at least that of the tokenizer.
        width: D.
        dropout: Dropout probability of the representation.

    Example:
        >>> text = {"input_ids": torch.ones(2, 7, dtype=torch.long), "attention_mask": torch.ones(2, 7)}
        >>> TextBag(num_classes=3, vocab_size=50)(text).shape
        torch.Size([2, 3])
    """

    def __init__(self, num_classes: int, vocab_size: int = 8192, width: int = 64, dropout: float = 0.2) -> None:
        super().__init__(vocab_size)
        self.embedding = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.pool = MaskedMean()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, text: Mapping[str, Tensor]) -> Tensor:
        """Map ``input_ids`` and ``attention_mask`` (B, L) to (B, C) logits."""
        ids, mask = self._read(text)
        logits: Tensor = self.head(self.dropout(self.pool(self._embed(self.embedding, ids), mask)))
        return logits


def _waves(length: int, width: int) -> Tensor:
    angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
