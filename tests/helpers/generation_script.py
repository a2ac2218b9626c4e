"""What one or several processes do in ``generation/test_fuser.py``."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from helpers import language_models, tiny
from lightning_fusion import GenerativeFoE
from lightning_fusion.generation.embeddings import EmbeddingsDataModule, collect_embeddings
from lightning_fusion.generation.expert import GenerativeExpert

ROWS = 13  # odd: a distributed sampler repeats a row


def experts(mute: str | None = None) -> dict[str, GenerativeExpert]:
    """One expert for each domain; weights are random, so that only their texts tell them apart."""
    return {
        name: GenerativeExpert(network=partial(language_models.Counted, seed=number, mute=name == mute), domains=[name])
        for number, name in enumerate(language_models.DOMAINS)
    }


def fuser(**arguments: Any) -> GenerativeFoE:
    """The house's own network, or a linear one where it must choose untrained, about the middle of its input."""
    torch.manual_seed(0)
    facts: dict[str, Any] = {"representation_dims": {"b": 8}, "hidden": 16, "max_new_tokens": 5}
    if "experts" not in arguments:
        facts["expert_names"] = language_models.DOMAINS
    made = GenerativeFoE(**(facts | arguments))
    if "experts" in arguments and made.representation_dims == {"b": 8}:
        made.network = torch.nn.Linear(8, len(made.expert_names))
        network, data = experts()["b"].network().eval(), language_models.pairs(ROWS).rows("test")
        input = data[torch.arange(ROWS)].input
        embedding = network.answer(input, 5)[1] if made.reads == "both" else network.embed(input)
        made.center.copy_(embedding.mean(0))
        made.network.bias.data.zero_()
    return made


def work(folder: Path, processes: int, stop_at: int | None = None) -> None:
    """Collect embeddings and predict; a run that is to be killed dies in the middle of a batch."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)

    def trainer() -> Any:
        return tiny.trainer(**({"devices": processes, "strategy": "ddp"} if processes > 1 else {}))

    data, made = language_models.pairs(ROWS, batch_size=4 // processes), experts()
    if stop_at is None:
        store = collect_embeddings(made, data, folder / "store", max_new_tokens=5, trainer=trainer())
        collect_embeddings(made, data, folder / "store", max_new_tokens=5, trainer=trainer())  # opens what is there
        assert EmbeddingsDataModule(store).representation_dims == dict.fromkeys(language_models.DOMAINS, 8)
    module = fuser(experts=made, folder=str(folder))
    language_models.Counted.reset()
    language_models.Counted.stop_at = stop_at
    try:
        trainer().predict(module, datamodule=data)
    except language_models.Killed:
        os._exit(9)  # nothing is tidied up
