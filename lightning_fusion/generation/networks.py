"""A small encoder-decoder network with a copy head."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lightning_fusion.errors import InputError


def mix_copy(vocabulary: Tensor, attention: Tensor, gate: Tensor, source: Tensor) -> Tensor:
    """Compute the pointer-generator distribution over tokens (See et al., ACL 2017, equation 9).

        P(w) = gate P_vocab(w) + (1 - gate) * (sum over i with x_i = w of a_i)

    Args:
        vocabulary: (B, T, V) probabilities P_vocab.
        attention: (B, T, L) weights a over the input.
        gate: (B, T, 1), p_gen in [0, 1].
        source: (B, L) int64, the input's tokens x.

    Returns:
        (B, T, V) probabilities.

    Example:
        >>> source = torch.tensor([[1, 1]])
        >>> mix_copy(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[0.25]]]), source)
        tensor([[[0.2500, 0.7500]]])
    """
    places = source[:, None, :].expand(-1, attention.shape[1], -1)
    return (gate * vocabulary).scatter_add(2, places, (1 - gate) * attention)


class PointerGenerator(nn.Module):
    """Encoder-decoder of gated recurrent units with attention and a copy (pointer) head (See et al., ACL 2017).

    The copy head lets it learn from few pairs. Our choices: input and output share one vocabulary of subwords, so the
    paper's extended vocabulary is not needed; attention is computed after the recurrence (Luong et al., EMNLP 2015,
    with the general score), so a training step has no loop over tokens; input and output embeddings are tied; there is
    no coverage mechanism.

    Inputs are dicts ``{"input_ids": (B, L) int64, "attention_mask": (B, L)}``, padded on the right. Target and
    generated texts are (B, T) int64 without start and end, padded on the right with ``pad_id``. Up to rounding, the
    result for a text does not depend on the rest of the batch.

    Args:
        vocab_size: V.
        hidden: D, width of embeddings and states; even.
        dropout: Dropout of embeddings and of output states, in training.
        pad_id: Padding token; never generated.
        start_id: Token before the text; never generated.
        end_id: Token after the text.
        copy_bias: Initial bias of the gate: the log-odds of a copy before training.

    Raises:
        InputError: If ``hidden`` is odd, or a special token is outside the vocabulary.

    Example:
        >>> network = PointerGenerator(vocab_size=30, hidden=8).eval()
        >>> input = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
        >>> network(input, torch.tensor([[6, 7]])).shape, network.generate(input, max_new_tokens=4).shape[0]
        (torch.Size([1, 3, 30]), 1)
    """

    def __init__(
        self,
        vocab_size: int,
        hidden: int = 128,
        dropout: float = 0.3,
        pad_id: int = 0,
        start_id: int = 1,
        end_id: int = 2,
        copy_bias: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden < 2 or hidden % 2:
            raise InputError(f"hidden is {hidden}; expected an even number, as each reading direction has one half")
        if len({pad_id, start_id, end_id}) < 3 or not all(0 <= i < vocab_size for i in (pad_id, start_id, end_id)):
            raise InputError(
                f"pad_id is {pad_id}, start_id {start_id}, end_id {end_id}; expected three tokens of the vocabulary "
                f"(0 to {vocab_size - 1}): take them from the tokenizer"
            )
        self.vocab_size, self.pad_id, self.start_id, self.end_id = vocab_size, pad_id, start_id, end_id
        self.embedding = nn.Embedding(vocab_size, hidden)
        nn.init.normal_(self.embedding.weight, std=hidden**-0.5)
        self.encoder = nn.GRU(hidden, hidden // 2, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(hidden, hidden)
        self.decoder = nn.GRU(hidden, hidden, batch_first=True)
        self.score_states = nn.Linear(hidden, hidden, bias=False)
        self.join = nn.Linear(2 * hidden, hidden)
        self.gate = nn.Linear(3 * hidden, 1)
        if copy_bias:
            nn.init.constant_(self.gate.bias, -copy_bias)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.dropout = nn.Dropout(dropout)

    # ------------------------------------------------------------- the parts

    def _encode(self, input: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return states (B, L, D), the decoder's first state (1, B, D), and the (B, L) mask of attended positions."""
        ids, mask = self._checked(input)
        lengths = mask.sum(1).clamp_min(1)  # a row without tokens is read as one padding token
        packed = pack_padded_sequence(
            self.dropout(self.embedding(ids)), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, last = self.encoder(packed)
        states = pad_packed_sequence(states, batch_first=True, total_length=ids.shape[1])[0]
        first = self.bridge(torch.cat([last[0], last[1]], 1)).tanh()[None]
        return states, first, torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]

    def _checked(self, input: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        ids, mask = input["input_ids"], input["attention_mask"]
        check_ids(ids, self.vocab_size)
        if ids.shape != mask.shape or not ids.shape[1]:
            raise InputError(
                f"input_ids have shape {tuple(ids.shape)}, attention_mask {tuple(mask.shape)}; expected one shape "
                "(batch, tokens) with at least one token"
            )
        if (mask[:, 1:] > mask[:, :-1]).any():
            raise InputError("attention_mask: a token follows padding; PointerGenerator wants padding on the right")
        return ids, mask

    def _decode(
        self, tokens: Tensor, first: Tensor, states: Tensor, mask: Tensor, source: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return probabilities (B, T, V) after each token of (B, T), output states (B, T, D), and the last state."""
        embedded = self.dropout(self.embedding(tokens))
        hidden, last = self.decoder(embedded, first)
        scores = self.score_states(hidden) @ states.transpose(1, 2)
        attention = scores.float().masked_fill(~mask[:, None], -torch.inf).softmax(2)
        context = attention.to(states.dtype) @ states
        read = self.join(torch.cat([hidden, context], 2)).tanh()
        logits = self.dropout(read) @ self.embedding.weight.T + self.bias
        gate = self.gate(torch.cat([hidden, context, embedded.to(hidden.dtype)], 2)).float().sigmoid()
        return mix_copy(logits.float().softmax(2), attention, gate, source), read, last

    # ---------------------------------------------------------- the protocol

    def forward(self, input: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Return log-probabilities (B, T + 1, V) of the next token after the start and each token of the target."""
        check_ids(target, self.vocab_size)
        states, first, mask = self._encode(input)
        tokens = nn.functional.pad(target, (1, 0), value=self.start_id)
        return self._decode(tokens, first, states, mask, input["input_ids"])[0].clamp_min(1e-12).log()

    @torch.no_grad()
    def answer(self, input: Mapping[str, Tensor], max_new_tokens: int) -> tuple[Tensor, Tensor]:
        """Generate texts (B, T), T <= max_new_tokens, greedily, with their embeddings (B, D), in one pass.

        A row stops at its end token; the batch stops with its last row.
        """
        states, last, mask = self._encode(input)
        rows = len(states)
        token = mask.new_full((rows, 1), self.start_id, dtype=torch.int64)
        running = mask.new_ones(rows)
        total, count = self._sums(states, input["attention_mask"])
        written: list[Tensor] = []
        for _ in range(max_new_tokens + 1):  # one more step for the state after the last token
            probabilities, read, last = self._decode(token, last, states, mask, input["input_ids"])
            total = total + torch.where(running[:, None], read[:, 0].float(), 0)
            count = count + running
            if len(written) == max_new_tokens:
                break
            probabilities[:, :, [self.pad_id, self.start_id]] = -1
            token = probabilities.argmax(2)
            running = running & (token[:, 0] != self.end_id)
            if not running.any():
                break
            token = token.masked_fill(~running[:, None], self.pad_id)
            written.append(token)
        text = torch.cat(written, 1) if written else token[:, :0]
        return text, total / count[:, None].clamp_min(1)

    def generate(self, input: Mapping[str, Tensor], max_new_tokens: int) -> Tensor:
        """Generate texts (B, T), T <= max_new_tokens, greedily."""
        return self.answer(input, max_new_tokens)[0]

    @torch.no_grad()
    def embed(self, input: Mapping[str, Tensor], generated: Tensor | None = None) -> Tensor:
        """Return the embedding (B, D): the masked mean of last-layer states over the input and a text (B, T), if given.

        The states of a text are those after the start and after each of its tokens.
        """
        states, first, mask = self._encode(input)
        total, count = self._sums(states, input["attention_mask"])
        if generated is not None:
            tokens = nn.functional.pad(generated, (1, 0), value=self.start_id)
            read = self._decode(tokens, first, states, mask, input["input_ids"])[1].float()
            there = nn.functional.pad(generated != self.pad_id, (1, 0), value=True)
            total = total + torch.where(there[:, :, None], read, 0).sum(1)
            count = count + there.sum(1)
        return total / count[:, None].clamp_min(1)

    def labels(self, target: Tensor) -> Tensor:
        """Return the targets (B, T + 1) of :meth:`forward` for a text (B, T); -100 after the end."""
        return append_end(target, self.pad_id, self.end_id)

    def _sums(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the states (B, D) and the number (B,) of the unmasked tokens."""
        there = mask > 0
        return torch.where(there[:, :, None], states.float(), 0).sum(1), there.sum(1)


def append_end(texts: Tensor, pad_id: int, end_id: int) -> Tensor:
    """Return the targets after the start and each token of a text: (B, T + 1) int64, -100 after the end.

    Example:
        >>> append_end(torch.tensor([[7, 8], [9, 0]]), pad_id=0, end_id=2).tolist()
        [[7, 8, 2], [9, 2, -100]]
    """
    lengths = (texts != pad_id).sum(1, keepdim=True)
    labels = nn.functional.pad(texts, (0, 1)).scatter(1, lengths, end_id)
    after = torch.arange(labels.shape[1], device=texts.device) > lengths
    return labels.masked_fill(after, -100)


def check_ids(ids: Any, vocab_size: int) -> None:
    """Check that tokens are in the vocabulary of a network, since the error of a device is unclear.

    Raises:
        InputError: If a token is not in the vocabulary; the message names it.
    """
    if not ids.numel():
        return
    low, high = (int(bound) for bound in torch.stack(ids.aminmax()).tolist())  # one synchronization
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"input_ids: found token {low if low < 0 else high}; the network's vocabulary has {vocab_size} tokens (0 "
            f"to {vocab_size - 1}): use the same tokenizer for data and network"
        )
