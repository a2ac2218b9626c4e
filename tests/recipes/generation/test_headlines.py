import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import data_files, language_models

from lightning_fusion import ExpertOutputs
from lightning_fusion.cli.main import main
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.generators import TransformersGenerator
from lightning_fusion.generation.expert import GenerativeExpert
from lightning_fusion.generation.networks import PointerGenerator
from lightning_fusion.generation.pair_files import PairFiles
from lightning_fusion.generation.rouge import Rouge
from lightning_fusion.recipes.generation.headlines import DOMAIN_ORACLE, MAIN, RANDOM, TEXT_ORACLE, generative


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generative")
    data_files.news_files(folder / "news")

    def start(**more):
        data = data_files.news(folder / "news", vocab_size=320, max_read=12, max_write=2)
        settings = {
            "expert_epochs": 1,
            "fuser_epochs": 2,
            "hidden": 8,
            "max_new_tokens": 4,
            "trainer": {"accelerator": "cpu", "gradient_clip_val": 1.0},
        } | more
        return generative(data, str(folder / "run"), partial(PointerGenerator, hidden=8), **(settings | more))

    return start, start(), folder / "run"


def value(report, method, metric="rougeL", domain=None):
    (found,) = [
        row["value"]
        for row in report.rows
        if (row["method"], row["metric"], row.get("domain")) == (method, metric, domain)
    ]
    return found


@pytest.mark.slow
def test_texts_are_judged_whole_and_truncation_is_reported(run):
    _, report, folder = run
    data = data_files.news(folder.parent / "news", vocab_size=320, max_read=12, max_write=2)
    assert report.notes == [data.tell_cut()] and "to write are longer than max_write (2 tokens)" in report.notes[0]
    lines = [line for line in report.text if line.startswith(("| Sports | ", "| World | "))]
    shown = [line.split(" | ")[2] for line in lines[-10:]]
    assert shown and set(shown) <= set(data.texts.labels)


@pytest.mark.slow
def test_rows_agree_with_one_another(run):
    _, report, _ = run
    singles = [value(report, f"single expert {name}") for name in ("Sports", "World")]
    assert value(report, RANDOM) == pytest.approx(np.mean(singles))
    assert value(report, TEXT_ORACLE) >= max(value(report, name) for name in (MAIN, DOMAIN_ORACLE))
    assert value(report, TEXT_ORACLE) >= max(singles) > 0
    assert value(report, DOMAIN_ORACLE, "choice accuracy") == 1
    for name in ("Sports", "World"):
        own = value(report, f"single expert {name}", domain=name)
        assert value(report, DOMAIN_ORACLE, domain=name) == own
        gain = value(report, MAIN, f"rougeL difference from {name}")
        assert gain == pytest.approx(value(report, MAIN) - value(report, f"single expert {name}"))
        assert 1 <= value(report, f"GenerativeFoE (embedding of {name})", "experts queried") <= 2
    (row,) = [row for row in report.rows if row["metric"] == "rougeL difference from World"]
    assert row["low"] <= row["value"] <= row["high"]
    assert value(report, MAIN, "experts queried") == 2
    assert 0 <= value(report, "lead baseline (first words)") <= 1


@pytest.mark.slow
def test_files_and_going_on(run):
    start, report, folder = run
    text = (folder / "report.md").read_text()
    assert "| World |" in text and "95 % interval" in text and "](choices.png)" in text
    assert json.loads((folder / "results.json").read_text())["rows"] == report.rows
    kept = [*folder.rglob("experts/*.ckpt"), *folder.rglob("manifest.json")]
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert len(kept) >= 4 and (folder / "seed_0/tokenizer.json").is_file()
    assert start().rows == report.rows
    assert times == {path: path.stat().st_mtime_ns for path in kept}
    with pytest.raises(InputError, match="contains another run"):
        start(hidden=4)


def test_bad_input(tmp_path):
    path = Path(tmp_path / "one.csv")
    path.write_text("d,description,title\n" + "".join(f"a,text {row},t\n" for row in range(30)))
    data = PairFiles(str(path), domain_fields=["d"], vocab_size=300)
    with pytest.raises(InputError, match="found the domain a only; fusion needs two at least"):
        generative(data, str(tmp_path / "run"), PointerGenerator)
    with pytest.raises(InputError, match="must be at least 1"):
        generative(data, str(tmp_path / "run"), PointerGenerator, expert_epochs=0)


@pytest.mark.slow
def test_models_of_ones_own_take_the_place_of_trained_ones(tmp_path, monkeypatch):
    """Two language models of transformers, one for each domain, from a YAML file."""
    monkeypatch.chdir(tmp_path)
    data_files.news_files(tmp_path / "news", count=20)
    for seed, name in enumerate(("World", "Sports")):
        language_models.save_speaker(tmp_path / "models" / name, "t5", seed=seed)
    (tmp_path / "own.yaml").write_text(
        """
data:
  class_path: lightning_fusion.generation.pair_files.PairFiles
  init_args:
    root: news/test.csv
    columns: [class, title, description]
    value_names: {class: {'1': World, '2': Sports}}
    domain_fields: [class]
    max_read: 12
    tokenizer: models/World
experts:
  World: {class_path: GenerativeExpert, init_args: {transformers: models/World}}
  Sports: {class_path: GenerativeExpert, init_args: {transformers: models/Sports}}
fuser_epochs: 1
hidden: 8
max_new_tokens: 3
single_embeddings: false
trainer: {accelerator: cpu, enable_progress_bar: false}
output: run
"""
    )
    report = main(["recipe", "generative", "--config", "own.yaml"])
    assert not (tmp_path / "run/seed_0/experts").exists() and (tmp_path / "run/seed_0/tokenizer.json").is_file()
    stored = ExpertOutputs.open("run/seed_0/embeddings")
    assert stored.names == ["Sports", "World"]  # in the order of the domains

    data = data_files.news(tmp_path / "news", tokenizer="models/World", max_read=12)
    model = TransformersGenerator("models/Sports").eval()
    batch = next(iter(data.module("fuser").test_dataloader()))
    with torch.no_grad():
        written = model.generate(batch.input, 3)
    rouge = Rouge(data.decode, data.tokenizer.pad_id)
    assert len(written) == len(stored["test"])
    wanted = float(rouge.scores(written, batch.input["target_ids"])[:, 2].mean())
    assert value(report, "single expert Sports") == pytest.approx(wanted)
    with pytest.raises(
        InputError, match=r"experts: found Sports; expected one for each domain of the data: Sports, Wor"
    ):
        generative(data, "other", experts={"Sports": GenerativeExpert(transformers="models/Sports")})
    with pytest.raises(InputError, match=r"expert_epochs: only the training of experts uses it"):
        generative(data, "other", experts={}, expert_epochs=3)
