import json

import numpy as np
import pytest
from helpers import data_files
from scipy.stats import pearsonr

from lightning_fusion.errors import InputError
from lightning_fusion.recipes.generation.text_evaluation import (
    AVERAGE,
    BEST,
    MAIN,
    ORACLE,
    _TextEvaluation,
    correlation,
    text_evaluation,
)
from lightning_fusion.recipes.report import Report

EXPERTS, ASPECTS = ["e0", "e1", "e2"], ["clear", "true"]


def table(path, rows=400):
    """What people say is a product of scores: no single one and no mean of them tells it."""
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(rows, 3))
    people = np.stack([np.abs(scores[:, 0]) + scores[:, 1], scores[:, 1] * (scores[:, 2] > 0)], 1)
    lines = [
        json.dumps(dict(zip([*EXPERTS, *ASPECTS], row, strict=True)) | {"article": f"a{number // 2}"})
        for number, row in enumerate(np.concatenate([scores, people], 1).tolist())
    ]
    path.write_text("\n".join(lines))
    return scores, people


def test_correlation_is_pearsons():
    generator = np.random.default_rng(1)
    one, other = generator.normal(size=(2, 30))
    assert correlation(one, other) == pytest.approx(pearsonr(one, other)[0])
    assert correlation(np.ones(5), np.arange(5.0)) == 0


@pytest.mark.slow
def test_fusing_finds_what_no_single_expert_says(tmp_path):
    path = tmp_path / "scores.jsonl"
    table(path)
    report = text_evaluation(str(path), EXPERTS, ASPECTS, str(tmp_path / "run"), "article", seeds=[0, 1])
    mean = {method: np.mean(report.values(method, report.metric)) for method in report.methods(report.metric)}
    assert mean[MAIN] > mean[ORACLE] + 0.05
    assert mean[ORACLE] >= max(mean[BEST], *(mean[f"single expert {name}"] for name in EXPERTS))
    assert mean[AVERAGE] < mean[MAIN]
    for name in ASPECTS:
        rows = [row for row in report.rows if row.get("domain") == name and row["seed"] == 0]
        alone = [row["value"] for row in rows if row["method"].startswith("single")]
        assert [row["value"] for row in rows if row["method"] == ORACLE] == [max(alone)]
    assert "](aspects.png)" in (tmp_path / "run/report.md").read_text()


@pytest.mark.slow
def test_too_few_rows_to_fit_are_reported(tmp_path):
    table(tmp_path / "few.jsonl", rows=44)
    report = text_evaluation(str(tmp_path / "few.jsonl"), EXPERTS, ASPECTS, str(tmp_path / "run"), "article", seeds=[0])
    (note,) = report.notes
    assert (
        "training rows cannot be split into leaves of 20" in note
        and "at least 40 rows, or reduce min_samples_leaf" in note
    )
    assert report.values(MAIN, report.metric) == [0.0]


def test_an_expert_that_never_varies_in_training_does_not_swamp_the_mean(tmp_path):
    scores, people = table(tmp_path / "scores.jsonl")
    scores[:, 2] = 0.0
    scores[:4, 2] = 1e-3
    train = (np.arange(400) >= 4) & (np.arange(400) < 300)
    report = Report("text_evaluation", {}, metric="correlation")
    settings = {"min_samples_leaf": 20}
    recipe = _TextEvaluation(
        name="text_evaluation",
        main=MAIN,
        config={},
        scores=scores,
        human=people,
        group=np.arange(400),
        experts=EXPERTS,
        aspects=ASPECTS,
        test_fraction=0.25,
        settings=settings,
    )
    recipe.score(report, train, ~train, seed=0)
    expected = [correlation((scores[:, :2] / scores[train, :2].std(0)).mean(1)[~train], values[~train])
                for values in people.T]  # fmt: skip
    assert report.values(AVERAGE, "correlation") == [pytest.approx(np.mean(expected))]


def test_bad_input(tmp_path):
    path = tmp_path / "scores.csv"
    data_files.score_table(path)
    names = ["fluency_scorer", "overlap_scorer"]
    with pytest.raises(InputError, match="none as both"):
        text_evaluation(str(path), names, names[:1], str(tmp_path / "run"))
    with pytest.raises(InputError, match="has no column charm"):
        text_evaluation(str(path), [*names, "charm"], ["fluency"], str(tmp_path / "run"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "a9,much,1,1,1,1"]))
    with pytest.raises(InputError, match="line 62: fluency_scorer is 'much'; expected a number"):
        text_evaluation(str(path), names, ["fluency"], str(tmp_path / "run"))
    with pytest.raises(InputError, match="experts and aspects: found fluency_scorer twice"):
        text_evaluation(str(path), [*names, names[0]], ["fluency"], str(tmp_path / "run"))
    path.write_text("\n".join([*lines, ",1,1,1,1,1"]))
    with pytest.raises(InputError, match="line 62: article is empty; expected the group of the text"):
        text_evaluation(str(path), names, ["fluency"], str(tmp_path / "run"), group_field="article")
    path.write_text("\n".join([lines[0], *(f"a{row},1,{row},1,{row},1" for row in range(9))]))
    with pytest.raises(InputError, match="fluency_scorer is the same number in all rows"):
        text_evaluation(str(path), names, ["fluency"], str(tmp_path / "run"))
    path.write_text("\n".join(lines[:3]))
    with pytest.raises(InputError, match=r"found 2 row\(s\)"):
        text_evaluation(str(path), names, ["fluency"], str(tmp_path / "run"))
