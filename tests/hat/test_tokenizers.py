"""Texts of a target are tokenized as in the training of its sources, as token ids of others mean other words."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("tokenizers")
from lightning_fusion import Expert, ExpertRegistry, TargetDataModule, TextDataModule, select_sources
from lightning_fusion.encoders import TextBag
from lightning_fusion.errors import InputError
from lightning_fusion.hat.stored import save_selection
from lightning_fusion.registry.card import PARTS

NETWORK = partial(TextBag, vocab_size=400, width=4)


def texts(path: Path, words: str, count: int, **arguments) -> TextDataModule:
    """Texts of two classes, each with a word of its own among others."""
    generator = np.random.default_rng(0)
    own = dict(zip("ab", words.split()[:2], strict=True))
    lines = [
        f"{' '.join(generator.choice(words.split()[2:], 5))} {own['ab'[n % 2]]} {n},{'ab'[n % 2]},eve"
        for n in range(count)
    ]
    path.write_text("\n".join(["text,label,person", *lines]))
    return TextDataModule(
        str(path), text="text", label="label", domain_fields=["person"], **({"vocab_size": 400} | arguments)
    )


def source(data: TextDataModule, seed: int) -> Expert:
    """A network that finds the class by the tokens of the training."""
    torch.manual_seed(seed)
    network = NETWORK(2)
    batch = data.rows("train")[torch.arange(len(data.rows("train")))]
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(batch.input), batch.target).backward()
        optimizer.step()
    expert = Expert(network, classes=["a", "b"], features="pool")
    expert.preprocessing = data.preprocessing
    return expert


@pytest.fixture
def registry(tmp_path):
    made = ExpertRegistry(str(tmp_path / "registry"))
    many = texts(tmp_path / "many.csv", "splendid dreadful the book was in a box of paper", 80)
    for name, seed in (("one", 0), ("two", 1)):
        made.publish(source(many, seed), many, name, network=NETWORK)
    few = texts(tmp_path / "few.csv", "dreadful splendid kettle spoon stirring", 40)
    made.publish(source(few, 2), few, "three", network=NETWORK)
    return made


def newcomer(tmp_path: Path) -> TargetDataModule:
    return TargetDataModule(
        texts(tmp_path / "new.csv", "splendid dreadful a teapot is boiling water", 30), "eve", labeled_fraction=None
    )


def test_a_newcomer_reads_with_the_tokenizer_of_its_sources(registry, tmp_path):
    target = newcomer(tmp_path)
    with pytest.warns(UserWarning, match="selected 2 of 3"):
        found = select_sources(registry, target, 1, num_sources=3)
    rows = {row.name: row for row in found.table}
    assert {*found.experts} == {"one", "two"}  # they share a tokenizer
    assert (
        rows["one"].accuracy == rows["two"].accuracy == 31 / 32 and "its tokenizer is another" in rows["three"].reason
    )
    for expert in found.experts.values():
        with pytest.raises(InputError, match=r"tokenizer: the expert was trained .* data have that of .* data\.yaml"):
            expert.convert_from(target.preprocessing)

    assert "data.yaml" in save_selection(found, target, tmp_path / "sources")
    given = yaml.safe_load((tmp_path / "sources/data.yaml").read_text())["data"]["init_args"]["data"]["init_args"]
    assert given == {"tokenizer": "tokenizer"}
    same = target.variant(tokenizer=str(tmp_path / "sources" / given["tokenizer"]))
    batch = next(iter(same.train_dataloader()))
    for name, expert in found.experts.items():
        expert.convert_from(same.preprocessing)
        assert torch.equal(expert(batch.input).argmax(1), batch.target), name

    again = ExpertRegistry(registry.address)
    second = select_sources(again, same, 1, num_sources=2)
    assert not [one for one in again.ledger if one.file == "tokenizer.json" and one.source != "three"]
    assert save_selection(second, same, tmp_path / "again") == [
        "pool.yaml",
        "data.yaml",
        "selection.json",
        "ledger.json",
    ]
    assert yaml.safe_load((tmp_path / "again/data.yaml").read_text()) == {}  # the same commands with and without need
    expert = source(same.data, 3)  # a student is published with that tokenizer as well
    assert registry.tokenizer(registry.publish(expert, same, "student", network=NETWORK)) is not None


def test_a_tokenizer_that_is_gone_is_named(registry, tmp_path):
    for file in Path(registry.address).glob("*/*/tokenizer.json"):
        file.unlink()
    with pytest.warns(UserWarning), pytest.raises(InputError, match=r"none of 3 sources can be used .*tokenizer.json"):
        select_sources(registry, newcomer(tmp_path), 1)


def test_a_registry_without_tokenizers_is_read(registry, tmp_path):
    for name in registry.names:
        card = registry.card(name)
        old = replace(card, files={part: file for part, file in card.files.items() if part in PARTS})
        Path(registry.address, name, "card.json").write_bytes(old.dump())
    assert registry.load("one").new_sample_facts == {} and registry.tokenizer(registry.card("one")) is None
    with (
        pytest.warns(UserWarning),
        pytest.raises(InputError, match=r"is not in the registry; publish"),
    ):
        select_sources(registry, newcomer(tmp_path), 1)
