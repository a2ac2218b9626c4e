"""Image files without labels, for prediction."""

import copy
import csv
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.image_trees import draw_tree
from PIL import Image

from lightning_fusion import Expert, ExpertModule, FoEFuserModule, ImageDataModule
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.data.image.digits import DigitsDataModule
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.data.views.role import RoleDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError


@pytest.fixture
def new(tmp_path) -> Path:
    """Two colored images of the same name in folders of different depths, one above them, and a text."""
    root = tmp_path / "new"
    for number, name in enumerate(("b/a.png", "c/d/a.JPG", "top.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (6, 4), (40 * number, 0, 0))
        picture.putpixel((3, 2), (255, 255, 255))
        picture.save(root / name)
    (root / "notes.txt").write_text("none of them has a label")
    return root


def test_every_file_has_a_row_and_the_labeled_images_may_be_gone(new):
    data = DomainImageDataModule("gone", image_size=4, predict_root=str(new), batch_size=2)
    data.prepare_data()
    data.setup("predict")
    batches = list(data.predict_dataloader())
    assert [batch.input.shape for batch in batches] == [(2, 3, 4, 4), (1, 3, 4, 4)]
    assert torch.cat([batch.index for batch in batches]).tolist() == [0, 1, 2]
    assert {int(target) for batch in batches for target in batch.target} == {-100}
    assert data.new_samples.origins(torch.arange(3)).columns() == {"file": ["b/a.png", "c/d/a.JPG", "top.png"]}
    assert batches[0].input[0].unique().tolist() != batches[0].input[1].unique().tolist()


def test_a_file_is_a_root_too_and_any_source_of_images_reads_it(new):
    data = DigitsDataModule(image_size=8, predict_root=str(new / "b/a.png"))
    assert next(iter(data.predict_dataloader())).input.shape == (1, 1, 8, 8)
    assert data.new_samples.origins(torch.arange(1)).files == ["a.png"]


def test_a_variant_reads_new_samples_and_its_original_keeps_the_labeled_ones(tmp_path, new):
    root = draw_tree(tmp_path / "tree", ["home", "clinic"], ["cat", "dog"], 10)
    data = DomainImageDataModule(str(root), image_size=4)
    images, table = data.variant(predict_root=str(new)), data.rows("test").inputs
    assert len(images.new_samples) == 3 and len(data.rows("test")) == 8
    assert data.variant(batch_size=3).rows("test").inputs is table  # not read again
    for view in (RoleDataModule(data, role="fuser"), TargetDataModule(data, "home")):
        assert len(view.variant(predict_root=str(new)).predict_dataloader().dataset) == 3


def test_without_image_size_new_images_have_that_of_the_training(tmp_path, new):
    data, path = DigitsDataModule(), tmp_path / "expert.ckpt"
    module = ExpertModule(partial(SmallConvNet, width=2, in_channels=1), classes=data.classes)
    trainer = tiny.trainer(1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(path)
    expert = Expert(SmallConvNet(10, width=2, in_channels=1), checkpoint=str(path))
    for model in (module, FoEFuserModule({"one": expert, "two": copy.deepcopy(expert)})):
        with pytest.raises(InputError, match=r"the images are 6x4, those of the training were 8x8; set image_size: 8"):
            tiny.trainer().predict(model, datamodule=DigitsDataModule(predict_root=str(new)))
        tiny.trainer().predict(model, datamodule=DigitsDataModule(predict_root=str(new), image_size=8))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda data: data.setup("fit"), "predict_root is an argument of predict, and fit needs labeled samples"),
        (lambda data: data.test_dataloader(), "predict_root is .*, and the test split is one of the labeled data"),
    ],
)
def test_other_commands_reject_new_samples(new, use, message):
    with pytest.raises(InputError, match=message):
        use(DigitsDataModule(predict_root=str(new)))


class TestDamage:
    def test_is_an_error_that_names_the_file(self, new):
        (new / "bad.png").write_text("no image")
        with pytest.raises(InputError, match=r"1 image\(s\) cannot be decoded: .*bad.png .*; remove them or set skip"):
            ImageDataModule("gone", image_size=4, predict_root=str(new)).predict_dataloader()

    @pytest.mark.parametrize("memory", [4.0, 1e-9], ids=["in memory", "on disk"])
    def test_can_be_a_row_without_prediction(self, new, tmp_path, memory):
        (new / "bad.png").write_text("no image")
        how = {"skip_unreadable": True, "memory_limit_gb": memory, "image_size": 8, "predict_root": str(new)}
        with pytest.warns(UserWarning, match=r"left out 1 image\(s\) that cannot be decoded"):
            module = ExpertModule(partial(SmallConvNet, width=2), classes=["cat", "dog"])
            writer = PredictionWriter(str(tmp_path / "p.csv"))
            tiny.trainer(callbacks=[writer]).predict(module, datamodule=ImageDataModule("gone", **how))
        rows = list(csv.DictReader((tmp_path / "p.csv").open(newline="")))
        assert [row["file"] for row in rows] == ["b/a.png", "bad.png", "c/d/a.JPG", "top.png"]
        assert [row["index"] for row in rows] == ["0", "1", "2", "3"]
        assert [row["prediction"] in ("cat", "dog") for row in rows] == [True, False, True, True]
        assert "cannot identify image file" in rows[1]["note"] and not rows[1]["cat"]

    def test_is_named_where_images_are_decoded_batch_by_batch(self, new):
        (new / "cut.png").write_bytes((new / "top.png").read_bytes()[:40])
        data = ImageDataModule("gone", image_size="original", predict_root=str(new))
        with pytest.raises(InputError, match=r"an image cannot be decoded: .*cut.png .*set skip_unreadable: true"):
            list(data.predict_dataloader())

    def test_of_all_files_is_an_error(self, tmp_path):
        (tmp_path / "bad.png").write_text("no image")
        data = DigitsDataModule(predict_root=str(tmp_path))
        with pytest.raises(InputError, match=r"none of 1 image\(s\) can be decoded: .*bad.png"):
            data.predict_dataloader()


def test_files_of_other_kinds_and_sizes_are_named(new, tmp_path):
    (tmp_path / "empty").mkdir()
    for root, message in (("none", "found no file or folder"), ("empty", "found no image in .*; expected files that")):
        with pytest.raises(InputError, match=f"predict_root: {message}"):
            ImageDataModule("gone", predict_root=str(tmp_path / root)).predict_dataloader()
    Image.new("RGB", (5, 5)).save(os.fsencode(new / "z") + b"\xff.png", format="PNG")
    with pytest.raises(InputError, match=r"predict_root: 'z.udcff.png' in .* is no name in UTF-8; rename it"):
        ImageDataModule("gone", predict_root=str(new)).predict_dataloader()
    os.rename(os.fsencode(new / "z") + b"\xff.png", new / "z.png")
    with pytest.raises(InputError, match=r"z.png is 5x5 where others are 6x4; set image_size"):
        ImageDataModule("gone", predict_root=str(new)).predict_dataloader()
