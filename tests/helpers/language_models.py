"""Tiny language models and pairs of texts, made on the spot."""

import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.generation.networks import PointerGenerator
from lightning_fusion.generation.pairs import TextPairsDataModule

VOCABULARY = 24
GPT2 = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "eos_token_id": 2, "bos_token_id": 1}
DOMAINS = ["a", "b", "c"]


class Killed(BaseException):
    """Nobody catches this."""


class Counted(PointerGenerator):
    """Knows how many of its kind are in memory, and how many rows they were asked about."""

    alive: "weakref.WeakSet[Counted]" = weakref.WeakSet()
    most = 0
    rows = 0
    calls = 0
    stop_at: int | None = None

    def __init__(self, vocab_size: int = VOCABULARY, hidden: int = 8, seed: int | None = None, mute: bool = False):
        super().__init__(vocab_size, hidden, dropout=0.0)
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            for value in self.parameters():
                nn.init.normal_(value, std=0.7, generator=generator)
            self.bias.data[2] = 2.0
            if mute:  # always the end, and never a copy
                self.bias.data[2] = self.gate.bias.data[0] = 100.0
        Counted.alive.add(self)
        Counted.most = max(Counted.most, len(Counted.alive))

    def answer(self, input: dict[str, Tensor], max_new_tokens: int) -> tuple[Tensor, Tensor]:
        Counted.calls += 1
        if Counted.stop_at is not None and Counted.calls > Counted.stop_at:
            raise Killed
        Counted.rows += len(input["input_ids"])
        return super().answer(input, max_new_tokens)

    @classmethod
    def reset(cls) -> None:
        cls.most = cls.rows = cls.calls = 0
        cls.stop_at = None


def pairs(
    rows: int = 12, batch_size: int = 4, seed: int = 0, own: list[str] | None = None, **more: Any
) -> TextPairsDataModule:
    """Texts whose domain shows in their words; what is to be written is their beginning."""
    generator = torch.Generator().manual_seed(seed)
    splits = {}
    for split, count in {"train": 2 * rows, "val": rows, "test": rows}.items():
        domain = [number % len(DOMAINS) for number in range(count)]
        read = []
        for number in domain:
            length = int(torch.randint(2, 9, (), generator=generator))
            read.append((3 + 7 * number + torch.randint(7, (length,), generator=generator)).tolist())
        splits[split] = read, [text[:2] for text in read], domain
    return TextPairsDataModule(splits, DOMAINS, own, batch_size=batch_size, **more)


def save_classifier(
    folder: Path, kind: str = "bert", labels: list[str] | None = None, seed: int = 0, vocab_size: int = VOCABULARY
) -> str:
    """A tiny classifier with random weights, as save_pretrained writes it."""
    import transformers

    torch.manual_seed(seed)
    names = dict(enumerate(labels)) if labels else {}
    facts = {"id2label": names, "label2id": {name: number for number, name in names.items()}} if names else {}
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            **facts,
        )
        model = transformers.BertForSequenceClassification(config)
    else:
        config = transformers.GPT2Config(vocab_size=vocab_size, **GPT2, **facts)
        model = transformers.GPT2ForSequenceClassification(config)
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


def save_generator(folder: Path, kind: str, seed: int = 0, vocab_size: int = VOCABULARY) -> str:
    """A tiny T5 or GPT2 with random weights, as save_pretrained writes it."""
    import transformers

    torch.manual_seed(seed)
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=vocab_size,
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        )
        model = transformers.T5ForConditionalGeneration(config)
    else:
        config = transformers.GPT2Config(vocab_size=vocab_size, **GPT2)
        model = transformers.GPT2LMHeadModel(config)
    for value in model.parameters():
        nn.init.normal_(value, std=0.5)
    model.save_pretrained(folder)
    return str(folder)


def save_speaker(folder: Path, kind: str, seed: int = 0) -> str:
    """A tiny T5 or GPT2 with random weights beside a tokenizer of bytes."""
    TextTokenizer.train(["question answer"], 300, lowercase=True).save(folder)
    return save_generator(folder, kind, seed, vocab_size=300)


def choice_files(folder: Path, count: int = 10) -> None:
    """Questions as ``folder/<split>/<subject>_<split>.csv``, and the subjects' categories."""
    generator = torch.Generator().manual_seed(0)
    for split in ("val", "test"):
        (folder / split).mkdir(parents=True)
        for subject in ("algebra", "geometry", "poetry"):
            right = torch.randint(4, (count,), generator=generator).tolist()
            rows = [f'"{subject}, {row}?",one,two,three,four,{"ABCD"[answer]}' for row, answer in enumerate(right)]
            (folder / split / f"{subject}_{split}.csv").write_text("\n".join(rows) + "\n")
    (folder / "categories.csv").write_text("algebra,science\ngeometry,science\npoetry,arts\n")
