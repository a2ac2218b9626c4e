import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from lightning_fusion.data.image.superclasses import CIFAR100_SUPERCLASSES
from lightning_fusion.data.image.torchvision import TorchvisionDataModule
from lightning_fusion.errors import InputError


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
        data = TorchvisionDataModule(name, str(tmp_path))
        part = data.rows("test")
        assert np.array_equal(part.inputs[part.rows], test)
        assert np.array_equal(part.inputs[: len(train)], train)
        named = [data.classes[target] for target in part.targets.tolist()]
        assert named == train_names + test_names

    def test_cifar100_has_20_super_classes_and_the_papers_domains(self, tmp_path, monkeypatch):
        write_cifar(tmp_path, monkeypatch, "cifar100")
        data = TorchvisionDataModule(
            "cifar100", str(tmp_path), superclasses="cifar100", num_domains=20, classes_per_domain=30
        )
        assert len(data.classes) == 20
        member = data._task.member
        assert member.sum(0).tolist() == [30] * 20
        for group in range(20):
            assert member[data._task.target == group].any(0).all()

    def test_grey_and_resized(self, tmp_path, monkeypatch):
        write_cifar(tmp_path, monkeypatch, "cifar10")
        assert TorchvisionDataModule("cifar10", str(tmp_path), channels=1, image_size=8).rows("test").inputs.shape == (
            40,
            1,
            8,
            8,
        )

    def test_without_files_the_error_says_what_to_do(self, tmp_path):
        with pytest.raises(
            InputError, match=r"cifar10 under root .*not found.*Set download: true .* or use ImageDataModule"
        ):
            TorchvisionDataModule("cifar10", str(tmp_path)).setup("fit")


def test_cifar100s_table_has_five_classes_in_each_of_twenty():
    assert len(CIFAR100_SUPERCLASSES) == 20
    names = [name for names in CIFAR100_SUPERCLASSES.values() for name in names]
    assert len(set(names)) == len(names) == 100
    assert {len(names) for names in CIFAR100_SUPERCLASSES.values()} == {5}
