import itertools
import json

import numpy as np
import pytest
import torch
from helpers.image_trees import draw_tree, roles, rows
from helpers.splits import SPLITS
from PIL import Image

from lightning_fusion import ImageDataModule
from lightning_fusion.data.image.folders import DomainImageDataModule
from lightning_fusion.data.image.superclasses import CIFAR100_SUPERCLASSES
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.errors import InputError

FUSER = {"role": "fuser", "fuser_fraction": 0.2}


class TestDomainTree:
    def test_folders_are_domains(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], count=20)
        data = DomainImageDataModule(str(tmp_path))
        assert (data.domains, data.classes) == (["clinic", "home"], ["cat", "dog"])
        part = data.rows("train")
        assert part.domains.sum(1).tolist() == [1] * 80
        assert part.domains[:40, 0].all()
        expert = data.variant(role="expert", domain="home")
        assert rows(expert, "train") | rows(expert, "val") | rows(expert, "test") <= set(range(40, 80))

    def test_splits_keep_the_shares_of_every_class_in_every_domain(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], count=20)
        data = DomainImageDataModule(str(tmp_path), test_fraction=0.25)
        test = data.rows("test")
        strata = torch.stack([test.targets[test.rows], test.domains[test.rows, 0]], 1)
        assert torch.unique(strata, dim=0, return_counts=True)[1].tolist() == [5] * 4

    def test_a_domain_may_lack_classes(self, tmp_path):
        draw_tree(tmp_path, ["clinic"], ["cat", "dog"])
        draw_tree(tmp_path, ["home"], ["dog", "owl"])
        data = DomainImageDataModule(str(tmp_path))
        assert data.variant(role="expert", domain=0).classes == ["cat", "dog"]
        home = data.variant(role="expert", domain=1)
        assert home.classes == ["dog", "owl"]
        part = home.rows("train")
        assert set(part.targets[part.rows].tolist()) == {0, 1}

    def test_pixels_are_the_files(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"])
        images = DomainImageDataModule(str(tmp_path)).rows("train").inputs
        assert images[0, :, 2, 3].tolist() == [1, 7, 31]
        gray = DomainImageDataModule(str(tmp_path), channels=1).rows("train").inputs
        assert gray.shape == (24, 1, 4, 4)

    def test_an_empty_domain_is_named(self, tmp_path):
        draw_tree(tmp_path, ["clinic"], ["cat"])
        (tmp_path / "home" / "cat").mkdir(parents=True)
        with pytest.raises(InputError, match=r"the domain home in .* has no image; expected .*/<domain>/<class>/\*"):
            DomainImageDataModule(str(tmp_path)).setup("fit")

    @pytest.mark.parametrize("kind", [ImageDataModule, DomainImageDataModule])
    def test_a_missing_or_empty_root_is_named(self, tmp_path, kind):
        with pytest.raises(InputError, match=r"root: found no folder .*nowhere; expected"):
            kind(str(tmp_path / "nowhere")).setup("fit")
        with pytest.raises(InputError, match="root: found no image under"):
            kind(str(tmp_path)).setup("fit")

    def test_files_one_level_too_high_are_explained(self, tmp_path):
        (tmp_path / "clinic").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "clinic" / "0.png")
        with pytest.raises(InputError, match=r"the domain clinic .* has no image; expected .*/<domain>/<class>/\*"):
            DomainImageDataModule(str(tmp_path)).setup("fit")

    def test_hidden_files_and_other_files_are_no_images(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat"])
        (tmp_path / ".cache").mkdir()
        (tmp_path / "README.md").touch()
        (tmp_path / "clinic" / "cat" / "notes.txt").touch()
        (tmp_path / "clinic" / "cat" / "._0.png").touch()
        data = DomainImageDataModule(str(tmp_path))
        assert data.domains == ["clinic", "home"]
        assert len(data.rows("train").targets) == 12


class TestSplitTree:
    def test_val_joins_train_and_test_stays_apart(self, tmp_path):
        draw_tree(tmp_path, ["train", "val", "test"], ["cat", "dog", "owl"], count=10)
        data = ImageDataModule(str(tmp_path), num_domains=2, classes_per_domain=2, **FUSER)
        table = data._table
        names = np.array([file.path.parts[-3] for file in data.layout.files])
        assert set(names[sorted(rows(data, "test"))]) == {"test"}
        central = data.variant(role="expert")
        used = [rows(part, split) for part in (data, central) for split in ("train", "val")]
        assert set().union(*used) == set(np.flatnonzero(names != "test"))
        assert set(names[sorted(set().union(*used))]) == {"train", "val"}
        assert table.test.sum() == 30

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            (["train", "clinic"], r"the folder clinic .* names no split \(train, val.*use DomainImageDataModule"),
            (["train"], "lacks a train or a test folder; .*; without test images use DomainImageDataModule"),
            (["test"], "lacks a train or a test folder"),
        ],
    )
    def test_another_layout_is_explained(self, tmp_path, folders, message):
        draw_tree(tmp_path, folders, ["cat"])
        with pytest.raises(InputError, match=message):
            ImageDataModule(str(tmp_path)).setup("fit")

    def test_super_classes_of_a_json_file_are_the_targets(self, tmp_path):
        draw_tree(tmp_path / "tree", ["train", "test"], ["cat", "dog", "owl", "rat"], count=10)
        (tmp_path / "super.json").write_text(
            json.dumps({"birds": ["owl"], "fish": [], "beasts": ["cat", "dog", "rat"]})
        )
        data = ImageDataModule(
            str(tmp_path / "tree"),
            superclasses=str(tmp_path / "super.json"),
            num_domains=3,
            classes_per_domain=3,
        )
        assert data.classes == ["birds", "beasts"]
        part = data.rows("test")
        names = [data.layout.files[row].label for row in part.rows.tolist()]
        assert [data.classes[t] for t in part.targets[part.rows].tolist()] == [
            "birds" if n == "owl" else "beasts" for n in names
        ]
        for number in range(3):  # one of each super-class, then another
            expert = data.variant(role="expert", domain=number)
            assert expert.classes == ["birds", "beasts"]
            assert len({data.layout.files[row].label for row in rows(expert, "train")}) == 3


