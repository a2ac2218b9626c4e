import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import data_files

from lightning_fusion.errors import InputError
from lightning_fusion.generation.networks import PointerGenerator
from lightning_fusion.generation.pair_files import PairFiles
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
        return generative(data, partial(PointerGenerator, hidden=8), str(folder / "run"), **(settings | more))

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
        generative(data, PointerGenerator, str(tmp_path / "run"))
    with pytest.raises(InputError, match="must be at least 1"):
        generative(data, PointerGenerator, str(tmp_path / "run"), expert_epochs=0)
