"""Runs of ACoRL and HaT that were moved answer for their own test images as their reports say."""

import csv
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import data_files
from helpers.recipe_runs import results

from lightning_fusion.cli.main import main
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.recipes.acorl.protocol import acorl
from lightning_fusion.recipes.hat.plan import AVERAGE
from lightning_fusion.recipes.hat.protocol import hat
from lightning_fusion.recipes.serving import FinishedRun

pytestmark = pytest.mark.slow
TREE = {name: ["cat", "dog"] for name in ("studio", "street", "garden")}
TARGET = "garden"


@pytest.fixture(scope="module")
def away(tmp_path_factory) -> Path:
    """Runs in another folder, and the test images of both, without the data."""
    here, away = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("away")
    data_files.images(here / "images", TREE, 20)
    scale = {"mean": [0.5] * 3, "std": [0.25] * 3}
    data = DomainImageDataModule(str(here / "images"), fuser_fraction=0.1, test_fraction=0.3, image_size=8, **scale)
    network = partial(SmallConvNet, width=2)
    shared = {"features": "pool", "seeds": [3], "trainer": {"accelerator": "cpu", "enable_progress_bar": False}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_fusion.recipes.acorl.classification._LATE_STEPS", 20)
        acorl(data=data, network=network, output=str(here / "acorl"), epochs=1, attribution_rows=0, **shared)
    optimizer = partial(torch.optim.AdamW, lr=0.01)
    more = {"networks": {"a": network}, "targets": [TARGET, "street"], "num_sources": 2, "optimizer": optimizer}
    hat(data=data, output=str(here / "hat"), source_epochs=1, epochs=1, **more, **shared)
    seeded = data.variant(seed=3)
    copy(seeded, away / "acorl_new")
    copy(TargetDataModule(seeded, TARGET, seed=3), away / "hat_new")
    for name in ("acorl", "hat"):
        shutil.move(here / name, away / name)
    shutil.rmtree(here)
    return away


def copy(data, folder: Path) -> None:
    """Copy the test images, in files that are named by their class."""
    folder.mkdir()
    rows = data.rows("test")
    batch = rows[torch.arange(len(rows))]
    for number, (file, target) in enumerate(
        zip(data.origins(batch.index).columns()["file"], batch.target, strict=True)
    ):
        shutil.copy(file, folder / f"{data.classes[int(target)]}_{number:03}.png")


@pytest.mark.parametrize(("run", "more"), [("acorl", []), ("hat", [f"--target={TARGET}"])])
def test_every_method_has_the_accuracy_of_its_row(away, run, more, tmp_path):
    finished = FinishedRun.open(away / run)
    assert len(finished.methods) >= 4 and (run == "acorl" or AVERAGE in finished.methods)
    for method in finished.methods:
        args = ["--run", str(away / run), "--input", str(away / f"{run}_new"), "--output", str(tmp_path / "found.csv")]
        main(["predict", *args, f"--method={method}", *more, "--trainer.accelerator=cpu"])
        found = list(csv.DictReader((tmp_path / "found.csv").open(newline="")))
        right = sum(row["prediction"] == row["file"].split("_")[0] for row in found) / len(found)
        row = "average of 2, selected" if method == AVERAGE else method
        domain = TARGET if run == "hat" else None
        (value,) = (
            each["value"]
            for each in results(away / run)["rows"]
            if (each["method"], each["metric"], each["split"]) == (row, "accuracy", "test")
            and each.get("domain") == domain
        )
        assert right == pytest.approx(value), method
