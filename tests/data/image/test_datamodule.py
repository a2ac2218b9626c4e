import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from lightning_fusion import ImageDataModule
from lightning_fusion.data.image.superclasses import CIFAR100_SUPERCLASSES
from lightning_fusion.errors import InputError

SPLITS = ("train", "val", "test")


def draw_tree(
    root: Path, folders: list[str], labels: list[str], count: int = 6, size: tuple[int, int] = (4, 4)
) -> Path:
    """PNGs under root/<folder>/<label>; each image has a colour of its own."""
    number = 0
    for folder, label in itertools.product(folders, labels):
        (root / folder / label).mkdir(parents=True)
        for row in range(count):
            number += 1
            colour = (number % 256, 7 * number % 256, 31 * number % 256)
            Image.new("RGB", size, colour).save(root / folder / label / f"{row}.png")
    return root


def pixels(data: ImageDataModule, split: str) -> torch.Tensor:
    dataset = data.rows(split)
    return dataset.inputs[dataset.rows]


def rows(data: ImageDataModule, split: str) -> set[int]:
    return set(data.rows(split).rows.tolist())


def digits(**arguments: object) -> ImageDataModule:
    return ImageDataModule(**({"num_domains": 5, "classes_per_domain": 4} | arguments))


def roles(data: ImageDataModule) -> tuple[ImageDataModule, list[ImageDataModule]]:
    """The fuser's view of the data, and every expert's."""
    experts = [data.variant(role="expert", domain=number) for number in range(len(data.domains))]
    return data, experts


class TestDigits:
    def test_pixels_and_labels_are_scikit_learns(self):
        data, source = digits(), load_digits()
        for split in SPLITS:
            part = data.rows(split)
            assert np.array_equal(part.targets[part.rows], source.target[part.rows])
            assert np.array_equal(pixels(data, split)[:, 0], np.round(source.images[part.rows] * 255 / 16))
        assert data.classes == list("0123456789")
        assert data.domains == [f"domain_{number}" for number in range(5)]

    def test_three_channels_and_another_size(self):
        data = digits(channels=3, image_size=16)
        images = pixels(data, "val")
        assert images.shape[1:] == (3, 16, 16)
        assert torch.equal(images[:, 0], images[:, 2])
        assert data.preprocessing["channels"] == 3

    def test_without_domains_there_is_one(self):
        data = ImageDataModule()
        assert data.domains == ["all"]
        assert data.rows("train").domains.all()

    def test_shares(self):
        data = ImageDataModule(fuser_share=0.5, val_share=0.25, test_share=0.1)
        test, fuser = len(rows(data, "test")), len(rows(data, "train")) + len(rows(data, "val"))
        assert test == pytest.approx(180, abs=5)
        assert fuser == pytest.approx((1797 - test) / 2, abs=5)
        assert len(rows(data, "val")) == pytest.approx(fuser / 4, abs=5)


