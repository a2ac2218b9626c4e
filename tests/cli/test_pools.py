"""Files that name experts: relative paths, and their place in a training command."""

from pathlib import Path

import pytest
import torch
import yaml
from helpers import models
from helpers.command_line import write_yaml
from torch import nn

from lightning_fusion import ExpertOutputs
from lightning_fusion.cli.main import main
from lightning_fusion.cli.pools import adapted

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


def test_a_pool_alone_is_no_training(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    content = {"experts": {"a": {"class_path": "lightning_fusion.Expert", "init_args": {"checkpoint": "a.pth"}}}}
    with pytest.raises(ValueError, match="has the key experts, which fit does not take; it is a file for collect"):
        main(["fit", "-c", write_yaml(tmp_path / "pool.yaml", content)])
