"""Files that name experts: relative paths, and their place in a training command."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from helpers import models
from helpers.command_line import write_yaml
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from lightning_fusion import ExpertOutputs
from lightning_fusion.cli.config import shipped_configs, with_found_configs
from lightning_fusion.cli.kinds import check_kind
from lightning_fusion.cli.main import main
from lightning_fusion.cli.pools import adapted
from lightning_fusion.errors import InputError

CLASSES = models.CLASSES


def pool(folder: Path) -> dict:
    """Two ViTs in folders beside the file."""
    for name in ("a", "b"):
        models.vit_folder(folder / "models" / name)
    return {
        "experts": {
            "gpt-3.5/a": {"class_path": "TransformersExpert", "init_args": {"path": "models/a"}},
            "b": {"class_path": "TransformersExpert", "init_args": {"path": "models/b", "rename": {"owl": "owl"}}},
        }
    }


def test_paths_are_relative_to_the_file_or_else_to_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "here/models").mkdir(parents=True)
    (tmp_path / "work/models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    for place in ("here", "work"):
        (tmp_path / place / "models/both.ckpt").touch()
    Path("models/mine.ckpt").touch()
    content = {
        "experts": {
            name: {"class_path": "lightning_fusion.Expert", "init_args": {"checkpoint": path, "domains": ["models"]}}
            for name, path in {"both": "models/both.ckpt", "mine": "models/mine.ckpt", "none": "x.ckpt"}.items()
        },
        "output": "models",  # no argument of an expert
    }
    file = write_yaml(tmp_path / "here/pool.yaml", content)
    found = yaml.safe_load(Path(adapted(file, content, training=False)).read_text())
    paths = {name: entry["init_args"]["checkpoint"] for name, entry in found["experts"].items()}
    assert paths == {"both": str(tmp_path / "here/models/both.ckpt"), "mine": "models/mine.ckpt", "none": "x.ckpt"}
    assert found["output"] == "models" and content["experts"]["both"]["init_args"]["checkpoint"] == "models/both.ckpt"
    assert adapted(file, {"data": {}}, training=False) == file  # as it is, where nothing changes
    model = {"class_path": "lightning_fusion.ExpertModule", "init_args": {"network": {"class_path": "own.nets.Net"}}}
    of_fit = {"model": model, "data": {"class_path": "x"}, "trainer": {"max_epochs": 1}}
    found = yaml.safe_load(Path(adapted(file, of_fit, training=False, command="publish")).read_text())
    assert found == {"data": {"class_path": "x"}, "imports": ["own.nets"]}


@pytest.mark.slow
def test_a_pool_is_collected_trained_and_predicts_new_files(tmp_path, monkeypatch):
    """The files of three commands: experts, data and fuser, in any combination."""
    models.photos(tmp_path / "images")
    models.photos(tmp_path / "new", ("unsorted",), count=1, seed=1)
    (tmp_path / "mine").mkdir()
    file = write_yaml(tmp_path / "mine/pool.yaml", pool(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    data = ["--data=lightning_fusion.ImageDataModule", "--data.root=images", "--data.image_size=original"]
    images = ["-c", "foe/collect_folders.yaml", *data]
    store = main(["collect", "-c", file, *images])
    assert isinstance(store, ExpertOutputs) and store.names == ["gpt-3.5/a", "b"]
    main(["fit", "-c", "foe/pool.yaml", "--trainer.max_epochs=1"])
    fuse = ["-c", "foe/pool.yaml", "-c", file, *images, "--ckpt_path=runs/pool/fuser/label.ckpt"]
    main(["predict", *fuse, "--data.predict_root=new", "--trainer.accelerator=cpu"])
    rows = Path("runs/pool/predictions.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0].startswith("index,file,prediction,confidence,cat,dog,owl")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript")
def test_every_row_of_the_page_is_an_expert_of_one_pool(tmp_path, monkeypatch):
    """docs/how-to/bring_your_models.md: models of all kinds with preprocessing of their own, from files to a table."""
    lightgbm, xgboost, skops = (
        pytest.importorskip("lightgbm"),
        pytest.importorskip("xgboost"),
        pytest.importorskip("skops.io"),
    )
    monkeypatch.chdir(tmp_path)
    models.own_models(tmp_path / "models")
    models.photos(tmp_path / "images", count=10)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    torch.save(network.state_dict(), "models/linear.pth")
    example = torch.rand(2, 3, 8, 8)
    torch.jit.trace(network, example).save("models/program.pt")
    torch.onnx.export(
        network, (example,), "models/linear.onnx", dynamo=False, dynamic_axes={"x": {0: "n"}}, input_names=["x"]
    )
    rows = np.random.default_rng(0).normal(size=(60, 192))
    numbers = np.arange(60) % 3
    labels = np.array(CLASSES)[numbers]
    skops.dump(make_pipeline(StandardScaler(), LogisticRegression(max_iter=20)).fit(rows, labels), "models/pipe.skops")
    xgboost.XGBClassifier(n_estimators=2, max_depth=2, n_jobs=1).fit(rows, numbers).save_model("models/images.json")
    few = {"n_estimators": 2, "min_child_samples": 2, "n_jobs": 1, "verbose": -1}
    lightgbm.LGBMClassifier(**few).fit(rows, numbers).booster_.save_model("models/images.txt")
    files = sorted(path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").rglob("*.png"))
    said = np.random.default_rng(1).dirichlet([1, 1, 1], len(files))
    pd.DataFrame({"file": files, **dict(zip(CLASSES, said.T, strict=True))}).to_csv("models/service.csv", index=False)

    prepare = {"class_path": "ImagePreprocessing", "init_args": {"image_size": 8, "fit": "pad"}}
    shared = {"classes": CLASSES, "preprocess": prepare}
    digest = hashlib.sha256(Path("models/program.pt").read_bytes()).hexdigest()
    experts = yaml.safe_load((shipped_configs() / "experts/folders_pool.yaml").read_text())["experts"] | {
        name: {"class_path": kind, "init_args": arguments}
        for name, kind, arguments in [
            ("onnx", "OnnxExpert", {"path": "models/linear.onnx", "output": "logits", **shared}),
            ("program", "ProgramExpert", {"path": "models/program.pt", "sha256": digest, **shared}),
            ("pipeline", "SklearnExpert", {"path": "models/pipe.skops", **shared}),
            ("trees", "XGBoostExpert", {"path": "models/images.json", **shared}),
            ("leaves", "LightGBMExpert", {"path": "models/images.txt", **shared}),
            ("service", "RecordedExpert", {"path": "models/service.csv"}),
        ]
    }
    Path("pool.yaml").write_text(yaml.safe_dump({"experts": experts}, sort_keys=False))
    data = ["--data=lightning_fusion.ImageDataModule", "--data.root=images", "--data.image_size=original"]
    store = main(["collect", "-c", "pool.yaml", *data, "--output=store", "--trainer.accelerator=cpu"])
    assert store.names == list(experts) and store.classes == CLASSES
    assert not any(part.missing.any() for part in store.splits.values())
    test = store["test"].probabilities
    np.testing.assert_allclose(test["onnx"], test["program"], atol=1e-5)  # the same weights
    places = [files.index(file.split("images/")[1]) for file in store["test"].origins.columns()["file"]]
    np.testing.assert_allclose(test["service"], said[places], atol=1e-6)
    quick = ["--fuser_epochs", "1", "--trainer.enable_progress_bar", "false"]
    report = main(["recipe", "foe", "--stores", "store", "--output", "fused", *quick])
    average = store.scattered("test").mean(1).argmax(1) == store["test"].target
    assert report.values("softmax average") == [pytest.approx(average.mean())]


def test_a_pool_alone_is_no_training(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    content = {"experts": {"a": {"class_path": "lightning_fusion.Expert", "init_args": {"checkpoint": "a.pth"}}}}
    with pytest.raises(ValueError, match="has the key experts, which fit does not take; it is a file for collect"):
        main(["fit", "-c", write_yaml(tmp_path / "pool.yaml", content)])


def test_the_errors_of_all_experts_come_in_one_message(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {
        "a": ("lightning_fusion.Expert", {"checkpoint": "a.ckpt"}),
        "b": ("lightning_fusion.Expert", {"checkpoint": "b.ckpt", "klasses": CLASSES}),
        "c": ("lightning_fusion.Expertt", {"checkpoint": "c.ckpt"}),
    }
    content = {"experts": {name: {"class_path": kind, "init_args": how} for name, (kind, how) in given.items()}}
    arguments = ["-c", write_yaml(tmp_path / "pool.yaml", content), "--data=DigitsDataModule", "--output=store"]
    with pytest.raises(InputError, match=r"^experts.b: Option 'klasses' is .*; experts.c: found no class .*Expertt"):
        main(["collect", *arguments])
    for name, (_, how) in given.items():
        how.pop("klasses", None)
        content["experts"][name] = {"class_path": "lightning_fusion.Expert", "init_args": how}
    write_yaml(tmp_path / "pool.yaml", content)
    with pytest.raises(
        InputError, match=r"^experts.a: checkpoint: .* a.ckpt; experts.b: .* b.ckpt; experts.c: .* c.ckpt"
    ):
        main(["collect", *arguments])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, r"pool.yaml: experts is nothing; expected experts by name: is the file complete\?"),
        ({"a": None}, "pool.yaml: experts.a is nothing; expected class_path and init_args"),
        ({"a": {"class_path": "lightning_fusion.Expert", "init_args": None}}, "experts.a.init_args is nothing"),
        (
            {"a": {"class_path": "lightning_fusion.Expert", "init_args": "che"}},
            "experts.a.init_args is 'che'; expected",
        ),
    ],
)
def test_a_file_that_is_not_complete_is_named(written, message):
    with pytest.raises(InputError, match=message):
        adapted("pool.yaml", {"experts": written}, training=True)


def test_the_file_of_the_user_is_named(tmp_path):
    (tmp_path / "a.ckpt").touch()
    expert = {"class_path": "lightning_fusion.Expert", "init_args": {"checkpoint": "a.ckpt"}}  # read from a copy
    write_yaml(tmp_path / "pool.yaml", {"experts": {"a": expert}})
    with pytest.raises(
        InputError, match=f"config: {tmp_path}/pool.yaml has .* experts, .*: it names sources, which fit"
    ):
        with_found_configs(["-c", str(tmp_path / "pool.yaml")], partial(check_kind, "publish"), command="publish")