class TestCleanProtocol:
    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 1000))
    def test_no_fuser_row_is_an_experts_and_no_test_row_is_anybodys(self, seed):
        fuser, experts = roles(digits(seed=seed))
        held = rows(fuser, "train") | rows(fuser, "val")
        assert not rows(fuser, "train") & rows(fuser, "val")
        test = rows(fuser, "test")
        for expert in experts:
            own = rows(expert, "train") | rows(expert, "val")
            assert own
            assert not rows(expert, "train") & rows(expert, "val")
            assert not own & held
            assert not own & test
            assert rows(expert, "test") < test
        assert not held & test

    def test_together_the_splits_are_all_rows_of_the_domains(self):
        fuser, experts = roles(digits())
        used = set().union(*(rows(part, split) for part in (fuser, *experts) for split in SPLITS))
        assert used == set(range(1797))

    def test_an_expert_has_the_rows_of_its_classes_under_local_numbers(self):
        fuser, experts = roles(digits())
        source = load_digits().target
        for number, expert in enumerate(experts):
            part = expert.rows("train")
            assert len(expert.classes) == 4
            local = [expert.classes[target] for target in part.targets[part.rows].tolist()]
            assert local == [str(source[row]) for row in part.rows.tolist()]
            assert set(local) == set(expert.classes)
            assert part.domains[part.rows, number].all()
            assert expert.own_domains == [fuser.domains[number]]

    def test_domains_are_named_by_number_or_name(self):
        data = digits()
        by = [data.variant(role="expert", domain=domain) for domain in (3, "3", "domain_3")]
        assert len({tuple(sorted(rows(part, "train"))) for part in by}) == 1

    def test_the_centralised_model_has_all_experts_rows(self):
        fuser, experts = roles(digits())
        central = fuser.variant(role="expert", domain=None)
        union = set().union(*(rows(expert, "train") | rows(expert, "val") for expert in experts))
        assert rows(central, "train") | rows(central, "val") == union
        assert central.classes == fuser.classes
        assert central.own_domains == fuser.domains

    def test_membership_of_a_row_is_that_of_its_class(self):
        data = digits()
        part = data.rows("train")
        for number in range(5):
            member = data.variant(role="expert", domain=number).classes
            expected = [data.classes[target] in member for target in part.targets.tolist()]
            assert part.domains[:, number].tolist() == expected


class TestPaperProtocol:
    def test_most_fuser_rows_were_training_rows_of_some_expert(self):
        fuser, experts = roles(digits(protocol="paper", classes_per_domain=6))
        held = rows(fuser, "train") | rows(fuser, "val")
        trained = set().union(*(rows(expert, "train") for expert in experts))
        assert len(held & trained) / len(held) > 0.5
        assert not (held | trained) & rows(fuser, "test")

    def test_the_fuser_set_is_the_union_of_what_the_domains_held_out(self):
        fuser, experts = roles(digits(protocol="paper"))
        assert rows(fuser, "train") | rows(fuser, "val") == set().union(*(rows(expert, "val") for expert in experts))
        for expert in experts:
            assert not rows(expert, "train") & rows(expert, "val")

    def test_the_centralised_model_is_not_validated_on_its_training_rows(self):
        central = digits(protocol="paper").variant(role="expert")
        assert rows(central, "val")
        assert not rows(central, "train") & rows(central, "val")


class TestVariant:
    def test_shares_the_images_and_changes_only_what_is_asked(self):
        data = digits(batch_size=16)
        data.setup("fit")
        expert = data.variant(role="expert", domain=1)
        assert expert.rows("train").inputs.data_ptr() == data.rows("train").inputs.data_ptr()
        assert expert.batch_size == 16
        assert (data.role, data.domain) == ("fuser", None)
        assert {k for k in data.hparams if data.hparams[k] != expert.hparams[k]} == {"role", "domain"}
        assert rows(data, "test") == rows(digits(), "test")

    def test_another_seed_gives_other_domains_and_splits(self):
        data = digits()
        other = data.variant(seed=1)
        assert rows(data, "test") != rows(other, "test")
        fresh = digits(seed=1)
        assert all(rows(other, split) == rows(fresh, split) for split in SPLITS)
        assert torch.equal(other.rows("test").domains, fresh.rows("test").domains)

    def test_a_changed_size_is_read_anew(self):
        data = digits()
        assert pixels(data.variant(image_size=4), "val").shape[-1] == 4
        assert pixels(data, "val").shape[-1] == 8

    def test_unknown_arguments_and_bad_combinations_are_refused(self):
        with pytest.raises(TypeError, match="ImageDataModule has no argument rol, sead"):
            digits().variant(rol="expert", sead=3)
        with pytest.raises(InputError, match="set role: expert"):
            digits().variant(domain=1)


class TestRefusedArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"root": "here"}, "digits needs no file and has no root"),
            ({"source": "cifar10"}, "source cifar10 needs root"),
            ({"source": "split_tree", "root": ".", "test_share": 0.1}, "has its own test split; remove test_share"),
            ({"num_domains": 3}, "num_domains and classes_per_domain go together"),
            ({"classes_per_domain": 3}, "num_domains and classes_per_domain go together"),
            (
                {"source": "domain_tree", "root": ".", "num_domains": 3, "classes_per_domain": 2},
                "source domain_tree has domains of its own",
            ),
            ({"domain": 0}, "set role: expert, or remove domain"),
            ({"fuser_share": 1.0}, "fuser_share is 1.0; expected a share between 0 and 1"),
            ({"val_share": 0.0}, "val_share is 0.0"),
            ({"test_share": 1.5}, "test_share is 1.5"),
            ({"mean": [0.5] * 3, "channels": 1}, "mean has 3 values for 1 channels"),
            ({"mean": [0.5] * 3}, "mean has 3 values for 1 channels"),
            ({"std": [0.5], "channels": 3}, "std has 1 values for 3 channels"),
            ({"source": "imagenet", "root": "."}, "source is 'imagenet'; expected"),
            ({"role": "judge"}, "role is 'judge'; expected"),
            ({"protocol": "dirty"}, "protocol is 'dirty'; expected"),
            ({"channels": 4}, "channels is 4; expected"),
            ({"batch_size": 0}, "batch_size is 0"),
        ],
    )
    def test_when_it_is_built(self, arguments, message):
        with pytest.raises(InputError, match=message):
            ImageDataModule(**arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"role": "expert", "domain": 5, "num_domains": 5, "classes_per_domain": 4},
                "domain is 5; expected a number below 5",
            ),
            ({"role": "expert", "domain": -1, "num_domains": 5, "classes_per_domain": 4}, "domain is -1; expected"),
            ({"role": "expert", "domain": "east"}, "domain is 'east'; expected a number below 1 or one of all"),
            ({"num_domains": 2, "classes_per_domain": 4}, "2 domains of 4 classes cannot cover 10"),
            ({"superclasses": "none.json"}, "found no file none.json; expected 'cifar100' or a JSON file"),
            ({"superclasses": "cifar100"}, r"names no super-class for 0, 1, 2, 3, 4 and 5 more"),
        ],
    )
    def test_when_it_is_set_up(self, arguments, message):
        with pytest.raises(InputError, match=message):
            ImageDataModule(**arguments).setup("fit")


