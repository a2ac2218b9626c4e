"""Every shipped YAML runs: once with fast_dev_run, once for two real batches with checkpoint, reload and test."""

import csv
import json
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from helpers.command_line import (
    CONFIGS,
    EXPERTS,
    TWO_BATCHES,
    build,
    collect_outputs,
    merged,
    prepare,
    read,
    recipe_of,
    refused,
    shipped,
    small,
    write_yaml,
)
from helpers.recipe_runs import quick_teachers  # noqa: F401

from lightning_fusion import ExpertOutputs, FrugalFoEModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.cli.help import recipes
from lightning_fusion.cli.main import main
from lightning_fusion.cli.training import FusionCLI
from lightning_fusion.verification.evaluation import TrialEvaluationMixin

# Arguments of recipes that make them quick where a file leaves them out; two_step needs two epochs.
QUICK: dict[str, dict[str, Any]] = {
    "frugal": {"variants": False},
    "hat": {"epochs": 2, "num_targets": 2},
    "acorl_shift": {"first_epochs": 1, "strengths": [1.0], "arms": ["ACoRL 1"]},
}
# Recipes on embedded data that are run beside those below.
DIGITS = {"recipes/foe_digits.yaml", "recipes/frugal_digits.yaml"}
# New files for runs of recipes: one of each recipe and modality.
PREDICTED = {
    "recipes/foe_folders.yaml": "data/images",
    "recipes/frugal_fsdd.yaml": "data/fsdd/recordings",
    "recipes/acorl_folders.yaml": "data/images",
    "recipes/acorl_speakers.yaml": "data/speakers",
    "recipes/hat_folders.yaml": "data/styles",
    "recipes/foe_texts.yaml": "data/texts.csv",
    "recipes/hat_recordings.yaml": "data/recordings",
    "recipes/acorl_reviews.yaml": "data/texts.csv",
}
# What a file that is only a part of a configuration is combined with.
BASES = {"trainer": "foe/digits.yaml", "data": "experts/folders.yaml", "acorl": "acorl/digits.yaml"}


@cache
def kind(name: str) -> str:
    """How a file is to be run: as a recipe, a collection, a fit, a part of a fit, or by test_sweeps.py."""
    folder, keys = name.partition("/")[0], set(read(name))
    if folder == "sweeps":
        return "sweep"
    if folder == "recipes":
        assert recipe_of(name) in recipes(), f"{name} names no known recipe: {sorted(recipes())}"
        return "recipe"
    if {"model", "data", "trainer"} <= keys:
        return "fit"
    if folder == "experts" and keys == {"experts"}:
        assert name.endswith("_pool.yaml") and f"foe/collect_{name[8:-10]}.yaml" in shipped()
        return "pool"
    if {"data", "output"} == keys:
        pool = name[12:-5].removesuffix("_manifest")
        assert name.startswith("foe/collect_") and f"experts/{pool}_pool.yaml" in shipped()
        return "collect"
    part = {"model", "trainer"} if folder == "acorl" else {folder}
    assert folder in BASES and keys == part, f"no test knows how to run {name}"
    return "part"


def of_kind(*kinds: str) -> list[str]:
    return [name for name in shipped() if kind(name) in kinds]


