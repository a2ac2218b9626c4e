import numpy as np
import pandas as pd
import pytest
from helpers.recipe_runs import results

from lightning_fusion import ExpertOutputs
from lightning_fusion.cli.main import main
from lightning_fusion.errors import InputError
from lightning_fusion.recipes.foe.protocol import MAIN, foe
from lightning_fusion.recipes.serving import FinishedRun
from lightning_fusion.recipes.stored import StoredOutputs


@pytest.mark.slow
def test_recorded_predictions_and_the_store_made_of_them_give_the_same_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    files, label = [f"{number}.jpg" for number in range(90)], generator.integers(3, size=90)
    for expert in range(3):
        logits = generator.normal(size=(90, 3)) + 2 * (label == expert)[:, None] * np.eye(3)[label]
        said = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        pd.DataFrame({"file": files, **dict(zip("xyz", said.T, strict=True))}).to_csv(f"{expert}.csv", index=False)
    pd.DataFrame({"file": files, "label": ["xyz"[each] for each in label]}).to_csv("labels.csv", index=False)

    few = ["--fuser_epochs", "1", "--trainer.enable_progress_bar", "false"]
    from_files = ["--predictions.files", "0.csv", "1.csv", "2.csv", "--predictions.labels", "labels.csv"]
    report = main(["recipe", "foe", *from_files, "--seeds", "3", "--output", "runs/files", *few])
    outputs = ExpertOutputs.open("runs/files/seed_3/outputs")
    average = outputs.scattered("test").mean(1).argmax(1) == outputs["test"].target
    assert report.values("softmax average") == [pytest.approx(average.mean())]
    assert len(report.values(MAIN)) == 1 and not (tmp_path / "runs/files/domains.png").exists()
    assert results(tmp_path / "runs/files")["config"]["seeds"] == [3]
    again = main(["recipe", "foe", "--stores", str(outputs.path), "--seeds", "3", "--output", "runs/store", *few])
    assert again.rows == report.rows
    with pytest.raises(InputError, match=r"made from stored outputs or recorded predictions, and has no experts"):
        FinishedRun.open("runs/files")
    pd.read_csv("0.csv").assign(file=files[::-1]).to_csv("0.csv", index=False)
    with pytest.raises(InputError, match=r"contains another run \(differs in seed 3\)"):
        main(["recipe", "foe", *from_files, "--seeds", "3", "--output", "runs/files", *few])


def test_stores_of_a_table_are_of_one_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said, splits = [[0.6, 0.4]] * 10, ("train", "val", "test")
    for name, classes, experts in (("one", "no yes", "ab"), ("other", "yes maybe", "ab"), ("more", "yes no", "abc")):
        values = {"probabilities": dict.fromkeys(experts, said), "target": [0, 1] * 5}
        given = dict.fromkeys(experts, classes.split())
        ExpertOutputs.from_arrays(dict.fromkeys(splits, values), given).save(name)
    with pytest.raises(InputError, match=r"stores: other has the classes yes, maybe, and one no, yes; the stores of a"):
        StoredOutputs.open(["one", "other"], None, [0, 1])
    with pytest.raises(InputError, match=r"stores: more has the experts a, b, c, and one a, b; the stores of a table"):
        StoredOutputs.open(["one", "more"], None, [0, 1])
    assert "Seed 4: the outputs are those of seed 3" in StoredOutputs.open(["one", "one"], None, [3, 4]).notes[4][0]


@pytest.mark.slow
def test_names_of_experts_lead_out_of_no_folder(tmp_path):
    names, said = ["x/../../../../../../out", "y"], [[0.6, 0.4], [0.3, 0.7]] * 8
    values = {"probabilities": dict.fromkeys(names, said), "target": [0, 1] * 8}
    given = {name: ["no", "yes"] for name in names}
    ExpertOutputs.from_arrays(dict.fromkeys(("train", "val", "test"), values), given).save(tmp_path / "store")
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "csv"}}
    how = {"fuser_epochs": 1, "single_expert": True, "trainer": {"logger": logger, "enable_progress_bar": False}}
    foe(str(tmp_path / "deep/deep/run"), stores=[str(tmp_path / "store")], **how)
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "store"}
    assert [path.name for path in (tmp_path / "deep/deep").iterdir()] == ["run"]
    assert {path.name for path in (tmp_path / "deep/deep/run").iterdir()} <= {
        *("run.json", "results.json", "report.md", "report.html", ".lock", "logs", "seed_0"),
        *("confusion.png", "importance.png"),
    }
    assert (tmp_path / "deep/deep/run/logs/csv/seed_0/fusers").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"data, stores and predictions: found none; give one"),
        (
            {"stores": ["x"], "expert_epochs": 3},
            r"expert_epochs: only the training of experts uses it, and stores train",
        ),
        ({"stores": ["x"], "seeds": [0, 1]}, r"stores: found 1 for 2 seeds; expected one for each"),
        ({"stores": ["x"]}, r"expert outputs: found no manifest.json in x"),
    ],
)
def test_sources_that_contradict_one_another(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        foe(str(tmp_path / "run"), **arguments)
    assert not (tmp_path / "run").exists()
