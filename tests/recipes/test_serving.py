"""Finished runs answer for new files: on another machine, without the data of the training, as the report says."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import data_files
from helpers.command_line import refused
from helpers.recipe_runs import results
from lightning import Trainer
from thirdparty.baseline import OneExpert

from lightning_fusion import ExpertOutputs
from lightning_fusion.baselines import BASELINES
from lightning_fusion.cli.main import main
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.files import hash_files, sealed
from lightning_fusion.foe.fusers import MLPFuser
from lightning_fusion.frugal.policy import FrugalFoE
from lightning_fusion.recipes.foe.protocol import foe
from lightning_fusion.recipes.foe.rows import CENTRALIZED, FUSERS, MAIN, WITH_REPRESENTATIONS
from lightning_fusion.recipes.frugal.protocol import frugal
from lightning_fusion.recipes.frugal.rows import SIMPLICITY
from lightning_fusion.recipes.serving import FinishedRun, load_run

pytestmark = pytest.mark.slow
TREE = {"studio": ["cat", "dog"], "street": ["cat", "dog", "owl"]}
OWN = "the second"


def settings(root: Path, size: int | None = 8) -> dict:
    data = DomainImageDataModule(str(root / "images"), fuser_fraction=0.4, test_fraction=0.3, image_size=size)
    return {
        "data": data,
        "network": partial(SmallConvNet, width=2),
        "expert_epochs": 2,
        "seeds": [0, 1],
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }


@pytest.fixture(scope="module")
def away(tmp_path_factory) -> Path:
    """A folder with runs that were moved, new files, and no data that they were trained on."""
    here, away = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("away")
    data_files.images(here / "images", TREE, 30)
    own = {OWN: partial(OneExpert, number=1)}
    more = {"fuser": partial(MLPFuser, hidden=(8,)), "features": "pool", "baselines": own}
    foe(**settings(here), output=str(here / "foe"), fuser_epochs=2, **more)
    frugal(**settings(here, None), output=str(here / "frugal"), variants=False, exhaustive=False)
    for name in ("foe", "frugal"):
        shutil.move(here / name, away / name)
    outputs = ExpertOutputs.open(away / "foe/seed_1/outputs")
    origins = outputs["test"].origins  # in the order of the outputs
    for number, file in enumerate(origins.columns()["file"]):
        (away / "new").mkdir(exist_ok=True)
        shutil.copy(file, away / f"new/{number:03}.png")
    shutil.rmtree(here)
    return away


def predicted(away: Path, run: str, *more: str) -> list[dict[str, str]]:
    output = away / "found.csv"
    args = ["--run", str(away / run), "--input", str(away / "new"), "--output", str(output), *more]
    main(["predict", *args, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    return list(csv.DictReader(output.read_text().splitlines()))


@pytest.mark.parametrize("method", [*BASELINES, OWN, *FUSERS, WITH_REPRESENTATIONS, CENTRALIZED])
def test_every_method_answers_as_in_the_report(away, method):
    """The new files are the test images of seed 1: their accuracy is that of the row of the report."""
    if method not in FinishedRun.open(away / "foe").methods:
        assert method in FUSERS  # both expert targets are one row where no sample has two experts
        return
    run, _, seed, module = load_run(away / "foe", method, seed=1)
    data = run.new_data(str(away / "new"), seed, module.pool.members)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    found = torch.cat([batch["probabilities"] for batch in trainer.predict(module, datamodule=data)])
    outputs = ExpertOutputs.open(away / "foe/seed_1/outputs")
    wanted = method, "accuracy", "test", 1, None
    (value,) = (
        row["value"]
        for row in results(away / "foe")["rows"]
        if (row["method"], row["metric"], row["split"], row["seed"], row.get("domain")) == wanted
    )
    assert module.classes == outputs.classes
    assert (found.argmax(1).numpy() == outputs["test"].target).mean() == pytest.approx(value)
    torch.testing.assert_close(found.double().sum(1), torch.ones(len(found), dtype=torch.float64))


def test_the_advice_answers_and_is_named(away, capsys):
    advice = results(away / "foe")["advice"]
    rows, classes = predicted(away, "foe"), results(away / "foe")["serving"]["classes"]
    assert [row["file"] for row in rows] == [f"{number:03}.png" for number in range(len(rows))]
    assert all(row["prediction"] == max(classes, key=lambda name: float(row[name])) for row in rows)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{advice['method']} answers (the advice of the run; models of seed {advice['seed']})" in printed
    assert rows == predicted(away, "foe", f"--method={advice['method']}", f"--seed={advice['seed']}")
    other = next(name for name in BASELINES if name != advice["method"])
    predicted(away, "foe", f"--method={other}")
    assert f"{other} answers (the run advises {advice['method']}" in " ".join(capsys.readouterr().out.split())


def test_a_policy_queries_experts_as_needed(away, monkeypatch):
    """Each expert runs on the samples that query it alone, with the decisions of the policy on stored outputs."""
    _, _, seed, module = load_run(away / "frugal", "FrugalFoE", seed=1)
    outputs = ExpertOutputs.open(away / "frugal/seed_1/outputs")
    replayed = FrugalFoE.load(away / "frugal/seed_1/policy").predict(outputs["test"])
    asked = dict.fromkeys(module.pool.names, 0)
    for name, expert in module.pool.members.items():

        def count(input, name=name, run=expert.forward):
            asked[name] += len(input)
            return run(input)

        monkeypatch.setattr(expert, "forward", count)
    data = FinishedRun.open(away / "frugal").new_data(str(away / "new"), seed, module.pool.members)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    batches = trainer.predict(module, datamodule=data)
    queried = torch.cat([batch["queried"] for batch in batches])
    assert asked == dict(zip(asked, queried.sum(0).tolist(), strict=True))
    assert torch.equal(queried, replayed.queried)
    rows = predicted(away, "frugal", "--method=FrugalFoE", "--seed=1")
    assert {"queried", "cost", "risk", "abstained", "ood"} <= set(rows[0])
    assert [row["queried"].split("+") for row in rows] == [
        [name for name, own in zip(outputs.names, row, strict=True) if own] for row in queried.tolist()
    ]
    for method in SIMPLICITY:
        assert len(predicted(away, "frugal", f"--method={method}", "--seed=1")) == len(rows)


class TestRefusal:
    @pytest.fixture
    def copied(self, away, tmp_path) -> Path:
        """A run without its models, to be damaged."""
        shutil.copytree(away / "foe", tmp_path / "foe", ignore=shutil.ignore_patterns("seed_*", "*.png"))
        return tmp_path / "foe"

    def of(self, run: Path | str, away: Path, *more: str) -> str:
        return refused(["predict", "--run", str(run), "--input", str(away / "new"), *more])

    def test_names_what_is_wrong_with_an_option(self, away):
        run = away / "foe"
        assert "run: found no folder" in self.of(away / "fo", away)
        assert "contains no run of a recipe (no run.json)" in self.of(away, away)
        assert "did you mean softmax average?" in self.of(run, away, "--method=softmax avrage")
        assert f"method: found 'FoE'; the run in {run} has 'softmax average', 'best single" in self.of(
            run, away, "--method=FoE"
        )
        assert "seed: found 7; the run" in self.of(run, away, "--seed=7")
        assert "target: found 'a'; the recipe foe has no targets" in self.of(run, away, "--target=a")
        assert "trials: found a.txt; the data of the run" in self.of(run, away, "--trials=a.txt")
        assert "imports: nowhere cannot be imported" in self.of(run, away, "--imports=[nowhere]")

    def test_names_what_is_wrong_with_the_input(self, away, tmp_path):
        args = ["predict", "--run", str(away / "foe"), "--input"]
        assert f"input: found no file or folder {tmp_path / 'none'}" in refused([*args, str(tmp_path / "none")])
        (tmp_path / "notes.txt").write_text("none")
        assert f"input: found no image in {tmp_path}" in refused([*args, str(tmp_path)])
        data_files.images(tmp_path / "large", {"a": ["b"]}, 2, side=12)
        args[2] = str(away / "frugal")  # its data have no image_size
        assert (
            "the images are 12x12, those of the training were 8x8; set image_size: 8; arguments of the data are given "
            "as --data.NAME=VALUE" in refused([*args, str(tmp_path / "large")])
        )
        args += [str(tmp_path / "large"), f"--output={tmp_path / 'large.csv'}"]
        main([*args, "--data.image_size=8"])
        assert len((tmp_path / "large.csv").read_text().splitlines()) == 3
        for change, said in (
            (
                "image_sizes=8",
                "data: DomainImageDataModule takes no image_sizes for new files; did you mean image_size?",
            ),
            ("predict_root=a", "takes no predict_root for new files"),
            ("image_size=[8]", "image_size is [8]; expected a number of pixels, or original"),
            ("max_megapixels=[8]", "data: DomainImageDataModule does not take {'max_megapixels': [8]}"),
        ):
            assert said in refused([*args, f"--data.{change}"])

    def test_runs_that_are_not_finished_or_of_another_version(self, away, copied):
        content = results(copied)
        for change, message in (
            ({"serving": None}, "was written by another version of lightning-fusion"),
            ({"serving": content["serving"] | {"format": 99}}, "was written by another version of lightning-fusion"),
            ({"recipe": "generative"}, "is a run of the recipe generative, which does not predict new files"),
            ({"recipe": ["foe"]}, "which does not predict new files"),
            ({"serving": content["serving"] | {"experts": 3}}, "is damaged (serving.experts: found 3)"),
            ({"serving": {"format": content["serving"]["format"]}}, "is damaged (serving.classes: found none)"),
            ({"config": content["config"] | {"seeds": "all"}}, "is damaged (config.seeds is no list of whole numbers)"),
            ({"config": content["config"] | {"data": None}}, "is damaged (config.data has no class_path)"),
        ):
            (copied / "results.json").write_text(json.dumps(sealed(content | change)))
            assert message in self.of(copied, away)
        for change in ({"advice": content["advice"] | {"method": MAIN}}, {"seconds": {}}):
            (copied / "results.json").write_text(json.dumps(content | change))
            assert "results.json is not what the run wrote (it has another digest)" in self.of(copied, away)
        (copied / "results.json").write_text("{half")
        assert "results.json is damaged" in self.of(copied, away)
        (copied / "results.json").unlink()
        assert "is not finished (no results.json); run the recipe again with this output" in self.of(copied, away)

    def test_nothing_that_a_run_names_is_imported(self, away, copied):
        content = results(copied)
        content["config"]["data"]["class_path"] = "antigravity.Data"
        (copied / "results.json").write_text(json.dumps(sealed(content)))
        shutil.copytree(away / "foe/seed_0", copied / "seed_0")
        message = self.of(copied, away, "--method=softmax average", "--seed=0")
        assert "names the data module antigravity.Data, which is not imported; name its package in --imports" in message

    def test_a_network_that_is_not_imported_needs_a_word(self, away, copied):
        shutil.copytree(away / "foe/seed_0", copied / "seed_0")
        path = min((copied / "seed_0/experts").glob("*.ckpt"))
        content = torch.load(path, weights_only=True)
        content["hyper_parameters"]["network"]["class_path"] = "antigravity.Net"
        torch.save(content, path)
        written = results(copied)
        written["serving"]["files"][f"seed_0/experts/{path.name}"] = hash_files([path])
        (copied / "results.json").write_text(json.dumps(sealed(written)))
        message = self.of(copied, away, "--method=softmax average", "--seed=0")
        assert "names antigravity.Net, which is not an imported module" in message
        assert message.endswith("; name its package in --imports, if you trust the run")

    @pytest.mark.parametrize(
        ("method", "mixed"),
        [
            ("softmax average", "experts"),
            (MAIN, "fusers"),
            ("logistic stacking", "baselines"),
            ("k-nearest neighbors", "outputs"),
            (CENTRALIZED, "centralized.ckpt"),
        ],
    )
    def test_files_of_another_seed_or_run_are_named(self, away, copied, method, mixed):
        shutil.copytree(away / "foe/seed_0", copied / "seed_0")
        other = away / "foe/seed_1" / mixed
        if other.is_dir():
            shutil.rmtree(copied / "seed_0" / mixed)
            shutil.copytree(other, copied / "seed_0" / mixed)
        else:
            shutil.copy(other, copied / "seed_0" / mixed)
        message = self.of(copied, away, f"--method={method}", "--seed=0")
        assert f"seed_0/{mixed}" in message and "is not the file that this run wrote" in message

    def test_the_input_is_not_replaced(self, away):
        message = self.of(away / "foe", away, "--output", str(away / "new"))
        assert "is the input, which it would replace" in message

    def test_models_that_are_missing(self, away, copied):
        assert "checkpoint: found no file" in self.of(copied, away, "--method=softmax average")


def test_a_row_is_exported_without_the_data_and_with_the_recorded_shape(away, capsys):
    found = main(["export", "--run", str(away / "foe"), "--method", MAIN, "--output", str(away / "program")])
    assert (found["method"], found["input"], found["input_shape"]) == ("FoE", "raw", [None, 3, 8, 8])
    assert f"{MAIN} (models of seed" in capsys.readouterr().out
    said = refused(["export", "--run", str(away / "foe"), "--method", OWN, "--output", str(away / "other")])
    assert "the rule of this row (OneExpert) is no part of a program; choose an average" in said
    assert "the other rows, the simplest first: --method 'softmax average', --method 'best single expert'" in said
