"""Choosing the expert first, against writing with every expert."""

from functools import partial
from typing import Any

import torch
from lightning import Trainer
from measuring import Result, interleave

from lightning_fusion import GenerativeFoE
from lightning_fusion.generation.answers import InferenceSettings, run_expert
from lightning_fusion.generation.expert import GenerativeExpert
from lightning_fusion.generation.networks import PointerGenerator
from lightning_fusion.generation.pairs import TextPairsDataModule

ROWS, TOKENS, WIDTH, VOCABULARY = 480, 16, 128, 4000
NAMES = ["a", "b", "c", "d"]


class Writer(PointerGenerator):
    """Random weights that never end a text: every text has the full length."""

    def __init__(self, seed: int) -> None:
        super().__init__(VOCABULARY, WIDTH)
        generator = torch.Generator().manual_seed(seed)
        for value in self.parameters():
            torch.nn.init.normal_(value, std=0.1, generator=generator)
        self.bias.data[self.end_id] = -100.0


class Quarters(torch.nn.Module):
    """A fuser's work, and an answer that gives each expert a quarter of the rows, as four equal domains do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(WIDTH, 512), torch.nn.ReLU(), torch.nn.Linear(512, 4))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(B, 4) logits that choose the experts in turn."""
        place = torch.arange(len(embeddings)) % len(NAMES)
        return 0 * self.layers(embeddings) + torch.nn.functional.one_hot(place, len(NAMES))


def measure() -> list[Result]:
    """The time of a whole ``predict`` with one expert that is read, over that of writing with all four."""
    generator = torch.Generator().manual_seed(0)
    texts = [
        torch.randint(3, VOCABULARY, (int(n),), generator=generator).tolist() for n in torch.arange(ROWS) % 40 + 20
    ]
    data = TextPairsDataModule({"test": (texts, texts, [0] * ROWS)}, ["news"], batch_size=32)
    experts = {name: GenerativeExpert(network=partial(Writer, number)) for number, name in enumerate(NAMES)}

    def chosen(reads: Any) -> Any:
        module = GenerativeFoE(experts, representation_dims={"a": WIDTH}, reads=reads, max_new_tokens=TOKENS)
        module.network = Quarters()
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        return lambda: trainer.predict(module, datamodule=data)

    def every() -> Any:
        pairs: Any = data.rows("test").inputs
        rows = [pairs[torch.tensor([place])]["input_ids"][0].numpy() for place in range(ROWS)]
        how = InferenceSettings(TOKENS, batch_size=32)
        return lambda: [run_expert(expert, rows, "text", how) for expert in experts.values()]

    sides = {"both": partial(chosen, "both"), "input": partial(chosen, "input"), "every": every}
    times = interleave(sides, repeats=5)
    compared = "predict with one expert that is read ({}) / writing with all 4"
    return [
        Result.of_pairs("generative", compared.format("its text too"), times["both"], times["every"], 0.45),
        Result.of_pairs("generative", compared.format("the input alone"), times["input"], times["every"], 0.45),
    ]
