"""Small language models that know two kinds of questions to an assistant each, and multiple-choice questions for them.

Makes what ``foe_multiple_choice`` wants where no large models are at hand, from clinc150 (Larson et al., EMNLP 2019):

    python benchmarks/intent_models.py data/clinc150 runs/intent_models
    lightning-fusion recipe multiple_choice --config runs/intent_models/recipe.yaml --output runs/multiple_choice

A question is a query, its options are the name of its intent and of three others of the same domain. Each model is a
GPT-2 of two layers, trained to complete the training queries of its two domains with the intent's name.
"""

import argparse
import csv
import json
import random
from pathlib import Path

import torch
import transformers
import yaml
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.recipes.generation.multiple_choice import prompt

DOMAINS_EACH = 2


def make(
    source: Path, folder: Path, epochs: int = 15, questions: int = 150, width: int = 128, models: int = 5
) -> list[str]:
    """Write questions, models and a recipe's YAML below a folder.

    Args:
        source: Folder with ``data_full.json`` and ``domains.json``.
        folder: Output folder.
        epochs: Training epochs of each model.
        questions: Number of questions of each domain and split.
        width: Width of the models.
        models: Number of models, of two domains each.

    Returns:
        Names of the models.
    """
    content = json.loads((source / "data_full.json").read_text())
    intents = json.loads((source / "domains.json").read_text())
    intents = {name: intents[name] for name in sorted(intents)[: models * DOMAINS_EACH]}
    owner = {intent: domain for domain, own in intents.items() for intent in own}
    for split in ("val", "test"):
        write_questions(folder, split, content[split], intents, owner, questions)
    learned = [row for row in content["train"] if row[1] in owner]
    said = [f"{prompt(query, [], listed=False)} {spoken(intent)}" for query, intent in learned]
    tokenizer = TextTokenizer.train(said, 2000, lowercase=True)
    experts = {}
    for first in range(0, len(intents), DOMAINS_EACH):
        own = list(intents)[first : first + DOMAINS_EACH]
        path = folder / "models" / "-".join(own)
        tokenizer.save(path)
        train_model(path, [row for row in learned if owner[row[1]] in own], epochs, width, seed=first)
        experts[path.name] = str(path)
        print(f"trained {path}", flush=True)
    recipe = {"root": str(folder), "categories": None, "experts": experts, "options": "texts", "batch_size": 32}
    recipe |= {"seeds": [0, 1, 2], "output": "runs/multiple_choice"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return list(experts)


def spoken(intent: str) -> str:
    """An intent's name as words."""
    return intent.replace("_", " ")


def write_questions(
    folder: Path,
    split: str,
    rows: list[list[str]],
    intents: dict[str, list[str]],
    owner: dict[str, str],
    count: int,
) -> None:
    """A CSV file for each domain in the layout of MMLU."""
    draw = random.Random(0)
    (folder / split).mkdir(parents=True, exist_ok=True)
    for domain in intents:
        table = []
        for query, intent in (row for row in rows if owner.get(row[1]) == domain):
            options = [intent, *draw.sample([other for other in intents[domain] if other != intent], 3)]
            draw.shuffle(options)
            table.append([query, *map(spoken, options), "ABCD"[options.index(intent)]])
        with open(folder / split / f"{domain}_{split}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(draw.sample(table, min(count, len(table))))


def train_model(path: Path, rows: list[list[str]], epochs: int, width: int, seed: int) -> None:
    """Train a GPT-2 to complete questions, and save it beside its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    end = tokenizer.convert_tokens_to_ids("[SEP]")
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=width, n_layer=2, n_head=4,
        bos_token_id=None, eos_token_id=end, pad_token_id=0, loss_type="ForCausalLM",
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    read, wanted = [], []
    questions = tokenizer([prompt(query, [], listed=False) for query, _ in rows])["input_ids"]
    answers = tokenizer([f" {spoken(intent)}" for _, intent in rows], add_special_tokens=False)["input_ids"]
    for question, name in zip(questions, answers, strict=True):
        answer = [*name, end]
        read.append(torch.tensor(question + answer))
        wanted.append(torch.tensor([-100] * len(question) + answer))
    steps = -(-len(rows) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(32):
            loss = model(**padded([read[n] for n in batch], [wanted[n] for n in batch])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.save_pretrained(path)


def padded(read: list[Tensor], wanted: list[Tensor]) -> dict[str, Tensor]:
    """A batch as the model takes it."""
    return {
        "input_ids": pad_sequence(read, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(one) for one in read], batch_first=True),
        "labels": pad_sequence(wanted, batch_first=True, padding_value=-100),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="Folder of clinc150.")
    parser.add_argument("folder", type=Path, help="To write to.")
    given = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    make(given.source, given.folder)
