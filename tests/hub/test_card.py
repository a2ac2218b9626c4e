"""The model card says what the report of the run says."""

import json

import pytest
from helpers import tiny
from huggingface_hub import ModelCard

from lightning_fusion import Expert
from lightning_fusion.errors import InputError
from lightning_fusion.recipes.report import Report


@pytest.fixture
def run(tmp_path):
    """A run folder with a report of two seeds."""
    config = {"data": {"class_path": "lightning_fusion.data.image.digits.DigitsDataModule"}, "seeds": [0, 1]}
    report = Report("hat", config, {"source": "DigitsDataModule", "rows": "train 4"}, notes=["Seed 0: few samples."])
    for seed, (own, other) in enumerate([(0.9, 0.8), (0.8, 0.6)]):
        for method, value in (("HaT", own), ("local <model>", other)):
            report.add(method, "accuracy", value, seed)
    report.serving = {"classes": ["cat", "dog", "owl"]}
    (tmp_path / "run").mkdir()
    report.save(tmp_path / "run", "HaT")
    return tmp_path / "run"


def test_results_with_intervals_and_baselines(run, tmp_path):
    expert = Expert(tiny.Net(2), classes=["cat", "dog"])
    expert.save_pretrained(tmp_path / "student", run=str(run), license="apache-2.0")
    card = ModelCard.load(tmp_path / "student" / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "lightning_fusion",
        "image-classification",
    )
    (found,) = data.eval_results
    assert (found.metric_type, round(found.metric_value, 6), found.dataset_name) == ("accuracy", 0.85, "Digits")
    assert "| **HaT** (this model) | 0.850 ± 0.071 |  |" in card.text
    assert "0.700 ± 0.141 | +15.0 [-48.5, +78.5] |" in card.text
    assert "- source: DigitsDataModule" in card.text and "- Seed 0: few samples." in card.text
    assert 'Expert.from_pretrained("student")' in card.text and "pass `network`" in card.text
    assert "<model>" not in card.text


def test_another_row_or_no_run(run, tmp_path):
    expert = Expert(tiny.Net(2), classes=["cat", "dog"])
    expert.save_pretrained(tmp_path / "local", run=str(run), method="local <model>")
    card = ModelCard.load(tmp_path / "local" / "README.md")
    assert (card.data.license, card.data.eval_results[0].metric_value) == ("unknown", 0.7)
    expert.save_pretrained(tmp_path / "plain")
    plain = ModelCard.load(tmp_path / "plain" / "README.md")
    assert plain.data.eval_results is None and "No results were given." in plain.text


def test_wrong_runs(run, tmp_path):
    expert = Expert(tiny.Net(2), classes=["cat", "dog"])
    with pytest.raises(InputError, match=r"method: found 'HAT'; the run has 'HaT', .*did you mean"):
        expert.save_pretrained(tmp_path / "x", run=str(run), method="HAT")
    with pytest.raises(InputError, match="without a run; give run"):
        expert.save_pretrained(tmp_path / "x", method="HaT")
    with pytest.raises(InputError, match="the classes cat, dog, owl, the model cat, bird; give its own run"):
        Expert(tiny.Net(2), classes=["cat", "bird"]).save_pretrained(tmp_path / "x", run=str(run))
    for content in ("{", "[]", json.dumps({"summary": []})):
        (run / "results.json").write_text(content)
        with pytest.raises(InputError, match="cannot be read as the results of a recipe"):
            expert.save_pretrained(tmp_path / "x", run=str(run))
    assert not (tmp_path / "x").exists()
