"""Pairs of tokenized input and target texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_fusion.data.rows import RowDataset
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.files import digest, row_digests

Tokens = Sequence[Sequence[int]]


class TokenPairs:
    """Pairs of token sequences; indexing with a tensor returns a padded batch.

    Args:
        read: N token sequences of the inputs.
        write: N token sequences of the targets, without start and end.
        pad_id: Padding token.

    Example:
        >>> TokenPairs([[5, 6, 7], [8]], [[6], [9, 9]])[torch.tensor([1])]
        {'input_ids': tensor([[8]]), 'attention_mask': tensor([[1]]), 'target_ids': tensor([[9, 9]])}
    """

    def __init__(self, read: Tokens, write: Tokens, pad_id: int = 0) -> None:
        self.pad_id = pad_id
        self.read, self.write = _flat(read), _flat(write)

    def __len__(self) -> int:
        return len(self.read[1]) - 1

    def __getitem__(self, rows: Tensor) -> dict[str, Tensor]:
        ids, there = self._padded(*self.read, rows)
        return {"input_ids": ids, "attention_mask": there.long(), "target_ids": self._padded(*self.write, rows)[0]}

    def digests(self, rows: Tensor) -> np.ndarray:
        """Return (n,) uint64 digests of the tokens of inputs, without padding.

        Args:
            rows: (n,) numbers of the pairs.
        """
        tokens, offsets = self.read
        return row_digests([digest(tokens[offsets[row] : offsets[row + 1]]) for row in rows.tolist()])

    def _padded(self, tokens: Tensor, offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
        place = torch.arange(max(1, int(lengths.max())) if len(rows) else 1)
        there = place < lengths[:, None]
        gathered = tokens[(starts[:, None] + place).clamp_max(len(tokens) - 1)]
        return gathered.where(there, self.pad_id), there


def _flat(texts: Tokens) -> tuple[Tensor, Tensor]:
    lengths = np.array([len(text) for text in texts], np.int64)
    tokens = np.concatenate([np.asarray(text, np.int64) for text in texts] + [np.zeros(1, np.int64)])
    return torch.from_numpy(tokens), torch.from_numpy(np.concatenate([[0], lengths.cumsum()]))


class TextPairsDataModule(TensorDataModule):
    """Data module of pairs of tokenized texts in memory, each of one domain, for generative experts.

    ``Batch.input`` is a dict of ``input_ids`` (B, L), ``attention_mask`` (B, L) and ``target_ids`` (B, T), all int64
    and padded on the right to the longest of the batch; ``Batch.target`` is the domain, and the classes are the
    domains.

    Args:
        pairs: For each split a tuple of N input texts, N target texts and N domain numbers.
        domains: Names of the D domains.
        own: Names of the domains whose pairs are used, as for the training of one expert. ``None`` (default) uses all.
        batch_size: Number of pairs per batch and process.
        seed: Random seed of the order of samples.
        pad_id: The tokenizer's padding token.
        preprocessing: How texts became tokens, such as ``{"tokenizer": fingerprint}``: experts of another tokenizer are
            reported. None: not known.

    Raises:
        InputError: If the parts of a split differ in length, or an input text has no token.

    Example:
        >>> data = TextPairsDataModule({"train": ([[5, 6], [7]], [[5], [7]], [0, 1])}, ["news", "sport"])
        >>> next(iter(data.train_dataloader())).input["target_ids"].shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        pairs: Mapping[str, tuple[Tokens, Tokens, Sequence[int]]],
        domains: Sequence[str],
        own: Sequence[str] | None = None,
        batch_size: int = 32,
        seed: int = 0,
        pad_id: int = 0,
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        if unknown := sorted(set(own or ()) - set(domains)):
            raise InputError(f"own: found {shorten(unknown)}; the domains are {shorten(domains)}")
        tensors = {}
        for split, (read, write, domain) in pairs.items():
            if len({len(read), len(write), len(domain)}) > 1:
                raise InputError(
                    f"split {split}: found {len(read)} texts to read, {len(write)} to write and {len(domain)} domain "
                    "numbers; expected one of each for every pair"
                )
            if empty := [number for number, text in enumerate(read) if not len(text)]:
                raise InputError(f"split {split}: the text(s) to read of row(s) {shorten(empty)} have no token")
            target = torch.as_tensor(domain, dtype=torch.int64)
            member = torch.nn.functional.one_hot(target, len(domains)).bool()
            tensors[split] = TokenPairs(read, write, pad_id), target, member
        super().__init__(tensors, domains, domains, batch_size, seed)
        self._preprocessing = preprocessing
        kept = torch.tensor([own is None or name in own for name in domains])
        for dataset in self._rows.values():
            dataset.rows = kept[dataset.targets].nonzero().flatten()

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How texts became tokens; None where it is not known."""
        return self._preprocessing

    def content_digests(self, dataset: RowDataset, rows: Tensor) -> np.ndarray:
        """Return (n,) uint64 digests of the input texts of pairs."""
        pairs: TokenPairs = dataset.inputs  # type: ignore[assignment]
        return pairs.digests(rows)

    def fingerprint(self, split: str) -> str:
        """Return a fingerprint of the texts of a split."""
        dataset = self.rows(split)
        pairs: TokenPairs = dataset.inputs  # type: ignore[assignment]
        return digest(*pairs.read, *pairs.write, dataset.targets, dataset.rows)
