"""Augmentation of batches of tokenized texts, on the device."""

from typing import Any

import torch
from torch import nn

from lightning_fusion.errors import InputError


class TokenDropout(nn.Module):
    """Hide random tokens from the network: their entries of the attention mask become 0.

    The ids stay as they are, so it works with any tokenizer and with any network that follows the mask. It is the word
    dropout of Iyyer et al. (ACL 2015); a text keeps at least one token.

    Args:
        p: Probability that a token is hidden.

    Raises:
        InputError: If ``p`` is not in [0, 1).

    Example:
        >>> ids, mask = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[1, 1, 1, 0]])
        >>> hidden = TokenDropout(0.5)({"input_ids": ids, "attention_mask": mask})["attention_mask"]
        >>> bool((hidden <= mask).all()), 1 <= int(hidden.sum()) <= 3
        (True, True)
    """

    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise InputError(f"p is {p}; expected a probability of 0 or more, below 1")
        self.p = p

    def forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Map a batch with the ``attention_mask`` (B, L) to one with some of its ones set to 0."""
        mask = inputs["attention_mask"]
        draw = torch.rand(mask.shape, device=mask.device).masked_fill(mask == 0, 0)
        kept = (draw > self.p) | (draw == draw.amax(1, keepdim=True))
        return inputs | {"attention_mask": mask * kept}