@pytest.fixture
def prepared(tmp_path, tmp_path_factory, monkeypatch):
    """The current folder has the data, experts and outputs that the files name."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield prepare(tmp_path_factory, tmp_path, monkeypatch)
    if wandb.run is not None:
        wandb.finish()
        wandb.teardown()  # its service keeps the folder it was started in


def files_of(name: str, trainer: dict[str, Any]) -> list[str]:
    """The arguments that run a shipped file, made tiny."""
    names = [name] if kind(name) == "fit" else [BASES[name.partition("/")[0]], name]
    override: dict[str, Any] = {}
    for each in names:
        override = merged(override, small(read(each)))
    override["trainer"] = trainer
    names += ["runs/sources/pool.yaml"] if name == "hat/registry.yaml" else []  # of the prepared registry
    return [part for each in [*names, write_yaml(Path("override.yaml"), override)] for part in ("-c", each)]


def alone_in_one_batch() -> list[str]:
    """Files that turn checkpoints off, and one of each method; all others train two batches, and are reloaded."""
    methods = ["foe/digits.yaml", "foe/frugal_digits.yaml", "acorl/digits.yaml", "hat/digits.yaml"]
    return methods + [name for name in of_kind("fit", "part") if read(name).get("trainer", {}).get("fast_dev_run")]


def recipes_of_each_kind() -> tuple[list[str], list[str]]:
    """Recipes to be run, one for each recipe and modality, and the others, whose data and networks are built."""
    names = set(of_kind("recipe"))
    run = {name for name in names if name in PREDICTED or name in DIGITS or read(name).get("variants")}
    known = {recipe_of(name) for name in run}
    run |= set({recipe_of(name): name for name in sorted(names, reverse=True) if recipe_of(name) not in known}.values())
    return sorted(run), sorted(names - run)


def test_the_kind_of_every_file_is_known():
    kinds = {name: kind(name) for name in shipped()}
    assert set(kinds.values()) == {"fit", "part", "pool", "collect", "recipe", "sweep"}, kinds


def test_a_file_of_an_unknown_kind_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.command_line.CONFIGS", tmp_path)  # kind() keeps no answer where it raises
    write_yaml(tmp_path / "novel/thing.yaml", {"model": {}})
    with pytest.raises(AssertionError, match="no test knows how to run novel/thing"):
        kind("novel/thing.yaml")
    write_yaml(tmp_path / "recipes/novel_digits.yaml", {"data": {}})
    with pytest.raises(AssertionError, match="names no known recipe"):
        kind("recipes/novel_digits.yaml")


def test_one_batch_of_an_expert(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _one_batch("experts/digits.yaml")


@pytest.mark.slow
@pytest.mark.usefixtures("prepared", "undrawn")
@pytest.mark.parametrize("name", alone_in_one_batch())
def test_one_batch_of_everything(name):
    _one_batch(name)


def _one_batch(name: str) -> None:
    before = {path for path in Path().rglob("*") if path.is_file()}
    keep = {"accelerator": "cpu", "devices": 1, "enable_model_summary": False, "fast_dev_run": True}
    cli = main(["fit", *files_of(name, keep)])
    assert cli.trainer.global_step == len(cli.trainer.optimizers)  # where there are several, each step counts
    names = {FrugalFoEModule: {"val_cost", "val_accuracy"}, TrialEvaluationMixin: {"val_eer", "val_min_dcf"}}
    expected = [found for kind, found in names.items() if isinstance(cli.model, kind)] or [{"val_loss", "val_accuracy"}]
    assert expected[0] <= set(cli.trainer.callback_metrics)
    written = {path for path in Path().rglob("*") if path.is_file()} - before
    kept = {Path("override.yaml"), Path("runs/mlflow.db")}  # the database is made with the logger of MLflow
    assert {path for path in written if Path("runs/cache") not in path.parents} <= kept


def parts_of(name: str) -> list[tuple[str, str]]:
    """Class of the model and modality of a file that is fitted: what testing and predicting depend on."""
    names = [name] if kind(name) == "fit" else [BASES[name.partition("/")[0]], name]
    found = merged(read(names[0]), read(names[-1]))
    data = pkgutil.resolve_name(found["data"]["class_path"]).__module__.split(".")
    return [("model", found["model"]["class_path"]), ("data", ".".join(data[:3]))]


def fitted() -> list[str]:
    """Files that are fitted and keep checkpoints; the others are run by test_one_batch_of_everything."""
    names = [name for name in of_kind("fit", "part") if not read(name).get("trainer", {}).get("fast_dev_run")]
    return sorted(names, key=lambda name: ("digits" not in name, kind(name) != "fit", name))


def first_of_each_kind() -> list[str]:
    """The first file of each model and of each modality."""
    first = {part: name for name in reversed(fitted()) for part in parts_of(name)}
    return sorted(set(first.values()))


def fit_two_batches(name: str) -> tuple[list[str], str, FusionCLI]:
    files = files_of(name, TWO_BATCHES)
    trained = main(["fit", *files, "--overwrite=true"])  # of the experts that are prepared
    assert trained.trainer.global_step == 2 * len(trained.trainer.optimizers)
    if precision := read(name).get("trainer", {}).get("precision"):
        assert trained.trainer.precision == precision
    path = trained.trainer.checkpoint_callback.best_model_path
    assert Path(path).is_file()
    return files, path, trained


@pytest.mark.slow
@pytest.mark.usefixtures("prepared", "undrawn")
@pytest.mark.parametrize("name", sorted(set(fitted()) - set(first_of_each_kind())))
def test_two_batches_with_checkpoint(name):
    fit_two_batches(name)


@pytest.mark.slow
@pytest.mark.usefixtures("prepared", "undrawn")
@pytest.mark.parametrize("name", first_of_each_kind())
def test_two_batches_with_checkpoint_reload_test_and_predict(name):
    files, path, _ = fit_two_batches(name)
    stored = torch.load(path, weights_only=True)

    tested = main(["test", *files, "--ckpt_path", path])
    if isinstance(tested.model, FrugalFoEModule):
        weights, kept = tested.model.policy.state_dict(), stored["policy"]["tensors"]
        assert weights["outputs"].shape[1] == 2 * tested.datamodule.batch_size
        _check_the_saved_policy(files, tested, path)
    else:
        weights = {f"network.{key}": value for key, value in tested.model.network.state_dict().items()}
        kept = stored["state_dict"]
    assert weights and all(torch.equal(value, kept[key]) for key, value in weights.items())
    rate = "test_eer" if isinstance(tested.model, TrialEvaluationMixin) else "test_accuracy"
    assert 0 <= float(tested.trainer.callback_metrics[rate]) <= 1

    predicted = main(["predict", *files, "--ckpt_path", path])
    for callback in predicted.trainer.callbacks:
        if type(callback).__name__ == "PredictionWriter":
            rows = list(csv.DictReader(Path(callback.path).read_text().splitlines()))
            assert len(rows) == 2 * predicted.datamodule.batch_size
            assert {row["prediction"] for row in rows} <= set(predicted.datamodule.classes)


def _check_the_saved_policy(files: list[str], tested: FusionCLI, checkpoint: str) -> None:
    """The folder of a fitted policy serves test and predict as the checkpoint does; without it both are refused."""
    served = main(["test", *files])
    assert served.trainer.callback_metrics == tested.trainer.callback_metrics
    tables = []
    for more in ([], ["--ckpt_path", checkpoint]):
        (writer,) = [c for c in main(["predict", *files, *more]).trainer.callbacks if type(c) is PredictionWriter]
        tables.append(Path(writer.path).read_text())
        Path(writer.path).unlink()
    assert tables[0] == tables[1]
    Path(served.model.folder, "manifest.json").rename("kept.json")
    assert "policy: found no manifest.json" in refused(["test", *files])
    Path("kept.json").rename(Path(served.model.folder, "manifest.json"))


def test_no_fit_writes_over_the_checkpoint_of_another():
    """An ablation stands beside the model that it is compared with."""
    written = []
    for name in of_kind("fit", "part"):
        base = read(name if kind(name) == "fit" else BASES[name.partition("/")[0]])
        folder = base["trainer"].get("default_root_dir", "")
        for callback in read(name).get("trainer", {}).get("callbacks") or []:
            if callback["class_path"].endswith(".ModelCheckpoint"):
                dirpath, filename = (callback["init_args"][key] for key in ("dirpath", "filename"))
                written.append((dirpath.replace("${trainer.default_root_dir}", folder), filename))
    assert ("runs/digits/acorl", "no_reversal") in written
    assert sorted(set(written)) == sorted(written)


@pytest.mark.slow
@pytest.mark.usefixtures("prepared", "undrawn")
@pytest.mark.parametrize("name", of_kind("collect"))
def test_a_collection_of_a_pool_gives_a_store(name):
    outputs = collect_outputs("--output=store", name=name[12:-5])
    experts = list(read(f"experts/{name[12:-5].removesuffix('_manifest')}_pool.yaml")["experts"])
    assert outputs.names == (list(EXPERTS) if set(EXPERTS) <= set(experts) else experts)
    again = ExpertOutputs.open("store")
    assert again.classes == outputs.classes and {"train", "val", "test"} <= set(again.splits)


@pytest.mark.slow
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("name", recipes_of_each_kind()[1])
def test_data_and_networks_of_the_other_recipes_fit_together(name):
    override = write_yaml(Path("override.yaml"), small(read(name)) | {"output": "run"})
    given = build(["recipe", recipe_of(name), "-c", name, "-c", override])
    data = given["data"]
    data.setup("fit")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    networks = [given.get("network"), given.get("larger"), *given.get("networks", {}).values()]
    for network in filter(None, networks):
        assert len(network(len(data.classes)).eval()(batch.input)) == len(batch.target)


@pytest.mark.slow
@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("name", recipes_of_each_kind()[0])
def test_a_recipe_gives_a_report(name, monkeypatch):
    monkeypatch.setattr("lightning_fusion.recipes.acorl.classification._LATE_STEPS", 20)
    recipe = recipe_of(name)
    tiny = small(read(name)) | {"output": "run"} | QUICK.get(recipe, {})
    if recipe == "acorl" and "Speaker" not in tiny["data"]["class_path"]:
        tiny["attribution_rows"] = min(4, read(name).get("attribution_rows", 4))
    if name == "recipes/acorl_reviews.yaml":
        tiny["network"]["init_args"]["width"] = 3  # fewer features cannot be normalized
    if recipe == "hat" and name != "recipes/hat_synthetic.yaml":
        tiny["num_targets"] = 1
    if recipe == "hat" and "num_domains" in tiny["data"].get("init_args", {}):
        tiny["data"]["init_args"]["num_domains"] = 3  # one is new, two are sources
    if (read(name).get("trainer") or {}).get("precision", "").startswith("bf16"):
        tiny["trainer"] = {"precision": "32-true"}  # CPUs emulate the rest; test_precision.py has it
    override = write_yaml(Path("override.yaml"), tiny)
    stages = [] if recipe == "text_evaluation" else ["--trainer.accelerator=cpu", "--trainer.limit_train_batches=2"]
    report = main(["recipe", recipe, "-c", name, "-c", override, *stages])

    results = json.loads(Path("run/results.json").read_text())
    assert {"recipe", "config", "data", "versions", "seconds", "rows", "summary"} <= set(results)
    assert results["recipe"] == recipe and results["rows"] == report.rows
    for row in results["rows"]:
        assert {"method", "metric", "split", "seed", "value"} <= set(row) and row["seed"] == 0
    for row in results["summary"]:
        assert {"method", "metric", "mean", "std", "gain", "gain_low", "gain_high", "against"} == set(row)
    text = Path("run/report.md").read_text()
    pictures = {path.name for path in Path("run").glob("*.png")}
    assert pictures and all(f"]({picture})" in text for picture in pictures)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["seeds"] == [0]
    if name in PREDICTED:
        _check_new_files(PREDICTED[name], results)


def _check_new_files(files: str, results: dict[str, Any]) -> None:
    """The advice of a run that was moved, and its most complex method, answer for all files of a folder or a table."""
    Path("run").rename("moved")
    target = [f"--target={name}" for name in results["serving"].get("targets", [])[:1]]
    tables = []
    for more in ([], [f"--method={results['advice']['candidates'][-1]['method']}"]):
        args = ["--run=moved", f"--input={files}", "--output=new.csv", "--trainer.accelerator=cpu", *target, *more]
        main(["predict", *args])
        tables.append(list(csv.DictReader(Path("new.csv").read_text().splitlines())))
    assert {len(rows) for rows in tables} == {len(tables[0])} and tables[0]
    for row in (row for rows in tables for row in rows):
        assert row["prediction"] in results["serving"]["classes"] and 0 <= float(row["confidence"]) <= 1


@pytest.mark.slow
def test_the_saved_configuration_of_a_recipe_runs_to_the_same_figures(tmp_path, monkeypatch, undrawn):
    monkeypatch.chdir(tmp_path)
    name = "recipes/foe_digits.yaml"
    override = write_yaml(
        Path("override.yaml"),
        small(read(name)) | {"output": "run", "trainer": {"accelerator": "cpu", "limit_train_batches": 4}},
    )
    first = main(["recipe", "foe", "-c", name, "-c", override])
    again = main(["recipe", "foe", "-c", "run/config.yaml", "--output=again"])
    assert again.rows == first.rows
    trained = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*.ckpt") if path.parent.name != "fusers"}
    assert main(["recipe", "foe", "-c", "run/config.yaml"]).rows == first.rows  # resumed, not retrained
    assert trained == {path: path.stat().st_mtime_ns for path in trained} and len(trained) == 3


def test_shipped_files_are_where_the_command_line_looks():
    assert {name.partition("/")[0] for name in shipped()} == {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    assert not list(CONFIGS.glob("*.yaml"))