class TestPreprocessing:
    def test_floats_are_scaled_and_normalised(self):
        data = ImageDataModule(mean=[0.25], std=[2.0])
        images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
        expected = torch.tensor([(0 - 0.25) / 2, (0.2 - 0.25) / 2, (1 - 0.25) / 2]).view(3, 1, 1, 1)
        torch.testing.assert_close(data.preprocess(images), expected)
        assert images.flatten().tolist() == [0, 51, 255]

    def test_each_channel_has_its_own(self):
        data = ImageDataModule(channels=3, mean=[0.0, 0.5, 1.0], std=[1.0, 0.5, 0.25])
        value = data.preprocess(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
        assert value.tolist() == [1.0, 1.0, 0.0]

    def test_augmentation_happens_in_training_only(self):
        class Spy(LightningModule):
            def __init__(self):
                super().__init__()
                self.weight, self.seen = nn.Parameter(torch.zeros(())), {"train": [], "val": []}

            def training_step(self, batch, batch_idx):
                self.seen["train"].append(batch.input.max().item())
                return self.weight

            def validation_step(self, batch, batch_idx):
                self.seen["val"].append(batch.input.max().item())

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        class Dark(nn.Module):
            def forward(self, images):
                assert images.dtype == torch.float32
                return images * 0

        spy, data = Spy(), ImageDataModule(augmentation=Dark(), mean=[0.0], std=[1.0], batch_size=200)
        tiny.trainer().fit(spy, datamodule=data)
        assert set(spy.seen["train"]) == {0.0}
        assert set(spy.seen["val"]) == {1.0}

    def test_fingerprint_follows_pixels_labels_and_preprocessing(self):
        same = digits(batch_size=7, augmentation=nn.Identity())
        assert digits().fingerprint("test") == same.fingerprint("test")
        others = [digits(seed=1), digits(mean=[0.1]), digits(image_size=4), digits(classes_per_domain=5)]
        prints = [data.fingerprint("test") for data in (same, *others)]
        assert len(set(prints)) == 5
        assert len({same.fingerprint(split) for split in SPLITS}) == 3


class TestDomainTree:
    def test_folders_are_domains(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], count=20)
        data = ImageDataModule("domain_tree", str(tmp_path))
        assert (data.domains, data.classes) == (["clinic", "home"], ["cat", "dog"])
        part = data.rows("train")
        assert part.domains.sum(1).tolist() == [1] * 80
        assert part.domains[:40, 0].all()
        expert = data.variant(role="expert", domain="home")
        assert rows(expert, "train") | rows(expert, "val") | rows(expert, "test") <= set(range(40, 80))

    def test_splits_keep_the_shares_of_every_class_in_every_domain(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], count=20)
        data = ImageDataModule("domain_tree", str(tmp_path), test_share=0.25)
        test = data.rows("test")
        strata = torch.stack([test.targets[test.rows], test.domains[test.rows, 0]], 1)
        assert torch.unique(strata, dim=0, return_counts=True)[1].tolist() == [5] * 4

    def test_a_domain_may_lack_classes(self, tmp_path):
        draw_tree(tmp_path, ["clinic"], ["cat", "dog"])
        draw_tree(tmp_path, ["home"], ["dog", "owl"])
        data = ImageDataModule("domain_tree", str(tmp_path))
        assert data.variant(role="expert", domain=0).classes == ["cat", "dog"]
        home = data.variant(role="expert", domain=1)
        assert home.classes == ["dog", "owl"]
        part = home.rows("train")
        assert set(part.targets[part.rows].tolist()) == {0, 1}

    def test_pixels_are_the_files(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"])
        images = ImageDataModule("domain_tree", str(tmp_path)).rows("train").inputs
        assert images[0, :, 2, 3].tolist() == [1, 7, 31]
        grey = ImageDataModule("domain_tree", str(tmp_path), channels=1).rows("train").inputs
        assert grey.shape == (24, 1, 4, 4)

    def test_an_empty_domain_is_named(self, tmp_path):
        draw_tree(tmp_path, ["clinic"], ["cat"])
        (tmp_path / "home" / "cat").mkdir(parents=True)
        with pytest.raises(InputError, match=r"the domain home in .* has no image; expected .*/<domain>/<class>/\*"):
            ImageDataModule("domain_tree", str(tmp_path)).setup("fit")

    @pytest.mark.parametrize("source", ["domain_tree", "split_tree"])
    def test_a_missing_or_empty_root_is_named(self, tmp_path, source):
        with pytest.raises(InputError, match=r"root: found no folder .*nowhere; expected"):
            ImageDataModule(source, str(tmp_path / "nowhere")).setup("fit")
        with pytest.raises(InputError, match="root: found no image under"):
            ImageDataModule(source, str(tmp_path)).setup("fit")

    def test_files_one_level_too_high_are_explained(self, tmp_path):
        (tmp_path / "clinic").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "clinic" / "0.png")
        with pytest.raises(InputError, match=r"the domain clinic .* has no image; expected .*/<domain>/<class>/\*"):
            ImageDataModule("domain_tree", str(tmp_path)).setup("fit")

    def test_hidden_files_and_other_files_are_no_images(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat"])
        (tmp_path / ".cache").mkdir()
        (tmp_path / "README.md").touch()
        (tmp_path / "clinic" / "cat" / "notes.txt").touch()
        (tmp_path / "clinic" / "cat" / "._0.png").touch()
        data = ImageDataModule("domain_tree", str(tmp_path))
        assert data.domains == ["clinic", "home"]
        assert len(data.rows("train").targets) == 12


class TestSplitTree:
    def test_val_joins_train_and_test_stays_apart(self, tmp_path):
        draw_tree(tmp_path, ["train", "val", "test"], ["cat", "dog", "owl"], count=10)
        data = ImageDataModule("split_tree", str(tmp_path), num_domains=2, classes_per_domain=2)
        table = data._load()
        names = np.array([file.path.parts[-3] for file in data._layout.files])
        assert set(names[sorted(rows(data, "test"))]) == {"test"}
        central = data.variant(role="expert")
        used = [rows(part, split) for part in (data, central) for split in ("train", "val")]
        assert set().union(*used) == set(np.flatnonzero(names != "test"))
        assert set(names[sorted(set().union(*used))]) == {"train", "val"}
        assert table.test.sum() == 30

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            (["train", "clinic"], r"the folder clinic .* names no split \(train, val.*set source: domain_tree"),
            (["train"], "lacks a train or a test folder"),
            (["test"], "lacks a train or a test folder"),
        ],
    )
    def test_another_layout_is_explained(self, tmp_path, folders, message):
        draw_tree(tmp_path, folders, ["cat"])
        with pytest.raises(InputError, match=message):
            ImageDataModule("split_tree", str(tmp_path)).setup("fit")

    def test_super_classes_of_a_json_file_are_the_targets(self, tmp_path):
        draw_tree(tmp_path / "tree", ["train", "test"], ["cat", "dog", "owl", "rat"], count=10)
        (tmp_path / "super.json").write_text(
            json.dumps({"birds": ["owl"], "fish": [], "beasts": ["cat", "dog", "rat"]})
        )
        data = ImageDataModule(
            "split_tree",
            str(tmp_path / "tree"),
            superclasses=str(tmp_path / "super.json"),
            num_domains=3,
            classes_per_domain=3,
        )
        assert data.classes == ["birds", "beasts"]
        part = data.rows("test")
        names = [data._layout.files[row].label for row in part.rows.tolist()]
        assert [data.classes[t] for t in part.targets[part.rows].tolist()] == [
            "birds" if n == "owl" else "beasts" for n in names
        ]
        for number in range(3):  # one of each super-class, then another
            expert = data.variant(role="expert", domain=number)
            assert expert.classes == ["birds", "beasts"]
            assert len({data._layout.files[row].label for row in rows(expert, "train")}) == 3