def test_a_domain_is_meant_by_its_name_before_its_number(tmp_path):
    for domain, label in itertools.product("123", "ab"):
        (tmp_path / domain / label).mkdir(parents=True)
        for number in range(8):
            Image.new("L", (4, 4), int(domain)).save(tmp_path / domain / label / f"{number}.png")
    data = DomainImageDataModule(str(tmp_path), channels=1, role="expert", domain=1)
    assert data.own_domains == ["1"]
    assert data.rows("train")[torch.arange(2)].input.unique().tolist() == [1]


def test_the_real_cifar100_tree_has_the_papers_layout(real_data):
    root = real_data("cifar100")
    assert json.loads((root / "coarse20.json").read_text()) == CIFAR100_SUPERCLASSES
    data = ImageDataModule(
        str(root),
        superclasses="cifar100",
        **FUSER,
        num_domains=20,
        classes_per_domain=30,
        memory_limit_gb=1e-9,  # decode only what is asked for
        batch_size=8,
    )
    fuser, experts = roles(data)
    assert [len(rows(fuser, split)) for split in SPLITS] == [9000, 1000, 10000]
    assert not rows(experts[7], "train") & (rows(fuser, "train") | rows(fuser, "val"))
    batch = next(iter(fuser.test_dataloader()))
    assert batch.input.shape == (8, 3, 32, 32)
    assert batch.input.float().std() > 10


class TestUnlabeledImages:
    @pytest.fixture
    def root(self, tmp_path) -> str:
        """Two domains of two classes; one has unlabeled images in two ways."""
        root = draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], 10)
        for number in range(4):
            place = root / "home" / ("unsorted" if number % 2 else "") / f"{number}.png"
            place.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (250, number, 250)).save(place)
        return str(root)

    @pytest.mark.parametrize(("unlabeled", "count"), [(None, 0), ("drop", 0), ("keep", 4)])
    def test_are_in_training_where_they_are_kept(self, root, unlabeled, count):
        plain = DomainImageDataModule(root, ignored_labels=["unsorted"])
        data = DomainImageDataModule(root, ignored_labels=["unsorted"], unlabeled=unlabeled)
        for own, labeled in ((data, plain), (data.variant(domain="home"), plain.variant(domain="home"))):
            assert own.classes == ["cat", "dog"] and rows(labeled, "train") <= rows(own, "train")
            assert int((own.rows("train")[torch.arange(len(own.rows("train")))].target == -100).sum()) == count
            assert [rows(own, split) for split in ("val", "test")] == [
                rows(labeled, split) for split in ("val", "test")
            ]
        assert rows(data.variant(domain="clinic"), "train") == rows(plain.variant(domain="clinic"), "train")
        fuser = data.variant(role="fuser", fuser_fraction=0.3).rows("train")
        assert (fuser.targets[fuser.rows] >= 0).all()

    def test_belong_to_the_target_of_a_transfer(self, root):
        data = DomainImageDataModule(root, ignored_labels=["unsorted"])
        target = TargetDataModule(data, "home", labeled_per_class=2)
        kept, without = target.rows("train"), TargetDataModule(data.variant(unlabeled="drop"), "home").rows("train")
        assert len(kept) == len(without) + 4 and int(kept.labeled.sum()) == 4
        assert data.unlabeled is None  # and so is that of other views

    def test_of_a_test_split_are_left_out(self, tmp_path):
        root = draw_tree(tmp_path, ["train", "test"], ["cat", "dog"], 10)
        for split in ("train", "test"):
            Image.new("RGB", (4, 4), (250, 9, 250)).save(root / split / "0.png")
        data = ImageDataModule(str(root), unlabeled="keep")
        assert [len(data.rows(split)) for split in ("train", "val", "test")] == [19, 2, 20]
        parts = data.variant(num_domains=2, classes_per_domain=1)
        assert len(parts.rows("train")) == 18  # whether one of the drawn domains has it is not known
