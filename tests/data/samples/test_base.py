"""Experts of several libraries in one pool, each with its own preprocessing of the same images."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import models
from helpers.models import CLASSES
from lightning import Trainer

from lightning_fusion import Expert, ExpertModule, ExpertOutputs, FoEFuserModule, ImageDataModule
from lightning_fusion.cli.main import main
from lightning_fusion.encoders import SmallConvNet


@pytest.mark.slow
def test_a_pool_of_all_from_a_file_to_a_fuser(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models.photos(tmp_path / "images", count=4)
    models.torchvision_weights(tmp_path / "field.pth", "mobilenet_v3_small")
    models.timm_folder(tmp_path / "timm", ["Cat", "Dog", "Owl"])
    models.vit_folder(tmp_path / "vit", ["cat", "dog", "bird"])
    data = ImageDataModule("images", image_size=16, channels=3, batch_size=8, seed=0)
    _train_own(data, tmp_path / "own.ckpt")
    size = {"class_path": "ImagePreprocessing", "init_args": {"image_size": 32, "fit": "pad", "mean": [0.5] * 3}}
    field = {"model": "mobilenet_v3_small", "checkpoint": "field.pth", "classes": CLASSES}
    experts = {
        "own": {"class_path": "lightning_fusion.Expert", "init_args": {"checkpoint": str(tmp_path / "own.ckpt")}},
        "field": {"class_path": "TorchvisionExpert", "init_args": field | {"preprocess": size}},
        "timm": {"class_path": "TimmExpert", "init_args": {"model": "timm", "fold_case": True}},
        "vit": {"class_path": "TransformersExpert", "init_args": {"path": "vit", "rename": {"bird": "owl"}}},
    }
    given = {
        "experts": experts,
        "data": {"class_path": "ImageDataModule", "init_args": {"root": "images", "image_size": "original"}},
    }
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(given))
    store = main(["collect", "-c", str(tmp_path / "pool.yaml"), f"--output={tmp_path / 'outputs'}"])
    assert isinstance(store, ExpertOutputs) and store.classes == CLASSES
    assert store.expert_classes["timm"] == store.expert_classes["vit"] == CLASSES
    alone = Expert(checkpoint=str(tmp_path / "own.ckpt"))
    expected = alone(data.preprocess(data.rows("test")[torch.arange(12)].input))  # at the size of its training
    np.testing.assert_allclose(store["test"].probabilities["own"], expected, atol=1e-5)
    fuse = {"class_path": "FoEFuserModule", "init_args": {"experts": experts}}
    (tmp_path / "foe.yaml").write_text(yaml.safe_dump({"model": fuse, "data": given["data"]}))
    fit = ["fit", "-c", str(tmp_path / "foe.yaml"), "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
    module = main(fit).model
    assert isinstance(module, FoEFuserModule)
    assert set(module.pool.names) == set(experts)
    assert module.pool.metadata()["timm"]["fingerprint"] == store.experts["timm"]["fingerprint"]


def _train_own(data: ImageDataModule, path: Path) -> None:
    module = ExpertModule(network=partial(SmallConvNet, width=2), classes=data.classes)
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(path)