class TestFiles:
    def test_images_of_several_sizes_need_image_size(self, tmp_path):
        draw_tree(tmp_path, ["clinic"], ["cat"])
        draw_tree(tmp_path, ["home"], ["cat"], size=(6, 4))
        with pytest.raises(InputError, match=r"home/cat/\d.png is 6x4 where others are 4x4; set image_size"):
            ImageDataModule("domain_tree", str(tmp_path)).setup("fit")
        assert ImageDataModule("domain_tree", str(tmp_path), image_size=5).rows("train").inputs.shape == (12, 3, 5, 5)

    def test_lazily_read_images_of_several_sizes_say_the_same(self, tmp_path):
        draw_tree(tmp_path, ["clinic"], ["cat"], count=12)
        draw_tree(tmp_path, ["home"], ["cat"], count=12, size=(6, 4))
        data = ImageDataModule("domain_tree", str(tmp_path), memory_limit_gb=1e-9)
        with pytest.raises(InputError, match=r"is \dx4 where others are \dx4; set image_size"):
            list(data.test_dataloader())

    def test_lazy_and_in_memory_batches_are_equal(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], count=12, size=(7, 5))
        here, there = (
            ImageDataModule("domain_tree", str(tmp_path), image_size=6, batch_size=4, memory_limit_gb=limit)
            for limit in (1, 1e-9)
        )
        assert isinstance(here.rows("train").inputs, torch.Tensor)
        assert not isinstance(there.rows("train").inputs, torch.Tensor)
        for split in SPLITS:
            loaders = (getattr(data, f"{split}_dataloader")() for data in (here, there))
            for one, other in zip(*loaders, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    def test_lazy_fingerprints_follow_names_and_sizes(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"])

        def fingerprint():
            return ImageDataModule("domain_tree", str(tmp_path), memory_limit_gb=1e-9).fingerprint("train")

        before = fingerprint()
        assert fingerprint() == before
        for path in tmp_path.rglob("*.png"):
            path.write_bytes(path.read_bytes() + b"\0")
        assert fingerprint() != before

    @pytest.mark.parametrize("damage", [b"", b"no image", None])
    @pytest.mark.parametrize("limit", [1.0, 1e-9])
    def test_unreadable_files_are_named_or_left_out_and_counted(self, tmp_path, damage, limit):
        draw_tree(tmp_path, ["clinic", "home"], ["cat", "dog"], count=12, size=(40, 40))
        broken = [tmp_path / "clinic" / "cat" / "0.png", tmp_path / "home" / "dog" / "3.png"]
        for path in broken:
            path.write_bytes(path.read_bytes()[:60] if damage is None else damage)
        data = ImageDataModule("domain_tree", str(tmp_path), memory_limit_gb=limit)
        with pytest.raises(InputError, match=r"(0|3).png"):
            for split in SPLITS:
                list(data._loader(split))
            list(data.variant(role="expert").train_dataloader())
        skipping = data.variant(skip_unreadable=True)
        with pytest.warns(UserWarning, match=r"left out 2 image\(s\) that do not decode: .*0.png"):
            skipping.setup("fit")
        central = skipping.variant(role="expert")
        used = set().union(*(rows(part, split) for part in (skipping, central) for split in SPLITS))
        assert used == set(range(48)) - {0, 41}  # 10 and 11 stand before 2
        for split in SPLITS:
            list(skipping._loader(split))

    def test_in_memory_the_message_says_what_to_do(self, tmp_path):
        draw_tree(tmp_path, ["clinic", "home"], ["cat"])
        (tmp_path / "home" / "cat" / "2.png").write_bytes(b"")
        with pytest.raises(
            InputError, match=r"1 image\(s\) do not decode: .*home/cat/2.png .* set skip_unreadable: true"
        ):
            ImageDataModule("domain_tree", str(tmp_path)).setup("fit")

    def test_formats_and_modes_are_brought_to_rgb(self, tmp_path):
        for folder, suffix, mode in [("a", "png", "P"), ("b", "png", "RGBA"), ("c", "webp", "RGB"), ("d", "bmp", "L")]:
            (tmp_path / folder / "cat").mkdir(parents=True)
            for row in range(4):
                Image.new("L", (4, 4), 100).convert(mode).save(
                    tmp_path / folder / "cat" / f"{row}.{suffix}", lossless=True
                )
        images = ImageDataModule("domain_tree", str(tmp_path)).rows("train").inputs
        assert images.shape == (16, 3, 4, 4)
        assert (images.int() - 100).abs().max() <= 1


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> np.ndarray:
    """A tiny archive in torchvision's own format, whose label names stand in another order than ours."""
    import hashlib

    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    known = [
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        sorted(itertools.chain(*CIFAR100_SUPERCLASSES.values())),
    ]
    names = list(reversed(known[name == "cifar100"]))
    generator, sums = np.random.default_rng(0), {}
    every = []

    def write(file, content):
        text = pickle.dumps(content)
        (folder / file).write_bytes(text)
        sums[file] = hashlib.md5(text).hexdigest()

    for file, count in (("train", 3 * len(names)), ("test", len(names))):
        images = generator.integers(256, size=(count, 3072), dtype=np.uint8)
        labels = (np.arange(count) % len(names)).tolist()
        write(file, {"data": images, "labels" if name == "cifar10" else "fine_labels": labels})
        every.append((images.reshape(-1, 3, 32, 32), [names[label] for label in labels]))
    write("meta", {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(kind, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"filename": "meta", "md5": sums["meta"]})
    return every


class TestCifar:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_images_and_labels_are_torchvisions(self, tmp_path, monkeypatch, name):
        (train, train_names), (test, test_names) = write_cifar(tmp_path, monkeypatch, name)
        data = ImageDataModule(name, str(tmp_path))
        part = data.rows("test")
        assert np.array_equal(part.inputs[part.rows], test)
        assert np.array_equal(part.inputs[: len(train)], train)
        named = [data.classes[target] for target in part.targets.tolist()]
        assert named == train_names + test_names

    def test_cifar100_has_20_super_classes_and_the_papers_domains(self, tmp_path, monkeypatch):
        write_cifar(tmp_path, monkeypatch, "cifar100")
        data = ImageDataModule(
            "cifar100", str(tmp_path), superclasses="cifar100", num_domains=20, classes_per_domain=30
        )
        assert len(data.classes) == 20
        member = data._layout.member
        assert member.sum(0).tolist() == [30] * 20
        for group in range(20):
            assert member[data._layout.group == group].any(0).all()

    def test_grey_and_resized(self, tmp_path, monkeypatch):
        write_cifar(tmp_path, monkeypatch, "cifar10")
        assert ImageDataModule("cifar10", str(tmp_path), channels=1, image_size=8).rows("test").inputs.shape == (
            40,
            1,
            8,
            8,
        )

    def test_without_files_the_error_says_what_to_do(self, tmp_path):
        with pytest.raises(
            InputError, match=r"cifar10 under root .*not found.*Set download: true .* or use source split_tree"
        ):
            ImageDataModule("cifar10", str(tmp_path)).setup("fit")


def test_cifar100s_table_has_five_classes_in_each_of_twenty():
    assert len(CIFAR100_SUPERCLASSES) == 20
    names = [name for names in CIFAR100_SUPERCLASSES.values() for name in names]
    assert len(set(names)) == len(names) == 100
    assert {len(names) for names in CIFAR100_SUPERCLASSES.values()} == {5}


@pytest.mark.data
def test_the_real_cifar100_tree_has_the_papers_layout(real_data):
    root = real_data("cifar100")
    assert json.loads((root / "coarse20.json").read_text()) == CIFAR100_SUPERCLASSES
    data = ImageDataModule(
        "split_tree",
        str(root),
        superclasses="cifar100",
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


class TestDecoding:
    def decoded(self, tmp_path, picture, suffix=".png", **arguments):
        for domain, label in itertools.product("xy", "ab"):
            (tmp_path / domain / label).mkdir(parents=True, exist_ok=True)
            for number in range(6):
                picture.save(tmp_path / domain / label / f"{number}{suffix}", **arguments)
        data = ImageDataModule(source="domain_tree", root=str(tmp_path), channels=1)
        return data.rows("test")[torch.arange(1)].input[0, 0]

    def test_16_bits_are_scaled_not_cut(self, tmp_path):
        ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
        found = self.decoded(tmp_path, Image.fromarray(ramp))
        assert np.array_equal(found.numpy(), (ramp // 257).astype(np.uint8))

    def test_exif_turns_the_picture_upright(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # turn right to view
        left_dark = np.full((8, 4), 255, np.uint8)
        left_dark[:, :2] = 0
        found = self.decoded(tmp_path, Image.fromarray(left_dark), exif=exif)
        assert found.shape == (4, 8)
        assert found[0].tolist() == [0] * 8
        assert found[3].tolist() == [255] * 8

    def test_what_is_transparent_is_white_and_not_its_hidden_colour(self, tmp_path):
        assert self.decoded(tmp_path, Image.new("RGBA", (4, 4), (200, 0, 0, 0))).unique().tolist() == [255]

    def test_pixels_without_a_known_range_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="floating-point pixels"):
            self.decoded(tmp_path, Image.new("F", (4, 4), 0.5), suffix=".tif")


def test_a_domain_is_meant_by_its_name_before_its_number(tmp_path):
    for domain, label in itertools.product("123", "ab"):
        (tmp_path / domain / label).mkdir(parents=True)
        for number in range(8):
            Image.new("L", (4, 4), int(domain)).save(tmp_path / domain / label / f"{number}.png")
    data = ImageDataModule(source="domain_tree", root=str(tmp_path), channels=1, role="expert", domain=1)
    assert data.own_domains == ["1"]
    assert data.rows("train")[torch.arange(2)].input.unique().tolist() == [1]
